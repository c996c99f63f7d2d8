"""Every query of the dashboard, asked of a real Prometheus that scraped a real run, has an answer.

The run is local mode (`celeriac up`): an embedded Valkey, the operator's loop, workers as processes, and tasks that
succeed, retry, fail, wait for a rate limit and wait for their time. Prometheus finds the workers as a PodMonitor would:
each with the labels `namespace` and `pool`.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from charts import ROOT, dashboard_queries, filled_in
from processes import Child, wait_until
from servers import ValkeyServer, free_port

pytestmark = [pytest.mark.slow, pytest.mark.server("valkey")]

HERE = Path(__file__).parent
#: As Grafana would fill them in with the pool of the run chosen.
VARIABLES = {"namespace": "default", "pool": "mixed", "queue": "mixed"}
RATE_INTERVAL = "30s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A Prometheus of this run's own."""

    url: str

    def ask(self, query: str, *, since_s: float = 60.0) -> list[dict[str, Any]]:
        """The series that a panel would draw for the last minute; NaN, which a panel does not draw, left out."""
        end = time.time()
        parameters = {"query": query, "start": end - since_s, "end": end, "step": "1"}
        with urllib.request.urlopen(
            f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}", timeout=10
        ) as answer:
            series = json.load(answer)["data"]["result"]
        return [each for each in series if any(value != "NaN" for _, value in each["values"])]

    def targets_up(self) -> set[str]:
        """Jobs of which a target is up."""
        return {each["metric"]["job"] for each in self.ask("up == 1", since_s=5)}


@pytest.fixture(scope="module")
def run(prometheus: str) -> Iterator[Prometheus]:
    """A run of mixed tasks, scraped from its beginning; asked when it has seen everything."""
    directory = Path(tempfile.mkdtemp(prefix="celeriac-dashboard-"))
    broker = ValkeyServer()
    children: list[Child] = []
    done = threading.Event()
    try:
        broker.start()
        env = {
            "CELERIAC_BROKER_URL": broker.url,
            "CELERIAC_RESULT_BACKEND": broker.url,
            "PYTHONPATH": os.pathsep.join([str(HERE / "mixed"), str(ROOT / "worker"), str(ROOT / "operator")]),
        }
        operator_port, port = free_port(), free_port()
        up = Child(
            [sys.executable, "-m", "celeriac", "up", "-f", HERE / "mixed/pool.yaml", "--http-port", str(operator_port)],
            log=directory / "up.log",
            env=env,
        )
        children.append(up)
        workers = directory / "workers.json"
        workers.write_text("[]")
        threading.Thread(target=_tell_workers, args=(up.pid, workers, done), daemon=True).start()
        configuration = directory / "prometheus.yaml"
        configuration.write_text(yaml.safe_dump(_configuration(operator_port, workers)))
        children.append(
            Child(
                [
                    prometheus,
                    f"--config.file={configuration}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                log=directory / "prometheus.log",
            )
        )
        made = Prometheus(url=f"http://127.0.0.1:{port}")
        wait_until(lambda: _listens(port), what="prometheus", timeout_s=30)
        submitter = Child([sys.executable, HERE / "mixed/mixed.py"], log=directory / "submit.log", env=env)
        children.append(submitter)
        assert submitter.wait(timeout_s=60) == 0, submitter.text()
        wait_until(lambda: made.targets_up() == {"operator", "workers"}, what="both jobs scraped", timeout_s=30)
        # Long enough for two scrapes after the last retry, and for a decision to scale in again.
        time.sleep(15)
        assert up.returncode is None, up.text()[-4000:]
        yield made
    finally:
        done.set()
        for child in reversed(children):
            child.terminate(timeout_s=60)
        broker.close()
        shutil.rmtree(directory, ignore_errors=True)


def _configuration(operator_port: int, workers: Path) -> dict[str, Any]:
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [
            # As the operator chart's ServiceMonitor: its samples name their namespace themselves.
            {
                "job_name": "operator",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{operator_port}"]}],
            },
            {
                "job_name": "workers",
                "file_sd_configs": [{"files": [str(workers)], "refresh_interval": "1s"}],
            },
        ],
    }


def _tell_workers(parent: int, path: Path, done: threading.Event) -> None:
    """Keep Prometheus's list of workers: every process under `parent` that was given a port to serve."""
    while not done.wait(0.5):
        ports = set()
        for process in _below(parent):
            try:
                port = process.environ().get("CELERIAC_WORKER_HTTP_PORT", "0")
            except psutil.Error:
                continue  # it ended between two looks
            ports.add(port)
        ports.discard("0")
        labels = {"namespace": VARIABLES["namespace"], "pool": VARIABLES["pool"]}
        text = json.dumps([{"targets": [f"127.0.0.1:{port}" for port in sorted(ports)], "labels": labels}])
        fresh = path.with_suffix(".new.json")
        fresh.write_text(text)
        fresh.replace(path)


def _below(parent: int) -> list[psutil.Process]:
    try:
        return psutil.Process(parent).children(recursive=True)
    except psutil.Error:
        return []


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize(("panel", "expression"), list(dashboard_queries()))
def test_a_query_has_an_answer(run: Prometheus, panel: str, expression: str) -> None:
    query = filled_in(expression, variables=VARIABLES, rate_interval=RATE_INTERVAL)

    answer = run.ask(query)

    assert answer, f"{panel}: nothing for {query}"


def test_the_states_of_the_run_are_all_there(run: Prometheus) -> None:
    answer = run.ask('sum by (state) (celeriac_fleet_tasks_total{pool="mixed"}) > 0')

    states = {each["metric"]["state"] for each in answer}

    assert {"started", "succeeded", "failed", "retried"} <= states
