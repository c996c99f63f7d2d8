"""docs/metrics.md is what the code serves, and whatever a page or a chart says of a metric is true of one."""

import os
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import metrics_page
import psutil
import pytest
from metrics_page import ABSENT, LABELS, SERVERS, Served, everything, least, served
from processes import Child, wait_until
from references import ROOT
from servers import ValkeyServer, free_port

#: What else begins with our name: packages, tables, headers of messages, a label of Kubernetes, a fixture, a logger.
OTHERS = {
    *("celeriac_operator", "celeriac_app", "celeriac_worker", "celeriac_outbox", "celeriac_chord", "celeriac_chord_part"),
    *("celeriac_concurrency_key", "celeriac_rate_key", "celeriac_errback", "celeriac_dev_pool"),
}  # fmt: skip
#: Labels that Prometheus adds to what it scrapes, or makes of buckets.
ADDED = {"namespace", "pool", "pod", "instance", "job", "le"}


def test_the_tables_are_what_the_code_serves() -> None:
    text = metrics_page.PAGE.read_text()

    assert text == metrics_page.page(text), "run: make docs"


@pytest.mark.parametrize("server", SERVERS)
def test_what_can_be_absent_is_said_to_be(server: str) -> None:
    assert set(everything(server)) - set(least(server)) == set(ABSENT[server])


@pytest.mark.parametrize("server", SERVERS)
def test_every_metric_says_what_it_tells_and_every_label_what_it_names(server: str) -> None:
    for metric in everything(server).values():
        assert metric.says.endswith("."), metric.name
        assert set(metric.labels) <= set(LABELS), metric.name


def told() -> Iterator[tuple[str, str]]:
    """(file, text) of every page, and of what the charts bring."""
    files = [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *(ROOT / "charts").rglob("*"),
        *ROOT.glob("examples/**/*.md"),
    ]
    for path in files:
        if path.is_file():
            # JSON's escapes are taken away: a dashboard's queries read like those of rules then.
            yield str(path.relative_to(ROOT)), path.read_text().replace('\\"', '"')


def known() -> dict[str, list[Served]]:
    """Name of a series, or of a metric -> the metrics that have it."""
    found: dict[str, list[Served]] = {}
    for server in SERVERS:
        for metric in everything(server).values():
            for name in {metric.name, *metric.series_names()}:
                found.setdefault(name, []).append(metric)
    return found


def test_every_metric_that_is_named_anywhere_exists() -> None:
    metrics = known()
    named = [(where, name) for where, text in told() for name in re.findall(r"\bceleriac_\w+", text)]
    wrong = {
        (where, name)
        for where, name in named
        if name not in metrics
        and name not in OTHERS
        and not (name.endswith("_") and any(metric.startswith(name) for metric in metrics))
    }

    assert len({name for _, name in named} & set(metrics)) > 50
    assert wrong == set()


def test_every_label_and_value_that_is_asked_for_exists() -> None:
    metrics = known()
    selectors = [
        (where, name, inside)
        for where, text in told()
        for name, inside in re.findall(r"\b(celeriac_\w+)\{([^{}]*)\}", text)
        if name in metrics
    ]
    wrong = set()
    for where, name, inside in selectors:
        labels = {label for metric in metrics[name] for label in metric.labels} | ADDED
        wrong |= {
            (where, name, label) for label in re.findall(r"\w+", re.sub(r'"[^"]*"', "", inside)) if label not in labels
        }
        for label, value in re.findall(r'(\w+)="(\w+)"', inside):
            values = {value for metric in metrics[name] for value in metric.values.get(label, ())}
            if label in ("kind", "term", "state", "outcome", "direction", "result") and value not in values:
                wrong.add((where, name, f'{label}="{value}"'))

    assert len(selectors) > 20
    assert wrong == set()


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
        args: [-A, shop, worker, -c, "1", -P, threads, -l, warning]
        env: [{name: CELERIAC_PROFILE, value: kubernetes}]
---
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {name: shop}
spec: {targetRef: {name: shop}, queues: [{name: celery}], minReplicas: 1, interval: 1s}
"""


def fetched(port: int) -> dict[str, Served]:
    """What is served there now; nothing where nobody listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return served(answer.read().decode())
    except OSError:
        return {}


def port_below(parent: int) -> int:
    """The port that a worker below this process serves; 0 before there is one."""
    for process in psutil.Process(parent).children(recursive=True):
        try:
            port = process.environ().get("CELERIAC_WORKER_HTTP_PORT", "0")
        except psutil.Error:
            continue  # it ended between two looks
        if port != "0":
            return int(port)
    return 0


def awaited(port: Callable[[], int], *names: str) -> dict[str, Served]:
    """What is served there, once these metrics have series."""
    found: dict[str, Served] = {}

    def look() -> bool:
        found.clear()
        found.update(fetched(port()))
        return all(name in found and found[name].series for name in names)

    wait_until(look, what=f"series of {', '.join(names)}", timeout_s=90, every_s=0.2)
    return found


@pytest.mark.server("valkey")
def test_a_real_worker_and_a_real_operator_serve_what_the_page_says(
    tmp_path: Path, valkey_server: ValkeyServer
) -> None:
    (tmp_path / "shop.py").write_text(
        "from celeriac import Celeriac\n\napp = Celeriac('shop')\n\n@app.task\ndef sell():\n    pass\n"
    )
    (tmp_path / "pool.yaml").write_text(POOL)
    port = free_port()
    up = Child(
        [
            sys.executable,
            "-m",
            "celeriac",
            "up",
            "-f",
            "pool.yaml",
            "--http-port",
            str(port),
            "--celery-exporter-names",
        ],
        log=tmp_path / "up.log",
        cwd=tmp_path,
        env={
            "CELERIAC_BROKER_URL": valkey_server.url,
            "CELERIAC_RESULT_BACKEND": valkey_server.url,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "worker"), str(ROOT / "operator")]),
        },
    )
    try:
        operator = awaited(
            lambda: port, "celeriac_pool_replicas", "celeriac_queue_consumers", "celeriac_fleet_tasks_total"
        )
        worker = awaited(lambda: port_below(up.pid), "celeriac_worker_slots")
    finally:
        up.terminate(timeout_s=60)

    for servers, real in ((("operator", "celery-exporter"), operator), (("worker",), worker)):
        page = {name: metric for server in servers for name, metric in everything(server).items()}
        absent = {name for server in servers for name in ABSENT[server]}
        assert set(real) <= set(page), servers
        assert {name for name, metric in real.items() if metric.series} >= set(page) - absent, servers
        for name, metric in real.items():
            assert (metric.kind, metric.says) == (page[name].kind, page[name].says)
            assert set(metric.labels) <= set(page[name].labels), name
