"""The fleet: totals that never decrease, incarnations that are never subtracted from each other, who lives and who drains."""

import itertools
import json
import threading
import time
from typing import Any

import pytest

from celeriac.broker.depth import QueueDepth
from celeriac.broker.eventbus import Unread
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.event import (
    DrainState,
    Heartbeat,
    QueueTotals,
    RateLimit,
    TaskTotals,
    glance_from_wire,
    glance_to_wire,
    heartbeat_from_wire,
    heartbeat_to_wire,
)
from celeriac_operator.fleet.ears import Ears
from celeriac_operator.fleet.heartbeats import NOBODY, Fleet, FleetTotals
from celeriac_operator.fleet.match import crews_of, match, pod_samples
from celeriac_operator.fleet.probes import consumers_of, limited_classes, queue_samples
from celeriac_operator.resources.records import PodRecord

T0 = 1_000_000.0
SHOP = ("shop", "mails")


@pytest.fixture(params=["read", "unread"], autouse=True)
def form(request, monkeypatch) -> str:
    """Every test here twice: with heartbeats as older workers send them, and with those whose header tells enough."""
    if request.param == "unread":
        hear = Fleet.hear
        monkeypatch.setattr(Fleet, "hear", lambda fleet, body, now: hear(fleet, unread(body), now))
    return str(request.param)


def unread(body: Any) -> Any:
    """The event as `EventReceiver` hands it over when its header has a glance; events that have none as they are."""
    if isinstance(body, Unread):
        return body
    try:
        told = heartbeat_from_wire(body)
    except ValueError:
        return body
    glance = glance_from_wire(json.loads(json.dumps(glance_to_wire(told, body["type"]))))
    return Unread(glance, json.dumps(body).encode()) if glance else body


def beat(started: int, *, at: float, up_s: float, incarnation: str = "one", **more: Any) -> dict[str, Any]:
    """A heartbeat by a worker whose clock is an hour wrong, and which has been up for `up_s`."""
    fields = {
        "hostname": "celery@pod-1",
        "incarnation": incarnation,
        "queues": ("mails",),
        "queue_totals": {"mails": QueueTotals(started=started, succeeded=started, busy_s=started / 2)},
        "task_totals": {"send": TaskTotals(queue="mails", started=started, succeeded=started)},
        **more,
    }
    kind = fields.pop("kind", "worker-heartbeat")
    return heartbeat_to_wire(Heartbeat(timestamp=at + 3600, started_at=at + 3600 - up_s, **fields), kind)


def started(fleet: Fleet) -> int:
    return fleet.totals().by_queue.get("mails", QueueTotals()).started


def owned(fleet: Fleet) -> dict[tuple[str, str], int]:
    return {owner: totals.started for (owner, _), totals in fleet.totals().owned.items()}


def test_a_worker_that_started_after_the_operator_counts_from_zero():
    fleet = Fleet(started_at=T0)

    fleet.hear(beat(7, at=T0 + 10, up_s=5), T0 + 10)

    assert started(fleet) == 7


def test_the_first_sight_of_a_worker_that_was_there_before_the_operator_is_a_baseline():
    fleet = Fleet(started_at=T0)

    fleet.hear(beat(1000, at=T0 + 1, up_s=500), T0 + 1)
    fleet.hear(beat(1003, at=T0 + 3, up_s=502), T0 + 3)

    assert started(fleet) == 3


def test_a_lost_heartbeat_loses_nothing():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 2, up_s=1), T0 + 2)

    fleet.hear(beat(9, at=T0 + 6, up_s=5), T0 + 6)

    assert started(fleet) == 9


def test_two_incarnations_of_one_pod_add_up():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(10, at=T0 + 9, up_s=8), T0 + 9)

    fleet.hear(beat(4, at=T0 + 20, up_s=3, incarnation="two"), T0 + 20)

    assert started(fleet) == 14


def test_a_gone_worker_keeps_its_totals_even_after_it_is_forgotten():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(10, at=T0 + 9, up_s=8), T0 + 9)
    fleet.own("one", SHOP)

    fleet.settle(T0 + 100_000)

    assert started(fleet) == 10
    assert owned(fleet) == {SHOP: 10}
    assert fleet.workers(T0 + 100_000) == []


