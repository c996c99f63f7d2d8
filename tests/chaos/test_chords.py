"""Chords whose workers are killed, at every step and at any time: the body runs, once, with the right values."""

import contextlib
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from canvas_client import Names
from dying import MOMENTS
from processes import Child, wait_until
from sites import Site

from celeriac import chord
from celeriac.exceptions import ChordError

_STEPS = [("redis", moment) for moment in MOMENTS if moment != "before it is acknowledged"]
_STEPS += [("rabbitmq", moment) for moment in MOMENTS]
every_step = pytest.mark.parametrize(
    ("site", "moment"), _STEPS, indirect=["site"], ids=[f"{kind}-{moment}" for kind, moment in _STEPS]
)


@pytest.fixture
def names(site: Site) -> Names:
    return Names(site.client())


@contextlib.contextmanager
def killed_at(site: Site, moment: str) -> Iterator[None]:
    """A worker that takes what the block sends, until it is killed at that moment; then another one."""
    first = site.worker("-P", "solo", app="canvases", task_lease="1", variables={"DIE_AT": moment})
    yield
    assert first.wait(timeout_s=20) == -signal.SIGKILL
    site.worker("-P", "solo", app="canvases", task_lease="1")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@every_step
def test_the_body_runs_although_the_worker_was_killed_when_it_was_due(
    site: Site, names: Names, moment: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "bodies"
    with killed_at(site, moment):
        result = chord(
            [names.s("add", 1, 1), names.s("slow", 2, 0.4)], names.s("noted_total", str(ledger))
        ).apply_async()

    assert result.get(timeout=20) == 4
    time.sleep(1.5)  # a lease: a body that was sent twice would have run by now
    assert {tuple(map(str, line)) for line in lines(ledger)} == {(result.id, "[2, 2]")}
    if site.broker.startswith("redis"):
        assert len(lines(ledger)) == 1


@pytest.mark.parametrize(
    ("site", "moment"), [(kind, moment) for kind in ("redis", "rabbitmq") for moment in (MOMENTS[2], MOMENTS[4])], indirect=["site"]
)  # fmt: skip
def test_what_a_failed_member_brings_down_falls_although_the_worker_was_killed(
    site: Site, names: Names, moment: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with killed_at(site, moment):
        inner = chord([names.s("add", 1, 1), names.s("slow", 2, 0.4) | names.s("fails")], names.s("total"))
        body = names.s("total").on_error(names.s("told_the_id", str(told)))
        result = (chord([inner], body) | names.s("add", 1)).apply_async()

    with pytest.raises(ChordError):
        result.get(timeout=20)
    wait_until(lambda: lines(told), timeout_s=20, what="the error callback")
    time.sleep(1.5)
    assert {line[0] for line in lines(told)} == {result.parent.id}
    if site.broker.startswith("redis"):
        assert len(lines(told)) == 1
    assert result.parent.parent[0].state == "FAILURE"


@pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)
def test_a_body_that_rabbitmq_has_not_confirmed_is_sent_again_when_its_worker_is_lost(
    site: Site, names: Names, tmp_path: Path
) -> None:
    ledger = tmp_path / "bodies"
    vhost = site.broker.rsplit("/", 1)[1]
    full = {"durable": True, "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}}
    site.server.node.api("PUT", f"queues/{vhost}/full", full)
    blocker = {"properties": {}, "routing_key": "full", "payload": "x", "payload_encoding": "string"}
    site.server.node.api("POST", f"exchanges/{vhost}/amq.default/publish", blocker)
    first = site.worker("-P", "solo", app="canvases")
    body = names.s("noted_total", str(ledger)).set(queue="full")
    result = chord([names.s("add", 1, 1), names.s("add", 2, 2)], body).apply_async()
    first.wait_for("it is tried again")

    first.kill()
    site.server.node.api("DELETE", f"queues/{vhost}/full")
    site.worker("-P", "solo", "-Q", "celery,full", app="canvases")

    assert result.get(timeout=20) == 6
    assert {line[0] for line in lines(ledger)} == {result.id}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("site", "pool"),
    [
        pytest.param("redis", ["-P", "prefork", "-c", "3"], id="redis-prefork"),
        pytest.param("rabbitmq", ["-P", "threads", "-c", "4"], id="rabbitmq-threads"),
    ],
    indirect=["site"],
)  # fmt: skip
def test_fifty_chords_come_out_right_under_random_kills(
    site: Site, names: Names, pool: list[str], tmp_path: Path
) -> None:
    ledger = tmp_path / "bodies"
    chance = random.Random(7)
    start = lambda: site.worker(*pool, app="canvases", task_lease="1", task_max_deliveries="100")  # noqa: E731
    workers: list[Child] = [start(), start()]
    results = [
        chord(
            [names.s("slow", n, 0.3) for n in range(number, number + 4)], names.s("noted_total", str(ledger))
        ).apply_async()
        for number in range(50)
    ]

    kills = 0
    deadline = time.monotonic() + 90
    while not all(result.ready() for result in results):
        assert time.monotonic() < deadline, f"{sum(not result.ready() for result in results)} chords have not ended"
        time.sleep(chance.uniform(0.3, 0.9))
        if kills < 6:
            victim = chance.randrange(2)
            workers[victim].kill()
            workers[victim] = start()
            kills += 1

    assert [result.get(timeout=1) for result in results] == [4 * number + 6 for number in range(50)]
    ids = [line[0] for line in lines(ledger)]
    assert set(ids) == {result.id for result in results}, "whoever sent a body sent it under its one id"
    assert kills >= 3
