"""Remote control between the libraries: each one's client asks the other's worker, over Redis and RabbitMQ."""

import time
from pathlib import Path
from typing import Any

from libraries import Client, start_worker
from processes import wait_until

from celeriac.wire.control import COMMANDS

OURS = {info.name for info in COMMANDS if info.ours}


def answer(pair: Any, command: str, /, **arguments: Any) -> Any:
    """The one worker's answer to a control command."""
    [one] = pair.client.control(command, arguments, destination=[pair.node], timeout=3.0)
    return one[pair.node]


def test_every_command_of_celerys_workers_is_known_here_by_every_name_and_as_what_it_is(place, tmp_path: Path) -> None:
    client = Client("celery", place, tmp_path / "client.log")
    try:
        panel = client.panel()
    finally:
        client.close()
    names = {name: info.kind for info in COMMANDS for name in (info.name, *info.aliases) if not info.ours}

    assert len(panel) > 30
    assert set(panel) <= set(names)
    assert {name: kind for name, kind in panel.items() if kind} == {
        name: names[name] for name, kind in panel.items() if kind
    }


def test_questions_get_answers_of_celerys_shape(pair) -> None:
    ask, node = pair.client.inspect, pair.node

    queues = ask("active_queues")[node]
    assert [queue["name"] for queue in queues] == ["celery"]
    assert {"exchange", "routing_key", "durable", "queue_arguments", "bindings", "max_priority"} <= set(queues[0])
    assert queues[0]["exchange"]["type"] == "direct"
    assert "shop.add" in {line.split(" ")[0] for line in ask("registered")[node]}
    assert isinstance(ask("clock")[node]["clock"], int)
    assert ask("active")[node] == ask("reserved")[node] == ask("scheduled")[node] == []
    assert isinstance(ask("conf")[node], dict)
    assert "software -> " in ask("report")[node]["ok"]
    assert ask("query_task", "nobody")[node] == {}
    stats = ask("stats")[node]
    assert {"total", "pid", "clock", "uptime", "pool", "broker", "prefetch_count", "rusage"} <= set(stats)
    assert {"max-concurrency", "processes", "max-tasks-per-child", "timeouts"} <= set(stats["pool"])
    assert stats["broker"]["transport"] == ("redis" if pair.place.name == "redis" else "amqp")
    assert "password" not in stats["broker"] or not stats["broker"]["password"]


def test_registered_shows_what_was_asked_for(pair) -> None:
    lines = pair.client.inspect("registered", "max_retries")[pair.node]
    assert "shop.add [max_retries=3]" in lines


def test_limits_are_changed_and_wrong_ones_refused(pair) -> None:
    assert answer(pair, "rate_limit", task_name="shop.add", rate_limit="100/s") == {
        "ok": "new rate limit set successfully"
    }
    assert answer(pair, "rate_limit", task_name="shop.add", rate_limit=0) == {"ok": "rate limit disabled successfully"}
    assert answer(pair, "rate_limit", task_name="nobody", rate_limit="1/s") == {"error": "unknown task"}
    assert "Invalid rate limit string" in answer(pair, "rate_limit", task_name="shop.add", rate_limit="often")["error"]
    assert answer(pair, "time_limit", task_name="shop.add", soft=50, hard=60) == {"ok": "time limits set successfully"}
    assert answer(pair, "time_limit", task_name="nobody", soft=1, hard=2) == {"error": "unknown task"}


def test_events_are_switched(pair) -> None:
    answer(pair, "disable_events")
    assert answer(pair, "enable_events") == {"ok": "task events enabled"}
    assert answer(pair, "enable_events") == {"ok": "task events already enabled"}
    assert answer(pair, "disable_events") == {"ok": "task events disabled"}


def test_a_queue_is_added_served_and_taken_away(pair) -> None:
    assert answer(pair, "add_consumer", queue="more") == {"ok": "add consumer more"}
    task_id = pair.client.send("add", 1, 2, queue="more")
    assert pair.client.get(task_id) == {"value": 3}
    assert {queue["name"] for queue in pair.client.inspect("active_queues")[pair.node]} == {"celery", "more"}

    assert answer(pair, "cancel_consumer", queue="more") == {"ok": "no longer consuming from more"}
    wait_until(lambda: [queue["name"] for queue in pair.client.inspect("active_queues")[pair.node]] == ["celery"])


