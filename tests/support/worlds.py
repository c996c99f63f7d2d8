"""A world in memory for the operator's own tick: workers that heed marks, a ReplicaSet or StatefulSet that takes pods as Kubernetes
does, if late, a broker that may be down, and an operator that may die at any of its writes and be made anew.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import BrokerUnavailable
from celeriac.policy import drain as heeding
from celeriac.wire.control import Command
from celeriac.wire.event import DrainState, Heartbeat, QueueTotals, heartbeat_to_wire
from celeriac_operator import clock
from celeriac_operator.fleet.brokers import BrokerSide
from celeriac_operator.loop.broker import BrokerLoop
from celeriac_operator.loop.members import Changes, Member, PoolState
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.signals import TargetSample

START, TICK_S = 1_000_000.0, 5.0
LEAST, FIRST, SLOTS = 1, 4, 2
SPEC: dict[str, Any] = {
    "targetRef": {"name": "w"},
    "queues": [{"name": "q"}],
    "minReplicas": LEAST,
    "maxReplicas": 20,
    "scaleDown": {"idleTimeout": "10s", "maxConcurrentDrains": "100%"},
    "coldStart": "5s",
}


def keep_time(monkeypatch: pytest.MonkeyPatch, world: "World") -> None:
    """The operator's clocks show the world's time."""
    monkeypatch.setattr(clock, "now", lambda: world.now)
    monkeypatch.setattr(clock, "skew_s", lambda: 0.0)


class Killed(BaseException):
    """The operator died at this moment; nothing of it may catch this."""


@dataclass
class Pod:
    name: str
    revision: str
    created_at: float
    tasks: list[float] = field(default_factory=list)  # when each ends
    heeded: heeding.Heeded = field(default_factory=heeding.Heeded)
    cost: int = 0
    deleting: bool = False
    done: int = 0

    @property
    def uid(self) -> str:
        """A StatefulSet's pod comes back under its name."""
        return f"{self.name}@{self.created_at:.0f}"

    def started(self, now: float) -> bool:
        return now >= self.created_at + 5.0

    def mark(self, now: float) -> heeding.Mark | None:
        return heeding.still(self.heeded.mark, now)

    def ready(self, now: float) -> bool:
        return self.started(now) and (self.mark(now) is None or bool(self.tasks))