def test_a_worker_that_was_frozen_and_returns_is_not_counted_twice():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(10, at=T0 + 9, up_s=8), T0 + 9)
    fleet.settle(T0 + 60)
    assert fleet.workers(T0 + 60)[0].gone

    fleet.hear(beat(12, at=T0 + 61, up_s=60), T0 + 61)

    assert started(fleet) == 12
    assert not fleet.workers(T0 + 61)[0].gone


def test_a_heartbeat_that_was_overtaken_on_the_way_is_passed_over():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(8, at=T0 + 4, up_s=3, busy=0), T0 + 4)

    fleet.hear(beat(6, at=T0 + 2, up_s=1, busy=4), T0 + 5)

    assert started(fleet) == 8
    assert fleet.workers(T0 + 5)[0].beat.busy == 0


def test_a_worker_is_stale_after_three_missed_heartbeats_and_gone_at_once_when_it_says_good_bye():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 2, up_s=1), T0 + 2)
    fleet.hear(beat(1, at=T0 + 2, up_s=1, incarnation="two"), T0 + 2)

    fleet.hear(beat(2, at=T0 + 4, up_s=3, incarnation="two", kind="worker-offline"), T0 + 4)

    gone = {worker.id: worker.gone for worker in fleet.workers(T0 + 5)}
    assert gone == {"one": False, "two": True}
    assert [worker.gone for worker in fleet.workers(T0 + 8.9) if worker.id == "one"] == [False]
    assert [worker.gone for worker in fleet.workers(T0 + 9.1) if worker.id == "one"] == [True]
    assert started(fleet) == 3


def test_totals_go_to_the_pool_a_worker_belongs_to_although_its_pod_is_indexed_late():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(5, at=T0 + 2, up_s=1), T0 + 2)
    fleet.settle(T0 + 3)
    assert owned(fleet) == {}

    fleet.own("one", SHOP)
    fleet.settle(T0 + 8)

    assert owned(fleet) == {SHOP: 5}
    assert fleet.totals().owned_tasks[SHOP, "mails", "send"].succeeded == 5


def test_a_worker_of_no_pool_is_counted_under_nobody_after_a_while():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(5, at=T0 + 2, up_s=1), T0 + 2)
    fleet.hear(beat(6, at=T0 + 20, up_s=19), T0 + 20)

    fleet.settle(T0 + 20)

    assert owned(fleet) == {NOBODY: 6}


def test_a_change_of_drain_state_is_news_and_a_plain_heartbeat_is_not():
    fleet = Fleet(started_at=T0)

    news = [
        fleet.hear(beat(1, at=T0 + 1, up_s=1), T0 + 1),
        fleet.hear(beat(2, at=T0 + 2, up_s=2), T0 + 2),
        fleet.hear(beat(2, at=T0 + 3, up_s=3, drain=mark("draining")), T0 + 3),
        fleet.hear(beat(2, at=T0 + 4, up_s=4, drain=mark("draining")), T0 + 4),
        fleet.hear(beat(2, at=T0 + 5, up_s=5, drain=mark("drained")), T0 + 5),
    ]

    assert news == [True, False, True, False, True]


def mark(state: str) -> DrainState:
    return DrainState(id="m1", epoch=3, state=state, expires_in_s=60.0)


def test_changes_of_workers_are_counted_and_plain_heartbeats_are_none():
    fleet = Fleet(started_at=0.0)
    turns = [fleet.attend(99.0)]

    def tell(body: dict[str, Any] | None, now: float) -> None:
        if body is not None:
            fleet.hear(body, now)
        turns.append(fleet.attend(now))

    tell(beat(1, at=100.0, up_s=1.0), 100.0)  # it came
    tell(beat(2, at=102.0, up_s=3.0), 102.0)
    tell(beat(3, at=104.0, up_s=5.0, drain=mark("draining")), 104.0)  # it heard a mark
    tell(None, 130.0)  # it fell silent
    tell(None, 135.0)
    tell(beat(4, at=136.0, up_s=37.0, drain=mark("draining")), 136.0)  # it is back

    assert [after - before for before, after in itertools.pairwise(turns)] == [1, 0, 1, 1, 0, 1]


