"""The main job on a real Kubernetes: both charts, a ten-line WorkerPool, 500 tasks, from no worker to many and back.

One story, told in the order of its tests: each stands on those before it.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from charts import OPERATOR, WORKER
from clusters import CRD, Cluster, Images, Sight
from prometheus_client.parser import text_string_to_metric_families

TASKS, SECONDS = 500, 0.2
#: Tasks that still run when the quick ones are done: the pool shrinks around them.
LONG, LONG_SECONDS = 2, 90.0  # longer than the others take on a loaded machine
#: The default interval of a pool, and what the issue allows beyond one tick.
TICK_S, GRACE_S = 5.0, 1.0
#: A kubelet that lost sight of a container's end tells that its pod is gone only after the pod's grace period, 60 s.
GONE_S = 120.0
DEPLOYMENT = "shop-celeriac-worker"

POOL = f"""
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {{name: shop}}
spec:
  targetRef: {{name: {DEPLOYMENT}}}
  broker: {{urlFrom: {{secretKeyRef: {{name: redis, key: url}}}}}}
  queues: [{{name: shop}}]
  maxReplicas: 5
  objective: {{seconds: 10}}
  scaleDown: {{idleTimeout: 5s}}
  scaleToZero: {{after: 10s}}
"""

Say = Callable[[str], None]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What earlier tests leave for later ones."""
    return {}


def test_the_operator_is_installed_and_becomes_ready(cluster: Cluster, images: Images) -> None:
    cluster.install_operator(OPERATOR, images)

    assert cluster.get("deployment", "celeriac-celeriac-operator")["status"]["readyReplicas"] == 1


def test_a_second_release_leaves_the_crd_to_the_first(cluster: Cluster) -> None:
    said = cluster.helm("install", "second", OPERATOR, "--dry-run=server")

    assert "kind: CustomResourceDefinition" not in said
    assert f"The CRD {CRD} belongs to celeriac and was left as it is" in said


def test_the_workers_chart_starts_one_worker_which_becomes_ready(cluster: Cluster, images: Images) -> None:
    cluster.install_workers(WORKER, images, concurrency=2)

    assert cluster.get("deployment", DEPLOYMENT)["status"]["readyReplicas"] == 1


def test_a_pool_with_nothing_to_do_goes_to_zero(cluster: Cluster, seen: dict[str, Any]) -> None:
    seen["pods"] = cluster.watch("pods")

    cluster.apply(POOL)

    cluster.wait(lambda: cluster.replicas(DEPLOYMENT) == 0, timeout_s=90, what="0 replicas")
    cluster.wait(
        lambda: not cluster.get("pods", selector="app.kubernetes.io/component=worker"), timeout_s=GONE_S, what="no pod"
    )


def test_500_tasks_from_an_app_pod_raise_it_within_a_tick(
    cluster: Cluster, images: Images, seen: dict[str, Any], measured: Say
) -> None:
    seen["deployment"] = cluster.watch("deployment", DEPLOYMENT)
    cluster.wait(lambda: seen["deployment"], timeout_s=20, what="the watch")

    cluster.submit(images, "all", str(TASKS), str(SECONDS), str(LONG), str(LONG_SECONDS))

    ledger = cluster.broker.client
    cluster.wait(lambda: ledger.exists("ledger:last_at"), timeout_s=60, what="the app pod's submission")
    cluster.wait(lambda: _scaled_at(seen["deployment"]), timeout_s=30, what="a write of /scale")
    took_s = _scaled_at(seen["deployment"]) - float(ledger.get("ledger:first_at"))
    measured(f"first message at 0 replicas to the /scale write: {took_s:.2f} s")
    assert 0 < took_s <= TICK_S + GRACE_S


