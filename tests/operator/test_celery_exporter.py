"""celery-exporter's names, where they are asked for: what is known is told under them, and nothing else is."""

import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import Child, wait_until
from prometheus_client.parser import text_string_to_metric_families
from references import ROOT
from scraped import page_of
from servers import ValkeyServer, free_port

from celeriac.wire.event import WAIT_BUCKETS_S, Heartbeat, QueueTotals, TaskTotals
from celeriac_operator import celery_exporter, clock, main
from celeriac_operator.cli import cli
from celeriac_operator.metrics import BrokerReading, OperatorMetrics, PoolReading
from celeriac_operator.scaling.decision import Decision
from celeriac_operator.scaling.signals import QueueSample, Signals

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

MAILS, NEWS = ("shop", "mails"), ("shop", "news")


def parsed(text: str) -> Samples:
    """(name, labels) -> value, of what is served under the exporter's names."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("celery_"):
                key = (sample.name, frozenset((label, value) for label, value in sample.labels.items() if value))
                assert key not in found, f"{key} is there twice"
                found[key] = sample.value
    return found


def of(samples: Samples, metric: str, pool: tuple[str, str] = MAILS, /, **labels: str) -> float | None:
    """labels: without those that are empty, which Prometheus does not tell from labels that are not there."""
    named = {"namespace": pool[0], "pool": pool[1], **labels}
    return samples.get((metric, frozenset((label, value) for label, value in named.items() if value)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A worker as the fleet remembers it."""

    beat: Heartbeat
    heard_at: float
    gone: bool = False
    owner: tuple[str, str] | None = MAILS


def worker(hostname: str, *queues: str, busy: int = 0, ago_s: float = 1.0, **more: Any) -> Heard:
    now = clock.now()
    beat = Heartbeat(hostname=hostname, timestamp=now, busy=busy, queues=queues)
    return Heard(beat=beat, heard_at=now - ago_s, **more)


def reading(*queues: str, broker: str = "redis") -> PoolReading:
    return PoolReading(
        broker=broker, signals=Signals(queues=tuple(QueueSample(name=name) for name in queues)),
        decision=Decision(desired=1, unclamped=1, replicas=None, summary=""),
        min_replicas=0, max_replicas=1, objective="DrainTime", objective_s=60.0, at=0.0,
    )  # fmt: skip


def told(pools: Mapping[tuple[str, str], PoolReading], **brokers: BrokerReading) -> Samples:
    return parsed(page_of(celery_exporter.families(pools, brokers)))


def queue(name: str = "q", **more: Any) -> dict[str, QueueSample]:
    return {name: QueueSample(name=name, **more)}


def test_runs_are_told_by_task_and_messages_by_queue() -> None:
    runs = TaskTotals(queue="q", started=9, succeeded=5, failed=1, retried=3, run_s=4.5)
    messages = QueueTotals(received=12, started=9, succeeded=5, failed=1, retried=3, rejected=2, revoked=4)

    samples = told({}, redis=BrokerReading(queues={(MAILS, "q"): messages}, tasks={(MAILS, "q", "send"): runs}))

    by_task = {"queue_name": "q", "hostname": "generic", "name": "send"}
    assert of(samples, "celery_task_started_total", **by_task) == 9
    assert of(samples, "celery_task_succeeded_total", **by_task) == 5
    assert of(samples, "celery_task_failed_total", **by_task, exception="") == 1
    assert of(samples, "celery_task_retried_total", **by_task) == 3
    assert of(samples, "celery_task_runtime_count", **by_task) == 9
    assert of(samples, "celery_task_runtime_sum", **by_task) == 4.5
    by_queue = {**by_task, "name": ""}
    assert of(samples, "celery_task_received_total", **by_queue) == 12
    assert of(samples, "celery_task_rejected_total", **by_queue) == 2
    assert of(samples, "celery_task_revoked_total", **by_queue) == 4
    assert of(samples, "celery_task_started_total", **by_queue) is None, "it would be counted twice"


