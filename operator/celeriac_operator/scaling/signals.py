"""What one tick saw, as values: the broker's queues, the pool's pods, the target. The loop fills, `decide` reads them.

Raw observations only: rates, service times and cold start are learnt from them in `learning`. Times are seconds since
the epoch (`_at`) or durations (`_s`). None means: not known this tick. Zero means: known to be zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedClass:
    """One rate-limited type of task on a queue, as its workers report it.

    rate_per_s   starts a second, for the whole pool (a per-worker limit is multiplied by the workers, in `fleet.probes`).
    per_worker   True when adding pods raises the limit.
    throttled    messages that wait for this limit in the broker. started, run_s: cumulative over the fleet.
    """

    task: str
    queue: str
    rate_per_s: float
    per_worker: bool = False
    throttled: int = 0
    started: int = 0
    run_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSample:
    """One queue at one moment, as the broker and the heartbeats tell it.

    ready        waiting to be claimed, all priorities. reserved of the leased are claimed and not started.
    leased       claimed and not acked, running or not; expired of them have outlived their lease (a dead worker's).
    throttled    held back by a rate limit.
    delayed      all whose time is not yet due; due_soon of them are due within the horizon asked for.
    dead         in the dead-letter queue.
    oldest_age_s age of the oldest due message, None when unknown or the queue is empty.
    The rest is cumulative over the fleet, baselined by incarnation (never decreases): started, completed, failed,
    retried, redelivered runs, busy_s slot-seconds (running tasks included).
    wait_counts  of the `waits` by bucket of celeriac.wire.event.WAIT_BUCKETS_S: those of workers that tell; empty: none does.
    consumers    live workers that consume this queue, from heartbeats or the broker.
    """

    name: str
    ready: int = 0
    reserved: int = 0
    leased: int = 0
    expired: int = 0
    throttled: int = 0
    delayed: int = 0
    due_soon: int = 0
    dead: int = 0
    oldest_age_s: float | None = None
    started: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    redelivered: int = 0
    busy_s: float = 0.0
    wait_s: float = 0.0
    waits: int = 0
    wait_counts: tuple[int, ...] = ()
    consumers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSample:
    """One pod of the pool (in local mode: one process), joined with its worker's last heartbeat.

    node            the worker's node name (`celeriac@host`), the address of commands; empty: no heartbeat was matched.
    phase           Pending | Running | Succeeded | Failed | Unknown
    ready           the pod's readiness: started and not drained.
    deleting        has a deletion timestamp.
    created_at, ready_at   None when not known.
    pending_reason  why it is not running: Unschedulable, ImagePullBackOff, CrashLoopBackOff, QuotaExceeded, or empty.
    heartbeat_age_s None when no heartbeat was ever matched: such a pod is never drained.
    drain_state     "" | draining | drained, echoed by the worker, with the mark's id and seconds left.
    revision        the ReplicaSet's hash: pods of an old revision are those a rollout replaces.
    running         a container of it runs, be it another than the one that pending_reason is about.
    nodes           the node names of all workers in it; node is one of them.
    signed          a worker in it heeds signed commands only.
    """

    name: str
    uid: str = ""
    node: str = ""
    phase: str = "Running"
    ready: bool = True
    deleting: bool = False
    created_at: float | None = None
    ready_at: float | None = None
    pending_reason: str = ""
    heartbeat_age_s: float | None = None
    first_heartbeat_at: float | None = None
    slots: int = 1
    busy: int = 0
    reserved: int = 0
    queues: tuple[str, ...] = ()
    longest_running_s: float = 0.0
    stopping: bool = False
    drain_state: str = ""
    drain_id: str = ""
    drain_expires_in_s: float = 0.0
    revision: str = ""
    running: bool = False
    nodes: tuple[str, ...] = ()
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSample:
    """The workload a pool scales. error: why it could not be read ("" when it could).

    replicas          spec.replicas now. resource_version guards the write.
    rollout           a rolling update is under way: no scale-in.
    grace_s           terminationGracePeriodSeconds of its pods.
    foreign_manager   another autoscaler (HPA, ScaledObject, WorkerPool) that targets it, by kind and name: hands off.
    foreign_unread    why it is not known whether there is one, "" when it is: decide, and write nothing.
    contested_by      field manager that changed replicas since our last write, or "".
    ours              replicas is known to be a number that this operator wrote, or another replica of it.
    kind              Deployment | StatefulSet | ReplicaSet
    first_ordinal     of a StatefulSet's pods: spec.ordinals.start.
    ordered           a StatefulSet whose podManagementPolicy is OrderedReady: its controller does one pod at a time.
    existing          status.replicas: the pods that its controller counts, None when not known.
    settling          its controller has not yet seen the number that was written last.
    selector          of its pods, as text, "" when not known.
    disruption        what a PodDisruptionBudget of its pods gets in the way of, "" when of nothing.
    """

    replicas: int = 0
    ready_replicas: int = 0
    kind: str = "Deployment"
    name: str = ""
    resource_version: str = ""
    rollout: bool = False
    grace_s: float = 30.0
    foreign_manager: str = ""
    foreign_unread: str = ""
    contested_by: str = ""
    ours: bool = False
    error: str = ""
    first_ordinal: int = 0
    ordered: bool = False
    existing: int | None = None
    settling: bool = False
    disruption: str = ""
    selector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Everything a decision may rest on, of one pool, at one moment.

    broker_ok      this tick's probe of the broker worked; broker_error says why not (redacted, never a password).
    sampled_at     when the queues were last read: with a broker that is down it lies in the past.
    listened_s     for how long heartbeats have been heard without a break: who has just begun has not yet heard every worker.
    share          queue -> this pool's part of its demand, in (0, 1], where other pools consume it too; what is not named is all its own.
    queue_errors   queue -> why it alone could not be read, though the broker answers.
    rates_error    why its rate limits could not be told to broker or workers at the last tick, "" when they could.
    unheeded       (reason, sentence) why workers that demand signed commands do not heed the operator's, ("", "") when they do.
    rates_differ   on which tasks other pools ask for another rate, "" when on none.
    skew_s         seconds by which the machine's clock, which schedules and people go by, is ahead of all times here.
    missing        (reason, sentence) of each signal that is not there and makes the decision coarser.
    """

    broker_ok: bool = True
    broker_error: str = ""
    sampled_at: float = 0.0
    queues: tuple[QueueSample, ...] = ()
    limited: tuple[LimitedClass, ...] = ()
    pods: tuple[PodSample, ...] = ()
    target: TargetSample = field(default_factory=TargetSample)
    listened_s: float = 1e9
    share: Mapping[str, float] = field(default_factory=dict)
    queue_errors: Mapping[str, str] = field(default_factory=dict)
    rates_error: str = ""
    rates_differ: str = ""
    unheeded: tuple[str, str] = ("", "")
    skew_s: float = 0.0
    missing: tuple[tuple[str, str], ...] = ()