def test_workers_and_operator_serve_metrics_while_tasks_run(cluster: Cluster) -> None:
    ledger = cluster.broker.client
    cluster.wait(lambda: ledger.hlen("ledger:done") >= 50, timeout_s=120, what="50 tasks done")
    operator = cluster.get("pods", selector="app.kubernetes.io/component=operator")[0]["metadata"]["name"]
    ((worker, _),) = Counter(ledger.hvals("ledger:pod")).most_common(1)  # another may have started a moment ago

    of_worker = _samples(cluster.metrics(worker))
    of_operator = _samples(cluster.metrics(operator))

    tasks = {labels["state"]: value for labels, value in of_worker["celeriac_tasks_total"] if labels["queue"] == "shop"}
    desired = [value for labels, value in of_operator["celeriac_pool_replicas"] if labels["kind"] == "desired"]
    assert tasks["succeeded"] > 0
    assert {"celeriac_task_wait_seconds_bucket", "celeriac_task_run_seconds_bucket", "celeriac_worker_slots"} <= set(
        of_worker
    )
    assert desired[0] > 1
    assert {"celeriac_queue_messages", "celeriac_pool_demand_slots", "celeriac_fleet_tasks_total"} <= set(of_operator)


def test_the_pool_shrinks_around_the_tasks_that_still_run(
    cluster: Cluster, seen: dict[str, Any], measured: Say
) -> None:
    ledger = cluster.broker.client
    cluster.wait(lambda: ledger.hlen("ledger:done") == TASKS, timeout_s=120, what=f"{TASKS} quick tasks done")
    most = max(sight.item["spec"]["replicas"] for sight in seen["deployment"])

    cluster.wait(lambda: cluster.replicas(DEPLOYMENT) < most, timeout_s=LONG_SECONDS, what="a scale-in")

    running = ledger.hgetall("ledger:running")
    live = {pod["metadata"]["name"] for pod in cluster.get("pods", selector="app.kubernetes.io/component=worker")}
    measured(f"{most} -> {cluster.replicas(DEPLOYMENT)} replicas while {len(running)} long tasks ran")
    assert len(running) == LONG
    assert set(running.values()) <= live
    assert all(
        "deletionTimestamp" not in pod["metadata"]
        for pod in cluster.get("pods", selector="app.kubernetes.io/component=worker")
        if pod["metadata"]["name"] in running.values()
    )


def test_every_task_is_done_once(cluster: Cluster, seen: dict[str, Any], measured: Say) -> None:
    ledger = cluster.broker.client

    cluster.wait(lambda: ledger.hlen("ledger:done") == TASKS + LONG, timeout_s=180, what="all tasks done")

    replicas = [sight.item["spec"]["replicas"] for sight in seen["deployment"]]
    measured(f"replicas: {_changes(replicas)}; pods that worked: {len(set(ledger.hvals('ledger:pod')))}")
    assert max(replicas) > 1
    assert set(ledger.hvals("ledger:done")) == {"1"}
    assert set(ledger.hvals("ledger:started")) == {"1"}


def test_then_it_goes_back_to_zero_and_no_pod_dies_with_a_task_in_it(
    cluster: Cluster, seen: dict[str, Any], measured: Say
) -> None:
    cluster.wait(lambda: cluster.replicas(DEPLOYMENT) == 0, timeout_s=120, what="0 replicas")
    cluster.wait(
        lambda: not cluster.get("pods", selector="app.kubernetes.io/component=worker"), timeout_s=GONE_S, what="no pod"
    )

    ledger = cluster.broker.client
    lives = _lives(seen["pods"])
    measured(f"replicas: {_changes([sight.item['spec']['replicas'] for sight in seen['deployment']])}")
    for name, life in lives.items():
        measured(f"{name}: {life}")
    assert len(lives) > 1
    # One that was still starting ends by the signal itself.
    assert {life.code for life in lives.values() if life.ready} - {None} == {0}
    assert {life.code for life in lives.values() if not life.ready} <= {0, 143, None}
    assert ledger.hlen("ledger:running") == 0
    assert set(ledger.hvals("ledger:started")) == {"1"}  # none was begun again, as a killed one would be
    assert ledger.llen("shop") == 0
    assert ledger.hlen("unacked") == 0