def test_other_events_are_passed_over_and_malformed_heartbeats_are_refused():
    fleet = Fleet(started_at=T0)

    assert fleet.hear({"type": "task-succeeded", "uuid": "x"}, T0) is False
    with pytest.raises(ValueError, match="not a worker heartbeat"):
        fleet.hear({"type": "worker-heartbeat", "hostname": "celery@x"}, T0)


def test_a_stock_celery_worker_is_counted_by_processed_and_active():
    fleet = Fleet(started_at=T0)
    stock = {"type": "worker-heartbeat", "hostname": "celery@pod-1", "freq": 2.0, "pid": 7}
    fleet.hear({**stock, "timestamp": T0, "processed": 100, "active": 1}, T0)
    fleet.own("celery@pod-1#7", SHOP, ("mails",))

    fleet.hear({**stock, "timestamp": T0 + 2, "processed": 104, "active": 3}, T0 + 2)
    fleet.hear({**stock, "timestamp": T0 + 4, "processed": 110, "active": 1}, T0 + 4)

    totals = fleet.totals().by_queue["mails"]
    assert (totals.started, totals.succeeded, totals.busy_s) == (10, 10, 8.0)
    assert fleet.workers(T0 + 4)[0].beat.queues == ("mails",)


def waiting(*counts: int) -> dict[str, Any]:
    return {"queue_waits": {"mails": counts}}


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        pytest.param([("one", 5, waiting(3, 1))], (3, 1), id="a worker that started after the operator counts from zero"),
        pytest.param([("one", 500, waiting(90, 7, 2)), ("one", 502, waiting(92, 7, 2, 4))], (2, 0, 0, 4), id="one that was there is a baseline"),
        pytest.param([("one", 3, waiting(3)), ("one", 9, waiting(5, 0, 2))], (5, 0, 2), id="more buckets as longer waits come"),
        pytest.param([("one", 8, waiting(9, 4)), ("two", 3, waiting(2, 1, 1))], (11, 5, 1), id="two incarnations add up"),
        pytest.param([("one", 3, waiting(5, 3)), ("one", 9, waiting(6, 1))], (6, 3), id="never below zero"),
        pytest.param([("one", 3, waiting(5)), ("one", 5, {}), ("one", 9, waiting(7))], (7,), id="one that told none for a while"),
        pytest.param(
            [("one", 3, waiting(5)), ("one", 5, {"queue_waits": {"bulk": (1,)}}), ("one", 9, waiting(7))], (7,), id="one that told another queue's",
        ),
        pytest.param([("one", 3, waiting(5)), ("old", 3, {})], (5,), id="an older worker beside it tells none"),
    ],
)  # fmt: skip
def test_waits_are_counted_by_bucket_over_all_workers(
    heard: list[tuple[str, float, dict[str, Any]]], expected: tuple[int, ...]
):
    fleet = Fleet(started_at=T0)

    for place, (incarnation, up_s, told) in enumerate(heard):
        fleet.hear(beat(1, at=T0 + 10 + place, up_s=up_s, incarnation=incarnation, **told), T0 + 10 + place)
        fleet.totals()
    fleet.settle(T0 + 100_000)  # long gone, and forgotten

    assert fleet.workers(T0 + 100_000) == []
    assert fleet.totals().waits["mails"] == (*expected, *(0,) * (16 - len(expected)))


def test_counts_of_waits_reach_the_queues_sample_and_are_none_where_no_worker_tells_them():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(9, at=T0 + 5, up_s=4, queues=("mails", "bulk"), **waiting(6, 3)), T0 + 5)

    samples = queue_samples(
        {"mails": QueueDepth(), "bulk": QueueDepth()}, consumers_of(fleet.workers(T0 + 5)), fleet.totals(), T0 + 5
    )

    assert samples["mails"].wait_counts == (6, 3, *(0,) * 14)
    assert samples["bulk"].wait_counts == ()


