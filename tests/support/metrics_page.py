"""The tables of docs/metrics.md, made from what the code serves: run this file to write them; a house test compares.

The text around them is written by hand, in the page itself. What the code cannot tell stands here: when a metric is absent, and
what a label grows with. Both are held against pages of which one has everything and the other next to nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families
from scraped import page_of

from celeriac.beat import metrics as beat
from celeriac.beat.service import Counts
from celeriac.contrib import outbox_probes as outbox
from celeriac.telemetry import metrics as worker
from celeriac.telemetry.totals import Observation, Totals
from celeriac.wire.event import WAIT_BUCKETS_S, Heartbeat, QueueTotals, TaskTotals
from celeriac_operator import celery_exporter
from celeriac_operator.metrics import WRONG_IF_FALSE, WRONG_IF_TRUE, BrokerReading, OperatorMetrics, PoolReading
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"

#: Who serves a /metrics, as the page's tables are named.
SERVERS = ("worker", "beat", "outbox", "operator", "celery-exporter")

#: Metric -> when it has no series, of what its server serves otherwise.
ABSENT: Mapping[str, Mapping[str, str]] = {
    "worker": {
        "celeriac_task_retries_total": "before the first retry",
        "celeriac_ratelimit_limit_per_second": "without a rate limit",
        "celeriac_ratelimit_throttled_total": "before a message had to wait for that limit",
    },
    "beat": {},
    "outbox": {
        "celeriac_outbox_waiting": "before the rows were counted",
        "celeriac_outbox_oldest_seconds": "before the rows were counted",
    },
    "operator": {
        "celeriac_operator_reconcile_errors_total": "before the first error of that class",
        "celeriac_operator_signing_certificate_expiry_timestamp_seconds": "without a signing key",
        "celeriac_operator_watch_last_event_timestamp_seconds": "before the cluster was read; in local mode",
        "celeriac_operator_watch_missed_changes_total": "before the cluster was read; in local mode",
        "celeriac_pool_predicted_drain_seconds": "where it cannot be done, or the queues are not read",
        "celeriac_pool_scale_actions_total": "before the first write",
        "celeriac_queue_consumers": "where neither workers nor the broker tell",
        "celeriac_fleet_ratelimit_limit_per_second": "without a rate limit",
        "celeriac_fleet_ratelimit_throttled_messages": "without a rate limit",
        "celeriac_fleet_tasks_total": "before a worker of the broker was heard",
        "celeriac_fleet_task_wait_seconds": "before a worker of the broker was heard",
        "celeriac_fleet_busy_slot_seconds_total": "before a worker of the broker was heard",
        "celeriac_fleet_ratelimit_throttled_total": "before a message had to wait for that limit",
    },
    "celery-exporter": {
        **dict.fromkeys(
            (
                *(f"celery_task_{state}_total" for state in ("started", "succeeded", "retried", "failed")),
                *(f"celery_task_{state}_total" for state in ("received", "rejected", "revoked")),
                *("celery_worker_up", "celery_worker_tasks_active"),
            ),
            "before a worker was heard",
        ),
        "celery_task_runtime": "before a worker was heard; of stock Celery workers",
        "celery_active_consumer_count": "where neither workers nor the broker tell",
        "celery_task_queue_wait_time": "before a message was started; where a worker tells no buckets, as stock Celery's",
    },
}

#: Label -> what it names, and how many values it has.
LABELS: Mapping[str, tuple[str, str]] = {
    "namespace": ("of the WorkerPool; empty for workers of no pool", "namespaces"),
    "pool": ("the WorkerPool's name; empty for workers of no pool", "pools"),
    "queue": ("the queue's name", "queues: a worker's own, a pool's `spec.queues`"),
    "task": (
        "the task's registered name, `other` beyond the cap; empty where it is not known which",
        "task types, at most `worker_max_task_names` (200) a worker",
    ),
    "limit": ("the task whose rate is limited", "tasks with a rate limit"),
    "broker": ("host, port and database, never a password", "brokers"),
    "reason": ("why: an exception's class, a guard, a condition's reason", "20 exception classes a task, else fixed"),
    "condition": ("the condition's type", f"{len(WRONG_IF_TRUE | WRONG_IF_FALSE) + 1}, of which a healthy pool shows one"),
    "error": ("the class of an error in the operator", "a handful"),
    "name": ("the task's registered name; empty of messages, and of stock Celery workers' runs", "task types"),
    "queue_name": ("the queue's name", "a pool's `spec.queues`"),
    "hostname": ("the worker's host, in Kubernetes its pod; `generic` of what tasks did", "pods of the last ten minutes"),
    "exception": ("empty: heartbeats do not tell", "one"),
    "component": ("what it is: `operator`", "one"),
    "version": ("the release", "one"),
    **{
        label: (what, "fixed: see below")
        for label, what in {
            "kind": "which messages or replicas are counted",
            "term": "the term of the demand",
            "state": "how a run or a message ended",
            "outcome": "how a drain ended",
            "direction": "up or down",
            "objective": "the objective's type",
            "result": "what became of a mail",
        }.items()
    },
}  # fmt: skip

#: The order in which labels are written; others follow.
_ORDER = ("namespace", "pool", "queue", "task", "limit", "broker", "kind", "term")
#: Labels whose values are few, and listed; reasons only where they are a fixed set.
_LISTED = ("kind", "term", "state", "outcome", "direction", "result")
_LISTED_REASONS = ("celeriac_pool_limited_by", "celeriac_commands_refused_total")
_SUFFIX = {"counter": "_total", "info": "_info"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A metric as PromQL names it (a histogram or summary without its suffixes). values: of each label, as they were found."""

    name: str
    kind: str
    says: str
    values: Mapping[str, tuple[str, ...]]
    series: int

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted(self.values, key=lambda label: (label not in _ORDER, *_at(label), label)))

    def series_names(self) -> set[str]:
        """The names that its samples have."""
        if self.kind in ("histogram", "summary"):
            suffixes = ("_bucket", "_count", "_sum") if self.kind == "histogram" else ("_count", "_sum")
            return {f"{self.name}{suffix}" for suffix in suffixes}
        return {self.name}


