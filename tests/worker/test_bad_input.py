"""Bad input to a worker: wrong settings, an absent broker, messages that nobody can run. Each is said, none is lost."""

import json
import time
from pathlib import Path
from typing import Any

import kombu
import pytest
from processes import wait_until

from celeriac.exceptions import NotRegistered
from celeriac.wire.message import DEATH

both = pytest.mark.parametrize("site", ["redis", "rabbitmq"], indirect=True)


# -- the command line


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("foo://host/0", "foo", id="unknown scheme"),
        pytest.param("localhost:6379", "redis://", id="no scheme"),
        pytest.param("redis://host:port/0", "port", id="a port that is no number"),
        pytest.param("foo://user:secret@host/0", "user:**@host", id="with a password"),
    ],
)
def test_a_broker_url_that_cannot_be_used_ends_the_worker_with_a_sentence(site, url: str, said: str) -> None:
    worker = site.worker(await_ready=False, broker=url)

    assert worker.wait(timeout_s=10) in (1, 2)
    assert said in worker.text()
    assert "broker URL" in worker.text()
    assert "secret" not in worker.text()
    assert "Traceback" not in worker.text()


def test_a_result_backend_that_nobody_serves_ends_the_worker_with_a_sentence(site) -> None:
    site.backend = "foo://user:secret@host/0"
    worker = site.worker(await_ready=False)

    assert worker.wait(timeout_s=10) in (1, 2)
    assert "result_backend" in worker.text()
    assert "secret" not in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(["-P", "rocket"], "rocket", id="unknown pool"),
        pytest.param(["-c", "many"], "many", id="concurrency that is no number"),
        pytest.param(["-c", "0"], "0", id="no slot at all"),
        pytest.param(["-l", "loud"], "loud", id="unknown log level"),
        pytest.param(["--wings"], "--wings", id="unknown option"),
    ],
)
def test_a_wrong_flag_ends_the_worker_with_a_sentence(site, flags: list[str], said: str) -> None:
    worker = site.worker(*flags, await_ready=False)

    assert worker.wait(timeout_s=10) in (1, 2)
    assert said in worker.text()
    assert "Traceback" not in worker.text()


@pytest.mark.parametrize(
    ("app", "said"),
    [
        pytest.param("nowhere", "nowhere", id="no such module"),
        pytest.param("jobs:nothing", "nothing", id="no such attribute"),
        pytest.param("json", "json", id="a module without an app"),
    ],
)
def test_an_app_that_cannot_be_found_ends_the_worker_with_a_sentence(site, app: str, said: str) -> None:
    worker = site.worker(await_ready=False, app=app)

    assert worker.wait(timeout_s=10) in (1, 2)
    assert said in worker.text()
    assert "Traceback" not in worker.text()


# -- the broker


@both
def test_a_worker_waits_for_an_absent_broker_says_so_and_goes_on_when_it_is_there(site) -> None:
    site.server.stop()

    worker = site.worker(await_ready=False)
    worker.wait_for("cannot reach the broker", timeout_s=20)
    assert worker.returncode is None
    assert "127.0.0.1" in worker.text()
    assert "guest:guest" not in worker.text()
    site.server.start()
    worker.wait_for(" ready", timeout_s=30)

    assert site.client().send_task("jobs.add", [2, 3]).get(timeout=10) == 5


def test_a_worker_that_waits_for_its_broker_can_be_ended(site) -> None:
    site.server.stop()
    worker = site.worker(await_ready=False)
    worker.wait_for("cannot reach the broker")

    assert worker.terminate(timeout_s=10) == 0


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_wrong_credentials_are_said_without_the_password(site) -> None:
    worker = site.worker(await_ready=False, broker=site.broker.replace("guest:guest", "guest:hidden"))

    output = worker.wait_for("cannot reach the broker", timeout_s=20)

    assert "ACCESS_REFUSED" in output or "credentials" in output
    assert "hidden" not in output


# -- messages


@both
def test_an_unknown_task_becomes_a_dead_letter_and_fails_as_not_registered(site) -> None:
    worker = site.worker()
    client = site.client()

    unknown = client.send_task("jobs.stranger", [1], {"a": 2})
    with pytest.raises(NotRegistered, match="stranger"):
        unknown.get(timeout=10)

    assert client.send_task("jobs.add", [1, 1]).get(timeout=10) == 2
    letter = _dead_letter(site)
    assert letter["headers"][DEATH]["reason"] == "unknown_task"
    assert letter["headers"]["id"] == unknown.id
    assert json.loads(letter["body"])[:2] == [[1], {"a": 2}]
    assert "jobs.stranger" in worker.text()


