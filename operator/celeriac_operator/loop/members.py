"""What the loop knows of a pool: the cluster as it sees it, what it remembers between ticks, and what one tick was."""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from celeriac.wire.event import QueueTotals, TaskTotals
from celeriac_operator.loop.rest import Rest
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.rates import Keeper
from celeriac_operator.scaling.signals import PodSample, Signals, TargetSample

log = logging.getLogger("celeriac_operator.loop")

#: Seconds without progress after which a loop counts as stuck; for a broker's beyond its interval.
STUCK_S = 60.0

#: Seconds within which a status that was written has come back to the records that the loops hold.
ECHO_S = 15.0

Key = tuple[str, str]


class Cluster(Protocol):
    """What the loop asks of a cluster. Every method may block, and raises `celeriac_operator.errors.ClusterError`."""

    def pools(self) -> Sequence[PoolRecord]:
        """All pools this operator serves, from the warm index."""
        ...

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        """The workload the pool scales; one that is missing is `TargetSample(error=...)`, not an exception."""
        ...

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        """The target's pods by owner references, from the warm index."""
        ...

    def trace(self, pool: PoolRecord, spec: WorkerPoolSpec) -> object:
        """Something that is equal to the last one while nothing has happened to target and pods that a decision looks at.

        Reading it costs next to nothing.
        """
        ...

    def secret(self, namespace: str, name: str, key: str) -> str:
        """One value of a Secret, decoded."""
        ...

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        """Write the target's scale; Conflict when it changed since `resource_version` was read."""
        ...

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        """Pod name -> deletion cost: for ReplicaSets that know it, and for people.

        A pod that is gone is passed over.
        """
        ...

    def kill_pod(self, pool: PoolRecord, name: str) -> None:
        """End one pod without grace. One that is gone is passed over."""
        ...

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the pool's status subresource. Returns it as it is stored: an old CRD may have dropped fields."""
        ...

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        """A Kubernetes event on the pool; kind is Normal or Warning."""
        ...

    def may_act(self) -> bool:
        """Whether this replica holds the Lease, or needs none.

        Without it the loop observes and decides, and writes nothing.
        """
        ...

    def term(self) -> int:
        """A number that is another one when this replica may act again after another might have. To be asked before `may_act`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one tick saw and decided for one pool: for the live view, the summary and tests.

    queues, tasks   what the pool's workers have done so far, by queue, and by queue and task.
    """

    pool: PoolRecord
    spec: WorkerPoolSpec
    signals: Signals
    decision: Decision
    queues: Mapping[str, QueueTotals]
    tasks: Mapping[tuple[str, str], TaskTotals]
    now: float


@dataclass(slots=True)
class PoolState:
    """What the loop remembers of one pool between ticks; it follows the pool from broker to broker.

    served_by   the broker's loop that decided it last.
    epoch   as whose leader it knows status, fault, events and costs: another replica may have written since.
    status  the last that was written, at status_at, over the pool's version `over`; stored: as the cluster keeps it, None when that
            is the same. looked: the gist of the last that was thought of, at looked_at. face: the last tick's.
    sight   what was seen of it last, while the cluster and the workers bore this trace.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    memory: Memory | None = None
    served_by: object | None = None
    status: Mapping[str, Any] | None = None
    status_at: float = 0.0
    stored: Mapping[str, Any] | None = None
    over: str = ""
    face: tuple[object, ...] = ()
    looked: int = 0
    looked_at: float = 0.0
    rest: Rest | None = None
    sight: "Sight | None" = None
    trace: object = None
    events: frozenset[tuple[str, str, str]] = frozenset()
    costs: dict[str, int] = field(default_factory=dict)
    drains: dict[str, "Drain"] = field(default_factory=dict)
    heard_pods: set[str] = field(default_factory=set)
    fault: tuple[str, str] = ("", "")
    parsed: tuple[int, WorkerPoolSpec] | None = None
    epoch: int = 0

    def lead(self, epoch: int) -> None:
        """Forget what was written in an earlier time of leading: what the cluster says now is newer."""
        if self.epoch != epoch:
            self.epoch = epoch
            self.status, self.status_at = None, 0.0
            self.face = ()
            self.fault, self.events = ("", ""), frozenset()
            self.costs.clear()

    def wrote(self, record: PoolRecord, status: Mapping[str, Any], stored: Mapping[str, Any], now: float) -> None:
        """Take in that this status was written, and what the cluster made of it."""
        self.status, self.status_at, self.over = status, now, record.resource_version
        self.stored = stored if stored != status else None

    def overwritten(self, record: PoolRecord, now: float) -> bool:
        """Whether the record's status is somebody else's: not what was written last, nor older.

        A record of the version that was written over is older; after `ECHO_S` every later one has our status, unless somebody
        else wrote after us.
        """
        if self.status is None or record.resource_version == self.over or now - self.status_at < ECHO_S:
            return False
        ours = self.status if self.stored is None else self.stored
        return record.status is not ours and record.status != ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A pool that can be served: its record, its spec as parsed, and what is remembered of it."""

    record: PoolRecord
    spec: WorkerPoolSpec
    state: PoolState


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the cluster says of one member this tick, joined with its workers.

    stock   node names of stock Celery workers among those, which tell less than ours.
    keepers the live ones of ours, as keepers of rates; None when the pool may tell them nothing.
    """

    member: Member
    target: TargetSample
    pods: tuple[PodSample, ...]
    stock: tuple[str, ...] = ()
    keepers: tuple[Keeper, ...] | None = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """A drain under way: since when, and what its worker last echoed."""

    since: float
    state: str


class Changes:
    """Logs an error once per change: the same text again is not news, and neither is silence until it was broken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, str] = {}

    def failed(self, subject: str, text: str) -> bool:
        """Whether this was news."""
        with self._lock:
            news = self._last.get(subject) != text
            self._last[subject] = text
        if news:
            log.warning("%s: %s", subject, text)
        return news

    def worked(self, subject: str) -> None:
        with self._lock:
            was = self._last.pop(subject, None)
        if was is not None:
            log.info("%s: works again", subject)

    def forget(self, *subjects: str) -> None:
        """Let go of what is said of these, and of their parts (`subject: part`): they exist no more."""
        parts = tuple(f"{subject}: " for subject in subjects)
        with self._lock:
            for known in [known for known in self._last if known in subjects or known.startswith(parts)]:
                del self._last[known]


def subject_of(record: PoolRecord) -> str:
    return f"pool {record.namespace}/{record.name}"
