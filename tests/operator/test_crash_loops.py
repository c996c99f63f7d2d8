"""A pod that crashes over and over runs for some seconds in between: the pool goes on saying that it crashes."""

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, QueueSample, Signals, TargetSample

AT = 1_000_000.0
SPEC = WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "mails"}], "maxReplicas": 2})


def seen(at: float, memory: Memory, *, of: dict[str, object] | None = None, **pod: object) -> Decision:
    """The decision on one pod, of 500 messages. of: other signals."""
    fields = {"name": "w-0", "uid": "u", "phase": "Running", "ready": False, "created_at": AT, **pod}
    usual: dict[str, object] = {
        "sampled_at": at,
        "queues": (QueueSample(name="mails", ready=500),),
        "pods": (PodSample(**fields),),  # type: ignore[arg-type]
        "target": TargetSample(replicas=1),
    }
    return decide(Signals(**usual | (of or {})), SPEC, memory, at)  # type: ignore[arg-type]


def at_limit(decision: Decision) -> tuple[bool | None, list[str]]:
    """The condition, and the events that tell of it."""
    told = [reason for _, reason, _ in decision.events if reason.startswith("AtLimit")]
    return decision.conditions["AtLimit"][0], told


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


def test_a_pool_at_its_limit_stays_there_while_its_pods_crash() -> None:
    first = seen(AT, Memory(), pending_reason="ContainerCreating")
    crashing = seen(AT + 5, first.memory, pending_reason="CrashLoopBackOff")
    running = seen(AT + 10, crashing.memory, running=True)
    done = seen(AT + 15, running.memory, of={"queues": (QueueSample(name="mails"),)}, pending_reason="CrashLoopBackOff")

    assert at_limit(first) == (True, ["AtLimit"])
    assert crashing.limited_by == running.limited_by == "pending_pods"
    assert at_limit(crashing) == at_limit(running) == (True, [])
    assert at_limit(done) == (False, ["AtLimitEnded"])


def test_nothing_is_said_to_have_ended_while_it_cannot_be_looked_at() -> None:
    first = seen(AT, Memory(), pending_reason="CrashLoopBackOff")
    blind = seen(
        AT + 5, first.memory, of={"sampled_at": AT - 100, "broker_ok": False}, pending_reason="CrashLoopBackOff"
    )
    gone = seen(AT + 10, blind.memory, of={"target": TargetSample(error="no such Deployment"), "pods": ()})
    again = seen(AT + 15, gone.memory, pending_reason="CrashLoopBackOff")

    assert {reason for _, reason, _ in first.events} >= {"AtLimit", "ScaleUpBlocked"}
    assert (blind.conditions["AtLimit"][0], gone.conditions["ScaleUpBlocked"][0]) == (None, None)
    told = {reason for decision in (blind, gone, again) for _, reason, _ in decision.events}
    assert [reason for reason in told if reason.startswith(("AtLimit", "ScaleUpBlocked"))] == []
    assert (again.conditions["AtLimit"][0], again.conditions["ScaleUpBlocked"][0]) == (True, True)
