"""The benchmark's harness: that it measures, that a row that fails says why, and what its tables say. Figures are not judged here."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import Child
from servers import Missing, RedisServer, ValkeyServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def bench_modules() -> Any:
    """bench/ is a folder of scripts: its modules are found where `python -m bench` finds them."""
    sys.path.insert(0, str(ROOT / "bench"))
    yield
    sys.path.remove(str(ROOT / "bench"))


@pytest.fixture
def redis() -> Any:
    try:
        server: RedisServer = RedisServer(lasting=False)
    except Missing:
        server = ValkeyServer(lasting=False)
    try:
        server.start()
        yield server
    finally:
        server.close()


def row(what: str, name: str, library: str, **figures: float) -> dict[str, Any]:
    """A row of the report with these medians."""
    return {
        "what": what, "broker": "redis", "name": name, "library": library, "profile": "-", "pool": "solo", "claim": "1",
        "processes": 1, "beside": "celery solo", "failed": None, "slowness": 1.0, "others_cpus": 0.0, "runs": [{}],
        "figures": {key: {"median": value, "lowest": value, "highest": value} for key, value in figures.items()},
    }  # fmt: skip


def test_one_command_measures_us_and_writes_table_and_report(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench",
        "--peers",
        "celeriac solo",
        "--brokers",
        "redis",
        "--what",
        "drain,latency",
    ]

    child = Child(
        [*command, "--quick", "--scale", "0.1", "--no-plot", "--out", tmp_path], log=tmp_path / "log", cwd=ROOT
    )

    assert child.wait(timeout_s=60) == 0, child.text()
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [(row["what"], row["name"], row["failed"]) for row in rows] == [
        ("drain", "celeriac solo", None),
        ("latency", "celeriac solo", None),
    ]
    drain, latency = (row["figures"] for row in rows)
    assert drain["per_s"]["median"] > 0
    assert drain["cpu_s_per_10k"]["median"] > 0
    assert 0 < latency["p50_ms"]["median"] <= latency["p99_ms"]["median"]
    assert "| celeriac solo | celery | solo | 20 ms ahead, late ack |" in (tmp_path / "bench.md").read_text()


def test_a_worker_that_ends_makes_a_failed_measurement_with_its_own_words(tmp_path: Path, redis: RedisServer) -> None:
    from contenders import Contender
    from measure import Bench, Failed
    from places import RedisPlace

    broken = Contender(
        name="broken", library="raw", broker="redis", app="raw_app", worker=("-c", "raise SystemExit('no such pool')"),
        pool="-", claim="-", tasks=100, measures=frozenset({"drain"}),
    )  # fmt: skip

    with pytest.raises(Failed, match="ended with 1 after 0 of 1 tasks: no such pool"):
        Bench(tmp_path, {"redis": RedisPlace(redis)}).run("drain", broken)


def test_a_worker_with_fewer_processes_than_its_row_says_is_not_measured(tmp_path: Path, redis: RedisServer) -> None:
    from contenders import APPS, Contender
    from measure import Bench, Failed
    from places import RedisPlace

    lonely = Contender(
        name="lonely", library="raw", broker="redis", app="raw_app", worker=(str(APPS / "raw_app.py"),), processes=2,
        pool="-", claim="-", tasks=100, measures=frozenset({"drain"}),
    )  # fmt: skip

    with pytest.raises(Failed, match="1 process instead of 2"):
        Bench(tmp_path, {"redis": RedisPlace(redis)}).run("drain", lonely)


def test_rates_and_cpu_seconds_are_scaled_to_the_undisturbed_machine() -> None:
    from contenders import contenders
    from report import row_of

    runs = [
        {"figures": {"per_s": 100.0, "cpu_s_per_10k": 3.0, "p50_ms": 5.0}, "slowness": 1.5, "others_cpus": 0.0},
        {"figures": {"per_s": 90.0, "cpu_s_per_10k": 4.0, "p50_ms": 7.0}, "slowness": 2.0, "others_cpus": 0.2},
        {"figures": {"per_s": 80.0, "cpu_s_per_10k": 5.0, "p50_ms": 6.0}, "slowness": 2.5, "others_cpus": 0.1},
    ]

    figures = row_of("drain", contenders()[0], runs, None)["figures"]

    assert figures["per_s_norm"] == {"median": 180.0, "lowest": 150.0, "highest": 200.0}
    assert figures["cpu_s_per_10k_norm"]["median"] == 2.0
    assert figures["p50_ms"]["median"] == 6.0
    assert "p50_ms_norm" not in figures


def test_a_row_without_figures_says_why_and_takes_no_part_in_goals() -> None:
    from goals import goal_table
    from report import tables

    failed = row("drain", "celery solo", "celery") | {"failed": "the worker ended with 1:\nno | such pool"}
    rows = [failed, row("drain", "celeriac solo", "celeriac", per_s_norm=20_000.0, per_s=18_000.0)]

    assert "no figure: the worker ended with 1: no / such pool" in tables(rows)
    assert "Celery solo" not in goal_table(rows)


def test_goals_compare_with_the_same_run() -> None:
    from goals import goals

    rows = [
        row("drain", "celery solo", "celery", per_s_norm=1_500.0),
        row("drain", "celeriac solo", "celeriac", per_s_norm=15_000.0),
        row("drain", "dramatiq -p1 -t1", "dramatiq", per_s_norm=5_000.0),
        row("drain", "huey -w1", "huey", per_s_norm=6_000.0),
        row("drain", "raw redis-py", "raw", per_s_norm=90_000.0),
        row("idle", "celeriac solo", "celeriac", rss_mb=44.0),
    ]

    seen = {goal.title: (goal.seen, goal.met) for goal in goals(rows) if goal.seen is not None}

    assert seen == {
        "drain, Redis, solo: × Celery solo": (10.0, False),  # noqa: RUF001
        "drain, Redis, solo: × the best single process of a peer": (2.5, True),  # noqa: RUF001
        "idle, solo with metrics: RSS MB": (44.0, True),
    }


def test_a_run_on_a_busy_machine_says_so_above_its_tables() -> None:
    from report import page

    quiet = row("drain", "celery solo", "celery", per_s_norm=1_500.0)
    busy = quiet | {"others_cpus": 1.6}

    assert "The machine was busy with other things (1.6 CPUs of it)" in page({"settings": {}, "rows": [busy]}, "")
    assert "busy" not in page({"settings": {}, "rows": [quiet]}, "")
