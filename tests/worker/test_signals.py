"""Every signal of Celery's: it exists, and is sent where Celery sends it, with its arguments and its sender."""

import json
import logging
import uuid
from collections import Counter
from typing import Any

import pytest
from processes import wait_until

from celeriac import Celeriac, signals
from celeriac.broker.consumer import open_consumer
from celeriac.exceptions import TaskRevokedError
from celeriac.telemetry.logs import set_up

NODE = "told@test"
CONSUMER = {"type": "Loop", "hostname": NODE, "app": "told", "name": None}
WORKER = {"type": "Worker", "hostname": NODE, "app": "told", "name": None}
NODE_NAME = {"type": "str", "hostname": None, "app": None, "name": NODE}
NOBODY = {"type": "NoneType", "hostname": None, "app": None, "name": None}

#: Signal -> who sends it, its arguments, and where: main or child.
OF_A_WORKER = {
    "setup_logging": None,  # with a receiver nobody else sets logging up: see below
    "import_modules": ({"type": "Celeriac", "hostname": None, "app": None, "name": None}, "", "main"),
    "celeryd_init": (NODE_NAME, "conf instance options", "main"),
    "celeryd_after_setup": (NODE_NAME, "conf instance", "main"),
    "worker_init": (WORKER, "", "main"),
    "worker_before_create_process": ({"type": "PreforkPool", "hostname": None, "app": None, "name": None}, "", "main"),
    "worker_process_init": (NODE_NAME, "", "child"),
    "worker_ready": (CONSUMER, "", "main"),
    "heartbeat_sent": ({"type": "Heart", "hostname": None, "app": None, "name": None}, "", "main"),
    "task_received": (CONSUMER, "request", "main"),
    "task_revoked": ("told.works", "expired request signum terminated", "main"),
    "task_rejected": (CONSUMER, "exc message", "main"),
    "task_unknown": (CONSUMER, "exc id message name", "main"),
    "task_prerun": ("told.works", "args kwargs task task_id", "child"),
    "task_postrun": ("told.works", "args kwargs retval state task task_id", "child"),
    "task_success": ("told.works", "result runtime", "child"),
    "task_retry": ("told.tries", "einfo reason request", "child"),
    "task_failure": ("told.fails", "args einfo exception kwargs task_id traceback", "child"),
    "task_internal_error": ("told.broken", "args einfo exception kwargs request task_id traceback", "child"),
    "after_setup_logger": (NOBODY, "colorize format logfile logger loglevel", "main"),
    "after_setup_task_logger": (NOBODY, "colorize format logfile logger loglevel", "main"),
    "worker_shutting_down": (NODE_NAME, "exitcode how sig", "main"),
    "worker_process_shutdown": (NODE_NAME, "exitcode pid", "child"),
    "worker_shutdown": (WORKER, "", "main"),
}


def heard(site: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in site.ledger.path.read_text().splitlines()]


