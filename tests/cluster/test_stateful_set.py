"""A StatefulSet with the default podManagementPolicy, OrderedReady: Kubernetes' own controller takes its pods, and no task may notice."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from charts import OPERATOR, WORKER
from clusters import Cluster, Images

TASKS, SLOTS, LEAST, MOST = 300, 4, 1, 5
DEPLOYMENT, STATEFUL = "shop-celeriac-worker", "shop-set"

POOL = f"""
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {{name: shop}}
spec:
  targetRef: {{kind: StatefulSet, name: {STATEFUL}}}
  broker: {{urlFrom: {{secretKeyRef: {{name: redis, key: url}}}}}}
  queues: [{{name: shop}}]
  minReplicas: {LEAST}
  maxReplicas: {MOST}
  objective: {{seconds: 30}}
  scaleDown: {{idleTimeout: 5s}}
"""

pytestmark = pytest.mark.slow


def test_no_task_is_cut_off_while_a_stateful_set_shrinks_under_a_backlog_and_after_it(
    cluster: Cluster, images: Images, measured: Callable[[str], None]
) -> None:
    cluster.install_operator(OPERATOR, images)
    cluster.install_workers(WORKER, images, concurrency=SLOTS)
    cluster.apply(stateful_set(cluster.get("deployment", DEPLOYMENT)))
    cluster.kubectl("delete", "deployment", DEPLOYMENT, "--wait=true")
    cluster.apply(POOL)
    sights = cluster.watch("statefulset", STATEFUL)
    cluster.wait(lambda: sights, timeout_s=20, what="the watch")
    ledger = cluster.broker.client

    cluster.submit(images, "waves", str(TASKS), "1", "0")
    cluster.wait(lambda: pods_of(cluster) == MOST, timeout_s=300, what=f"{MOST} pods")  # one after the other
    cluster.kubectl("scale", "workerpool", "shop", f"--replicas={LEAST}")
    cluster.wait(lambda: pods_of(cluster) == LEAST, timeout_s=300, what=f"{LEAST} pod, while tasks wait")
    path = f"/apis/celeriac.dev/v1alpha1/namespaces/{cluster.namespace}/workerpools/shop/scale"
    shown = json.loads(cluster.kubectl("get", "--raw", path))
    assert (shown["spec"]["replicas"], shown["status"]["replicas"]) == (LEAST, LEAST)
    assert shown["status"]["selector"] == f"app.kubernetes.io/instance={STATEFUL}"
    shrinking = changes_of([sight.item["spec"]["replicas"] for sight in sights])
    left = TASKS - ledger.hlen("ledger:done")
    cluster.kubectl("patch", "workerpool", "shop", "--type=merge", "-p", '{"spec":{"replicas":null}}')
    cluster.wait(lambda: ledger.hlen("ledger:done") == TASKS, timeout_s=900, what="all tasks done")
    cluster.wait(lambda: pods_of(cluster) == LEAST, timeout_s=300, what=f"{LEAST} pod")

    starts = Counter(ledger.hvals("ledger:started"))
    measured(
        f"a StatefulSet: {TASKS} tasks, {left} of them left when it was down to {LEAST}; replicas until then {shrinking}"
    )
    assert starts == {"1": TASKS}
    assert set(ledger.hvals("ledger:done")) == {"1"}
    assert ledger.hlen("ledger:running") == 0
    assert ledger.hlen("unacked") == 0
    assert shrinking[-MOST + LEAST - 1 :] == list(range(MOST, LEAST - 1, -1)), "one pod at a time"


def stateful_set(deployment: dict[str, Any]) -> dict[str, Any]:
    """A StatefulSet with the pods of this Deployment, under labels of their own."""
    template = deployment["spec"]["template"]
    labels = {**template["metadata"]["labels"], "app.kubernetes.io/instance": STATEFUL}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": STATEFUL},
        "spec": {
            "replicas": 1,
            "serviceName": STATEFUL,
            "selector": {"matchLabels": {"app.kubernetes.io/instance": STATEFUL}},
            "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
        },
    }


def pods_of(cluster: Cluster) -> int:
    """Pods that are there, be they on their way out."""
    return len(cluster.get("pods", selector=f"app.kubernetes.io/instance={STATEFUL}"))


def changes_of(values: list[int]) -> list[int]:
    """The values without those that only repeat the last."""
    return [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