def test_the_totals_of_a_pool_that_was_deleted_are_dropped():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(5, at=T0 + 2, up_s=1), T0 + 2)
    fleet.own("one", SHOP)
    fleet.settle(T0 + 3)

    fleet.drop({SHOP})

    assert owned(fleet) == {}


POD = PodRecord(name="mails-1", uid="uid-1", phase="Running", ready=True, created_at=T0)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        pytest.param({"pod_uid": "uid-1", "pod": "x"}, True, id="by uid"),
        pytest.param(
            {"pod_uid": "uid-9", "pod": "mails-1", "namespace": "shop"}, False, id="another uid is another pod"
        ),
        pytest.param({"pod": "mails-1", "namespace": "shop"}, True, id="by namespace and name"),
        pytest.param({"pod": "mails-1", "namespace": "other"}, False, id="a namesake in another namespace"),
        pytest.param({"hostname": "celery@mails-1"}, True, id="by host name"),
        pytest.param({"hostname": "celery@laptop"}, False, id="a host that is no pod of the pool"),
    ],
)
def test_a_worker_is_matched_to_its_pod(fields, found):
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 5, up_s=4, **{"hostname": "celery@elsewhere", **fields}), T0 + 5)

    matched = match([POD], crews_of(fleet.workers(T0 + 5)), namespace="shop")

    assert set(matched) == ({"mails-1"} if found else set())


def test_of_two_processes_in_a_pod_the_living_one_speaks():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 5, up_s=4, pod_uid="uid-1", busy=1), T0 + 5)
    fleet.hear(beat(0, at=T0 + 9, up_s=1, pod_uid="uid-1", incarnation="two"), T0 + 9)

    (sample,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 9)), namespace="shop"), T0 + 9)

    assert (sample.busy, sample.first_heartbeat_at) == (0, T0 + 9)


@pytest.mark.parametrize(
    "nodes", [("a@mails-1", "b@mails-1"), ("celery@mails-1", "celery@mails-1")], ids=["two names", "one name"]
)
def test_all_workers_of_a_pod_count(nodes):
    fleet = Fleet(started_at=T0)
    for at in (5, 7):
        fleet.hear(beat(1, at=T0 + at, up_s=at - 1, hostname=nodes[0], pod_uid="uid-1", slots=2, busy=2), T0 + at)
        fleet.hear(
            beat(1, at=T0 + at, up_s=at - 2, hostname=nodes[1], pod_uid="uid-1", incarnation="two", slots=4, reserved=1,
                 queues=("bulk",)),
            T0 + at,
        )  # fmt: skip

    (sample,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 7)), namespace="shop"), T0 + 7)

    assert (sample.slots, sample.busy, sample.reserved, sample.stopping) == (6, 2, 1, False)
    assert set(sample.queues) == {"mails", "bulk"}
    assert set(sample.nodes) == set(nodes)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param("drained", "drained", ("drained", "m1"), id="all are"),
        pytest.param("drained", "draining", ("draining", "m1"), id="one still works"),
        pytest.param("drained", None, ("draining", ""), id="one has not heard"),
        pytest.param(None, None, ("", ""), id="none"),
    ],
)
def test_a_pod_is_drained_when_all_its_workers_are(first, second, expected):
    fleet = Fleet(started_at=T0)
    for name, state in (("one", first), ("two", second)):
        drain = mark(state) if state else None
        fleet.hear(
            beat(1, at=T0 + 5, up_s=4, hostname=f"{name}@p", pod_uid="uid-1", incarnation=name, drain=drain), T0 + 5
        )

    (sample,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 5)), namespace="shop"), T0 + 5)

    assert (sample.drain_state, sample.drain_id) == expected


def test_one_worker_of_two_that_has_left_does_not_hide_the_other():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 5, up_s=4, hostname="a@p", pod_uid="uid-1", busy=1), T0 + 5)
    fleet.hear(
        beat(1, at=T0 + 5, up_s=3, hostname="b@p", pod_uid="uid-1", incarnation="two", kind="worker-offline"), T0 + 5
    )

    (sample,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 5)), namespace="shop"), T0 + 5)

    assert (sample.busy, sample.stopping, sample.nodes) == (1, False, ("a@p",))


