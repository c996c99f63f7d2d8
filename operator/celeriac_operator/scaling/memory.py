"""What `decide` carries from one tick to the next, and the part of it that outlives the operator, in the pool's status.

Only `learning`, `guards` and `drain` know what the fields mean in full; to the loop a Memory is opaque.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celeriac_operator.scaling.breaker import Breaker
from celeriac_operator.scaling.signals import LimitedClass, QueueSample

#: Service time before anything was observed; it also weighs as one observation in the first window (see `learning`).
FIRST_SERVICE_S = 1.0

#: Cold start before any pod was seen to start.
FIRST_COLD_START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Cumulative totals at one moment: slot-seconds spent running (running tasks included), and runs ended.

    value_s is what was known of the service time at that moment.
    """

    at: float
    busy_s: float
    ended: float
    value_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """How long a run takes, and the marks within the window that say so, oldest first."""

    value_s: float = FIRST_SERVICE_S
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMemory:
    """One rate-limited type of task on a queue. claims: of late, whether started or parked as throttled."""

    last: LimitedClass | None = None
    service: Service = field(default_factory=Service)
    claims: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueMemory:
    """One queue.

    last          the sample learnt from last, read at `sampled_at`: totals are counted from it.
    latest_per_s  arrivals between the last two samples. watched_s: for how long arrivals have been counted.
    fast_per_s, slow_per_s   arrival rate, exponentially weighted over about 10 s, and over 120 s or, where that is longer,
                  the objective. surge_per_s: what two samples in a row have seen. done_per_s: completions.
    owed          messages that left the count and are still to come back (a retry that waits for its time): at most 0.
    service       of the tasks that no rate limit holds back, with their claims in `other_claims`; `classes` has the
                  others.
    overall       service time of all the queue's tasks.
    headroom      beta as fed back from observed waits (objective Latency); headroom_of: the spec's, it started from.
    judged_*      when waits were judged last, the totals of waits then, and whether head-room is frozen since.
    waits_lately  counts of waits by bucket, those of half an hour ago weighing a third; waited_s: the objective's percentile of
                  them, as found at `waited_at`, None before (objective Latency).
    """

    last: QueueSample | None = None
    sampled_at: float = 0.0
    latest_per_s: float = 0.0
    watched_s: float = 0.0
    fast_per_s: float = 0.0
    surge_per_s: float = 0.0
    slow_per_s: float = 0.0
    done_per_s: float = 0.0
    owed: float = 0.0
    arrived_at: float | None = None
    service: Service = field(default_factory=Service)
    overall: Service = field(default_factory=Service)
    classes: Mapping[str, ClassMemory] = field(default_factory=dict)
    other_claims: float = 0.0
    headroom: float | None = None
    headroom_of: float = 0.0
    judged_at: float = 0.0
    judged_wait_s: float = 0.0
    judged_waits: int = 0
    judged_counts: tuple[int, ...] = ()
    judged_frozen: bool = False
    waits_lately: tuple[float, ...] = ()
    waited_s: float | None = None
    waited_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The empty memory is `Memory()`.

    sampled_at     when the queues last learnt from were read.
    fresh_at       the last tick with fresh data; before there was one, the first tick.
    steady_since   since when every tick had fresh data; None while the data is stale.
    quiet_since    since when no queue holds work; None while one does.
    slots_per_pod  as the heartbeats said last. starts: (pod uid, seconds) of the last cold starts seen.
    long_runs      (at, seconds) of the longest runs seen within the last hour, only those that no later one tops.
    missing_since  since when the target has fewer pods than replicas.
    wants          (at, pods) asked for by demand within the idle time-out, only those that can still be the largest.
    trail          (at, replicas) as observed, one entry a change, for the step limit.
    nudge          (direction, since) of a wish for one pod more or less that has not persisted yet.
    drain_id       of the drain under way, with `marked`: (pod, since when it is marked), and `drained`: (pod, since when
                   it is drained and shown as ready all the same), and `ended`: pods whose workers were told to end.
    homeless       uids of pods that waited for a node: how long they took to start is not the pool's cold start.
    crashing       uids of pods that crash at start, between two crashes too. breaker: how many runs fail of late.
    limited_by     the last decision's. truths: its conditions, for events on change.
    """

    sampled_at: float = 0.0
    fresh_at: float | None = None
    steady_since: float | None = None
    quiet_since: float | None = None
    queues: Mapping[str, QueueMemory] = field(default_factory=dict)
    cold_start_s: float | None = None
    starts: tuple[tuple[str, float], ...] = ()
    slots_per_pod: float | None = None
    long_runs: tuple[tuple[float, float], ...] = ()
    missing_since: float | None = None
    wants: tuple[tuple[float, int], ...] = ()
    trail: tuple[tuple[float, int], ...] = ()
    nudge: tuple[int, float] | None = None
    drain_id: str = ""
    marked: tuple[tuple[str, float], ...] = ()
    drained: tuple[tuple[str, float], ...] = ()
    ended: frozenset[str] = frozenset()
    homeless: frozenset[str] = frozenset()
    crashing: frozenset[str] = frozenset()
    breaker: Breaker = field(default_factory=Breaker)
    limited_by: str = "none"
    truths: Mapping[str, bool | None] = field(default_factory=dict)

    def undrained(self) -> "Memory":
        """The same without any drain under way."""
        if not (self.drain_id or self.marked or self.drained or self.ended):
            return self
        return replace(self, drain_id="", marked=(), drained=(), ended=frozenset())

    def elsewhere(self) -> "Memory":
        """The same for another broker: what was counted there starts anew, or all that waits here would have come in at once."""
        return replace(
            self,
            sampled_at=0.0,
            queues={
                name: replace(
                    queue,
                    last=None,
                    sampled_at=0.0,
                    owed=0.0,
                    service=replace(queue.service, marks=()),
                    overall=replace(queue.overall, marks=()),
                    classes={
                        task: replace(known, last=None, service=replace(known.service, marks=()))
                        for task, known in queue.classes.items()
                    },
                    headroom=None,
                )
                for name, queue in self.queues.items()
            },
            breaker=Breaker(),
        )

    def to_status(self) -> dict[str, Any]:
        """What was learnt, as `status.learned` keeps it: rounded, so that it does not change without reason."""
        learned: dict[str, Any] = {
            "queues": [
                {
                    "name": name,
                    "serviceSeconds": rounded(queue.overall.value_s),
                    "limitedTasks": [
                        {
                            "task": task,
                            "share": f"{share:.2f}",
                            "serviceSeconds": rounded(queue.classes[task].service.value_s),
                        }
                        for task, share in sorted(shares(queue).items())
                    ],
                }
                for name, queue in sorted(self.queues.items())
            ]
        }
        if self.cold_start_s is not None:
            learned["coldStartSeconds"] = rounded(self.cold_start_s)
        if self.slots_per_pod is not None:
            learned["slotsPerPod"] = rounded(self.slots_per_pod)
        return learned

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> "Memory":
        """A memory that starts from what `status.learned` kept. Anything unreadable there counts as not learnt."""
        learned = _mapping(status.get("learned"))
        queues: dict[str, QueueMemory] = {}
        for entry in map(_mapping, _sequence(learned.get("queues"))):
            service_s = _positive(entry.get("serviceSeconds"))
            if service_s is None or not isinstance(entry.get("name"), str):
                continue
            service = Service(value_s=service_s)
            classes: dict[str, ClassMemory] = {}
            for task in map(_mapping, _sequence(entry.get("limitedTasks"))):
                share, task_s = _positive(task.get("share")), _positive(task.get("serviceSeconds"))
                if share is not None and task_s is not None and isinstance(task.get("task"), str):
                    classes[task["task"]] = ClassMemory(service=Service(value_s=task_s), claims=min(share, 1.0))
            other = max(0.0, 1.0 - sum(known.claims for known in classes.values()))
            queues[entry["name"]] = QueueMemory(service=service, overall=service, classes=classes, other_claims=other)
        return cls(
            queues=queues,
            cold_start_s=_positive(learned.get("coldStartSeconds")),
            slots_per_pod=_positive(learned.get("slotsPerPod")),
        )


def shares(queue: QueueMemory) -> dict[str, float]:
    """The part of a queue's messages that each rate-limited type makes up, as its claims tell."""
    total = queue.other_claims + sum(known.claims for known in queue.classes.values())
    return {task: known.claims / total if total > 0 else 0.0 for task, known in queue.classes.items()}


def rounded(value: float) -> str:
    """A number of three significant digits, as a string: the API's conventions discourage floats."""
    return f"{float(f'{value:.3g}'):f}".rstrip("0").rstrip(".") or "0"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _positive(value: object) -> float | None:
    if not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 < number < 1e9 else None
