"""A pod that crashes over and over runs for some seconds in between: the pool goes on saying that it crashes."""

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

AT = 1_000_000.0
SPEC = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}]})


def seen(at: float, memory: Memory, **pod: object) -> Decision:
    fields = {"name": "w-0", "uid": "u", "phase": "Running", "ready": False, "created_at": AT, **pod}
    signals = Signals(
        sampled_at=at,
        queues=(QueueSample(name="mails", ready=500),),
        pods=(PodSample(**fields),),  # type: ignore[arg-type]
        target=TargetSample(replicas=1),
    )
    return decide(signals, SPEC, memory, at)


def test_the_condition_holds_and_one_event_is_told_while_the_pod_restarts_and_crashes() -> None:
    memory, told, held = Memory(), [], []
    for tick in range(60):
        between = tick % 6 < 2  # it runs for 10 s, and waits for 20 s
        decision = seen(AT + 5 * tick, memory, pending_reason="" if between else "CrashLoopBackOff", running=between)
        memory = decision.memory
        told += [reason for _, reason, _ in decision.events if reason.startswith("ScaleUpBlocked")]
        held.append(decision.conditions["ScaleUpBlocked"][0])

    assert held[2:] == [True] * 58
    assert told == ["ScaleUpBlocked"]


def test_a_pod_that_has_been_ready_for_a_minute_has_recovered() -> None:
    memory = seen(AT, Memory(), pending_reason="CrashLoopBackOff").memory
    beating = {"ready": True, "ready_at": AT + 10, "heartbeat_age_s": 1.0, "queues": ("mails",), "running": True}

    early = seen(AT + 30, memory, **beating)
    late = seen(AT + 75, early.memory, **beating)

    assert early.conditions["ScaleUpBlocked"][:2] == (True, "CrashLoopBackOff")
    assert late.conditions["ScaleUpBlocked"][0] is False


def test_another_container_that_crashes_beside_a_live_worker_blocks_nothing() -> None:
    decision = seen(
        AT, Memory(), pending_reason="CrashLoopBackOff", heartbeat_age_s=1.0, queues=("mails",), running=True
    )

    assert decision.conditions["ScaleUpBlocked"][0] is False