def test_a_worker_is_never_trusted_to_live_because_it_says_that_it_seldom_speaks():
    fleet = Fleet(started_at=T0)

    fleet.hear(beat(1, at=T0 + 5, up_s=4, freq=1e9), T0 + 5)

    assert fleet.workers(T0 + 5 + 300)[0].gone


def test_a_pod_shows_the_mark_its_worker_echoes_with_the_time_it_has_left():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 5, up_s=4, pod_uid="uid-1", slots=8, drain=mark("drained")), T0 + 5)

    (sample,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 6)), namespace="shop"), T0 + 6)

    assert (sample.drain_state, sample.drain_id) == ("drained", "m1")
    assert (sample.drain_expires_in_s, sample.heartbeat_age_s, sample.slots) == (59.0, 1.0, 8)


def test_a_silent_worker_keeps_its_claims_and_one_that_said_good_bye_has_none():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 5, up_s=4, pod_uid="uid-1", busy=2), T0 + 5)

    (silent,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 30)), namespace="shop"), T0 + 30)
    fleet.hear(beat(1, at=T0 + 31, up_s=30, pod_uid="uid-1", busy=2, kind="worker-offline"), T0 + 31)
    (offline,) = pod_samples([POD], match([POD], crews_of(fleet.workers(T0 + 31)), namespace="shop"), T0 + 31)

    assert (silent.busy, silent.heartbeat_age_s, silent.stopping) == (2, 25.0, False)
    assert (offline.busy, offline.stopping) == (0, True)


@pytest.mark.parametrize(
    ("depth", "busy", "reserved", "expected"),
    [
        pytest.param(QueueDepth(ready=9), 3, 2, (5, 1), id="nothing leased: what the workers hold"),
        pytest.param(QueueDepth(leased=10), 2, 0, (10, 6), id="leased beyond the slots is reserved"),
        pytest.param(QueueDepth(leased=10, expired=3), 2, 0, (10, 3), id="what expired is neither"),
        pytest.param(
            QueueDepth(leased=2), 0, 0, (2, 0), id="leased within the slots runs, whatever the heartbeat says"
        ),
    ],
)
def test_work_in_flight_is_leased_or_held_and_beyond_the_slots_it_is_reserved(depth, busy, reserved, expected):
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(1, at=T0 + 5, up_s=4, slots=4, busy=busy, reserved=reserved), T0 + 5)

    sample = queue_samples({"mails": depth}, consumers_of(fleet.workers(T0 + 5)), fleet.totals(), T0 + 5)["mails"]

    assert (sample.leased, sample.reserved) == expected
    assert sample.consumers == 1


@pytest.mark.parametrize(
    ("leased", "expected"),
    [
        pytest.param((6, 0), (6, 0), id="as the broker has leased it"),
        pytest.param((0, 0), (2, 2), id="evenly where the broker cannot tell"),
    ],
)
def test_what_a_worker_of_two_queues_holds_is_split_between_them(leased, expected):
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(0, at=T0 + 5, up_s=4, busy=4, queues=("mails", "bulk")), T0 + 5)
    depths = {"mails": QueueDepth(leased=leased[0]), "bulk": QueueDepth(leased=leased[1])}

    samples = queue_samples(depths, consumers_of(fleet.workers(T0 + 5)), fleet.totals(), T0 + 5)

    assert (samples["mails"].leased, samples["bulk"].leased) == expected


def test_the_oldest_age_is_unknown_when_the_broker_cannot_tell_it():
    totals = FleetTotals(by_queue={}, owned={}, owned_tasks={})

    samples = queue_samples({"a": QueueDepth(oldest_sent_at=T0 - 30), "b": QueueDepth(ready=1)}, {}, totals, T0)

    assert (samples["a"].oldest_age_s, samples["b"].oldest_age_s) == (30.0, None)


