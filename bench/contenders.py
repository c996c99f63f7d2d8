"""Who is measured and how each is set: one row for every library, pool and broker that are compared.

The settings are the best of a short search for each library (two runs each); log level error everywhere. Each says in its row what
it claims ahead and when it acknowledges, because that is what decides a drain.
"""

# ruff: noqa: RUF001 - ratios are written with the sign for times

import sys
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from compat_env import environment_python

APPS = Path(__file__).with_name("apps")

#: What most rows are measured in; enqueue and bulk once for each library, the rest by a few rows of their own.
_WORKER = frozenset({"drain", "results", "latency", "idle"})
_CLIENT = frozenset({"enqueue", "bulk"})

#: Less to do beside the tasks; all of them leave what a task does as it is.
_CELERY = ("-Ofair", "--without-gossip", "--without-mingle", "--without-heartbeat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One row: a library in one configuration on one broker.

    environment   its `.venv-<name>`; empty: ours.
    worker        what its Python is told in order to be a worker.
    processes     worker processes that run tasks: rows with 1 are compared as single processes.
    tasks         how many a drain has: some two seconds' worth.
    messages      whose messages fill the queue; empty: its own client's.
    beside        the row of Celery that its ratios are taken to.
    """

    name: str
    library: str
    broker: str
    app: str
    worker: tuple[str, ...]
    pool: str
    claim: str
    tasks: int
    measures: frozenset[str]
    environment: str = ""
    profile: str = "-"
    processes: int = 1
    messages: str = ""
    beside: str = "celery solo"
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Raises CannotMake."""
        return environment_python(self.environment) if self.environment else Path(sys.executable)


def contenders() -> tuple[Contender, ...]:
    """All rows, those that are compared most closely next to each other."""
    return (*_redis(), *_amqp(), *_naps(), *_limited(), *_eta(), *_soak())


def _redis() -> tuple[Contender, ...]:
    return (
        _raw("redis", 40_000, "RPOP 100, acknowledged at once"),
        _celery("redis", "solo", 1, tasks=6_000, also=_CLIENT),
        _ours("redis", "solo", 1, tasks=30_000, also=_CLIENT),
        _ours("redis", "solo", 1, tasks=30_000, profile="kubernetes"),
        _celery("redis", "threads", 8, tasks=6_000),
        _ours("redis", "threads", 8, tasks=20_000),
        _celery("redis", "prefork", 2, tasks=6_000),
        _ours("redis", "prefork", 2, tasks=30_000),
        _dramatiq("redis", 1, 1, tasks=10_000, also=_CLIENT),
        _dramatiq("redis", 1, 8, tasks=10_000),
        _dramatiq("redis", 2, 8, tasks=15_000),
        Contender(
            name="huey -w1", library="huey", broker="redis", app="huey_app", environment="bench-peers",
            worker=("-m", "huey.bin.huey_consumer", "huey_app.huey", "-w", "1", "-k", "thread", "-n", "-q"),
            pool="thread", claim="BRPOP 1, acknowledged at once", tasks=8_000, measures=_WORKER | {"enqueue"},
        ),
        _rq("rq simple", "rq.SimpleWorker", pool="in the worker", tasks=1_000, also=_CLIENT),
        _rq("rq forking", "rq.Worker", pool="a fork a task", tasks=100, leaves_out={"latency"}),
        _arq(also={"enqueue"}),
        _taskiq("list", also={"enqueue"}),
        _taskiq("stream"),
        _saq(also={"enqueue"}),
    )  # fmt: skip


def _amqp() -> tuple[Contender, ...]:
    return (
        _raw("amqp", 20_000, "prefetch 100, ack 50 at once"),
        _celery("amqp", "solo", 1, tasks=8_000, also=_CLIENT, prefetch=64),
        _ours("amqp", "solo", 1, tasks=20_000, also=_CLIENT),
        _celery("amqp", "threads", 8, tasks=8_000, prefetch=64),
        _ours("amqp", "threads", 8, tasks=12_000),
        _celery("amqp", "prefork", 2, tasks=6_000, prefetch=64),
        _ours("amqp", "prefork", 2, tasks=20_000),
        _dramatiq("amqp", 1, 8, tasks=10_000, also=_CLIENT),
        _dramatiq("amqp", 2, 8, tasks=15_000),
        _taskiq("amqp", tasks=4_000, also={"enqueue"}),
    )


def _naps() -> tuple[Contender, ...]:
    """1,000 tasks that sleep for a second, all at once."""
    only = {"naps"}
    return (
        _celery("redis", "threads", 1000, tasks=1_000, only=only),
        _ours("redis", "threads", 1000, tasks=1_000, only=only),
        _ours("redis", "asyncio", 1000, tasks=1_000, only=only, env={"BENCH_ASYNC": "1"}),
        _arq(slots=1000, only=only),
        _taskiq("list", slots=1000, only=only),
        _saq(slots=1000, only=only),
    )


def _limited() -> tuple[Contender, ...]:
    return (
        _celery("redis", "solo", 1, tasks=40_000, only={"limited"}),
        _ours("redis", "solo", 1, tasks=40_000, only={"limited"}),
        _ours("redis", "solo", 1, tasks=40_000, only={"limited"}, profile="kubernetes"),
    )


def _eta() -> tuple[Contender, ...]:
    return (
        _celery("redis", "solo", 1, tasks=100_000, only={"eta"}),
        _ours("redis", "solo", 1, tasks=100_000, only={"eta"}),
        _ours("redis", "solo", 1, tasks=100_000, only={"eta"}, profile="kubernetes", messages=""),
    )


def _soak() -> tuple[Contender, ...]:
    return (_ours("redis", "prefork", 2, tasks=1_000_000, only={"soak"}),)


def _raw(broker: str, tasks: int, claim: str) -> Contender:
    return Contender(
        name={"redis": "raw redis-py", "amqp": "raw py-amqp"}[broker], library="raw", broker=broker, app="raw_app",
        worker=(str(APPS / "raw_app.py"),), pool="loop", claim=claim, tasks=tasks, messages="celery",
        measures=frozenset({"drain", "latency", "enqueue"} | ({"bulk"} if broker == "redis" else set())),
    )  # fmt: skip


def _celery(
    broker: str, pool: str, slots: int, *, tasks: int, prefetch: int | None = None,
    also: Set[str] = frozenset(), only: Set[str] | None = None,
) -> Contender:  # fmt: skip
    return Contender(
        name=_name("celery", pool, slots), library="celery", broker=broker, app="celery_app", environment="compat",
        worker=("-m", "celery", "-A", "celery_app", "worker", "-P", pool, "-c", str(slots), "-l", "error", *_CELERY),
        pool=_pool(pool, slots), claim=f"prefetch {prefetch or 4} a slot, late ack", tasks=tasks, messages="celery",
        measures=frozenset(only) if only else _WORKER | also, processes=slots if pool == "prefork" else 1,
        env={"BENCH_LIBRARY": "celery", **({"BENCH_PREFETCH": str(prefetch)} if prefetch else {})},
    )  # fmt: skip


def _ours(
    broker: str, pool: str, slots: int, *, tasks: int, profile: str = "celery", messages: str = "celery",
    also: Set[str] = frozenset(), only: Set[str] | None = None, env: Mapping[str, str] | None = None,
) -> Contender:  # fmt: skip
    return Contender(
        name=_name("celeriac", pool, slots) + (" k8s" if profile == "kubernetes" else ""), library="celeriac",
        broker=broker, app="celery_app",
        worker=("-m", "celeriac", "-A", "celery_app", "worker", "-P", pool, "-c", str(slots), "-l", "error"),
        profile=profile, pool=_pool(pool, slots), claim="20 ms ahead, late ack", tasks=tasks, messages=messages,
        measures=frozenset(only) if only else _WORKER | also, processes=slots if pool == "prefork" else 1,
        beside=_name("celery", "threads" if pool == "asyncio" else pool, slots),
        env={"BENCH_LIBRARY": "celeriac", "CELERIAC_PROFILE": profile, **(env or {})},
    )  # fmt: skip


def _dramatiq(broker: str, processes: int, threads: int, *, tasks: int, also: Set[str] = frozenset()) -> Contender:
    # Its default of two messages a thread makes -t1 on Redis drop to a few hundred tasks a second.
    return Contender(
        name=f"dramatiq -p{processes} -t{threads}", library="dramatiq", broker=broker, app="dramatiq_app",
        environment="bench-peers", worker=("-m", "dramatiq", "dramatiq_app", "-p", str(processes), "-t", str(threads)),
        pool=f"{processes} process{'es' * (processes > 1)} × {threads}", claim="prefetch 100, ack after the task",
        tasks=tasks, measures=_WORKER | also, processes=processes, env={"dramatiq_queue_prefetch": "100"},
        beside="celery prefork -c2" if processes > 1 else "celery solo",
    )  # fmt: skip


def _rq(
    name: str, worker: str, *, pool: str, tasks: int, also: Set[str] = frozenset(), leaves_out: Set[str] = frozenset()
) -> Contender:
    # The forking worker is saturated at 50 tasks a second: a latency would be the length of its queue.
    return Contender(
        name=name, library="rq", broker="redis", app="rq_app", environment="bench-peers",
        worker=("-m", "rq.cli", "worker", "-u", "{broker}", "-w", worker, "-q", "bench"),
        pool=pool, claim="1, job kept until done", tasks=tasks, measures=(_WORKER | also) - leaves_out,
    )  # fmt: skip


def _arq(*, slots: int = 400, also: Set[str] = frozenset(), only: Set[str] | None = None) -> Contender:
    return Contender(
        name=f"arq {slots}", library="arq", broker="redis", app="arq_app", environment="bench-arq",
        worker=("-m", "arq", "arq_app.WorkerSettings"), pool=f"asyncio × {slots}", claim="poll 10 ms, job kept until done",
        tasks=1_000 if only else 5_000, measures=frozenset(only) if only else _WORKER | also,
        env={"BENCH_SLOTS": str(slots)}, beside="celery threads -c1000" if only else "celery solo",
    )  # fmt: skip


def _taskiq(
    kind: str, *, tasks: int = 6_000, slots: int = 100, also: Set[str] = frozenset(), only: Set[str] | None = None
) -> Contender:  # fmt: skip
    claims = {
        "list": "BRPOP 1, acknowledged at once",
        "stream": "100, ack after the task",
        "amqp": "100, ack after the task",
    }
    flags = ("--workers", "1", "--max-async-tasks", str(slots), "--max-prefetch", "100", "--log-level", "ERROR")
    return Contender(
        name="taskiq" if kind == "amqp" else f"taskiq {kind}", library="taskiq", environment="bench-peers",
        broker="amqp" if kind == "amqp" else "redis", app="taskiq_app", worker=("-m", "taskiq", "worker", *flags, "taskiq_app:broker"),
        pool=f"asyncio × {slots}", claim=claims[kind], tasks=1_000 if only else tasks,
        measures=frozenset(only) if only else _WORKER | also, env={"BENCH_KIND": kind},
        beside="celery threads -c1000" if only else "celery solo",
    )  # fmt: skip


def _saq(*, slots: int = 50, also: Set[str] = frozenset(), only: Set[str] | None = None) -> Contender:
    return Contender(
        name=f"saq {slots}", library="saq", broker="redis", app="saq_app", environment="bench-saq",
        worker=("-m", "saq", "saq_app.settings", "-q"), pool=f"asyncio × {slots}", claim="1, job kept until done",
        tasks=1_000 if only else 4_000, measures=frozenset(only) if only else _WORKER | also,
        env={"BENCH_SLOTS": str(slots)}, beside="celery threads -c1000" if only else "celery solo",
    )  # fmt: skip


def _name(library: str, pool: str, slots: int) -> str:
    return f"{library} {pool}" + ("" if pool == "solo" else f" -c{slots}")


def _pool(pool: str, slots: int) -> str:
    return pool if pool == "solo" else f"{pool} × {slots}"
