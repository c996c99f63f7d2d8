"""Several beats on one Redis, one of them killed: each run of each entry is sent, with one id, by one of them."""

import json
import signal
import sys
import time
import urllib.request
import uuid
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from processes import Child, wait_until
from servers import free_port

from celeriac.beat.service import _NAMESPACE
from celeriac.beat.ticker import tick_id

SUPPORT = Path(__file__).resolve().parents[1] / "support"


def start_beat(site: Any, name: str, schedule: dict[str, Any], *flags: str, **settings: str) -> Child:
    env = {
        "PYTHONPATH": f"{SUPPORT}:{SUPPORT.parents[1] / 'worker'}",
        "BROKER": site.broker,
        "LEDGER": str(site.ledger.path),
        "CELERIAC_BEAT_SCHEDULE": json.dumps(schedule),
    }
    env |= {f"CELERIAC_{setting.upper()}": value for setting, value in settings.items()}
    command = [sys.executable, "-m", "celeriac", "-A", "jobs", "beat", "-l", "info", *flags]
    beat = Child(command, log=site.folder / f"{name}.log", env=env, cwd=site.folder)
    site.closing.callback(beat.kill)
    return beat


def sent_ids(site: Any) -> dict[str, list[str]]:
    """Entry -> ids of its messages, in the order in which they were sent."""
    found: dict[str, list[str]] = {}
    with site.server.client() as client:
        for text in reversed(client.lrange("celery", 0, -1)):
            headers = json.loads(text)["headers"]
            found.setdefault(headers["periodic_task_name"], []).append(headers["id"])
    return found


def test_each_run_is_sent_once_though_a_beat_is_killed(site: Any) -> None:
    every = timedelta(seconds=0.25)
    # A busy machine may make beat late: with "latest" it would rightly pass over a run.
    entry = {"task": "jobs.add", "schedule": 0.25, "args": [1, 2], "catch_up": "all"}
    schedule = {f"e{n}": entry for n in range(4)}
    beats = [start_beat(site, f"beat{n}", schedule) for n in range(2)]
    wait_until(lambda: all(" sent " in beat.text() for beat in beats), what="both to have sent something")
    time.sleep(1)
    beats[0].send(signal.SIGKILL)
    beats[0].wait()
    at_the_kill = sum(map(len, sent_ids(site).values()))
    wait_until(lambda: sum(map(len, sent_ids(site).values())) > at_the_kill + 20, what="the other one to go on")
    beats.append(start_beat(site, "beat2", schedule))
    beats[2].wait_for(" sent ")
    with site.server.client() as client:
        claims = "celeriac.beat.claims\6\x16jobs"
        orphans = set(client.zrange(claims, 0, -1))  # what the dead beat may have left is sent when its claim ends
        wait_until(lambda: not orphans & set(client.zrange(claims, 0, -1)), timeout_s=45, what="no claim of the dead")
        assert beats[1].terminate() == beats[2].terminate() == 0
        lasts = client.hgetall("celeriac.beat\6\x16jobs")

    ids, twice = sent_ids(site), 0
    for entry_name in schedule:
        found, moment, runs = Counter(ids[entry_name]), datetime.fromisoformat(lasts[entry_name]), 0
        while str(uuid.uuid5(_NAMESPACE, f"jobs {tick_id(entry_name, moment)}")) in found:
            moment -= every
            runs += 1
        assert runs == len(found), f"{entry_name}: {len(found)} runs were sent, {runs} without a gap to the last"
        twice += found.total() - len(found)
    # What it died over, it may have published and not confirmed: then it is sent again, with the same id.
    assert twice <= 1, ids


def test_workers_with_a_beat_inside_send_each_run_once_and_run_it(site: Any) -> None:
    schedule = json.dumps({"sum": {"task": "jobs.work", "schedule": 0.5, "args": [7, 0]}})
    workers = [site.worker("-B", "-P", "prefork", "-c", "1", beat_schedule=schedule) for _ in range(2)]

    wait_until(lambda: len(site.ledger.ends()) >= 1 and sum(site.ledger.ends().values()) >= 6, what="six runs")

    for worker in workers:
        assert worker.terminate() == 0
    sent = sum(worker.text().count("beat entry sum: sent") for worker in workers)
    ids = {line.split("sent jobs.work[")[1][:36] for worker in workers for line in worker.text().splitlines() if " sent " in line}  # fmt: skip
    assert sent == len(ids)


def test_a_worker_with_an_entry_that_cannot_work_does_not_start(site: Any) -> None:
    schedule = json.dumps({"sum": {"task": "jobs.work", "schedule": 0.5}})

    worker = site.worker("-B", await_ready=False, beat_schedule=schedule)

    assert worker.wait() == 1
    assert "entry 'sum': jobs.work(number" in worker.text()


def test_beat_serves_probes_and_metrics_and_ends_on_sigterm(site: Any) -> None:
    port = free_port()
    pidfile = site.folder / "beat.pid"
    beat = start_beat(
        site, "beat", {"sum": {"task": "jobs.add", "schedule": 0.2, "args": [1, 2]}}, "--pidfile", str(pidfile),
        beat_http_port=str(port), worker_http_host="127.0.0.1",
    )  # fmt: skip
    beat.wait_for(" sent ")

    assert pidfile.read_text() == f"{beat.pid}\n"
    second = start_beat(site, "second", {}, "--pidfile", str(pidfile))
    assert second.wait() == 1
    assert f"the process {beat.pid} that it names is running" in second.text()
    assert fetched(port, "livez") == "alive\n"
    assert fetched(port, "readyz") == "running\n"
    metrics = fetched(port, "metrics")
    assert 'celeriac_beat_ticks_total{state="taken_over"} 0.0' in metrics
    assert "celeriac_beat_entries 1.0" in metrics
    assert "celeriac_beat_up 1.0" in metrics
    assert beat.terminate() == 0
    assert not pidfile.exists()


def fetched(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["-S", "django"], "-S django: there is one scheduler"),
        (["--detach"], "--detach: run it under what supervises your services"),
        (["--max-interval", "0"], "--max-interval"),
    ],
)
def test_what_beat_does_not_do_is_refused_with_the_reason(site: Any, flags: list[str], says: str) -> None:
    beat = start_beat(site, "beat", {}, *flags)

    assert beat.wait() == 2
    assert says in beat.text()
