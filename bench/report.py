"""From runs to what a reader sees: medians with ranges, ratios, Markdown tables.

A row is JSON: who it is, each run's figures with the machine's slowness, and the medians. Pure: nothing here measures.
"""

# ruff: noqa: RUF001 - ratios are written with the sign for times

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from contenders import Contender

Row = dict[str, Any]

#: With other processes on more CPUs than that, a run says so above its tables.
BUSY_CPUS = 0.3

BROKERS = {"redis": "Redis", "amqp": "RabbitMQ"}

TITLES = {
    "enqueue": "Enqueue: the plain call (`delay`, `send`, `enqueue`), one by one",
    "bulk": "Enqueue in bulk: the library's way to send many",
    "drain": "Drain a filled queue, no results",
    "results": "Drain with results in Redis",
    "latency": "Latency at 50 tasks a second, idle worker",
    "idle": "An idle worker: start, memory (ours serves metrics), CPU",
    "naps": "1,000 tasks that sleep for 1 s, concurrency 1,000",
    "limited": "An unlimited type beside one of 6 a minute (every 50th message)",
    "eta": "100,000 tasks due in an hour, and 20 due in 2 s",
    "soak": "Soak: 1,000,000 tasks",
}

#: measurement -> figure -> heading, format. The first is the one that ratios and plots are made of.
COLUMNS: dict[str, dict[str, tuple[str, str]]] = {
    "enqueue": {
        "per_s_norm": ("calls/s", ",.0f"),
        "cpu_s_per_10k_norm": ("client CPU-s/10k", ".2f"),
        "broker_cpu_s_per_10k_norm": ("broker CPU-s/10k", ".2f"),
    },
    "drain": {
        "per_s_norm": ("tasks/s", ",.0f"),
        "per_s": ("as seen", ",.0f"),
        "cpu_s_per_10k_norm": ("worker CPU-s/10k", ".2f"),
        "broker_cpu_s_per_10k_norm": ("broker CPU-s/10k", ".2f"),
    },
    "latency": {
        "p50_ms": ("p50 ms", ".2f"),
        "p95_ms": ("p95 ms", ".2f"),
        "p99_ms": ("p99 ms", ".2f"),
        "cpu_s_per_10k_norm": ("worker CPU-s/10k", ".1f"),
        "client_cpu_s_per_10k_norm": ("client CPU-s/10k", ".1f"),
    },
    "idle": {
        "start_s": ("start to first task, s", ".2f"),
        "rss_mb": ("RSS MB", ".0f"),
        "pss_mb": ("PSS MB", ".0f"),
        "idle_cpu_percent": ("CPU when idle, %", ".1f"),
    },
    "naps": {
        "wall_s": ("first start to last end, s", ".2f"),
        "processes": ("processes", ".0f"),
        "rss_mb": ("RSS MB", ".0f"),
    },
    "limited": {
        "alone_per_s_norm": ("alone, tasks/s", ",.0f"),
        "per_s_norm": ("beside, tasks/s", ",.0f"),
        "ratio": ("beside / alone", ".2f"),
        "alone_cpu_s_per_10k_norm": ("alone, CPU-s/10k", ".2f"),
        "cpu_s_per_10k_norm": ("beside, CPU-s/10k", ".2f"),
    },
    "eta": {
        "held": ("held by the worker", ",.0f"),
        "taken_s": ("s to take them", ".1f"),
        "rss_growth_mb": ("RSS growth MB", ".1f"),
        "late_p50_s": ("late p50 s", ".2f"),
        "late_max_s": ("late max s", ".2f"),
    },
    "soak": {
        "slope_mb_per_100k": ("RSS slope, MB/100k", ".2f"),
        "rss_mb": ("RSS at the end, MB", ".0f"),
        "per_s": ("tasks/s", ",.0f"),
    },
}
COLUMNS["bulk"] = COLUMNS["enqueue"]
COLUMNS["results"] = COLUMNS["drain"]

#: Figure by which a row is compared with Celery's row of the same kind.
COMPARED = {
    "enqueue": "cpu_s_per_10k_norm",
    "bulk": "cpu_s_per_10k_norm",
    "drain": "per_s_norm",
    "results": "per_s_norm",
    "latency": "p50_ms",
    "idle": "rss_mb",
    "naps": "wall_s",
}


