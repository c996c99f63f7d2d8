"""A WorkerPool's spec as a value, checked: `WorkerPoolSpec.parse(raw)`.

The same fields, defaults and limits as the schema in the chart's `workerpools.celeriac.dev.yaml` (a house test holds
the two together), and the same rules: on Kubernetes before 1.25, in local mode and in `explain` there is no API server
to apply them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from celeriac_operator.errors import OperatorError
from celeriac_operator.resources.cron import Cron, zone_of
from celeriac_operator.resources.fields import Fields


class SpecError(OperatorError):
    """A spec that cannot be acted on. `problems`: one sentence a fault: the field, what it holds, what it may hold."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class ObjectiveType(StrEnum):
    DRAIN_TIME = "DrainTime"  # what waits is done within `seconds`
    LATENCY = "Latency"  # the given percentile of waits stays under `seconds`
    BACKLOG = "Backlog"  # `target` messages a slot, as ratio-to-depth autoscalers do
    UTILIZATION = "Utilization"  # `target` per cent of the slots busy


class DrainTimeoutPolicy(StrEnum):
    WAIT = "Wait"  # and say so
    REQUEUE = "Requeue"  # the worker is told to end, its pod is removed, and what still runs goes back to its queue
    KILL = "Kill"  # its pod is deleted without grace: leased tasks run again elsewhere, acknowledged ones are lost


class Selection(StrEnum):
    IDLE_FIRST = "IdleFirst"
    ANY = "Any"  # no drain: the ReplicaSet chooses, and the workers' own shutdown looks after the tasks


class FallbackBehavior(StrEnum):
    HOLD = "Hold"
    REPLICAS = "Replicas"
    AT_LEAST = "AtLeast"
    MAX = "Max"


class Mode(StrEnum):
    ACTIVE = "Active"
    DRY_RUN = "DryRun"
    PAUSED = "Paused"
    SCALE_UP_ONLY = "ScaleUpOnly"
    SCALE_DOWN_ONLY = "ScaleDownOnly"