def _at(label: str) -> tuple[int, ...]:
    return (_ORDER.index(label),) if label in _ORDER else ()


def served(text: str) -> dict[str, Served]:
    """Name -> metric, of a /metrics page. A metric that has no series there has no labels either."""
    found = {}
    for family in text_string_to_metric_families(text):
        samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        labels = {label for sample in samples for label in sample.labels} - {"le"}
        name = family.name + _SUFFIX.get(family.type, "")
        if family.type == "gauge" and name.endswith("_info"):  # what the text format makes of an info
            name, kind = family.name, "info"
        else:
            kind = family.type
        found[name] = Served(
            name=name,
            kind=kind,
            says=family.documentation,
            values={
                label: tuple(dict.fromkeys(sample.labels[label] for sample in samples if label in sample.labels))
                for label in labels
            },
            series=len(samples),
        )
    return found


# ── what each server serves: all of it, and the least ──


def worker_text(*, least: bool = False, queues: int = 1, tasks: int = 1) -> str:
    """A worker's page; tasks: for each queue."""
    totals = Totals()
    names = [f"task{number}" for number in range(tasks)]
    totals.known([f"queue{number}" for number in range(queues)], names)
    if not least:
        totals.throttled("queue0", "task0")
        totals.settled([Observation("queue0", "task0", "retried", 0.1, 0.1, reason="ConnectionError")])
    state = worker.WorkerState(
        running=list,
        gauges=lambda: {name: 0.0 for name in worker.NAMES if name.startswith("celeriac_worker_")},
        limits=lambda: {} if least else {"task0": 1.0},
    )
    return page_of(worker.families(totals, state, "1.0.0"))


def beat_text(*, least: bool = False) -> str:
    """Beat's page."""
    service = SimpleNamespace(counts=Counts(), entries={}, late_s=0.0, healthy=True)
    return page_of(beat.families(service, "1.0.0"))  # type: ignore[arg-type]


