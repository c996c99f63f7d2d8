"""`python -m bench`: our speed beside Celery's and that of its peers, measured in the same run on private brokers.

All of it takes about an hour; --quick a few minutes, for a look. Rows alternate (A B C, C B A, A B C), tables show medians with
their ranges. "norm" takes the noise of a shared machine out, see probe.py. A row that cannot be measured says why.

Written to build/: bench.json (every run), bench.md (the tables), bench.png (the plot). docs/performance.md is renewed by --docs.
"""

# ruff: noqa: RUF001 - ratios are written with the sign for times

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "support")]

from compat_env import CannotMake, environment_python  # noqa: E402
from contenders import Contender, contenders  # noqa: E402
from goals import goal_table  # noqa: E402
from measure import MEASUREMENTS, Bench, Failed, Run  # noqa: E402
from places import Place, RabbitPlace, RedisPlace  # noqa: E402
from probe import Probe  # noqa: E402
from report import Row, page, row_of  # noqa: E402
from servers import Missing, RabbitServer, RedisServer, Server, ValkeyServer  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.png"

#: Once is enough: what they show does not vary, and each takes minutes.
ONCE = {"eta", "soak"}

Key = tuple[str, str, str]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    listed = sorted({each.library for each in contenders()})
    parser.add_argument(
        "--peers", type=_commas, help=f"libraries ({','.join(listed)}) or rows ('celery solo,celeriac solo')"
    )
    parser.add_argument("--brokers", type=_commas, default=["redis", "amqp"], help="redis,amqp (both)")
    parser.add_argument("--what", type=_commas, help=f"{','.join(MEASUREMENTS)} (all but soak)")
    parser.add_argument("--rounds", type=int, help="runs of each row (3; eta and soak: 1)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the counts of tasks")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the tasks")
    parser.add_argument("--soak", action="store_true", help="1,000,000 tasks through prefork, too")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="where bench.json, .md and .png go")
    parser.add_argument("--no-plot", action="store_true", help="draw no plot: it needs an environment with matplotlib")
    parser.add_argument("--add", action="store_true", help="keep the rows of bench.json that are not measured now")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    parser.add_argument("--only-docs", action="store_true", help="write bench.json as it is into docs/performance.md")
    options = parser.parse_args(given)
    options.what = options.what or [what for what in MEASUREMENTS if what != "soak"]
    if options.soak and "soak" not in options.what:
        options.what.append("soak")
    if unknown := set(options.what) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    if unknown := set(options.brokers) - {"redis", "amqp"}:
        parser.error(f"no such broker: {', '.join(sorted(unknown))}; there are redis and amqp")
    known = {*listed, *(each.name for each in contenders())}
    if unknown := set(options.peers or ()) - known:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    if options.quick:
        options.rounds, options.scale = options.rounds or 1, options.scale / 10
    return options


