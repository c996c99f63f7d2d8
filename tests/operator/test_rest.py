"""A pool that has what it wants rests for some ticks; whatever is news ends that at once."""

from collections.abc import Mapping
from typing import Any

import pytest

from celeriac.broker.depth import QueueDepth
from celeriac_operator.loop.rest import Rest, rest_of, sleeps, still
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

SPEC = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}]})
LIMITED = WorkerPoolSpec.parse(
    {"targetRef": {"name": "w"}, "queues": [{"name": "mails"}], "rateLimits": [{"task": "t", "rate": "5/s"}]}
)
OTHER = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}], "minReplicas": 1})


def seen(ready: int = 2, pods: int = 2, *, pod: Mapping[str, Any] | None = None, **more: Any) -> Signals:
    fields: dict[str, Any] = {"slots": 4, "heartbeat_age_s": 1.0, "queues": ("mails",), **(pod or {})}
    return Signals(
        queues=(QueueSample(name="mails", ready=ready, completed=ready * 100),),
        pods=tuple(PodSample(name=f"w-{n}", **fields) for n in range(pods)),
        **{"target": TargetSample(replicas=2, resource_version="7"), **more},
    )


def decided(**more: Any) -> Decision:
    return Decision(**{"desired": 2, "unclamped": 2, "replicas": None, "summary": "", **more})


def rest(spec: WorkerPoolSpec = SPEC, **more: Any) -> Rest:
    found = rest_of(decided(**more), seen(), spec, 7)
    assert found is not None
    return found


def like(**more: Any) -> WorkerPoolSpec:
    return WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}], **more})


@pytest.mark.parametrize(
    "decision",
    [
        pytest.param({"desired": 3}, id="it wants another number"),
        pytest.param({"limited_by": "deadband"}, id="a guard waits for its time to pass"),
        pytest.param({"drain": ("w-1",)}, id="a pod is drained"),
        pytest.param({"undrain": ("w-1",)}, id="a mark is lifted"),
        pytest.param({"events": (("Normal", "ScaledUp", ""),)}, id="something was told"),
    ],
)
def test_a_pool_with_something_to_do_does_not_rest(decision: dict[str, Any]) -> None:
    assert rest_of(decided(**decision), seen(), SPEC, 7) is None


def test_a_pool_whose_broker_is_silent_does_not_rest() -> None:
    assert rest_of(decided(), seen(broker_ok=False), SPEC, 7) is None


@pytest.mark.parametrize(
    ("signals", "stands"),
    [
        pytest.param(seen(), True, id="nothing"),
        pytest.param(seen(ready=0), True, id="less waits"),
        pytest.param(seen(ready=10), True, id="a round of the slots waits"),
        pytest.param(seen(ready=11), False, id="more than that waits"),
        pytest.param(seen(pod={"busy": 4, "heartbeat_age_s": 3.0}), True, id="the pods work"),
        pytest.param(seen(pods=1), False, id="a pod went"),
        pytest.param(seen(pod={"ready": False}), False, id="a pod is not ready"),
        pytest.param(seen(pod={"heartbeat_age_s": 99.0}), False, id="a pod fell silent"),
        pytest.param(seen(pod={"drain_state": "draining"}), False, id="a pod echoes a mark"),
        pytest.param(seen(pod={"deleting": True}), False, id="a pod is deleted"),
        pytest.param(seen(target=TargetSample(replicas=2, resource_version="8")), False, id="the target changed"),
        pytest.param(seen(broker_ok=False), False, id="the broker is silent"),
        pytest.param(seen(unheeded=("SigningKeyMissing", "w-0")), False, id="its workers heed no command"),
    ],
)
def test_what_ends_a_rest(signals: Signals, stands: bool) -> None:
    assert still(rest(), signals, SPEC, 7) is stands


def test_a_new_spec_or_a_new_term_of_leading_ends_it() -> None:
    assert not still(rest(), seen(), OTHER, 7)
    assert not still(rest(), seen(), SPEC, 8)


def test_a_pool_that_sleeps_wakes_for_its_first_message() -> None:
    asleep = rest_of(decided(desired=0), seen(ready=0, pods=0, target=TargetSample()), SPEC, 7)
    assert asleep is not None

    assert still(asleep, seen(ready=0, pods=0, target=TargetSample()), SPEC, 7)
    assert not still(asleep, seen(ready=1, pods=0, target=TargetSample()), SPEC, 7)


