"""Select, drain, commit: who is marked, and when the smaller number may be written."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.drain import plan, release
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample, Signals, TargetSample

NOW = 1_000_000.0


def spec_of(**scale_down: Any) -> WorkerPoolSpec:
    raw = {"targetRef": {"name": "w"}, "queues": [{"name": "q"}], "scaleDown": scale_down}
    return WorkerPoolSpec.parse(raw)


def idle(name: str, **fields: Any) -> PodSample:
    usual = {"node": f"celeriac@{name}", "created_at": NOW - 600, "heartbeat_age_s": 1.0, "slots": 4}
    return PodSample(name=name, **{**usual, **fields})


def busy(name: str, tasks: int = 1, **fields: Any) -> PodSample:
    return idle(name, busy=tasks, **fields)


def draining(name: str, tasks: int = 1, mark: str = "d1", **fields: Any) -> PodSample:
    return busy(name, tasks, **{"drain_state": "draining", "drain_id": mark, "drain_expires_in_s": 55.0, **fields})


def drained(name: str, mark: str = "d1", **fields: Any) -> PodSample:
    usual = {"ready": False, "drain_state": "drained", "drain_id": mark, "drain_expires_in_s": 55.0}
    return idle(name, **{**usual, **fields})


def starting(name: str, **fields: Any) -> PodSample:
    return PodSample(name=name, **{"phase": "Pending", "ready": False, "created_at": NOW - 5, **fields})


@dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    pods: tuple[PodSample, ...]
    desired: int
    replicas: int | None = None  # those of the target; None: as many as pods
    target: dict[str, Any] = field(default_factory=dict)
    scale_down: dict[str, Any] = field(default_factory=dict)
    memory: Memory = field(default_factory=lambda: Memory(drain_id="d1"))
    marks: tuple[str, ...] = ()
    lifts: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    writes: int | None = None
    waits: str = ""


SELECT = [
    Case(
        id="idle pods are marked first", pods=(busy("a"), idle("b"), busy("c"), idle("d")), desired=2, marks=("b", "d")
    ),
    Case(
        id="of busy pods, those with the least work left",
        pods=(busy("a", 4), busy("b", 1), busy("c", 2), busy("d", 3)),
        desired=3,
        marks=("b",),
    ),
    Case(
        id="what is reserved counts as work",
        pods=(busy("a", 1, reserved=3), busy("b", 2)),
        desired=1,
        marks=("b",),
    ),
    Case(
        id="of pods with the same work, the one that has run it for longest",
        pods=(busy("a", longest_running_s=5), busy("b", longest_running_s=50)),
        desired=1,
        marks=("b",),
    ),
    Case(id="of idle pods, the youngest", pods=(idle("a"), idle("b", created_at=NOW - 60)), desired=1, marks=("b",)),
    Case(
        id="a quarter of the pods may finish work at a time",
        pods=tuple(busy(f"p{i}") for i in range(8)),
        desired=2,
        marks=("p0", "p1"),
    ),
    Case(
        id="at least one pod may finish work at a time",
        pods=(busy("a"), busy("b")),
        desired=0,
        marks=("a",),
    ),
    Case(
        id="the number of concurrent drains may be set",
        pods=tuple(busy(f"p{i}") for i in range(8)),
        desired=2,
        scale_down={"maxConcurrentDrains": 4},
        marks=("p0", "p1", "p2", "p3"),
    ),
    Case(
        id="idle pods do not count as concurrent drains",
        pods=(*(idle(f"i{i}") for i in range(4)), *(busy(f"p{i}") for i in range(4))),
        desired=2,
        marks=("i0", "i1", "i2", "i3", "p0", "p1"),
    ),
    Case(
        id="a pod without a heartbeat is never marked",
        pods=(idle("a", heartbeat_age_s=None, node=""), busy("b")),
        desired=0,
        marks=("b",),
        waits="a without a heartbeat",
    ),
    Case(
        id="a pod whose heartbeat is old is not marked",
        pods=(idle("a", heartbeat_age_s=16.0), busy("b")),
        desired=1,
        marks=("b",),
    ),
    Case(
        id="a pod whose worker is stopping is not marked",
        pods=(idle("a", stopping=True), busy("b")),
        desired=1,
        marks=("b",),
    ),
    Case(
        id="a pod that is being deleted does not count",
        pods=(idle("a", deleting=True), idle("b"), idle("c")),
        replicas=2,
        desired=1,
        marks=("b",),
    ),
    Case(
        id="marks are repeated while their pods work",
        pods=(draining("a"), busy("b", 2)),
        desired=1,
        marks=("a",),
        waits="draining a, 1 tasks still run",
    ),
    Case(
        id="a pod that falls idle takes the place of one that is still busy",
        pods=(draining("a"), idle("b")),
        desired=1,
        marks=("b",),
        lifts=("a",),
    ),
    Case(
        id="marks of pods that may stay are lifted, the busiest first",
        pods=(draining("a", 3), drained("b"), busy("c", 4)),
        desired=2,
        marks=("b",),
        lifts=("a",),
        writes=2,
    ),
    Case(
        id="when demand returns all marks are lifted",
        pods=(draining("a"), drained("b"), busy("c")),
        desired=3,
        lifts=("a", "b"),
    ),
    Case(
        id="when demand grows all marks are lifted and the pool grows",
        pods=(draining("a"), busy("b")),
        desired=4,
        lifts=("a",),
        writes=4,
    ),
    Case(
        id="a rollout lifts the marks and waits",
        pods=(draining("a"), busy("b")),
        desired=1,
        target={"rollout": True},
        lifts=("a",),
        waits="rollout",
    ),
    Case(
        id="a drain that another operator began is taken up, not begun anew",
        pods=(drained("a", "older"), busy("b")),
        desired=1,
        memory=Memory(),
        marks=("a",),
        writes=1,
    ),
]

COMMIT = [
    Case(id="the drained pod goes", pods=(drained("a"), busy("b")), desired=1, marks=("a",), writes=1),
    Case(
        id="all pods drained: the pool goes to zero",
        pods=(drained("a"), drained("b")),
        desired=0,
        marks=("a", "b"),
        writes=0,
    ),
    Case(
        id="of three, the drained two go before the third is done",
        pods=(drained("a"), drained("b"), draining("c")),
        desired=0,
        marks=("a", "b", "c"),
        writes=1,
        waits="draining a, b, c",
    ),
    Case(
        id="a drained pod that is still shown as ready does not go yet",
        pods=(drained("a", ready=True), busy("b")),
        desired=1,
        marks=("a",),
        waits="draining a",
    ),
    Case(
        id="nobody goes while a pod that is not drained is not ready, for it would go instead",
        pods=(drained("a"), busy("b"), idle("c", ready=False)),
        desired=2,
        marks=("a",),
        waits="c not ready and not drained",
    ),
    Case(
        id="nobody goes while a pod is starting",
        pods=(drained("a"), busy("b"), starting("c")),
        desired=2,
        marks=("a",),
        waits="c not ready",
    ),
    Case(
        id="a mark that is about to expire is not enough",
        pods=(drained("a", drain_expires_in_s=19.9), busy("b")),
        desired=1,
        marks=("a",),
        waits="draining a",
    ),
    Case(
        id="a mark with twenty seconds left is enough",
        pods=(drained("a", drain_expires_in_s=20.0), busy("b")),
        desired=1,
        marks=("a",),
        writes=1,
    ),
    Case(
        id="the mark of another drain is not enough",
        pods=(drained("a", "older"), busy("b")),
        desired=1,
        marks=("a",),
        waits="draining a",
    ),
    Case(
        id="a worker that says drained and holds a task is not believed",
        pods=(drained("a", reserved=1), busy("b")),
        desired=1,
        marks=("a",),
        waits="draining a",
    ),
    Case(
        id="while the last scale-in is under way nobody is counted twice",
        pods=(drained("a"), drained("b"), busy("c"), busy("d")),
        replicas=3,
        desired=2,
        marks=("a", "b"),
        waits="draining a",
    ),
    Case(
        id="a scale-in just written keeps the marks of those that leave",
        pods=(drained("a"), busy("b")),
        replicas=1,
        desired=1,
        marks=("a",),
    ),
    Case(
        id="who leaves keeps its mark though it is about to expire",
        pods=(drained("a", drain_expires_in_s=1.0), busy("b")),
        replicas=1,
        desired=1,
        marks=("a",),
    ),
    Case(
        id="who is on its way out needs no mark",
        pods=(drained("a", deleting=True), busy("b")),
        replicas=1,
        desired=1,
    ),
    Case(
        id="pods that cannot start go first and at once",
        pods=(starting("a", pending_reason="ImagePullBackOff"), busy("b"), busy("c")),
        desired=2,
        writes=2,
    ),
    Case(
        id="with a pod that cannot start, a drained one goes too",
        pods=(starting("a", pending_reason="Unschedulable"), drained("b"), busy("c")),
        desired=1,
        marks=("b",),
        writes=1,
    ),
    Case(
        id="pods that do not exist need no victim",
        pods=(busy("a"), busy("b")),
        replicas=5,
        desired=2,
        target={"ready_replicas": 2},
        writes=2,
    ),
    Case(
        id="pods that were only not seen yet are not taken for missing",
        pods=(busy("a"), busy("b")),
        replicas=5,
        desired=2,
        target={"ready_replicas": 5},
        marks=("a",),
        waits="draining a",
    ),
    Case(
        id="pods that exist, unseen and not ready, are not taken for missing",
        pods=(busy("a"),),
        replicas=5,
        desired=1,
        target={"ready_replicas": 1, "existing": 5},
        marks=("a",),
        waits="draining a",
    ),
    Case(
        id="demand that returns while a scale-in is under way keeps the marks of those that leave",
        pods=(drained("a"), draining("b"), busy("c")),
        replicas=2,
        desired=3,
        marks=("a",),
        lifts=("b",),
        writes=3,
    ),
    Case(
        id="demand that returned lifts no mark until the controller has seen its number",
        pods=(drained("a"), busy("b")),
        desired=2,
        target={"settling": True},
        marks=("a",),
    ),
    Case(
        id="demand that returned lifts marks when the number has risen past those that were to go",
        pods=(drained("a"), busy("b")),
        desired=2,
        lifts=("a",),
    ),
    Case(
        id="a rollout lifts no mark of those that leave, and repeats none: it has more pods all the while",
        pods=(drained("a"), draining("b"), busy("c")),
        replicas=2,
        desired=1,
        target={"rollout": True},
        lifts=("b",),
        waits="rollout",
    ),
    Case(
        id="a pod with a container that runs does not go first, though another of its containers cannot start",
        pods=(
            idle("a", ready=False, heartbeat_age_s=None, pending_reason="CrashLoopBackOff", running=True),
            busy("b"),
            busy("c", 2),
        ),
        desired=2,
        marks=("b",),
        waits="a not ready and not drained",
    ),
    Case(
        id="selection Any writes at once",
        pods=(busy("a"), busy("b")),
        desired=0,
        scale_down={"selection": "Any"},
        writes=0,
    ),
]

LATE = [
    Case(
        id="a task within the drain time-out is waited for",
        pods=(draining("a"), busy("b", 2)),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 3600),)),
        marks=("a",),
    ),
    Case(
        id="a task beyond the drain time-out is overdue",
        pods=(draining("a"), busy("b", 2)),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 3601),)),
        marks=("a",),
        overdue=("a",),
    ),
    Case(
        id="the drain time-out is the spec's",
        pods=(draining("a"), busy("b", 2)),
        desired=1,
        scale_down={"drainTimeout": "30s"},
        memory=Memory(drain_id="d1", marked=(("a", NOW - 31),)),
        marks=("a",),
        overdue=("a",),
    ),
    Case(
        id="who takes signed commands only, and was told, is overdue like any other",
        pods=(draining("a", signed=True), busy("b", 2)),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 3601),)),
        marks=("a",),
        overdue=("a",),
    ),
    Case(
        id="who takes signed commands only, and did not hear of the drain, is not",
        pods=(busy("a", signed=True), busy("b", 2)),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 3601),)),
        marks=("a",),
    ),
]

HANGS = [
    Case(
        id="who demands signed commands and does not answer is told apart",
        pods=(idle("a", signed=True), busy("b")),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 30),)),
        marks=("a",),
        waits="no answer to the drain from a, which demand signed commands: see CommandsNotHeeded",
    ),
    Case(
        id="who has not answered its mark for half a minute is named",
        pods=(idle("a"), busy("b")),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 30),)),
        marks=("a",),
        waits="no answer to the drain from a: a stock Celery worker knows none, set scaleDown.selection to Any",
    ),
    Case(
        id="who is drained and shown as ready for half a minute is named",
        pods=(drained("a", ready=True), busy("b")),
        desired=1,
        memory=Memory(drain_id="d1", marked=(("a", NOW - 300),), drained=(("a", NOW - 30),)),
        marks=("a",),
        waits="drained but still ready: a; has the container a readinessProbe on /readyz?",
    ),
]

ORDERED = {"ordered": True}

STATEFUL = [
    Case(
        id="a StatefulSet's ordinals may start above zero",
        pods=tuple(busy(f"w-{i}", 1) for i in (10, 11, 12)),
        desired=2,
        target={"first_ordinal": 10},
        marks=("w-12",),
        waits="draining w-12",
    ),
    Case(
        id="a StatefulSet counts a pod on its way out, so it is not unseen",
        pods=(idle("w-0"), drained("w-1"), idle("w-2", deleting=True)),
        replicas=2,
        desired=1,
        target={"existing": 3},
        marks=("w-1",),
        writes=1,
    ),
    Case(
        id="a StatefulSet drains its top ordinal, busy or not",
        pods=(idle("w-0"), idle("w-1"), busy("w-2", 4)),
        desired=2,
        marks=("w-2",),
    ),
    Case(
        id="a StatefulSet counts ordinals as numbers",
        pods=tuple(idle(f"w-{i}") for i in range(11)),
        desired=9,
        marks=("w-10", "w-9"),
    ),
    Case(
        id="with Parallel, a StatefulSet's drained top goes, though a pod below is not ready",
        pods=(idle("w-0", ready=False), idle("w-1"), drained("w-2")),
        desired=2,
        marks=("w-2",),
        writes=2,
    ),
    Case(
        id="a StatefulSet's drained pod keeps its mark while it leaves, and no pod that stays does",
        pods=(idle("w-0"), drained("w-1"), drained("w-2")),
        replicas=2,
        desired=2,
        marks=("w-2",),
        lifts=("w-1",),
    ),
    Case(
        id="with OrderedReady one pod is marked at a time",
        pods=tuple(idle(f"w-{i}") for i in range(4)),
        desired=1,
        target=ORDERED,
        marks=("w-3",),
        waits="one at a time, since podManagementPolicy is OrderedReady",
    ),
    Case(
        id="with OrderedReady the drained top goes, and no other with it",
        pods=(idle("w-0"), drained("w-1"), drained("w-2")),
        desired=1,
        target=ORDERED,
        marks=("w-2",),
        lifts=("w-1",),
        waits="w-1 not ready and not drained",
    ),
    Case(
        id="with OrderedReady the drained top goes when all below are ready",
        pods=(idle("w-0"), busy("w-1"), drained("w-2")),
        desired=1,
        target=ORDERED,
        marks=("w-2",),
        writes=2,
    ),
    Case(
        id="with OrderedReady nobody goes while a pod below is not ready: its controller would do nothing",
        pods=(idle("w-0", ready=False), idle("w-1"), drained("w-2")),
        desired=2,
        target=ORDERED,
        marks=("w-2",),
        waits="w-0 not ready",
    ),
    Case(
        id="with OrderedReady nobody goes while a pod below is missing",
        pods=(idle("w-0"), drained("w-2")),
        replicas=3,
        desired=2,
        target=ORDERED,
        marks=("w-2",),
        waits="draining w-2",
    ),
    Case(
        id="with OrderedReady the next pod is marked when the last is on its way out",
        pods=(idle("w-0"), idle("w-1"), drained("w-2")),
        replicas=2,
        desired=1,
        target=ORDERED,
        marks=("w-2",),
        waits="waiting for the last scale-in to end",
    ),
    Case(
        id="with OrderedReady a pod on its way out does not keep the next from being drained",
        pods=(idle("w-0"), idle("w-1"), idle("w-2", deleting=True)),
        replicas=2,
        desired=1,
        target={**ORDERED, "existing": 3},
        marks=("w-1",),
        waits="draining w-1",
    ),
    Case(
        id="with OrderedReady ordinals that were never made go at once, and the first that was is drained",
        pods=(idle("w-0"), idle("w-1"), idle("w-2")),
        replicas=6,
        desired=1,
        target=ORDERED,
        marks=("w-2",),
        writes=3,
    ),
    Case(
        id="with OrderedReady ordinals that were only not seen yet are not taken for missing",
        pods=(idle("w-0"), idle("w-1")),
        replicas=4,
        desired=1,
        target={**ORDERED, "existing": 3},
        waits="waiting",
    ),
    Case(
        id="with OrderedReady a top that cannot start goes when all below are ready",
        pods=(idle("w-0"), idle("w-1"), starting("w-2", pending_reason="Unschedulable")),
        desired=1,
        target=ORDERED,
        writes=2,
    ),
    Case(
        id="with OrderedReady of two pods that cannot start neither goes: its controller would take neither",
        pods=(
            idle("w-0"),
            starting("w-1", pending_reason="Unschedulable"),
            starting("w-2", pending_reason="Unschedulable"),
        ),
        desired=1,
        target=ORDERED,
        waits="w-1, w-2 not ready and not drained",
    ),
    Case(
        id="a StatefulSet does not go past an ordinal that still works",
        pods=(idle("w-0"), drained("w-1"), draining("w-2")),
        desired=1,
        marks=("w-1", "w-2"),
        waits="draining w-1, w-2",
    ),
    Case(
        id="a StatefulSet waits at an ordinal without a heartbeat",
        pods=(idle("w-0"), idle("w-1"), idle("w-2", heartbeat_age_s=None)),
        desired=1,
        waits="w-2 without a heartbeat",
    ),
    Case(
        id="a StatefulSet's top that cannot start goes at once",
        pods=(idle("w-0"), idle("w-1"), starting("w-2", pending_reason="Unschedulable")),
        desired=2,
        writes=2,
    ),
    Case(
        id="a StatefulSet's top that is being deleted comes back and is waited for",
        pods=(idle("w-0"), idle("w-1"), idle("w-2", deleting=True)),
        replicas=3,
        desired=2,
        waits="waiting",
    ),
]


@pytest.mark.parametrize("case", [*SELECT, *COMMIT, *LATE, *HANGS, *STATEFUL], ids=lambda case: case.id)
def test_plan(case: Case) -> None:
    replicas = len(case.pods) if case.replicas is None else case.replicas
    kind = "StatefulSet" if case in STATEFUL else "Deployment"
    target = TargetSample(**{"replicas": replicas, "name": "w", "kind": kind, **case.target})

    found = plan(Signals(pods=case.pods, target=target), spec_of(**case.scale_down), case.memory, case.desired, NOW)

    assert (found.drain, found.undrain, found.overdue) == (case.marks, case.lifts, case.overdue), found.waiting
    assert found.replicas == case.writes, found.waiting
    assert case.waits in found.waiting


def test_a_drain_keeps_its_id_and_the_time_of_its_marks_until_it_ends() -> None:
    signals = Signals(pods=(busy("a"), busy("b", 2)), target=TargetSample(replicas=2))

    first = plan(signals, spec_of(), Memory(), 1, NOW)
    second = plan(signals, spec_of(), first.memory, 1, NOW + 5)
    ended = plan(signals, spec_of(), second.memory, 2, NOW + 10)

    assert first.drain_id == second.drain_id == "scale-in-1000000"
    assert second.memory.marked == (("a", NOW),)
    assert (ended.drain_id, ended.memory.marked) == ("", ())


def test_a_pod_that_only_just_drained_may_still_be_shown_as_ready_without_a_word() -> None:
    signals = Signals(pods=(drained("a", ready=True), busy("b")), target=TargetSample(replicas=2))
    working_since = Memory(drain_id="d1", marked=(("a", NOW - 600),))

    first = plan(signals, spec_of(), working_since, 1, NOW)
    second = plan(signals, spec_of(), first.memory, 1, NOW + 5)
    third = plan(signals, spec_of(), second.memory, 1, NOW + 31)

    assert [("still ready" in found.waiting) for found in (first, second, third)] == [False, False, True]
    assert plan(signals, spec_of(), third.memory, 2, NOW + 36).memory.drained == ()


REQUEUE = {"drainTimeout": "1m", "onDrainTimeout": "Requeue"}
OVERDUE = Memory(drain_id="d1", marked=(("b", NOW - 61),))


@pytest.mark.parametrize(
    ("pods", "marks", "writes"),
    [
        pytest.param((busy("a", 4), busy("b", stopping=True)), (), None, id="it is still shown as ready: nobody else"),
        pytest.param((busy("a", 4), busy("b", stopping=True, ready=False)), (), 1, id="it is taken, with what it runs"),
        pytest.param((busy("a", 4), idle("b")), ("b",), None, id="it came back: idle, it is drained like any other"),
    ],
)
def test_a_worker_that_was_told_to_end_is_removed_and_no_other(
    pods: tuple[PodSample, ...], marks: tuple[str, ...], writes: int | None
) -> None:
    spec = spec_of(**REQUEUE)
    before = plan(seen_of((busy("a", 4), draining("b"))), spec, OVERDUE, 1, NOW)
    assert (before.overdue, before.memory.ended) == (("b",), frozenset({"b"}))

    after = plan(seen_of(pods), spec, before.memory, 1, NOW + 5)

    assert (after.drain, after.replicas) == (marks, writes)


@pytest.mark.parametrize("policy", ["Wait", "Kill"])
def test_a_worker_that_ends_by_itself_is_not_given_up(policy: str) -> None:
    spec = spec_of(**{**REQUEUE, "onDrainTimeout": policy})
    before = plan(seen_of((busy("a", 4), draining("b"))), spec, OVERDUE, 1, NOW)

    after = plan(seen_of((busy("a", 4), busy("b", stopping=True, ready=False))), spec, before.memory, 1, NOW + 5)

    assert after.replicas is None


@pytest.mark.parametrize(
    ("pods", "target", "marks", "lifts", "remembered"),
    [
        pytest.param((draining("a"), busy("b")), {}, (), ("a",), ("a",), id="who drains claims again"),
        pytest.param((drained("a"), busy("b")), {}, (), ("a",), ("a",), id="who is drained claims again"),
        pytest.param((busy("a"), busy("b")), {}, (), ("a",), (), id="who does not echo its mark yet is told once"),
        pytest.param((idle("b"),), {}, (), (), (), id="who is gone is forgotten"),
        pytest.param((draining("b"), idle("c")), {}, (), (), (), id="who was marked by somebody else is left alone"),
        pytest.param((drained("a"), busy("b")), {"replicas": 1}, ("a",), (), ("a",), id="who leaves keeps its mark"),
        pytest.param(
            (drained("a"), busy("b")), {"settling": True}, ("a",), (), ("a",), id="who may be leaving keeps its mark"
        ),
        pytest.param(
            (drained("a"), busy("b")),
            {"foreign_manager": "WorkerPool/other"},
            (),
            (),
            (),
            id="another pool takes the marks over",
        ),
        pytest.param(
            (drained("a"), busy("b")),
            {"foreign_manager": "ScaledObject/other"},
            (),
            ("a",),
            ("a",),
            id="another autoscaler knows no marks",
        ),
    ],
)
def test_a_pool_that_may_not_act_any_more_lets_go_of_those_it_has_marked(
    pods: tuple[PodSample, ...],
    target: dict[str, Any],
    marks: tuple[str, ...],
    lifts: tuple[str, ...],
    remembered: tuple[str, ...],
) -> None:
    memory = Memory(drain_id="d1", marked=(("a", NOW - 30),))
    signals = Signals(pods=pods, target=TargetSample(**{"replicas": len(pods), **target}))

    found = release(signals, memory)

    assert (found.replicas, found.drain, found.undrain) == (None, marks, lifts)
    assert tuple(name for name, _ in found.memory.marked) == remembered
    assert (found.drain_id, found.memory.drain_id) == ("d1" if marks else "", "d1" if remembered else "")


def seen_of(pods: tuple[PodSample, ...]) -> Signals:
    target = TargetSample(replicas=len(pods), ready_replicas=sum(pod.ready for pod in pods))
    return Signals(pods=pods, target=target)
