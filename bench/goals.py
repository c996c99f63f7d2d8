"""What we want to reach, each as a figure of the same run: a ratio to Celery, to a peer, to the broker's raw limit."""

# ruff: noqa: RUF001 - ratios are written with the sign for times

from collections.abc import Sequence
from dataclasses import dataclass

from report import Row, figure

RATE, CPU = "per_s_norm", "cpu_s_per_10k_norm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure and its bound. seen: None when a row that it needs was not measured; at_most: less is better."""

    title: str
    wanted: float
    seen: float | None
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

    def to_best(what: str, libraries: Sequence[str]) -> float | None:
        """Our solo worker to the fastest single process of these libraries on Redis."""
        rates = [
            row["figures"][RATE]["median"]
            for row in rows
            if (row["what"], row["broker"], row["processes"]) == (what, "redis", 1)
            and row["library"] in libraries
            and row["figures"]
        ]
        return _over(of(what, "celeriac solo", RATE), max(rates, default=None))

    def at_least(title: str, wanted: float, seen: float | None) -> Goal:
        return Goal(title=title, wanted=wanted, seen=seen)

    def at_most(title: str, wanted: float, seen: float | None) -> Goal:
        return Goal(title=title, wanted=wanted, seen=seen, at_most=True)

    p99_to_p50 = _over(of("latency", "celeriac solo", "p99_ms"), of("latency", "celery solo", "p50_ms"))
    return [
        at_least("drain, Redis, solo: × Celery solo", 12, ratio("drain", "solo", "celery solo")),
        at_least("drain, Redis, solo: × the best single process of a peer", 2.5, to_best("drain", PEERS)),
        at_least("drain, Redis, prefork -c2: × Celery", 8, ratio("drain", "prefork -c2", "celery prefork -c2")),
        at_least("drain, Redis, prefork -c2: × dramatiq -p2", 1, ratio("drain", "prefork -c2", "dramatiq -p2 -t8")),
        at_least("drain, Redis, threads -c8: × Celery", 8, ratio("drain", "threads -c8", "celery threads -c8")),
        at_least("results, Redis, solo: × Celery solo", 8, ratio("results", "solo", "celery solo")),
        at_least("results, Redis, solo: × dramatiq's single process", 2, to_best("results", ["dramatiq"])),
        at_least("results, Redis, solo: × huey", 2, to_best("results", ["huey"])),
        at_least("drain, RabbitMQ, solo: × Celery solo", 2, ratio("drain", "solo", "celery solo", broker="amqp")),
        at_least(
            "drain, RabbitMQ, solo: × dramatiq -p1 -t8", 1, ratio("drain", "solo", "dramatiq -p1 -t8", broker="amqp")
        ),
        at_least(
            "drain, RabbitMQ, solo: share of raw py-amqp", 0.65, ratio("drain", "solo", "raw py-amqp", broker="amqp")
        ),
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
        at_least("unlimited beside limited: share of its rate alone", 0.95, of("limited", "celeriac solo", "ratio")),
        at_most("100,000 in an hour: held by the worker", 0, of("eta", "celeriac solo", "held")),
        at_most("100,000 in an hour: RSS growth MB", 2, of("eta", "celeriac solo", "rss_growth_mb")),
        at_most("100,000 in an hour: a due task starts, seconds late", 1, of("eta", "celeriac solo", "late_max_s")),
        at_most("soak, prefork: RSS slope, MB per 100,000", 1, of("soak", "celeriac prefork -c2", "slope_mb_per_100k")),
        at_most("enqueue, Redis: CPU-s per 10,000", 0.6, of("enqueue", "celeriac solo", CPU)),
        at_least("bulk, Redis: messages a second", 30_000, of("bulk", "celeriac solo", RATE)),
    ]


PEERS = ("dramatiq", "huey", "rq", "arq", "taskiq", "saq")


def _over(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def goal_table(rows: Sequence[Row]) -> str:
    """The goals that were measured, as Markdown; empty without any."""
    lines = ["| goal | wanted | seen | |", "|---|---:|---:|---|"]
    for goal in goals(rows):
        if goal.seen is None:
            continue
        wanted = f"at {'most' if goal.at_most else 'least'} {goal.wanted:,g}"
        seen = f"{goal.seen:,.2f}" if abs(goal.seen) < 1000 else f"{goal.seen:,.0f}"
        lines.append(f"| {goal.title} | {wanted} | {seen} | {'met' if goal.met else '**missed**'} |")
    return "\n".join(lines) if len(lines) > 2 else ""
