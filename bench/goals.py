"""What we want to reach, each as a figure of the same run: a ratio to Celery, to a peer, to the broker's raw limit."""

# ruff: noqa: RUF001 - ratios are written with the sign for times

from collections.abc import Sequence
from dataclasses import dataclass

from report import Row, figure

RATE, CPU = "per_s_norm", "cpu_s_per_10k_norm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure and its bound.

    seen     None when a row that it needs was not measured.
    by_cpu   the same ratio out of the workers' CPU seconds, where there is one: it hardly feels what else runs on the machine.
    at_most  less is better.
    """

    title: str
    wanted: float
    seen: float | None
    by_cpu: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        if self.seen is None:
            return None
        return self.seen <= self.wanted if self.at_most else self.seen >= self.wanted


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Each goal with what these rows show."""

    def of(what: str, name: str, key: str, broker: str = "redis") -> float | None:
        return figure(rows, what, broker, name, key)

    def ratio(what: str, ours: str, theirs: str, key: str = RATE, *, broker: str = "redis") -> float | None:
        return _over(of(what, f"celeriac {ours}", key, broker), of(what, theirs, key, broker))

    def faster(what: str, ours: str, theirs: str, wanted: float, title: str, *, broker: str = "redis") -> Goal:
        """Our rate over theirs, and their CPU seconds over ours."""
        seen = ratio(what, ours, theirs, broker=broker)
        cpu = ratio(what, ours, theirs, CPU, broker=broker)
        return Goal(title=title, wanted=wanted, seen=seen, by_cpu=1 / cpu if cpu else None)

    def faster_than_best(what: str, libraries: Sequence[str], wanted: float, title: str) -> Goal:
        """Our solo worker to the best single process of these libraries on Redis."""
        peers = [
            row["figures"]
            for row in rows
            if (row["what"], row["broker"], row["processes"]) == (what, "redis", 1)
            and row["library"] in libraries
            and row["figures"]
        ]
        rate = max((figures[RATE]["median"] for figures in peers), default=None)
        cpu = min((figures[CPU]["median"] for figures in peers if CPU in figures), default=None)
        ours = of(what, "celeriac solo", RATE), of(what, "celeriac solo", CPU)
        return Goal(title=title, wanted=wanted, seen=_over(ours[0], rate), by_cpu=_over(cpu, ours[1]))

    def at_least(title: str, wanted: float, seen: float | None) -> Goal:
        return Goal(title=title, wanted=wanted, seen=seen)

    def at_most(title: str, wanted: float, seen: float | None) -> Goal:
        return Goal(title=title, wanted=wanted, seen=seen, at_most=True)

    p99_to_p50 = _over(of("latency", "celeriac solo", "p99_ms"), of("latency", "celery solo", "p50_ms"))
    return [
        faster("drain", "solo", "celery solo", 12, "drain, Redis, solo: × Celery solo"),
        faster_than_best("drain", PEERS, 2.5, "drain, Redis, solo: × the best single process of a peer"),
        faster("drain", "prefork -c2", "celery prefork -c2", 8, "drain, Redis, prefork -c2: × Celery"),
        faster("drain", "prefork -c2", "dramatiq -p2 -t8", 1, "drain, Redis, prefork -c2: × dramatiq -p2 -t8"),
        faster("drain", "threads -c8", "celery threads -c8", 8, "drain, Redis, threads -c8: × Celery"),
        faster("results", "solo", "celery solo", 8, "results, Redis, solo: × Celery solo"),
        faster_than_best("results", ["dramatiq"], 2, "results, Redis, solo: × the best single process of dramatiq"),
        faster("results", "solo", "huey -w1", 2, "results, Redis, solo: × huey"),
        faster("drain", "solo", "celery solo", 2, "drain, RabbitMQ, solo: × Celery solo", broker="amqp"),
        faster("drain", "solo", "dramatiq -p1 -t8", 1, "drain, RabbitMQ, solo: × dramatiq -p1 -t8", broker="amqp"),
        faster("drain", "solo", "raw py-amqp", 0.65, "drain, RabbitMQ, solo: share of raw py-amqp", broker="amqp"),
        at_most("1,000 sleeps of 1 s, asyncio: seconds", 2, of("naps", "celeriac asyncio -c1000", "wall_s")),
        at_most(
            "latency, Redis, p50: × the bare LPUSH-to-BRPOP client",
            2.2,
            ratio("latency", "solo", "raw redis-py", "p50_ms"),
        ),
        at_most("latency, Redis, p99: × Celery's p50", 1.5, p99_to_p50),
        at_most("idle, solo with metrics: RSS MB", 45, of("idle", "celeriac solo", "rss_mb")),
        at_most("start to first task: × Celery's", 0.9, ratio("idle", "solo", "celery solo", "start_s")),
        at_most("CPU at 50/s: × Celery's", 0.55, ratio("latency", "solo", "celery solo", CPU)),
        Goal(
            title="unlimited beside limited: share of its rate alone",
            wanted=0.95,
            seen=of("limited", "celeriac solo", "ratio"),
            by_cpu=_over(
                of("limited", "celeriac solo", "alone_cpu_s_per_10k"), of("limited", "celeriac solo", "cpu_s_per_10k")
            ),
        ),
        at_most("100,000 in an hour: held by the worker", 0, of("eta", "celeriac solo", "held")),
        at_most("100,000 in an hour: RSS growth MB", 2, of("eta", "celeriac solo", "rss_growth_mb")),
        at_most("100,000 in an hour: a due task starts, seconds late", 1, of("eta", "celeriac solo", "late_max_s")),
        at_most("soak, prefork: RSS slope, MB per 100,000", 1, of("soak", "celeriac prefork -c2", "slope_mb_per_100k")),
        at_most("enqueue, Redis: CPU-s per 10,000", 0.6, of("enqueue", "celeriac solo", CPU)),
        at_least("bulk, Redis: messages a second", 30_000, of("bulk", "celeriac solo", RATE)),
        faster("bulk", "solo", "celery solo", 3, "bulk, RabbitMQ: × Celery", broker="amqp"),
    ]


PEERS = ("dramatiq", "huey", "rq", "arq", "taskiq", "saq")


def _over(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def goal_table(rows: Sequence[Row]) -> str:
    """The goals that were measured, as Markdown; empty without any."""
    lines = ["| goal | wanted | seen | | by CPU seconds |", "|---|---:|---:|---|---:|"]
    for goal in goals(rows):
        if goal.seen is None:
            continue
        wanted = f"at {'most' if goal.at_most else 'least'} {goal.wanted:,g}"
        seen = f"{goal.seen:,.2f}" if abs(goal.seen) < 1000 else f"{goal.seen:,.0f}"
        by_cpu = "" if goal.by_cpu is None else f"{goal.by_cpu:.2f}"
        lines.append(f"| {goal.title} | {wanted} | {seen} | {'met' if goal.met else '**missed**'} | {by_cpu} |")
    return "\n".join(lines) if len(lines) > 2 else ""