@both
@pytest.mark.parametrize(
    ("body", "properties", "reason"),
    [
        pytest.param(b"{not json", {}, "malformed", id="a body that is no JSON"),
        pytest.param(b'"text"', {}, "malformed", id="JSON of another shape"),
        pytest.param(b"\xff\xfe", {}, "malformed", id="bytes that are no text"),
        pytest.param(
            b"cos\nsystem\n(S'touch pwned'\ntR.",
            {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
            "content_disallowed",
            id="pickle",
        ),
        pytest.param(b"[[], {}, {}]", {"headers": {}}, "malformed", id="no headers"),
        pytest.param(
            b"[[1, 2], {}, {}]",
            {"headers": {"task": "jobs.add", "id": "x", "eta": "at noon"}},
            "malformed",
            id="an eta that is no time",
        ),
    ],
)
def test_a_message_that_cannot_be_read_becomes_a_dead_letter_with_its_reason(
    site, body: bytes, properties: dict[str, Any], reason: str
) -> None:
    worker = site.worker()

    _publish(site, body, **properties)
    wait_until(lambda: "dead-lettered" in worker.text() or worker.returncode is not None, timeout_s=10)

    assert site.client().send_task("jobs.add", [1, 1]).get(timeout=10) == 2
    letter = _dead_letter(site)
    assert letter["headers"][DEATH]["reason"] == reason
    assert letter["headers"][DEATH]["detail"]
    assert letter["body"] == body
    assert not Path("pwned").exists()


def test_an_unreadable_body_of_a_known_id_is_seen_as_a_failure_by_its_caller(site) -> None:
    site.worker()
    client = site.client()

    _publish(site, b"{not json", headers={"task": "jobs.add", "id": "broken-1"})

    result = client.AsyncResult("broken-1")
    wait_until(lambda: result.state == "FAILURE", timeout_s=10)
    assert "read" in str(result.result)


def test_arguments_that_do_not_fit_are_a_failure_of_the_task(site) -> None:
    site.worker()

    result = site.client().send_task("jobs.add", [1])

    with pytest.raises(TypeError, match="y"):
        result.get(timeout=10)


def test_a_result_that_cannot_be_written_is_a_failure_that_names_it(site) -> None:
    site.worker()

    result = site.client().send_task("jobs.unwritable")

    with pytest.raises(Exception, match="object"):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_a_list_item_that_is_no_message_stops_nothing(site) -> None:
    worker = site.worker()
    with site.server.client() as redis:
        redis.lpush("celery", "garbage", "[]", "{}", "")

    assert site.client().send_task("jobs.add", [1, 1]).get(timeout=10) == 2

    with site.server.client() as redis:
        wait_until(lambda: redis.llen("celery.dead") == 4, timeout_s=10, what="four dead letters")
        assert redis.llen("celery") == redis.hlen("unacked") == 0
    assert worker.returncode is None


# -- the result store


def test_a_result_store_that_is_away_holds_back_the_ack_and_loses_nothing(site, valkey_server) -> None:
    site.backend = valkey_server.url
    worker = site.worker("-P", "threads", "-c", "2")
    client = site.client()
    assert client.send_task("jobs.add", [0, 0]).get(timeout=10) == 0

    valkey_server.kill()
    results = [client.send_task("jobs.add", [number, 1]) for number in range(20)]
    worker.wait_for("result backend", timeout_s=15)
    time.sleep(1)
    assert worker.returncode is None
    valkey_server.start()

    assert [result.get(timeout=20) for result in results] == list(range(1, 21))
    with site.server.client() as redis:
        wait_until(lambda: redis.hlen("unacked") == 0, timeout_s=5, what="all messages acknowledged")


# -- helpers


def _publish(site, body: bytes, headers: dict[str, Any] | None = None, **properties: Any) -> None:
    """A hand-made message to the worker's queue."""
    if headers is None:
        headers = {"task": "jobs.add", "id": "hand-made"}
    kind = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
    with kombu.Connection(site.broker) as connection:
        connection.Producer().publish(body, routing_key="celery", headers=headers, **kind)


def _dead_letter(site) -> dict[str, Any]:
    """The one dead letter of the worker's queue."""
    with kombu.Connection(site.broker) as connection:
        channel = connection.default_channel
        found: list[Any] = []
        wait_until(
            lambda: found.append(channel.basic_get("celery.dead")) or found[-1], timeout_s=10, what="a dead letter"
        )
        message = found[-1]
        channel.basic_ack(message.delivery_tag)
        body = message.body
        return {"headers": message.headers, "body": body if isinstance(body, bytes) else body.encode()}