def test_a_revoked_task_does_not_run_and_who_waits_for_it_knows(pair) -> None:
    task_id = "to-be-revoked-" + pair.node
    said = answer(pair, "revoke", task_id=task_id)
    assert said == {"ok": f"tasks {{'{task_id}'}} flagged as revoked"}
    assert task_id in pair.client.inspect("revoked")[pair.node]

    pair.client.send("add", 1, 2, task_id=task_id)

    raised = pair.client.get(task_id)["raised"]
    assert (raised["name"], raised["args"]) == ("TaskRevokedError", ["revoked"])


def test_a_stamped_task_is_revoked_by_its_stamp(pair) -> None:
    said = answer(pair, "revoke_by_stamped_headers", headers={"customer": ["42"]})
    assert "flagged as revoked, but not terminated" in said["ok"]

    task_id = pair.client.send("add", 1, 2, headers={"stamped_headers": ["customer"], "stamps": {"customer": ["42"]}})

    assert pair.client.get(task_id)["raised"]["name"] == "TaskRevokedError"


def test_what_a_pool_cannot_do_is_an_error_and_nothing_else(pair) -> None:
    for command in ("pool_restart", "autoscale"):
        [one] = pair.client.control(command, destination=[pair.node], timeout=3.0)
        assert "error" in one[pair.node]
    assert pair.client.inspect("ping") == {pair.node: {"ok": "pong"}}


def test_only_nodes_that_look_like_the_pattern_answer(pair) -> None:
    assert pair.client.control("ping", pattern="*@test", matcher="glob", timeout=1.0) == [{pair.node: {"ok": "pong"}}]
    assert pair.client.control("ping", pattern="nobody*", matcher="glob", timeout=0.5) == []
    assert pair.client.control("ping", pattern=r"^cel.*@test$", matcher="pcre", timeout=1.0) == [
        {pair.node: {"ok": "pong"}}
    ]


def test_an_unknown_command_is_answered_with_an_error(pair) -> None:
    [one] = pair.client.control("fly", destination=[pair.node], timeout=3.0)
    assert "fly" in one[pair.node]["error"]


def test_a_worker_that_starts_hears_from_the_others_what_was_revoked(pair, tmp_path: Path) -> None:
    answer(pair, "revoke", task_id="revoked-before-" + pair.node)
    other = "celery" if pair.worker_library == "celeriac" else "celeriac"

    newcomer = start_worker(other, pair.place, tmp_path / "newcomer.log", "-Q", "elsewhere", "-n", "newcomer@test")
    try:
        wait_until(
            lambda: "revoked-before-" + pair.node in (pair.client.inspect("revoked") or {}).get("newcomer@test", []),
            timeout_s=10.0,
        )
    finally:
        newcomer.kill()


def test_a_running_task_is_shown_with_its_arguments_and_process(place, tmp_path: Path) -> None:
    worker = start_worker(
        "celeriac", place, tmp_path / "worker.log", "-P", "threads", "-c", "2", "-n", "alone@test", "-Q", "alone"
    )
    client = Client("celery", place, tmp_path / "client.log")
    try:
        task_id = client.send("nap", 20, queue="alone")
        wait_until(lambda: client.inspect("active").get("alone@test"))
        [task] = client.inspect("active")["alone@test"]
        assert (task["id"], task["name"], task["args"], task["kwargs"]) == (task_id, "shop.nap", [20], {})
        assert task["worker_pid"] == worker.pid
        assert abs(time.time() - task["time_start"]) < 30
        assert set(task["delivery_info"]) >= {"exchange", "routing_key", "priority", "redelivered"}
        [[state, info]] = client.inspect("query_task", task_id)["alone@test"].values()
        assert (state, info["id"]) == ("active", task_id)
        assert client.inspect("active", safe=True)["alone@test"][0]["args"] == "(20,)"
    finally:
        client.close()
        worker.kill()


def test_our_own_commands_are_answered_by_our_workers(place, tmp_path: Path) -> None:
    worker = start_worker("celeriac", place, tmp_path / "worker.log", "-n", "alone@test", "-Q", "alone")
    client = Client("celery", place, tmp_path / "client.log")
    try:
        said = {
            command: client.control(command, {}, destination=["alone@test"], timeout=3.0)[0]["alone@test"]
            for command in sorted(OURS)
        }
    finally:
        client.close()
        worker.kill()
    assert said["dead"] == {"alone": 0}
    assert said["drain"]["ok"] in {"running", "draining", "drained"}
    assert said["undrain"]["ok"] in {"running", "draining", "drained"}