def test_the_pools_status_explains_itself_and_names_no_password(cluster: Cluster, measured: Say) -> None:
    pool = cluster.get("workerpool", "shop")
    table = cluster.kubectl("get", "workerpools")
    logs = cluster.kubectl("logs", "-l", "app.kubernetes.io/component=operator", "--tail=-1")

    conditions = {each["type"]: each["status"] for each in pod_conditions(pool)}

    measured(f"status: {pool['status']['decision']['summary']}")
    assert pool["status"]["decision"]["summary"]
    assert pool["status"]["observedGeneration"] == pool["metadata"]["generation"]
    assert conditions["Ready"] == "True"
    assert conditions["BrokerReachable"] == "True"
    assert "finalizers" not in pool["metadata"]
    assert "shop" in table
    assert cluster.broker.password not in table + logs + str(pool)


def pod_conditions(item: Mapping[str, Any]) -> list[dict[str, str]]:
    return list(item["status"]["conditions"])


def test_a_worker_that_is_removed_while_its_app_is_imported_ends_at_once(cluster: Cluster, images: Images) -> None:
    slow = 'import time; print("importing", flush=True); time.sleep(50)'
    container = {
        "name": "worker",
        "image": images.worker,
        "command": ["sh", "-c", f"echo '{slow}' > /tmp/slow.py; exec celeriac -A slow worker"],
        "env": [{"name": "PYTHONPATH", "value": "/tmp"}],
    }
    spec = {"terminationGracePeriodSeconds": 60, "containers": [container]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "slow"}, "spec": spec})
    cluster.wait(lambda: cluster.get("pod", "slow")["status"]["phase"] == "Running", timeout_s=30, what="the pod")
    # Before, while the interpreter starts, a container's first process has no handler and the kernel drops the signal.
    cluster.wait(lambda: "importing" in cluster.kubectl("logs", "slow"), timeout_s=30, what="the import")

    began = time.monotonic()
    cluster.kubectl("delete", "pod", "slow", "--wait=true")

    assert time.monotonic() - began < 15


def test_an_upgrade_of_the_workers_leaves_replicas_to_the_operator(cluster: Cluster, images: Images) -> None:
    cluster.helm("upgrade", "shop", WORKER, "--reuse-values", "--set-string", "podAnnotations.change=1")

    assert cluster.replicas(DEPLOYMENT) == 0


BAD = f"""
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {{name: no-target}}
spec:
  targetRef: {{name: absent}}
  broker: {{urlFrom: {{secretKeyRef: {{name: redis, key: url}}}}}}
  queues: [{{name: other}}]
---
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {{name: no-key}}
spec:
  targetRef: {{name: {DEPLOYMENT}}}
  broker: {{urlFrom: {{secretKeyRef: {{name: redis, key: uri}}}}}}
  queues: [{{name: other}}]
---
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {{name: no-right}}
spec:
  targetRef: {{name: {DEPLOYMENT}}}
  broker: {{urlFrom: {{secretKeyRef: {{name: not-allowed, key: url}}}}}}
  queues: [{{name: other}}]
"""


def test_pools_that_cannot_work_say_why_and_recover_by_themselves(cluster: Cluster, measured: Say) -> None:
    cluster.apply(BAD)

    for name, words in {"no-target": "absent", "no-key": "'uri'", "no-right": "not-allowed"}.items():
        cluster.wait(lambda name=name: _ready(cluster, name)[0] == "False", timeout_s=30, what=f"{name} not ready")
        assert words in _ready(cluster, name)[1]
        measured(f"{name}: {_ready(cluster, name)[1]}")
    assert _ready(cluster, "shop")[0] == "True"

    cluster.apply(_idle_deployment("absent"))

    cluster.wait(lambda: _ready(cluster, "no-target")[0] == "True", timeout_s=40, what="recovery")
    cluster.kubectl("delete", "workerpool", "no-target", "no-key", "no-right", "--timeout=20s")
    cluster.kubectl("delete", "deployment", "absent", "--timeout=20s")


