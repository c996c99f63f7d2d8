"""What is ordered already, and what it will have done by the time another pod could start."""

import math
from typing import Any

import pytest

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.demand import staff
from celeriac_operator.scaling.memory import Memory, QueueMemory, Service
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample
from celeriac_operator.scaling.supply import Supply, supply

NOW = 1_000_000.0
COLD_S = 20.0


def pod(name: str, **fields: Any) -> PodSample:
    return PodSample(**{"name": name, "slots": 4, "heartbeat_age_s": 1.0, **fields})


def starting(name: str, age_s: float) -> PodSample:
    return pod(name, created_at=NOW - age_s, ready=False, heartbeat_age_s=None, phase="Pending")


def of(*pods: PodSample, replicas: int | None = None) -> Supply:
    target = TargetSample(replicas=len(pods) if replicas is None else replicas)
    return supply(Signals(pods=pods, target=target), slots_per_pod=4, cold_start_s=COLD_S, now=NOW)


def test_no_pod_is_no_supply() -> None:
    assert of() == Supply(free_in_s=((0, 0.0),))


def test_slots_are_busy_idle_or_on_their_way() -> None:
    found = of(pod("a", busy=3), starting("b", age_s=15), replicas=3)

    assert found.slots == 12
    assert found.busy == 3
    assert found.free_in_s == ((1, 0.0), (4, 5.0))


@pytest.mark.parametrize("gone", [{"deleting": True}, {"stopping": True}, {"phase": "Failed"}], ids=str)
def test_a_pod_that_leaves_is_no_supply(gone: dict[str, Any]) -> None:
    assert of(pod("a", **gone), replicas=0).slots == 0


def test_a_pod_that_should_have_started_long_ago_is_not_waited_for() -> None:
    assert of(starting("a", age_s=59)).slots == 4
    assert of(starting("a", age_s=61)).slots == 0


def test_idle_slots_work_all_the_time_and_starting_ones_the_rest_of_it() -> None:
    assert of(pod("a"), starting("b", age_s=15)).done_s(COLD_S, service_s=1.0) == 4 * 20 + 4 * 15


def test_busy_slots_first_end_what_they_run() -> None:
    busy = of(pod("a", busy=4))

    assert busy.done_s(COLD_S, service_s=0.01) == pytest.approx(4 * 20, rel=1e-3)
    assert busy.done_s(COLD_S, service_s=20) == pytest.approx(4 * 20 / math.e)
    assert busy.done_s(COLD_S, service_s=20_000) == pytest.approx(0, abs=0.05)


def knows(rate_per_s: float = 0.0, surge_per_s: float = 0.0) -> Memory:
    queue = QueueMemory(
        slow_per_s=rate_per_s, fast_per_s=surge_per_s, surge_per_s=surge_per_s, overall=Service(value_s=1)
    )
    return Memory(queues={"q": queue}, slots_per_pod=4, cold_start_s=COLD_S)


def asked(*pods: PodSample, memory: Memory | None = None, **queue: Any) -> float:
    spec = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "q"}], "objective": {"seconds": 30}})
    signals = Signals(queues=(QueueSample(name="q", **queue),), pods=pods, target=TargetSample(replicas=len(pods)))
    return staff(signals, spec, memory or knows(), NOW).slots


def test_a_backlog_that_is_done_before_a_pod_could_start_orders_none() -> None:
    # 100 tasks of a second, late: 100 / 7.5 = 13 slots would be wanted at once. The 8 there are do them in 13 s.
    assert asked(pod("a"), pod("b"), ready=100, oldest_age_s=25) == 8


def test_what_the_pods_leave_of_a_backlog_orders_more() -> None:
    # Of 400 the 8 slots do 160 before another starts: 240 / 7.5 s.
    assert asked(pod("a"), pod("b"), ready=400, oldest_age_s=25) == pytest.approx(240 / 7.5)


def test_a_second_look_at_the_same_backlog_does_not_order_for_it_again() -> None:
    first = asked(ready=480)
    pods = tuple(starting(f"w{n}", age_s=5) for n in range(math.ceil(first / 4)))

    again = asked(*pods, ready=480, oldest_age_s=5)

    assert first == pytest.approx(20)
    # 480 within 19 s would be 25 slots; 20 slots have done 100 of them by then.
    assert again == 20


def test_slots_that_can_do_the_work_in_time_are_wanted_and_no_more() -> None:
    assert asked(pod("a"), pod("b"), pod("c"), ready=96) == pytest.approx(96 / 24)


def test_while_arrivals_rise_what_will_have_come_in_counts() -> None:
    steady, rising = asked(memory=knows(rate_per_s=40)), asked(memory=knows(surge_per_s=40))

    assert steady == pytest.approx(40 + math.sqrt(40))
    assert rising == pytest.approx(40 + math.sqrt(40) + 40 * COLD_S / 24)


def test_the_sum_says_that_enough_is_ordered() -> None:
    spec = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "q"}], "objective": {"seconds": 30}})
    signals = Signals(
        queues=(QueueSample(name="q", ready=100, oldest_age_s=25),),
        pods=(pod("a"), pod("b")),
        target=TargetSample(replicas=2),
    )

    demand = staff(signals, spec, knows(), NOW)

    assert demand.terms["ordered"] == 8
    assert demand.limited_by == "work"
    assert "8.0 are there or on their way" in demand.sentence


def test_spare_pods_do_not_breed() -> None:
    spec = WorkerPoolSpec.parse(
        {"targetRef": {"name": "w"}, "queues": [{"name": "q"}], "objective": {"seconds": 30}, "spareReplicas": 1}
    )
    signals = Signals(
        queues=(QueueSample(name="q", ready=100, oldest_age_s=25),),
        pods=(pod("a"), pod("b")),
        target=TargetSample(replicas=2),
    )

    assert staff(signals, spec, knows(), NOW).pods == 2