def outbox_text(*, least: bool = False) -> str:
    """The page of a relay of the outbox."""
    relay = SimpleNamespace(published=0, refused=0, healthy=True, waiting=None if least else (1, 1.0))
    return page_of(outbox.families(relay))  # type: ignore[arg-type]


def operator_text(*, least: bool = False, leads: bool = True, pools: int = 1, queues: int = 1, tasks: int = 1) -> str:
    """The operator's page: pools of one broker, each with so many queues, and so many types of task on each of them."""
    metrics = OperatorMetrics(version="1.0.0")
    metrics.leads(leads)
    samples = {
        (pool, queue): QueueSample(name=f"queue{pool}-{queue}", consumers=None if least else 1)
        for pool in range(pools)
        for queue in range(queues)
    }
    keys = [("shop", f"pool{number}") for number in range(pools)]
    fleet = BrokerReading(samples={sample.name: sample for sample in samples.values()})
    if not least:
        owned = {(keys[pool], sample.name): QueueTotals() for (pool, _), sample in samples.items()}
        names = [f"task{number}" for number in range(tasks)]
        by_task = {
            (*at, name): TaskTotals(queue=at[1], throttled=int(name == "task0")) for at in owned for name in names
        }
        fleet = BrokerReading(samples=fleet.samples, queues=owned, tasks=by_task)
        metrics.error("bug")
        metrics.signs_until(0.0)
        metrics.index_known(0.0, missed=0)
    metrics.broker_serves("redis:6379/0", lambda: fleet)
    for pool, key in enumerate(keys):
        own = tuple(sample for (of, _), sample in samples.items() if of == pool)
        limited = tuple(LimitedClass(task="task0", queue=queue.name, rate_per_s=1.0) for queue in own)
        decision = Decision(
            desired=1, unclamped=1, replicas=None, summary="", predicted_drain_s=None if least else 0.0,
            terms={} if least else dict.fromkeys(("steady", "headroom", "backlog", "eta", "floor", "ordered", "cap"), 0.0),
            conditions={"Ready": (True, "Decided", ""), **({} if least else {"AtLimit": (True, "MaxReplicas", "")})},
        )  # fmt: skip
        signals = Signals(
            queues=own,
            limited=() if least else limited,
            pods=(PodSample(name="a", heartbeat_age_s=1.0),),
            target=TargetSample(replicas=1, ready_replicas=1),
        )
        metrics.pool_decided(
            key,
            PoolReading(
                broker="redis:6379/0", signals=signals, decision=decision, min_replicas=0, max_replicas=1,
                objective="DrainTime", objective_s=60.0, at=0.0, queue_objectives={queue.name: ("DrainTime", 60.0) for queue in own},
            ),
        )  # fmt: skip
        if not least:
            for direction in ("up", "down"):
                metrics.pool_scaled(key, direction=direction, reason="none")
    return page_of(metrics.families())


def exporter_text(*, least: bool = False, tasks: int = 1) -> str:
    """What the operator adds to its page with --celery-exporter-names."""
    key, queue = ("shop", "pool"), QueueSample(name="queue")
    reading = PoolReading(
        broker="redis:6379/0", signals=Signals(queues=(queue,)), decision=Decision(desired=1, unclamped=1, replicas=None, summary=""),
        min_replicas=0, max_replicas=1, objective="DrainTime", objective_s=60.0, at=0.0,
    )  # fmt: skip
    fleet = BrokerReading(samples={"queue": queue})
    if not least:
        waited = replace(queue, consumers=1, waits=1, wait_counts=(1, *[0] * len(WAIT_BUCKETS_S)))
        heard = SimpleNamespace(beat=Heartbeat(hostname="w@pod", timestamp=0.0), heard_at=0.0, gone=False, owner=key)
        fleet = BrokerReading(
            samples={"queue": waited},
            queues={(key, "queue"): QueueTotals()},
            tasks={(key, "queue", f"task{number}"): TaskTotals(queue="queue") for number in range(tasks)},
            workers=[heard],  # type: ignore[list-item]
        )
    return page_of(celery_exporter.families({key: reading}, {"redis:6379/0": fleet}))


