"""A client of one library and a worker of the other: calls, retries, failures, delays, states, remote control."""

import time
from pathlib import Path
from typing import Any

import pytest


def test_a_call_brings_its_result_back(pair) -> None:
    task_id = pair.client.send("add", 2, 3)

    assert pair.client.get(task_id) == {"value": 5}
    seen = pair.client.look(task_id)
    assert (seen["state"], seen["result"], seen["traceback"]) == ("SUCCESS", 5, None)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="none"),
        pytest.param("Straße \u2603 \U0001f40d", id="text beyond ascii"),
        pytest.param({"a": [1, 2.5, {"b": None}], "c": True}, id="nested"),
        pytest.param("x" * 200_000, id="200 kB"),
        pytest.param(2**53 + 1, id="an integer that no float holds"),
    ],
)
def test_arguments_and_results_arrive_as_they_were_sent(pair, value: Any) -> None:
    task_id = pair.client.send("echo", value, kwargs={"named": value})

    assert pair.client.get(task_id) == {"value": [[value], {"named": value}]}


def test_a_retry_that_then_succeeds_is_one_task_with_one_result(pair) -> None:
    task_id = pair.client.send("flaky", 2)

    assert pair.client.get(task_id) == {"value": 2}
    assert pair.client.look(task_id)["state"] == "SUCCESS"


def test_a_task_out_of_retries_fails_with_the_exception_it_gave(pair) -> None:
    task_id = pair.client.send("exhausted")

    raised = pair.client.get(task_id)["raised"]
    assert raised == {"module": "shop", "name": "OutOfStock", "args": ["for good"], "is_shops": True}


def test_a_failure_is_raised_at_the_client_as_the_users_own_exception(pair) -> None:
    task_id = pair.client.send("reserve", "lamp", 3)

    raised = pair.client.get(task_id)["raised"]
    assert raised == {"module": "shop", "name": "OutOfStock", "args": ["lamp", 3], "is_shops": True}
    seen = pair.client.look(task_id)
    assert (seen["state"], seen["ready"], seen["failed"]) == ("FAILURE", True, True)
    assert seen["traceback"].startswith("Traceback (most recent call last)")
    assert "raise OutOfStock(article, pieces)" in seen["traceback"]


def test_a_builtin_exception_is_raised_as_itself(pair) -> None:
    task_id = pair.client.send("divide", 1, 0)

    raised = pair.client.get(task_id)["raised"]
    assert (raised["module"], raised["name"], raised["args"]) == ("builtins", "ZeroDivisionError", ["division by zero"])


def test_a_countdown_is_kept(pair) -> None:
    sent_at = time.time()
    task_id = pair.client.send("now", countdown=2)

    ran_at = pair.client.get(task_id)["value"]
    # RabbitMQ's native delay counts whole seconds; both count from the client's clock.
    earliest_s = 1.0 if pair.place.name == "rabbitmq" else 1.95
    assert earliest_s <= ran_at - sent_at < 4


def test_a_message_that_has_expired_is_revoked_and_not_run(pair) -> None:
    task_id = pair.client.send("now", expires=-1)

    raised = pair.client.get(task_id)["raised"]
    assert raised["name"] == "TaskRevokedError"
    assert pair.client.look(task_id)["state"] == "REVOKED"


def test_a_running_task_is_seen_as_started_with_its_worker(pair, tmp_path: Path) -> None:
    task_id = pair.client.send("wait_for_file", str(tmp_path / "go"))

    seen = pair.client.look_until(task_id, "STARTED")
    assert seen["result"]["hostname"] == pair.node
    assert isinstance(seen["result"]["pid"], int)
    (tmp_path / "go").touch()
    assert pair.client.get(task_id) == {"value": "released"}


def test_a_waiting_retry_is_seen_with_its_reason_and_then_succeeds(pair) -> None:
    task_id = pair.client.send("retry_in", 2)

    seen = pair.client.look_until(task_id, "RETRY")
    assert (seen["result"]["name"], seen["result"]["args"], seen["ready"]) == ("OutOfStock", ["later"], False)
    assert "raise self.retry" in seen["traceback"]
    assert pair.client.get(task_id) == {"value": "done"}


def test_a_task_reads_its_own_request(pair) -> None:
    task_id = pair.client.send("request_fields", task_id="chosen-id-" + pair.node)

    fields = pair.client.get(task_id)["value"]
    assert task_id == "chosen-id-" + pair.node
    assert fields["id"] == fields["root_id"] == fields["correlation_id"] == task_id
    assert fields["parent_id"] is None
    assert (fields["retries"], fields["args"], fields["kwargs"]) == (0, [], {})
    assert (fields["hostname"], fields["routing_key"]) == (pair.node, "celery")
    assert (fields["called_directly"], fields["is_eager"]) == (False, False)
    assert fields["origin"].startswith("gen")


def test_the_other_librarys_inspect_ping_is_answered(pair) -> None:
    assert pair.client.ping([pair.node]) == {pair.node: {"ok": "pong"}}
    assert pair.client.ping(timeout_s=1.0) == {pair.node: {"ok": "pong"}}


def test_a_task_unknown_to_the_worker_fails_as_not_registered(pair) -> None:
    task_id = pair.client.send("stranger")

    raised = pair.client.get(task_id)["raised"]
    assert raised["name"] == "NotRegistered"