def _ready(cluster: Cluster, pool: str) -> tuple[str, str]:
    """Status and message of the condition Ready; two empty texts while there is none."""
    for each in cluster.get("workerpool", pool).get("status", {}).get("conditions", ()):
        if each["type"] == "Ready":
            return each["status"], each["message"]
    return "", ""


def _idle_deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "none", "image": "none:1"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }


def test_uninstalling_leaves_nothing_but_the_crd(cluster: Cluster) -> None:
    cluster.kubectl("delete", "workerpool", "shop", "--timeout=20s")

    cluster.helm("uninstall", "shop", "--wait", "--timeout", "120s")
    cluster.helm("uninstall", "celeriac", "--wait", "--timeout", "120s")

    left = _everything(cluster)
    assert left == {"customresourcedefinition.apiextensions.k8s.io/workerpools.celeriac.dev"}


def _scaled_at(sights: list[Sight]) -> float:
    """When the watch first told of more than no replica; 0.0 while it has not."""
    return next((sight.at for sight in sights if sight.item["spec"]["replicas"] > 0), 0.0)


@dataclass(slots=True, kw_only=True)
class Life:
    """A worker pod from its first to its last sight. Times are Kubernetes' own, as it wrote them."""

    ready: bool = False
    deleted_at: str = ""
    code: int | None = None
    reason: str = ""
    started_at: str = ""
    ended_at: str = ""


def _lives(sights: list[Sight]) -> dict[str, Life]:
    lives: dict[str, Life] = {}
    for sight in sights:
        metadata, status = sight.item["metadata"], sight.item["status"]
        if metadata.get("labels", {}).get("app.kubernetes.io/component") != "worker":
            continue
        life = lives.setdefault(metadata["name"], Life())
        life.deleted_at = metadata.get("deletionTimestamp") or life.deleted_at
        for container in status.get("containerStatuses", ()):
            life.ready |= container["ready"]
            ended = container["state"].get("terminated") or container.get("lastState", {}).get("terminated")
            # The kubelet did not look before the container was gone: it makes up a code.
            if ended and ended.get("reason") != "ContainerStatusUnknown":
                life.code, life.reason = ended["exitCode"], ended.get("reason", "")
                life.started_at, life.ended_at = ended["startedAt"], ended["finishedAt"]
    return lives


def _changes(values: list[int]) -> str:
    kept = [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return " -> ".join(map(str, kept))


def _samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def _everything(cluster: Cluster) -> set[str]:
    """What is left: in the namespace what neither the fixtures nor Kubernetes made, outside it all named celeriac."""
    ours = set()
    namespaced = cluster.kubectl("api-resources", "--namespaced=true", "--verbs=list", "-o", "name").split()
    passing = {"events", "events.events.k8s.io", "pods", "endpointslices.discovery.k8s.io", "endpoints"}
    for kind in sorted(set(namespaced) - passing):
        for name in cluster.kubectl("get", kind, "-o", "name", "--ignore-not-found").split():
            if re.search(r"/(redis|shop|submit|default|default-token-\w+|kube-root-ca.crt)$", name) is None:
                ours.add(name)
    scoped = cluster.kubectl("api-resources", "--namespaced=false", "--verbs=list", "-o", "name").split()
    for kind in sorted(set(scoped) - {"namespaces", "nodes", "componentstatuses"}):
        for name in cluster.kubectl("get", kind, "-o", "name", "--ignore-not-found").split():
            if "celeriac" in name and not name.startswith("apiservice"):  # which Kubernetes makes for the CRD
                ours.add(name)
    return ours
