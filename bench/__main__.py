"""`python -m bench`: our speed beside Celery's, measured in the same run on a private Redis. A few minutes.

Runs alternate (Celery, ours, Celery, ours …) and the table shows medians with their ranges. "norm" takes the noise of a
shared machine out: see probe.py. The last lines name versions and settings; the whole goes as JSON to build/bench.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

from compat_env import CannotMake, celery_python  # noqa: E402
from measure import CELERY_FLAGS, LIBRARIES, Bench, Failed, Run, percentile  # noqa: E402
from probe import Probe  # noqa: E402
from servers import Missing, RedisServer, ValkeyServer  # noqa: E402

Measurement = Callable[[str], Run]


def scenarios(bench: Bench, scale: float) -> dict[str, tuple[str, int, Measurement]]:
    """What is measured: a title, how many runs, and the measurement of one library."""

    def n(count: int) -> int:
        return max(100, int(count * scale))

    return {
        "drain": (
            f"drain {n(20_000):,}, solo, late ack",
            3,
            lambda library: bench.drain(library, pool="solo", concurrency=1, count=n(20_000)),
        ),
        "threads": (
            f"drain {n(8_000):,}, threads -c8, late ack",
            3,
            lambda library: bench.drain(library, pool="threads", concurrency=8, count=n(8_000)),
        ),
        "results": (
            f"drain {n(8_000):,}, solo, late ack, results",
            3,
            lambda library: bench.drain(library, pool="solo", concurrency=1, count=n(8_000), results=True),
        ),
        "enqueue": (
            f"enqueue {n(5_000):,}, delay() one by one",
            3,
            lambda library: bench.enqueue(library, count=n(5_000)),
        ),
        "latency": ("latency at 50/s, solo", 1, lambda library: bench.latency(library, count=200)),
        "import": ("import", 7, bench.import_time),
        "idle": ("idle worker, solo", 1, bench.idle),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "only", nargs="*", help="scenarios: drain threads results enqueue latency import idle (default: all)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the counts of tasks, 0.1 for a quick look")
    parser.add_argument("--runs", type=int, help="runs of each scenario instead of 3 (import: 7)")
    parser.add_argument("--profile", default="celery", choices=["celery", "kubernetes"], help="ours; default: celery")
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="celery,celeriac")
    parser.add_argument("--at-least", type=float, help="exit 1 unless the drain's normed ratio reaches this")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json")
    options = parser.parse_args()
    libraries = options.libraries.split(",")

    try:
        celery_python()
        try:
            redis: RedisServer = RedisServer(lasting=False)
        except Missing:
            redis = ValkeyServer(lasting=False)
    except (CannotMake, Missing) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2

    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as name:
        folder = Path(name)
        probe = Probe(folder)
        redis.start()
        try:
            bench = Bench(folder, redis, profile=options.profile)
            chosen = scenarios(bench, options.scale)
            unknown = [each for each in options.only if each not in chosen]
            if unknown:
                parser.error(f"no such scenario: {', '.join(unknown)}")
            runs = measure(chosen, options.only or list(chosen), libraries, options.runs)
            report = summarised(chosen, runs, probe)
        except Failed as failed:
            print(f"bench: {failed}", file=sys.stderr)
            return 1
        finally:
            redis.close()
            probe.close()

    report["settings"] = settings(redis, options.profile, report["probe_ms"])
    print_table(report, libraries)
    options.json.parent.mkdir(exist_ok=True, parents=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nJSON: {options.json.relative_to(ROOT) if options.json.is_relative_to(ROOT) else options.json}")
    if options.at_least is not None:
        ratio = report["scenarios"]["drain"]["ratio"]["per_s_norm"]
        print(f"drain: {ratio:.1f} times Celery, wanted {options.at_least:g}")
        return 0 if ratio >= options.at_least else 1
    return 0


def measure(
    chosen: dict[str, tuple[str, int, Measurement]], names: Sequence[str], libraries: Sequence[str], runs: int | None
) -> dict[str, dict[str, list[Run]]]:
    """All runs, a line of progress for each."""
    begun_at = time.monotonic()
    seen: dict[str, dict[str, list[Run]]] = {}
    for name in names:
        title, count, run = chosen[name]
        seen[name] = {library: [] for library in libraries}
        for number in range(runs or count):
            for library in libraries:
                figures = run(library)
                seen[name][library].append(figures)
                progress = (
                    f"{time.monotonic() - begun_at:4.0f} s  {title}, run {number + 1}: {library} {brief(figures)}"
                )
                print(progress, file=sys.stderr, flush=True)
    return seen


def brief(run: Run) -> str:
    if run.delays_ms:
        return f"p50 {percentile(run.delays_ms, 0.5):.2f} ms"
    if run.rss_mb:
        return f"{run.rss_mb:.0f} MB"
    if run.tasks == 1:
        return f"{1000 * run.wall_s:.0f} ms"
    return f"{run.tasks / run.wall_s:,.0f}/s, {1e4 * run.cpu_s / run.tasks:.2f} CPU-s/10k"


def summarised(
    chosen: dict[str, tuple[str, int, Measurement]], runs: dict[str, dict[str, list[Run]]], probe: Probe
) -> dict[str, Any]:
    """Medians, ranges and ratios (ours over Celery's) as JSON types."""
    scenarios_seen: dict[str, Any] = {}
    for name, by_library in runs.items():
        figures = {library: figures_of(each, probe) for library, each in by_library.items()}
        ratio = {}
        if set(figures) == set(LIBRARIES):
            ratio = {
                key: figures["celeriac"][key]["median"] / ours["median"]
                for key, ours in figures["celery"].items()
                if ours["median"]
            }
        scenarios_seen[name] = {"title": chosen[name][0], **figures, "ratio": ratio}
    return {"scenarios": scenarios_seen, "probe_ms": probe.undisturbed_ms()}


def figures_of(runs: list[Run], probe: Probe) -> dict[str, dict[str, float]]:
    """Each figure's median, lowest and highest. norm: scaled to the undisturbed machine."""
    table: dict[str, list[float]] = {}
    for run in runs:
        slowness = probe.slowness(run.since, run.until)
        row = {"slowness": slowness}
        if run.delays_ms:
            row |= {"p50_ms": percentile(run.delays_ms, 0.5), "p99_ms": percentile(run.delays_ms, 0.99)}
        elif run.rss_mb:
            row |= {"rss_mb": run.rss_mb, "pss_mb": run.pss_mb}
        elif run.tasks == 1:
            row |= {
                "wall_ms": 1000 * run.wall_s,
                "wall_ms_norm": 1000 * run.wall_s / slowness,
                "cpu_ms": 1000 * run.cpu_s,
            }
        else:
            per_10k = 1e4 / run.tasks
            row |= {
                "per_s": run.tasks / run.wall_s,
                "per_s_norm": run.tasks / run.wall_s * slowness,
                "cpu_s_per_10k": run.cpu_s * per_10k,
                "cpu_s_per_10k_norm": run.cpu_s * per_10k / slowness,
                "broker_cpu_s_per_10k_norm": run.broker_cpu_s * per_10k / slowness,
            }
            if run.cold_s:
                row["cold_s"] = run.cold_s
        for key, value in row.items():
            table.setdefault(key, []).append(value)
    return {
        key: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        for key, values in table.items()
    }


def settings(redis: RedisServer, profile: str, probe_ms: float) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    code = "import celery, kombu, redis; print(celery.__version__, kombu.__version__, redis.__version__)"
    asked = subprocess.run([celery_python(), "-c", code], capture_output=True, text=True, check=True)
    celery, kombu, redis_py = asked.stdout.split()
    flags = " ".join(CELERY_FLAGS)
    server = subprocess.run([redis.program, "--version"], capture_output=True, text=True, check=True).stdout.split(
        " sha"
    )[0]
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.platform(),
        "server": f"{server.strip()}, no persistence, 127.0.0.1",
        "celery": f"{celery} (kombu {kombu}, redis-py {redis_py}, hiredis): {flags}, prefetch multiplier default",
        "celeriac": f"profile {profile}, task_acks_late, no HTTP port, nothing else set",
        "both": "task_acks_late, task_ignore_result (but in 'results'), -l error, the same messages",
        "probe_ms_undisturbed": round(probe_ms, 3),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


#: figure -> heading, format
COLUMNS = {
    "per_s": ("tasks/s", ",.0f"),
    "per_s_norm": ("tasks/s norm", ",.0f"),
    "cpu_s_per_10k_norm": ("CPU-s/10k norm", ".2f"),
    "broker_cpu_s_per_10k_norm": ("broker CPU-s/10k norm", ".2f"),
    "cold_s": ("start to first task, s", ".2f"),
    "wall_ms": ("wall ms", ".0f"),
    "cpu_ms": ("CPU ms", ".0f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "rss_mb": ("RSS MB", ".0f"),
    "pss_mb": ("PSS MB", ".0f"),
}


def print_table(report: dict[str, Any], libraries: Sequence[str]) -> None:
    """Medians (lowest to highest), and ours over Celery's."""
    rows = [("", "", *libraries, "celeriac / celery" if len(libraries) > 1 else "")]
    for scenario in report["scenarios"].values():
        title = scenario["title"]
        for key, (heading, form) in COLUMNS.items():
            if key not in scenario[libraries[0]]:
                continue
            cells = []
            for library in libraries:
                figure = scenario[library][key]
                text = format(figure["median"], form)
                if figure["lowest"] != figure["highest"]:
                    text += f" ({format(figure['lowest'], form)} to {format(figure['highest'], form)})"
                cells.append(text)
            ratio = scenario["ratio"].get(key)
            rows.append((title, heading, *cells, f"{ratio:.2f}" if ratio else ""))
            title = ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    for key, value in report["settings"].items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    sys.exit(main())
