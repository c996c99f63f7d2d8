"""The circuit breaker: growth stops while failures dominate, and only then."""

import pytest

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.breaker import Breaker, judge
from celeriac_operator.scaling.decision import decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

AT = 1_000_000.0


def total(succeeded: int = 0, failed: int = 0, retried: int = 0) -> QueueSample:
    return QueueSample(name="mails", completed=succeeded + failed, failed=failed, retried=retried)


def after(*samples: QueueSample, every_s: float = 5.0) -> Breaker:
    breaker = Breaker()
    for place, sample in enumerate(samples):
        breaker = judge(breaker, [sample], AT + place * every_s)
    return breaker


@pytest.mark.parametrize(
    ("breaker", "is_open"),
    [
        pytest.param(after(total()), False, id="one sample tells nothing"),
        pytest.param(after(total(0, 500), total(100, 500)), False, id="failures of before it looked do not count"),
        pytest.param(after(total(), total(9, 11)), True, id="most runs fail"),
        pytest.param(after(total(), total(9, retried=1000)), False, id="tasks that poll retry all day"),
        pytest.param(after(total(), total(25, retried=1000)), False, id="and end well"),
        pytest.param(after(total(), total(0, 20, retried=1000)), True, id="tasks that retry until they fail"),
        pytest.param(after(total(), total(10, 10)), False, id="half of them fail"),
        pytest.param(after(total(), total(0, 19)), False, id="too few to tell"),
        pytest.param(after(total(), total(0, 30), total(40, 30)), True, id="open until a quarter fails"),
        pytest.param(after(total(), total(0, 30), total(100, 30)), False, id="closed again"),
        pytest.param(
            after(total(), total(0, 30), total(0, 30), every_s=200.0), False, id="old failures leave the window"
        ),
        pytest.param(after(total(), total(0, 30), total()), False, id="totals that fell begin anew"),
    ],
)
def test_when_it_opens_and_closes(breaker: Breaker, is_open: bool) -> None:
    assert breaker.open is is_open


def test_it_remembers_no_more_marks_than_its_window_has_room_for() -> None:
    breaker = Breaker()
    for tick in range(1000):
        breaker = judge(breaker, [total(tick)], AT + tick)

    assert 20 < len(breaker.marks) < 30
    assert 115 < breaker.window[0] <= 126


def storm(replicas: int, at: float, failed: int) -> Signals:
    pods = tuple(
        PodSample(name=f"w-{i}", node=f"w@{i}", heartbeat_age_s=1.0, slots=1, busy=1, queues=("mails",))
        for i in range(replicas)
    )
    sample = QueueSample(name="mails", ready=500, leased=replicas, completed=failed, failed=failed, busy_s=failed * 1.0)
    target = TargetSample(replicas=replicas, ready_replicas=replicas)
    return Signals(sampled_at=at, queues=(sample,), pods=pods, target=target)


@pytest.mark.parametrize(("replicas", "written"), [(2, None), (0, 10)], ids=["no growth", "from nothing all the same"])
def test_a_pool_whose_tasks_fail_does_not_grow_and_says_why(replicas: int, written: int | None) -> None:
    spec = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}]})
    memory = decide(storm(2, AT, 0), spec, Memory(), AT).memory

    decision = decide(storm(replicas, AT + 5, 40), spec, memory, AT + 5)

    assert decision.replicas == written
    if written is None:
        assert decision.limited_by == "failing"
        assert decision.conditions["ScaleUpBlocked"][:2] == (True, "FailuresDominate")
        assert "40 of the last 40 tasks failed" in decision.summary