class OnDelete(StrEnum):
    LEAVE = "Leave"
    RESTORE_REPLICAS = "RestoreReplicas"  # to the number that was there when the pool was first served


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef:
    """The workload to scale, in the pool's own namespace."""

    name: str
    api_version: str = "apps/v1"
    kind: str = "Deployment"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretKeyRef:
    """One key of a Secret in the pool's own namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Where the certificates for the broker are, PEM."""

    ca_from: SecretKeyRef | None = None
    cert_from: SecretKeyRef | None = None
    key_from: SecretKeyRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the broker's URL is, and what its transport needs.

    management_url_from   RabbitMQ's management API, which tells what AMQP does not: messages in flight, their age.
    key_prefix            kombu's `global_keyprefix` (Redis).
    """

    url_from: SecretKeyRef
    management_url_from: SecretKeyRef | None = None
    tls: Tls | None = None
    key_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What the pool is for, in seconds.

    percentile  of waits, for Latency.
    target      for Backlog the messages that may wait for each slot, for Utilization the per cent of slots to be busy.
    """

    type: ObjectiveType = ObjectiveType.DRAIN_TIME
    seconds: int = 60
    percentile: int = 95
    target: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue that the pool consumes. weight multiplies its head-room; without an objective the pool's own holds."""

    name: str
    weight: int = 1
    objective: Objective | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUp:
    """The largest step up within `per_seconds`, the larger of pods and per cent; neither given: no limit."""

    max_pods: int | None = None
    max_percent: int | None = None
    per_seconds: int = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDown:
    """How pods go.

    idle_timeout_s         None (auto): max(30 s, 2 x cold start).
    max_concurrent_drains  pods that may be finishing work at one time, as a number or "25%" of the replicas; idle pods
                           do not count.
    """

    idle_timeout_s: float | None = None
    drain_timeout_s: float = 3600.0
    on_drain_timeout: DrainTimeoutPolicy = DrainTimeoutPolicy.WAIT
    max_concurrent_drains: int | str = "25%"
    selection: Selection = Selection.IDLE_FIRST


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleToZero:
    """Whether the last pod goes too, `after_s` without work or an arrival. Needs min_replicas 0."""

    enabled: bool = True
    after_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """Whether work that is due soon is staffed ahead. horizon_s None (auto): the cold start and one tick."""

    enabled: bool = True
    horizon_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Other limits from each firing of `start` to the next firing of `end` (cron expressions)."""

    start: str
    end: str
    timezone: str = "UTC"
    min_replicas: int | None = None
    max_replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What to do when the broker has not been read for `after_s`. Nothing here lowers the pool."""

    after_s: float = 60.0
    behavior: FallbackBehavior = FallbackBehavior.HOLD
    replicas: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most so many starts a second of one type of task, over the whole cluster.

    It beats what the code declares, and caps the replicas that are ordered. On Redis the broker keeps it for all workers; elsewhere
    it is divided among those that live.
    """

    task: str
    rate_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPoolSpec:
    """What the user asked for, with every default filled in. Durations are seconds; None means auto or unset.

    broker       None: the broker that the operator was installed with.
    concurrency  slots a pod; None: as the heartbeats say.
    replicas     the manual override; None: automatic.
    """

    target_ref: TargetRef
    queues: tuple[QueueSpec, ...]
    broker: Broker | None = None
    min_replicas: int = 0
    max_replicas: int = 10
    spare_replicas: int = 0
    concurrency: int | None = None
    objective: Objective = field(default_factory=Objective)
    headroom: float = 1.0
    interval_s: float = 5.0
    scale_up: ScaleUp = field(default_factory=ScaleUp)
    scale_down: ScaleDown = field(default_factory=ScaleDown)
    scale_to_zero: ScaleToZero = field(default_factory=ScaleToZero)
    cold_start_s: float | None = None
    eta: Eta = field(default_factory=Eta)
    rate_limit_aware: bool = True
    rate_limits: tuple[RateLimit, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    fallback: Fallback = field(default_factory=Fallback)
    mode: Mode = Mode.ACTIVE
    replicas: int | None = None
    on_delete: OnDelete = OnDelete.LEAVE

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> "WorkerPoolSpec":
        """The spec that `raw` (an object's `spec`, as JSON types) holds. Raises SpecError with every problem found."""
        problems: list[str] = []
        spec = _spec(Fields(raw, "spec", problems))
        if not problems:
            problems += _rules(spec)
        if problems:
            raise SpecError(problems)
        return spec

    def objective_of(self, queue: QueueSpec) -> Objective:
        return queue.objective or self.objective


def _spec(fields: Fields) -> WorkerPoolSpec:
    fields.reserved("brokerRef", "is reserved for a later version; name the broker's Secret in broker.urlFrom")
    target = fields.nested("targetRef", required=True)
    up, down = fields.nested("scaleUp"), fields.nested("scaleDown")
    zero, eta, fallback = fields.nested("scaleToZero"), fields.nested("eta"), fields.nested("fallback")
    spec = WorkerPoolSpec(
        target_ref=TargetRef(
            name=target.text("name", required=True, longest=253),
            api_version=target.text("apiVersion", "apps/v1", longest=253),
            kind=target.text("kind", "Deployment", longest=63),
        ),
        broker=_broker(fields.nested("broker")) if "broker" in fields else None,
        queues=tuple(_queue(item) for item in fields.items("queues", required=True, most=64)),
        min_replicas=fields.integer("minReplicas", 0, low=0, high=10_000),
        max_replicas=fields.integer("maxReplicas", 10, low=1, high=10_000),
        spare_replicas=fields.integer("spareReplicas", 0, low=0, high=10_000),
        concurrency=fields.optional_integer("concurrency", low=1, high=10_000),
        objective=_objective(fields.nested("objective")),
        headroom=fields.decimal("headroom", 1.0, low=0.0, high=10.0),
        interval_s=fields.duration("interval", 5.0, low_s=1.0, high_s=300.0),
        scale_up=ScaleUp(
            max_pods=up.optional_integer("maxPods", low=1, high=10_000),
            max_percent=up.optional_integer("maxPercent", low=1, high=100_000),
            per_seconds=up.integer("perSeconds", 15, low=1, high=3600),
        ),
        scale_down=ScaleDown(
            idle_timeout_s=down.duration_or_auto("idleTimeout", low_s=0.0, high_s=86_400.0),
            drain_timeout_s=down.duration("drainTimeout", 3600.0, low_s=1.0, high_s=604_800.0),
            on_drain_timeout=down.choice("onDrainTimeout", DrainTimeoutPolicy.WAIT),
            max_concurrent_drains=down.number_or_percent("maxConcurrentDrains", "25%"),
            selection=down.choice("selection", Selection.IDLE_FIRST),
        ),
        scale_to_zero=ScaleToZero(
            enabled=zero.boolean("enabled", True), after_s=zero.duration("after", 300.0, low_s=0.0, high_s=86_400.0)
        ),
        cold_start_s=fields.duration_or_auto("coldStart", low_s=0.0, high_s=3600.0),
        eta=Eta(
            enabled=eta.boolean("enabled", True), horizon_s=eta.duration_or_auto("horizon", low_s=0.0, high_s=86_400.0)
        ),
        rate_limit_aware=fields.boolean("rateLimitAware", True),
        rate_limits=tuple(_rate_limit(item) for item in fields.items("rateLimits", most=64)),
        schedules=tuple(_schedule(item) for item in fields.items("schedules", most=32)),
        fallback=Fallback(
            after_s=fallback.duration("after", 60.0, low_s=1.0, high_s=86_400.0),
            behavior=fallback.choice("behavior", FallbackBehavior.HOLD),
            replicas=fallback.optional_integer("replicas", low=0, high=10_000),
        ),
        mode=fields.choice("mode", Mode.ACTIVE),
        replicas=fields.optional_integer("replicas", low=0, high=10_000),
        on_delete=fields.choice("onDelete", OnDelete.LEAVE),
    )
    for part in (target, up, down, zero, eta, fallback, fields):
        part.end()
    return spec


def _broker(fields: Fields) -> Broker:
    tls = fields.nested("tls")
    broker = Broker(
        url_from=_secret_key(fields, "urlFrom") or SecretKeyRef(name="", key=""),
        management_url_from=_secret_key(fields, "managementUrlFrom", required=False),
        tls=Tls(
            ca_from=_secret_key(tls, "caFrom", required=False),
            cert_from=_secret_key(tls, "certFrom", required=False),
            key_from=_secret_key(tls, "keyFrom", required=False),
        )
        if "tls" in fields
        else None,
        key_prefix=fields.text("keyPrefix", "", longest=253),
    )
    tls.end()
    fields.end()
    return broker


def _secret_key(fields: Fields, name: str, *, required: bool = True) -> SecretKeyRef | None:
    if name not in fields and not required:
        fields.known.add(name)
        return None
    source = fields.nested(name, required=required)
    ref = source.nested("secretKeyRef", required=True)
    value = SecretKeyRef(
        name=ref.text("name", required=True, longest=253), key=ref.text("key", required=True, longest=253)
    )
    ref.end()
    source.end()
    return value


def _objective(fields: Fields) -> Objective:
    value = Objective(
        type=fields.choice("type", ObjectiveType.DRAIN_TIME),
        seconds=fields.integer("seconds", 60, low=1, high=604_800),
        percentile=fields.integer("percentile", 95, low=1, high=99),
        target=fields.optional_integer("target", low=1, high=1_000_000),
    )
    fields.end()
    return value


def _queue(fields: Fields) -> QueueSpec:
    value = QueueSpec(
        name=fields.text("name", required=True, longest=255),
        weight=fields.integer("weight", 1, low=1, high=100),
        objective=_objective(fields.nested("objective")) if "objective" in fields else None,
    )
    fields.known.add("objective")
    fields.end()
    return value


def _schedule(fields: Fields) -> Schedule:
    value = Schedule(
        start=fields.text("start", required=True, longest=253),
        end=fields.text("end", required=True, longest=253),
        timezone=fields.text("timezone", "UTC", longest=64),
        min_replicas=fields.optional_integer("minReplicas", low=0, high=10_000),
        max_replicas=fields.optional_integer("maxReplicas", low=0, high=10_000),
    )
    fields.end()
    return value


#: Celery's units of a rate: a number alone is per second.
_RATE_UNITS = {"": 1.0, "/s": 1.0, "/m": 60.0, "/h": 3600.0}


def _rate_limit(fields: Fields) -> RateLimit:
    task = fields.text("task", required=True, longest=255)
    text = fields.text("rate", required=True, longest=32)
    fields.end()
    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(/[smh])?", text)
    if matched is None:
        if text:
            fields.problem("rate", f"is {text!r}; write starts per second, minute or hour, such as 10/s, 100/m or 5/h")
        return RateLimit(task=task, rate_per_s=0.0)
    if not float(matched[1]):
        fields.problem("rate", f"is {text!r}; write a rate above zero, or leave the task out: it has no limit then")
    return RateLimit(task=task, rate_per_s=float(matched[1]) / _RATE_UNITS[matched[2] or ""])


def _rules(spec: WorkerPoolSpec) -> Iterable[str]:
    """What no single field can say. The same rules stand as x-kubernetes-validations in the CRD, on `spec`."""
    if spec.min_replicas > spec.max_replicas:
        yield f"spec.minReplicas is {spec.min_replicas}, above maxReplicas {spec.max_replicas}"
    if spec.replicas is not None and spec.replicas > spec.max_replicas:
        yield f"spec.replicas is {spec.replicas}, above maxReplicas {spec.max_replicas}"
    named = [("spec.objective", spec.objective)]
    named += [
        (f"spec.queues[{i}].objective", queue.objective) for i, queue in enumerate(spec.queues) if queue.objective
    ]
    for path, objective in named:
        if objective.type is ObjectiveType.LATENCY and objective.percentile not in (50, 90, 95, 99):
            yield f"{path}.percentile is {objective.percentile}; with type Latency it may be 50, 90, 95 or 99"
        if objective.type in (ObjectiveType.BACKLOG, ObjectiveType.UTILIZATION) and objective.target is None:
            yield f"{path}.target is missing: type {objective.type} needs it"
        if objective.type is ObjectiveType.UTILIZATION and (objective.target or 0) > 100:
            yield f"{path}.target is {objective.target}; with type Utilization it is a percentage, 1 to 100"
    if (
        spec.fallback.behavior in (FallbackBehavior.REPLICAS, FallbackBehavior.AT_LEAST)
        and spec.fallback.replicas is None
    ):
        yield f"spec.fallback.replicas is missing: behavior {spec.fallback.behavior} needs it"
    for what, names in (("queues", [q.name for q in spec.queues]), ("rateLimits", [r.task for r in spec.rate_limits])):
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"spec.{what} names {name!r} more than once"
    for i, schedule in enumerate(spec.schedules):
        path = f"spec.schedules[{i}]"
        low, high = schedule.min_replicas, schedule.max_replicas
        if low is None and high is None:
            yield f"{path} sets neither minReplicas nor maxReplicas"
        elif low is not None and high is not None and low > high:
            yield f"{path}.minReplicas is {low}, above its maxReplicas {high}"
        if high is not None and high < spec.min_replicas:
            yield f"{path}.maxReplicas is {high}, below spec.minReplicas {spec.min_replicas}, which would win: lower that"
        # The API server cannot check these two: a cron expression and a time zone need more than CEL has.
        for name, text in (("start", schedule.start), ("end", schedule.end)):
            try:
                Cron.parse(text)
            except ValueError as error:
                yield f"{path}.{name} is {text!r}: {error}"
        try:
            zone_of(schedule.timezone)
        except ValueError as error:
            yield f"{path}.timezone {error}"