class World:
    """The broker, the workers, the ReplicaSet and the cluster's side of the loop."""

    def __init__(self, *, pods: int = FIRST) -> None:
        self.now = START
        self.numbers = itertools.count()
        self.revision = "r1"
        self.replicas = pods
        self.pods = [Pod(f"w-{next(self.numbers)}", "r1", START - 600) for _ in range(pods)]
        self.waiting: list[float] = []  # seconds of each task
        self.status: Mapping[str, Any] = {}
        self.cut_off = 0
        self.scaled: list[int] = []
        self.writes: list[str] = []
        self.dies_at: tuple[int, str] | None = None
        self.dead = False
        self.broker_down = False
        self.version = 1
        self.late_s = 0.0  # how long controllers take to see the next number that is written
        self.late_until = START

    # -- time

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for pod in self.pods:
            pod.done += sum(end <= self.now for end in pod.tasks)
            pod.tasks = [end for end in pod.tasks if end > self.now]
        self.pods = [pod for pod in self.pods if not (pod.deleting and not pod.tasks)]
        self.roll()
        if self.now >= self.late_until:
            self.reconcile()
        for pod in reversed(self.pods):
            free = pod.started(self.now) and not pod.deleting and pod.mark(self.now) is None
            while free and self.waiting and len(pod.tasks) < SLOTS:
                pod.tasks.append(self.now + self.waiting.pop(0))

    def roll(self) -> None:
        """One pod of the old revision at a time; its worker's own shutdown finishes what runs."""
        old = [pod for pod in self.living if pod.revision != self.revision]
        if old and all(pod.started(self.now) for pod in self.living) and len(self.living) >= self.replicas:
            old[0].deleting = True

    @property
    def living(self) -> list[Pod]:
        return [pod for pod in self.pods if not pod.deleting]

    def reconcile(self) -> None:
        """The ReplicaSet: not ready first, then by cost, then the youngest. What runs in a pod it takes counts as cut off."""
        surplus = sorted(self.living, key=lambda pod: (pod.ready(self.now), pod.cost, -pod.created_at))
        for pod in surplus[: max(0, len(self.living) - self.replicas)]:
            self.cut_off += len(pod.tasks)
            pod.deleting = True
        for _ in range(self.replicas - len(self.living)):
            self.pods.append(Pod(f"w-{next(self.numbers)}", self.revision, self.now))

    # -- what the operator does, and where it may die

    def write(self, what: str) -> "Step":
        self.writes.append(what)
        return Step(self, len(self.writes) - 1)

    def send(self, command: Command) -> None:
        self._reach_broker()
        with self.write(command.method):
            for pod in self.pods:
                if f"celeriac@{pod.name}" in (command.destination or ()):
                    if command.method == "drain":
                        pod.heeded = heeding.heard(pod.heeded, now=self.now, **command.arguments)
                    else:
                        pod.heeded = heeding.lifted(pod.heeded, now=self.now, **command.arguments)

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        with self.write("cost"):
            for pod in self.pods:
                pod.cost = costs.get(pod.name, pod.cost)

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        with self.write("scale"):
            assert resource_version == str(self.version)
            self.version += 1
            self.scaled.append(replicas)
            self.late_until, self.late_s = max(self.late_until, self.now + self.late_s), 0.0
            self.replicas = replicas

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> Mapping[str, Any]:
        with self.write("status"):
            self.status = status
        return status

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        with self.write("event"):
            pass

    def kill_pod(self, pool: PoolRecord, name: str) -> None:
        raise AssertionError("nobody asked for it")

    # -- what it sees

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        return TargetSample(
            name="w",
            replicas=self.replicas,
            ready_replicas=sum(pod.ready(self.now) for pod in self.living),
            existing=len(self.living),
            resource_version=str(self.version),
            rollout=len({pod.revision for pod in self.living}) > 1
            or any(p.revision != self.revision for p in self.pods),
        )

    def trace(self, pool: PoolRecord, spec: WorkerPoolSpec) -> object:
        return (self.target(pool, spec), tuple(self.seen(pool, spec)))

    def seen(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        return [
            PodRecord(
                name=pod.name, uid=pod.uid, phase="Running", ready=pod.ready(self.now), deleting=pod.deleting,
                created_at=pod.created_at, ready_at=pod.created_at + 5.0, revision=pod.revision, running=True,
            )
            for pod in self.pods
        ]  # fmt: skip

    def may_act(self) -> bool:
        return True

    def term(self) -> int:
        return 0

    def _reach_broker(self) -> None:
        if self.broker_down:
            raise BrokerUnavailable("cannot reach the broker: refused")

    def probe(self, queues: Mapping[str, float]) -> Mapping[str, QueueDepth]:
        self._reach_broker()
        return {"q": QueueDepth(ready=len(self.waiting), leased=sum(len(pod.tasks) for pod in self.pods))}

    def release_due(self, queues: Sequence[str]) -> int:
        return 0

    def drain(self, timeout_s: float) -> list[dict[str, Any]]:
        return []

    def close(self) -> None:
        pass

    def heartbeats(self) -> list[dict[str, Any]]:
        if self.broker_down:
            return []
        return [self.heartbeat(pod) for pod in self.pods if pod.started(self.now)]

    def heartbeat(self, pod: Pod) -> dict[str, Any]:
        mark = pod.mark(self.now)
        echo = None
        if mark is not None:
            state = "draining" if pod.tasks else "drained"
            echo = DrainState(id=mark.id, epoch=mark.epoch, state=state, expires_in_s=mark.expires_at - self.now)
        totals = QueueTotals(started=pod.done + len(pod.tasks), succeeded=pod.done, busy_s=8.0 * pod.done)
        return heartbeat_to_wire(
            Heartbeat(
                hostname=f"celeriac@{pod.name}", timestamp=self.now, incarnation=pod.uid, pod=pod.name, pod_uid=pod.uid,
                namespace="shop", slots=SLOTS, busy=len(pod.tasks), queues=("q",), started_at=pod.created_at, drain=echo,
                state="stopping" if pod.deleting else "running", queue_totals={"q": totals},
            )
        )  # fmt: skip


class StatefulWorld(World):
    """The same with a StatefulSet, as Kubernetes' own controller treats one (pkg/controller/statefulset/stateful_set_control.go,
    processReplica and processCondemned). It sees readiness as late as a probe tells it: a step behind.
    """

    def __init__(self, *, pods: int = FIRST, parallel: bool = False) -> None:
        super().__init__(pods=pods)
        self.parallel = parallel
        self.shown_ready: dict[str, bool] = {}

    def pass_time(self, seconds: float) -> None:
        self.shown_ready = {pod.uid: pod.ready(self.now) for pod in self.pods}
        super().pass_time(seconds)

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        found = super().target(pool, spec)
        # It counts the pods that end, too.
        return replace(found, kind="StatefulSet", ordered=not self.parallel, existing=len(self.pods))

    def roll(self) -> None:
        """Its rolling updates go the way of its scale-in; there are none here."""

    def reconcile(self) -> None:
        """In order: nothing while a pod that stays is not ready. Then the highest of the others, unless it ends already, or is
        not ready and not the lowest such pod. In parallel: all at once.
        """
        pods = {int(pod.name.removeprefix("w-")): pod for pod in self.pods}
        for ordinal in range(self.replicas):
            if ordinal not in pods:
                self.pods.append(Pod(f"w-{ordinal}", self.revision, self.now))
            if not self.parallel and (ordinal not in pods or not self._stands(pods[ordinal])):
                return
        condemned = [pods[ordinal] for ordinal in sorted(pods) if ordinal >= self.replicas]
        lowest = next((pod for pod in condemned if not self._stands(pod)), None)
        for pod in reversed(condemned):
            if not self.parallel and (pod.deleting or not (self._stands(pod) or pod is lowest)):
                return
            if not pod.deleting:
                self.cut_off += len(pod.tasks)
                pod.deleting = True
            if not self.parallel:
                return

    def _stands(self, pod: Pod) -> bool:
        return self.shown_ready.get(pod.uid, False) and not pod.deleting


@dataclass
class Step:
    """One write: the operator dies before it, or when it is done."""

    world: World
    number: int

    def __enter__(self) -> None:
        if self.world.dead or self.world.dies_at == (self.number, "before"):
            self.world.dead = True
            raise Killed

    def __exit__(self, *error: object) -> None:
        if self.world.dies_at == (self.number, "after"):
            self.world.dead = True
            raise Killed


class Operator:
    """One life of it: it knows what the pool's status tells, and nothing else. Fields of its spec are SPEC's, or given."""

    def __init__(self, world: World, epoch: int, **spec: Any) -> None:
        cluster: Any = _Facade(world)
        raw = {**SPEC, **spec}
        record = PoolRecord(namespace="shop", name="w", uid="u", generation=1, spec=raw, status=world.status)
        self.member = Member(record=record, spec=WorkerPoolSpec.parse(raw), state=PoolState())
        self.loop = BrokerLoop(
            "broker", cluster=cluster, side=BrokerSide(probe=world, receiver=world, post=world),
            members=lambda: [self.member], epoch=lambda: epoch, metrics=OperatorMetrics(version=""), changes=Changes(),
        )  # fmt: skip
        self._began_at = world.now

    def told(self, **spec: Any) -> None:
        """Somebody changed these fields of the spec."""
        self.member = replace(self.member, spec=WorkerPoolSpec.parse({**SPEC, **spec}))

    def tick(self, world: World) -> None:
        if world.broker_down:
            self._began_at = world.now
        self.loop._ears._listening_since = None if world.broker_down else self._began_at
        for body in world.heartbeats():
            self.loop._fleet.hear(body, world.now)
        self.loop.tick([self.member])


class _Facade:
    """The loop's Cluster: `pods` is what is seen of them, where the world's own are the pods themselves."""

    def __init__(self, world: World) -> None:
        self._world = world

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        return self._world.seen(pool, spec)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)