def _commas(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and workers are ended, as with Ctrl-C
    options.out.mkdir(exist_ok=True, parents=True)
    written = options.out / "bench.json"
    if options.only_docs:
        if not written.exists():
            print(f"bench: there is no {written}: measure first, with make bench", file=sys.stderr)
            return 2
        return write_page(json.loads(written.read_text()), written)

    chosen = [
        (what, each)
        for what in options.what
        for each in contenders()
        if what in each.measures
        and each.broker in options.brokers
        and (options.peers is None or {each.library, each.name} & set(options.peers))
    ]
    if not chosen:
        print("bench: no row is left: no chosen peer is measured so on a chosen broker", file=sys.stderr)
        return 2
    kept = json.loads(written.read_text())["rows"] if options.add and written.exists() else []
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as name:
        folder, servers = Path(name), list[Server]()
        probe = Probe(folder)
        try:
            places = start_places({each.broker for _, each in chosen}, servers)
            bench = Bench(folder, places, options.scale)
            report = measure(bench, chosen, options, probe, kept, written)
        except Missing as missing:
            print(f"bench: {missing}", file=sys.stderr)
            return 2
        finally:
            probe.close()
            for server in reversed(servers):
                server.close()
    text = page(report, goal_table(report["rows"]))
    (options.out / "bench.md").write_text(text + "\n")
    print(text)
    if not options.no_plot:
        draw(written, options.out / "bench.png")
    print(f"\nwritten: {written}, bench.md and bench.png beside it", file=sys.stderr)
    return write_page(report, written) if options.docs else 0


def start_places(brokers: set[str], servers: list[Server]) -> dict[str, Place]:
    """A private server for each broker; Redis always, for the results. Raises Missing."""
    try:
        redis: RedisServer = RedisServer(lasting=False)
    except Missing:
        redis = ValkeyServer(lasting=False)
    servers.append(redis)
    redis.start()
    places: dict[str, Place] = {"redis": RedisPlace(redis)}
    if "amqp" in brokers:
        node = RabbitServer()
        servers.append(node)
        node.start()
        places["amqp"] = RabbitPlace(node, RedisPlace(redis))
    return places


def measure(
    bench: Bench,
    chosen: list[tuple[str, Contender]],
    options: argparse.Namespace,
    probe: Probe,
    kept: list[Row],
    written: Path,
) -> dict[str, Any]:
    """All rounds of all rows, a line of progress for each; the report is written after every round of a measurement."""
    begun_at, begun_load = time.monotonic(), os.getloadavg()
    runs: dict[Key, list[Run]] = {_key(*each): [] for each in chosen}
    failures: dict[Key, str] = {}
    total = sum(1 if what in ONCE else options.rounds or 3 for what, _ in chosen)
    done = 0
    for what in options.what:
        rows = [each for each in chosen if each[0] == what]
        for number in range(1 if what in ONCE else options.rounds or 3):
            for _, contender in reversed(rows) if number % 2 else rows:
                done += 1
                key = _key(what, contender)
                try:
                    run = bench.run(what, contender)
                    runs[key].append(run)
                    words = brief(run)
                except Exception as error:
                    # A row that says why, whatever it was: an hour of measurements must not end with one of them.
                    failures[key] = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
                    words = "no figure: " + " ".join(str(error).split())[-300:]
                at = f"{time.monotonic() - begun_at:5.0f} s {done:3}/{total}"
                print(f"{at} {what}, {contender.broker}: {contender.name}: {words}", file=sys.stderr, flush=True)
            report = {
                "settings": settings(bench, options, begun_load, probe.undisturbed_ms()),
                "rows": _merged(kept, [row_of(*each, _shown(runs[_key(*each)], probe), failures.get(_key(*each))) for each in chosen]),
            }  # fmt: skip
            written.write_text(json.dumps(report, indent=1) + "\n")
    return report


def _key(what: str, contender: Contender) -> Key:
    return what, contender.broker, contender.name


def _shown(runs: Sequence[Run], probe: Probe) -> list[dict[str, Any]]:
    return [
        {
            "figures": dict(run.figures),
            "slowness": probe.slowness(run.since, run.until),
            "others_cpus": run.others_cpus,
        }
        for run in runs
    ]


def _merged(kept: list[Row], rows: list[Row]) -> list[Row]:
    """The new rows, and what they do not replace of the old, in the order of the table of contenders."""
    measured = {(row["what"], row["broker"], row["name"]) for row in rows if row["figures"] or row["failed"]}
    old = [row for row in kept if (row["what"], row["broker"], row["name"]) not in measured]
    order = {_key(what, each): n for n, (what, each) in enumerate((w, c) for w in MEASUREMENTS for c in contenders() if w in c.measures)}  # fmt: skip
    new = [row for row in rows if row["figures"] or row["failed"]]
    return sorted([*new, *old], key=lambda row: order.get((row["what"], row["broker"], row["name"]), len(order)))


def brief(run: Run) -> str:
    """The two or three figures that tell most, for the line of progress."""
    names = (
        "per_s",
        "p50_ms",
        "p99_ms",
        "cpu_s_per_10k",
        "rss_mb",
        "start_s",
        "wall_s",
        "ratio",
        "held",
        "late_max_s",
        "slope_mb_per_100k",
    )
    told = [f"{name} {run.figures[name]:,.4g}" for name in names if name in run.figures]
    return ", ".join(told[:4]) + f" (others: {run.others_cpus:.1f} CPUs)"


def settings(
    bench: Bench, options: argparse.Namespace, begun_load: tuple[float, ...], probe_ms: float
) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    redis = bench.places["redis"]
    assert isinstance(redis, RedisPlace)
    server = subprocess.run([redis.server.program, "--version"], capture_output=True, text=True, check=True).stdout
    machine = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}",
        "Redis": f"{server.split(' sha')[0].strip()}, no persistence, 127.0.0.1",
    }
    if isinstance(rabbit := bench.places.get("amqp"), RabbitPlace):
        told = rabbit.node.api("GET", "overview")
        machine["RabbitMQ"] = (
            f"{told['rabbitmq_version']} on Erlang {told['erlang_version']}, one scheduler, classic queues, 127.0.0.1"
        )
    load = os.getloadavg()
    return {
        **machine,
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "rounds": f"{options.rounds or 3}, counts × {options.scale:g}",
        "load average (1, 5, 15 min)": f"{_load(begun_load)} at the start, {_load(load)} at the end",
        "calibration loop, undisturbed": f"{probe_ms:.2f} ms of CPU",
    }


def _load(load: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in load)


def versions() -> dict[str, str]:
    """Of all that is compared, out of the pins; ours out of the tree."""
    found = {"celeriac": re.findall(r'__version__ = "(.*)"', (ROOT / "worker/celeriac/__init__.py").read_text())[0]}
    wanted = ("celery", "kombu", "amqp", "dramatiq", "huey", "rq", "arq", "taskiq", "saq")
    for pins in ("compat", "bench-peers", "bench-arq", "bench-saq"):
        for name, version in re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements" / f"{pins}.txt").read_text(), re.MULTILINE):  # fmt: skip
            if name in wanted:
                found.setdefault(name, version)
    return found


def draw(report: Path, picture: Path) -> None:
    """The plot; without matplotlib's environment there is none, and a line says so."""
    try:
        python = environment_python("bench-peers")
    except CannotMake as error:
        print(f"bench: no plot: {error}", file=sys.stderr)
        return
    command = [python, ROOT / "bench" / "plot.py", report, picture]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"bench: no plot: {done.stderr.strip()[-400:]}", file=sys.stderr)


def write_page(report: dict[str, Any], written: Path) -> int:
    """Put the figures between the two marks of docs/performance.md, and the plot beside it."""
    begin, end = "<!-- figures: written by make bench-docs -->\n", "<!-- end of figures -->"
    text = PAGE.read_text()
    head, mark, rest = text.partition(begin)
    _, closing, tail = rest.partition(end)
    if not (mark and closing):
        print(f"bench: {PAGE} lacks the marks between which the figures go", file=sys.stderr)
        return 1
    figures = page(report, goal_table(report["rows"]))
    PAGE.write_text(f"{head}{begin}\n![Celeriac and its peers]({PICTURE.name})\n\n{figures}\n\n{end}{tail}")
    draw(written, PICTURE)
    print(f"written: {PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