def test_runs_of_stock_workers_are_told_without_a_task_and_without_a_run_time() -> None:
    samples = told({}, redis=BrokerReading(queues={(MAILS, "q"): QueueTotals(started=7, succeeded=6)}))

    labels = {"queue_name": "q", "hostname": "generic"}
    assert of(samples, "celery_task_started_total", **labels) == 7
    assert of(samples, "celery_task_succeeded_total", **labels) == 6
    assert of(samples, "celery_task_runtime_count", **labels) is None


def test_a_queue_that_pools_share_is_told_once() -> None:
    pools = {NEWS: reading("q", "own"), MAILS: reading("q")}
    samples = {**queue("q", ready=7, reserved=3, consumers=2), **queue("own", ready=1)}

    found = told(
        pools, redis=BrokerReading(samples=samples, workers=[worker("a@pod-1", "q"), worker("b@pod-2", "q", gone=True)])
    )

    assert of(found, "celery_queue_length", queue_name="q") == 7
    assert of(found, "celery_queue_length", NEWS, queue_name="q") is None
    assert of(found, "celery_queue_length", NEWS, queue_name="own") == 1
    assert of(found, "celery_active_worker_count", queue_name="q") == 1
    assert of(found, "celery_active_worker_count", NEWS, queue_name="own") == 0
    assert of(found, "celery_active_consumer_count", queue_name="q") == 2
    assert of(found, "celery_active_consumer_count", NEWS, queue_name="own") is None


def test_queues_of_one_name_on_two_brokers_are_two() -> None:
    pools = {MAILS: reading("q", broker="redis"), NEWS: reading("q", broker="rabbit")}

    found = told(pools, redis=BrokerReading(samples=queue(ready=7)), rabbit=BrokerReading(samples=queue(ready=2)))

    assert (
        of(found, "celery_queue_length", queue_name="q"),
        of(found, "celery_queue_length", NEWS, queue_name="q"),
    ) == (7, 2)


def test_waits_are_told_where_every_worker_tells_them_by_bucket() -> None:
    counts = (2, 0, 1, *[0] * (len(WAIT_BUCKETS_S) - 2))
    labels = {"queue_name": "q", "hostname": "generic"}

    whole = told({MAILS: reading("q")}, redis=BrokerReading(samples=queue(wait_counts=counts, waits=3, wait_s=0.4)))
    part = told({MAILS: reading("q")}, redis=BrokerReading(samples=queue(wait_counts=counts, waits=5, wait_s=9.0)))

    assert of(whole, "celery_task_queue_wait_time_bucket", **labels, le="0.05") == 2
    assert of(whole, "celery_task_queue_wait_time_bucket", **labels, le="0.25") == 3
    assert of(whole, "celery_task_queue_wait_time_bucket", **labels, le="+Inf") == 3
    assert of(whole, "celery_task_queue_wait_time_count", **labels) == 3
    assert of(whole, "celery_task_queue_wait_time_sum", **labels) == 0.4
    assert of(part, "celery_task_queue_wait_time_count", **labels) is None


def test_a_host_is_up_while_one_of_its_workers_is_and_down_for_ten_minutes() -> None:
    workers = [
        worker("a@pod-1", busy=2), worker("b@pod-1", busy=1), worker("c@pod-1", gone=True, busy=9),
        worker("a@pod-2", gone=True, ago_s=300.0, busy=4), worker("a@pod-3", gone=True, ago_s=900.0),
        worker("laptop", owner=None),
    ]  # fmt: skip

    found = told({}, redis=BrokerReading(workers=workers))

    assert {key for key in found if key[0] == "celery_worker_up"} == {
        ("celery_worker_up", frozenset({("namespace", "shop"), ("pool", "mails"), ("hostname", "pod-1")})),
        ("celery_worker_up", frozenset({("namespace", "shop"), ("pool", "mails"), ("hostname", "pod-2")})),
        ("celery_worker_up", frozenset({("hostname", "laptop")})),
    }
    assert (of(found, "celery_worker_up", hostname="pod-1"), of(found, "celery_worker_up", hostname="pod-2")) == (1, 0)
    assert of(found, "celery_worker_tasks_active", hostname="pod-1") == 3
    assert of(found, "celery_worker_tasks_active", hostname="pod-2") == 0