@pytest.mark.parametrize(
    ("scope", "rates", "expected"),
    [
        pytest.param("worker", {}, (4.0, True), id="per worker: times the workers"),
        pytest.param("cluster", {}, (2.0, False), id="of the cluster: one number"),
        pytest.param("worker", {"send": 7.0}, (7.0, False), id="the spec beats the workers"),
    ],
)
def test_a_rate_limit_is_what_the_whole_fleet_may_start(scope, rates, expected):
    fleet = Fleet(started_at=T0)
    limits = (RateLimit(task="send", per_s=2.0, scope=scope),)
    for name in ("one", "two"):
        fleet.hear(beat(3, at=T0 + 5, up_s=4, incarnation=name, limits=limits), T0 + 5)
    depths = {"mails": QueueDepth(throttled=6, throttled_by_task={"send": 6})}

    (found,) = limited_classes(
        ["mails"],
        consumers_of(fleet.workers(T0 + 5)),
        depths,
        {"send": TaskTotals(queue="mails", started=6, run_s=3.0)},
        rates,
    )

    assert (found.rate_per_s, found.per_worker) == expected
    assert (found.queue, found.throttled, found.started, found.run_s) == ("mails", 6, 6, 3.0)


def test_a_limit_is_remembered_when_the_last_worker_is_gone():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(3, at=T0 + 5, up_s=4, limits=(RateLimit(task="send", per_s=2.0, scope="cluster"),)), T0 + 5)

    (found,) = limited_classes(
        ["mails"], consumers_of(fleet.workers(T0 + 60)), {}, {"send": TaskTotals(queue="mails")}, {}
    )

    assert found.rate_per_s == 2.0


class Script:
    """A receiver that plays back lists of events and exceptions."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.closed = False

    def drain(self, timeout_s: float) -> list[dict[str, Any]]:
        if not self.answers:
            time.sleep(0.01)
            return []
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True


def test_ears_survive_a_broker_that_goes_away_and_tell_since_when_they_hear(caplog):
    now = time.time()
    fleet = Fleet(started_at=now - 10)
    changed = threading.Event()
    script = Script(
        BrokerUnavailable("cannot reach redis"),
        [beat(1, at=now, up_s=5), {"type": "worker-heartbeat"}, beat(2, at=now + 1, up_s=6)],
    )
    ears = Ears(script, fleet, name="test", on_change=changed.set)

    ears.start()
    heard = changed.wait(5)
    since = ears.listening_since
    ears.retire()
    ears.join()

    assert heard
    assert started(fleet) == 2
    assert since is not None and since >= now
    assert script.closed
    assert [r.message for r in caplog.records if "cannot hear" in r.message] == [
        "cannot hear heartbeats: cannot reach redis"
    ]


def test_a_worker_that_sends_nonsense_is_told_of_once_and_the_others_are_heard(caplog):
    now = time.time()
    fleet = Fleet(started_at=now - 10)
    nonsense = {"type": "worker-heartbeat", "hostname": "celery@odd", "timestamp": now, "freq": "often"}
    other = {**nonsense, "hostname": "celery@other"}
    changed = threading.Event()
    script = Script([nonsense, other], [nonsense], [nonsense, beat(2, at=now, up_s=5)])
    ears = Ears(script, fleet, name="test", on_change=changed.set)

    ears.start()
    heard = changed.wait(5)
    ears.retire()
    ears.join()

    assert heard
    assert started(fleet) == 2
    told = [r.message for r in caplog.records if "malformed" in r.message]
    assert ["celery@odd" in told[0], "celery@other" in told[1], len(told)] == [True, True, 2]


def test_a_worker_whose_clock_is_set_back_is_heard_all_the_same():
    fleet = Fleet(started_at=T0)
    fleet.hear(beat(5, at=T0 + 2, up_s=1), T0 + 2)

    for n in range(4, 60, 2):
        fleet.hear(beat(5 + n, at=T0 + n - 600, up_s=1), T0 + n)

    (worker,) = fleet.workers(T0 + 60)
    assert (worker.gone, worker.heard_at, started(fleet)) == (False, T0 + 58, 63)