def row_of(what: str, contender: Contender, runs: Sequence[Mapping[str, Any]], failed: str | None) -> Row:
    """The row of one contender in one measurement. runs: figures, slowness, others_cpus of each."""
    return {
        "what": what,
        "broker": contender.broker,
        "name": contender.name,
        "library": contender.library,
        "profile": contender.profile,
        "pool": contender.pool,
        "claim": contender.claim,
        "processes": contender.processes,
        "beside": contender.beside,
        "failed": failed,
        "runs": list(runs),
        "figures": _medians([_normed(run["figures"], run["slowness"]) for run in runs]),
        "slowness": statistics.median(run["slowness"] for run in runs) if runs else None,
        "others_cpus": statistics.median(run["others_cpus"] for run in runs) if runs else None,
    }


def _normed(figures: Mapping[str, float], slowness: float) -> dict[str, float]:
    """With what an undisturbed machine would have shown: rates times its slowness, CPU seconds over it."""
    found = dict(figures)
    for name, value in figures.items():
        if name.endswith("per_s"):
            found[f"{name}_norm"] = value * slowness
        elif name.endswith("cpu_s_per_10k"):
            found[f"{name}_norm"] = value / slowness
    return found


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            "median": statistics.median(run[name] for run in runs),
            "lowest": min(run[name] for run in runs),
            "highest": max(run[name] for run in runs),
        }
        for name in (runs[0] if runs else ())
    }


def figure(rows: Sequence[Row], what: str, broker: str, name: str, key: str) -> float | None:
    """The median, or None when that row was not measured or failed."""
    for row in rows:
        if (row["what"], row["broker"], row["name"]) == (what, broker, name) and key in row["figures"]:
            value: float = row["figures"][key]["median"]
            return value
    return None


def tables(rows: Sequence[Row]) -> str:
    """A Markdown table for each measurement and broker."""
    parts = []
    for what, title in TITLES.items():
        for broker, broker_name in BROKERS.items():
            some = [row for row in rows if (row["what"], row["broker"]) == (what, broker)]
            if some:
                parts.append(f"### {title}: {broker_name}\n\n{_table(what, some)}")
    return "\n\n".join(parts)


def _table(what: str, rows: Sequence[Row]) -> str:
    columns, compared = COLUMNS[what], COMPARED.get(what)
    head = ["", "profile", "pool", "claim", *(heading for heading, _ in columns.values())]
    if compared:
        head.append(f"× Celery ({columns[compared][0]})")
    head.append("slowness / others / runs")
    lines = [head, ["---"] * 4 + ["---:"] * (len(head) - 4)]
    for row in rows:
        cells = [row["name"], row["profile"], row["pool"], row["claim"]]
        if not row["figures"]:
            lines.append([*cells, f"no figure: {_one_line(row['failed'])}", *[""] * (len(head) - 5)])
            continue
        cells += [
            _cell(row["figures"].get(key), form, first=n == 0) for n, (key, (_, form)) in enumerate(columns.items())
        ]
        if compared:
            theirs = figure(rows, what, row["broker"], row["beside"], compared)
            ours = row["figures"][compared]["median"]
            cells.append(f"{ours / theirs:.2f}" if theirs else "")
        cells.append(f"{row['slowness']:.2f} / {row['others_cpus']:.1f} / {len(row['runs'])}")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cell(seen: Mapping[str, float] | None, form: str, *, first: bool) -> str:
    if seen is None:
        return ""
    text = format(seen["median"], form)
    if first and format(seen["lowest"], form) != format(seen["highest"], form):
        text += f" ({format(seen['lowest'], form)} to {format(seen['highest'], form)})"
    return text


def _one_line(text: str | None) -> str:
    """The end of an error, where the reason stands, fit for a table."""
    words = " ".join((text or "not measured").split()).replace("|", "/")
    return words if len(words) <= 200 else f"{words[:80]} … {words[-115:]}"


def page(report: Mapping[str, Any], goals: str) -> str:
    """All figures as Markdown: what was run where, the table of goals, a table for each measurement."""
    settings = "\n".join(f"| {key} | {value} |" for key, value in report["settings"].items())
    parts = [f"| | |\n|---|---|\n{settings}"]
    others = [row["others_cpus"] for row in report["rows"] if row["others_cpus"] is not None]
    if others and statistics.median(others) > BUSY_CPUS:
        parts.append(
            f"**The machine was busy with other things ({statistics.median(others):.1f} CPUs of it): compare CPU seconds; "
            "rates, latencies and starting times are no more than a hint.**"
        )
    if goals:
        parts.append(f"### Goals\n\n{goals}")
    parts.append(tables(report["rows"]))
    return "\n\n".join(parts)
