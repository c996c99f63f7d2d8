"""Heartbeats whose header tells enough: they are read when somebody asks, and no sooner."""

import json
from typing import Any

import pytest

from celeriac.broker.eventbus import Unread
from celeriac.wire.event import (
    DrainState,
    Glance,
    Heartbeat,
    QueueTotals,
    glance_from_wire,
    glance_to_wire,
    heartbeat_from_wire,
    heartbeat_to_wire,
)
from celeriac_operator.fleet import heartbeats
from celeriac_operator.fleet.heartbeats import Fleet

T0 = 1_000_000.0


def beat(started: int, *, at: float, up_s: float, kind: str = "worker-heartbeat", **more: Any) -> Unread:
    made = Heartbeat(
        hostname="celery@pod-1", incarnation="one", timestamp=at, started_at=at - up_s, queues=("mails",),
        queue_totals={"mails": QueueTotals(started=started)}, **more,
    )  # fmt: skip
    glance = glance_from_wire(json.loads(json.dumps(glance_to_wire(made, kind))))
    assert glance is not None
    return Unread(glance, json.dumps(heartbeat_to_wire(made, kind)).encode())


@pytest.mark.parametrize(
    "header", [None, "running", [], ["worker-heartbeat", "one", 7.0], ["worker-heartbeat", "", 7.0, "running"],
               ["worker-heartbeat", "one", 7, "running"], ["worker-heartbeat", "one", float("nan"), "running"]]
)  # fmt: skip
def test_a_header_of_another_form_is_none(header):
    assert glance_from_wire(header) is None


def test_the_mark_is_another_for_each_state_and_each_step_of_a_drain():
    marks = [None, *(DrainState(id=id_, epoch=epoch, state=state, expires_in_s=60.0)
                     for id_, epoch, state in [("d", 3, "draining"), ("d", 3, "drained"), ("d", 4, "drained"), ("e", 4, "drained")])]  # fmt: skip
    beats = [
        Heartbeat(hostname="a", timestamp=1.0, incarnation="one", state=state, drain=mark)
        for state in ("running", "draining", "drained", "stopping")
        for mark in marks
    ]

    assert len({glance_to_wire(each)[3] for each in beats}) == len(beats)
    assert Glance._make(glance_to_wire(beats[0])) == ("worker-heartbeat", "one", 1.0, "running")


def test_a_heartbeat_whose_header_tells_that_all_is_as_it_was_is_not_read_before_somebody_asks(monkeypatch):
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 2, up_s=1), T0 + 2)
    reads = []
    monkeypatch.setattr(heartbeats, "heartbeat_from_wire", lambda body: reads.append(body) or heartbeat_from_wire(body))

    for n in range(3, 20):
        assert fleet.hear(beat(n, at=T0 + n, up_s=n - 1), T0 + n) is False
    before = len(reads)
    (worker,) = fleet.workers(T0 + 20)

    assert fleet.totals().by_queue["mails"].started == 19
    assert (before, len(reads)) == (0, 1)
    assert (worker.heard_at, worker.gone, worker.started_at) == (T0 + 19, False, T0 + 1)


def test_a_body_that_does_not_keep_what_its_header_promised_is_a_sign_of_life_and_told_once(caplog):
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(5, at=T0 + 2, up_s=1), T0 + 2)
    glance = glance_from_wire(["worker-heartbeat", "one", T0 + 3610, "running"])
    assert glance is not None

    for text in (b"{", b"[]", b'{"hostname": 3}'):
        fleet.hear(Unread(glance, text), T0 + 10)
        (worker,) = fleet.workers(T0 + 12)

    assert (worker.gone, worker.beat.queue_totals["mails"].started) == (False, 5)
    assert caplog.text.count("malformed heartbeats of celery@pod-1") == 1


def test_what_a_scrape_reads_is_counted_by_queue_when_somebody_asks_for_that():
    fleet = Fleet(started_at=T0)
    owner = ("shop", "mails")
    fleet.hear(beat(1, at=T0 + 2, up_s=1), T0 + 2)
    fleet.own("one", owner)
    fleet.hear(beat(7, at=T0 + 4, up_s=3), T0 + 4)

    fleet.settle(T0 + 5, strangers=False)
    scraped = fleet.totals(count=False)
    fleet.hear(beat(9, at=T0 + 6, up_s=5), T0 + 6)

    assert scraped.owned[owner, "mails"].started == 7
    assert scraped.by_queue == {}
    assert fleet.totals().by_queue["mails"].started == 9