@pytest.mark.parametrize(
    ("depth", "stands"),
    [
        pytest.param(QueueDepth(), True, id="nothing waits"),
        pytest.param(QueueDepth(ready=10), True, id="a round of the slots waits"),
        pytest.param(QueueDepth(ready=11), False, id="more than that waits"),
        pytest.param(QueueDepth(due_soon=11), False, id="more than that is due soon"),
        pytest.param(QueueDepth(throttled=11), False, id="more than that is held back"),
        pytest.param(QueueDepth(ready=10, leased=8), True, id="what the slots run does not wait"),
        pytest.param(QueueDepth(ready=10, leased=9), False, id="what is claimed beyond the slots does"),
        pytest.param(QueueDepth(leased=12, expired=11), False, id="a dead worker held more than that"),
        pytest.param(QueueDepth(error="WRONGTYPE"), False, id="the queue cannot be read"),
        pytest.param(None, False, id="the queue was not read"),
    ],
)
def test_what_the_probe_alone_tells_wakes_a_pool(depth: QueueDepth | None, stands: bool) -> None:
    assert sleeps(rest(), SPEC, 7, {} if depth is None else {"mails": depth}) is stands


@pytest.mark.parametrize(("service_s", "may_wait"), [(0.1, 8), (5.0, 8), (20.0, 2), (60.0, 0)])
def test_what_the_slots_do_not_take_up_within_a_tick_is_news(service_s: float, may_wait: int) -> None:
    resting = rest(queues={"mails": {"service_s": service_s}})

    assert sleeps(resting, SPEC, 7, {"mails": QueueDepth(ready=2 + may_wait, leased=8)})
    assert not sleeps(resting, SPEC, 7, {"mails": QueueDepth(ready=3 + may_wait, leased=8)})


@pytest.mark.parametrize(
    ("spec", "ticks"),
    [
        pytest.param(SPEC, 6, id="a queue that grows tells of more work"),
        pytest.param(like(interval="1s"), 6, id="at a fast interval"),
        pytest.param(like(interval="10s"), 3, id="at a slow one half a minute would be over"),
        pytest.param(like(objective={"type": "Latency", "seconds": 10}), 6, id="latency"),
        pytest.param(like(objective={"type": "Utilization", "target": 70}), 3, id="what runs tells of more work"),
        pytest.param(like(objective={"type": "Backlog", "target": 5}), 3, id="what runs counts"),
        pytest.param(
            like(queues=[{"name": "mails", "objective": {"type": "Backlog", "target": 5}}]),
            3,
            id="of one queue's objective",
        ),
        pytest.param(
            like(schedules=[{"start": "0 8 * * *", "end": "0 18 * * *", "minReplicas": 2}]),
            3,
            id="the time of day tells",
        ),
    ],
)
def test_for_how_many_ticks_a_decision_may_stand(spec: WorkerPoolSpec, ticks: int) -> None:
    assert rest(spec).left == ticks - 1


def test_a_pool_of_an_interval_that_is_long_already_does_not_rest() -> None:
    assert rest_of(decided(), seen(), like(interval="30s"), 7) is None


def test_a_pool_is_looked_at_again_for_a_new_spec_a_new_term_or_its_rate_limits_and_when_its_rest_is_over() -> None:
    depths = {"mails": QueueDepth()}
    limited = rest_of(decided(), seen(), LIMITED, 7)
    assert limited is not None

    assert sleeps(rest().shorter(), SPEC, 7, depths)
    assert not sleeps(rest(), OTHER, 7, depths)
    assert not sleeps(rest(), SPEC, 8, depths)
    assert not sleeps(limited, LIMITED, 7, depths)
    over = rest()
    for _ in range(5):
        assert sleeps(over, SPEC, 7, depths)
        over = over.shorter()
    assert not sleeps(over, SPEC, 7, depths)


def test_pools_of_one_broker_wake_together() -> None:
    wakes = set()
    for tick in range(6):
        asleep = rest_of(decided(), seen(), SPEC, 7, tick=tick)
        assert asleep is not None
        wakes.add(tick + asleep.left + 1)

    assert wakes == {6}