TEXTS: Mapping[str, Callable[..., str]] = {
    "worker": worker_text,
    "beat": beat_text,
    "outbox": outbox_text,
    "operator": operator_text,
    "celery-exporter": exporter_text,
}


def everything(server: str) -> dict[str, Served]:
    """What this server can serve."""
    return served(TEXTS[server]())


def least(server: str) -> dict[str, Served]:
    """What has series where next to nothing has happened."""
    return {name: metric for name, metric in served(TEXTS[server](least=True)).items() if metric.series}


# ── the page ──


def _table(server: str, *, leader: bool | None = None) -> Iterator[str]:
    """leader: of the operator, what only the replica that leads tells, or what each of them does."""
    each = served(operator_text(leads=False))
    yield "| metric | type | labels | what it tells | absent |\n|---|---|---|---|---|\n"
    for metric in everything(server).values():
        if leader is None or leader is (metric.name not in each):
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            row = f"| `{metric.name}` | {metric.kind} | {labels} | {metric.says} | {ABSENT[server].get(metric.name, '')} |\n"
            yield row.replace("|  |", "| |").replace("|  |", "| |")


def _labels() -> Iterator[str]:
    yield "| label | names | how many values |\n|---|---|---|\n"
    found = {label for server in SERVERS for metric in everything(server).values() for label in metric.labels}
    for label in LABELS:
        if label in found:
            what, grows = LABELS[label]
            yield f"| `{label}` | {what} | {grows} |\n"


def _values() -> Iterator[str]:
    yield "| metric | label | values |\n|---|---|---|\n"
    for server in SERVERS:
        for metric in everything(server).values():
            for label in metric.labels:
                listed = label in _LISTED or (label == "reason" and metric.name in _LISTED_REASONS)
                if listed and (server, metric.name) != ("operator", "celeriac_pool_scale_actions_total"):
                    values = ", ".join(f"`{value}`" for value in metric.values[label])
                    yield f"| `{metric.name}` | `{label}` | {values} |\n"


def _counts() -> Iterator[str]:
    """How many series there are, and what makes more of them."""

    def series(text: str) -> int:
        return sum(metric.series for metric in served(text).values())

    one = series(worker_text(least=True))
    yield "| | series |\n|---|---|\n"
    yield f"| a worker with one queue and one type of task | {one} |\n"
    yield f"| for each further queue (with one type of task) | {series(worker_text(least=True, queues=2)) - one} |\n"
    yield f"| for each further type of task, on each of its queues | {series(worker_text(least=True, tasks=2)) - one} |\n"
    one = series(operator_text(least=True))
    alone = series(operator_text(least=True, pools=0))
    yield f"| the operator that leads, with one broker | {alone} |\n"
    yield f"| for each pool with one queue | {one - alone} |\n"
    yield f"| for each further queue of a pool | {series(operator_text(least=True, queues=2)) - one} |\n"
    full = series(operator_text(tasks=1))
    yield f"| for each type of task on a queue that workers have run | {series(operator_text(tasks=2)) - full} |\n"
    names = series(exporter_text())
    yield f"| celery-exporter's names, for a pool with one queue, one worker and one type of task | {names} |\n"
    yield f"| for each further type of task | {series(exporter_text(tasks=2)) - names} |\n"


BLOCKS: Mapping[str, Callable[[], Iterator[str]]] = {
    "worker": lambda: _table("worker"),
    "operator": lambda: _table("operator", leader=False),
    "leader": lambda: _table("operator", leader=True),
    "beat": lambda: _table("beat"),
    "outbox": lambda: _table("outbox"),
    "celery-exporter": lambda: _table("celery-exporter"),
    "labels": _labels,
    "values": _values,
    "series": _counts,
}


def page(text: str) -> str:
    """The page with its tables as they have to be. Raises ValueError for one that has no place."""
    for name, rows in BLOCKS.items():
        begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        if text.count(begin) != 1:
            raise ValueError(f"{PAGE.name} has to have the line {begin!r} once")
        before, _, rest = text.partition(begin)
        text = "".join((before, begin, *rows(), end, rest.partition(end)[2]))
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