def test_a_worker_sends_each_signal_where_celery_sends_it(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHEARD", "setup_logging")
    worker = site.worker("-P", "prefork", "-n", NODE, app="told")
    client = site.client()
    works = client.send_task("told.works", [1], {"y": 2})
    assert works.get(timeout=20) == 3
    assert client.send_task("told.works", [1], queue="another").get(timeout=10) == 1  # of celeryd_after_setup
    expired = client.send_task("told.works", [1], expires=-1)
    with pytest.raises(TaskRevokedError):
        expired.get(timeout=10)
    for name in ("fails", "tries", "rejects", "broken", "stranger"):
        client.send_task(f"told.{name}")
    headers = {"task": "told.works", "id": "malformed", "lang": "py"}
    client.producer.publish_raw(
        "celery", b"{", headers, content_type="application/json", content_encoding="utf-8", properties={}
    )
    names = {name for name, row in OF_A_WORKER.items() if row is not None}
    late = {"worker_shutting_down", "worker_process_shutdown", "worker_shutdown"}
    wait_until(lambda: {line["signal"] for line in heard(site)} >= names - late, timeout_s=10, what="all signals")
    wait_until(lambda: Counter(line["signal"] for line in heard(site))["task_rejected"] == 2, what="both rejected")
    assert worker.terminate(timeout_s=10) == 0

    lines = heard(site)
    found = {line["signal"]: line for line in reversed(lines)}  # the first of each
    for name in names:
        sender, arguments, where = OF_A_WORKER[name]  # type: ignore[misc]
        line = found[name]
        assert " ".join(sorted(line["named"])) == arguments, name
        assert (line["sender"]["name"] if isinstance(sender, str) else line["sender"]) == sender, name
        assert (line["pid"] == worker.pid) is (where == "main"), name
    by_id = [line["named"] for line in lines if line["signal"] == "task_received"]
    assert by_id[0]["request"] == [works.id, [1], {"y": 2}]
    revoked = next(line["named"] for line in lines if line["signal"] == "task_revoked")
    assert (revoked["request"], revoked["expired"], revoked["terminated"]) == (expired.id, "True", "False")
    unknown = [line["named"] for line in lines if line["signal"] == "task_unknown"]
    assert [named["name"] for named in unknown] == ["'told.stranger'"]
    ends = Counter(line["named"]["state"] for line in lines if line["signal"] == "task_postrun")
    assert ends == {"'SUCCESS'": 3, "'FAILURE'": 1, "'RETRY'": 1, "'REJECTED'": 1}


def test_a_receiver_of_setup_logging_sets_logging_up_and_nobody_else_does(site: Any) -> None:
    site.worker("-P", "solo", "-n", NODE, app="told", await_ready=False)
    wait_until(
        lambda: site.ledger.path.exists() and "worker_ready" in site.ledger.path.read_text(),
        timeout_s=15,
        what="the worker",
    )

    names = [line["signal"] for line in heard(site)]
    assert "setup_logging" in names
    assert not {"after_setup_logger", "after_setup_task_logger"} & set(names)


def test_logging_that_cannot_be_set_up_is_no_secret() -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("no")

    signals.setup_logging.connect(broken)
    try:
        with pytest.raises(RuntimeError, match="no"):
            set_up("info")
    finally:
        signals.setup_logging.disconnect(broken)
    assert logging.getLogger().level != logging.INFO


@pytest.mark.parametrize("url", ["memory://", "redis", "rabbitmq"])
def test_clients_tell_of_publishes_and_a_receiver_may_add_headers(url: str, request: pytest.FixtureRequest) -> None:
    if not url.startswith("memory"):
        url = request.getfixturevalue("redis_server" if url == "redis" else "rabbitmq").url
    told: list[tuple[str, str, list[str], Any, Any]] = []

    def before(signal: Any, sender: str, headers: dict[str, Any], **named: Any) -> None:
        headers["tenant"] = "t1"
        after(signal, sender, headers=headers, **named)

    def after(signal: Any, sender: str, **named: Any) -> None:
        told.append((signal.name, sender, sorted(named), named["exchange"], named["routing_key"]))

    published: list[Any] = []
    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        mine = f"told-{uuid.uuid4()}"  # the memory broker is the process's
        with Celeriac("shop", broker=url, set_as_current=False, task_default_queue=mine) as app:
            app.task(lambda: 1, name="t").delay()
            app.task(lambda: 1, name="many").send_many([()])
            consumer = open_consumer(app.broker_address(), [mine], node="n", lease_s=5.0, prefetch=4)
            try:
                wait_until(lambda: published.extend(consumer.claim(2)) or len(published) == 2)
            finally:
                consumer.close()
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)

    arguments = ["body", "declare", "exchange", "headers", "properties", "retry_policy", "routing_key"]
    assert [row[:3] for row in told] == [
        ("before_task_publish", "t", arguments), ("after_task_publish", "t", ["body", "exchange", "headers", "routing_key"]),
        ("before_task_publish", "many", arguments), ("after_task_publish", "many", ["body", "exchange", "headers", "routing_key"]),
    ]  # fmt: skip
    assert {row[3:] for row in told} == {("", mine)}
    assert [delivery.headers["tenant"] for delivery in published] == ["t1", "t1"]