@pytest.mark.parametrize(("asked", "leads"), [(True, True), (True, False), (False, True)])
def test_they_are_served_by_the_replica_that_leads_where_they_are_asked_for(asked: bool, leads: bool) -> None:
    metrics = OperatorMetrics(version="1", also=celery_exporter.families if asked else None)
    metrics.leads(leads)
    metrics.broker_serves("redis", lambda: BrokerReading(samples=queue(ready=3)))
    metrics.pool_decided(MAILS, reading("q"))

    found = parsed(page_of(metrics.families()))

    assert bool(found) is (asked and leads)


@pytest.mark.parametrize(("arguments", "asked"), [([], False), (["--celery-exporter-names"], True)])
def test_the_option_reaches_the_operator(arguments: list[str], asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[main.Options] = []
    monkeypatch.setattr(main, "run", given.append)

    result = CliRunner().invoke(cli, ["run", "-n", "shop", *arguments])

    assert result.exit_code == 0, result.output
    assert given[0].celery_exporter_names is asked


APP = """
from celeriac import Celeriac

app = Celeriac("shop")

@app.task
def sell(): pass

@app.task
def spill(): raise ValueError("as it should")

@app.task(bind=True, max_retries=1)
def call(self):
    if not self.request.retries:
        raise self.retry(countdown=0)

if __name__ == "__main__":
    for task in (sell, sell, sell, spill, call):
        task.delay()
"""
POOL = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  template:
    spec:
      containers:
      - name: worker
        command: [celeriac]
        args: [-A, shop, worker, -c, "2", -P, threads, -l, warning]
---
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {name: shop}
spec: {targetRef: {name: shop}, queues: [{name: celery}], minReplicas: 1, interval: 1s}
"""


@pytest.mark.server("valkey")
def test_a_real_operator_tells_of_a_real_worker(tmp_path: Path, valkey_server: ValkeyServer) -> None:
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "pool.yaml").write_text(POOL)
    port = free_port()
    env = {
        "CELERIAC_BROKER_URL": valkey_server.url,
        "CELERIAC_RESULT_BACKEND": valkey_server.url,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "worker"), str(ROOT / "operator")]),
    }
    command = [
        sys.executable,
        "-m",
        "celeriac",
        "up",
        "-f",
        "pool.yaml",
        "--http-port",
        str(port),
        "--celery-exporter-names",
    ]
    samples: Samples = {}
    pool = ("default", "shop")

    def ran(task: str, what: str, **labels: str) -> float | None:
        named = {"name": f"shop.{task}", "hostname": "generic", "queue_name": "celery", **labels}
        return of(samples, f"celery_task_{what}", pool, **named)

    def look() -> bool:
        samples.clear()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                samples.update(parsed(answer.read().decode()))
        except OSError:
            return False
        return True

    up = Child(command, log=tmp_path / "up.log", cwd=tmp_path, env=env)
    try:
        wait_until(
            lambda: look() and of(samples, "celery_active_worker_count", pool, queue_name="celery") == 1,
            what="a worker that is heard", timeout_s=90, every_s=0.2,
        )  # fmt: skip
        submit = Child([sys.executable, "shop.py"], log=tmp_path / "submit.log", cwd=tmp_path, env=env)
        assert submit.wait(timeout_s=60) == 0, submit.text()
        wait_until(
            lambda: look()
            and [ran(task, "succeeded_total") for task in ("sell", "spill", "call")] == [3, 0, 1]
            and ran("spill", "failed_total") == 1
            # Heartbeats tell of runs and a probe of what waits: the last one may have been before the other.
            and of(samples, "celery_queue_length", pool, queue_name="celery") == 0,
            what="all that ran", timeout_s=60, every_s=0.2,
        )  # fmt: skip
    finally:
        up.terminate(timeout_s=60)

    assert ran("call", "started_total") == 2
    assert ran("call", "retried_total") == 1
    assert ran("sell", "runtime_count") == 3
    assert of(samples, "celery_task_received_total", pool, hostname="generic", queue_name="celery") == 6
    (up_at,) = [key for key in samples if key[0] == "celery_worker_up"]
    assert samples[up_at] == 1
    assert "celery_task_sent_total" not in {name for name, _ in samples}
