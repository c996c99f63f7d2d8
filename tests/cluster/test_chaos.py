"""Scale-in with an operator that is killed over and over, and a rolling update in the middle: no task may notice.

CELERIAC_CLUSTER_TASKS   how many tasks; 300 by default, 2000 for the figure.
"""

import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from charts import OPERATOR, WORKER
from clusters import Cluster, Images

TASKS = int(os.environ.get("CELERIAC_CLUSTER_TASKS", "300"))
WAVES, PAUSE_S = 3, 45.0
LEAST, MOST, SLOTS = 1, 5, max(8, TASKS // 60)
#: Seconds between two kills of the operator's pod.
KILLED_EVERY_S = (15.0, 40.0)
DEPLOYMENT = "shop-celeriac-worker"

POOL = f"""
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {{name: shop}}
spec:
  targetRef: {{name: {DEPLOYMENT}}}
  broker: {{urlFrom: {{secretKeyRef: {{name: redis, key: url}}}}}}
  queues: [{{name: shop}}]
  minReplicas: {LEAST}
  maxReplicas: {MOST}
  objective: {{seconds: 30}}
  scaleDown: {{idleTimeout: 5s}}
"""

pytestmark = pytest.mark.slow


class Killer:
    """A thread that deletes the operator's pod by force, at random, until the end of the block."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.kills = 0
        self._cluster, self._random = cluster, random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._random.uniform(*KILLED_EVERY_S)):
            pods = self._cluster.kubectl(
                "get", "pods", "-l", "app.kubernetes.io/component=operator", "-o", "name"
            ).split()
            for name in pods:
                self._cluster.kubectl("delete", name, "--force", "--grace-period=0", "--wait=false")
                self.kills += 1


def test_tasks_survive_a_killed_operator_scale_in_and_a_rolling_update(
    cluster: Cluster, images: Images, measured: Callable[[str], None]
) -> None:
    cluster.install_operator(OPERATOR, images)
    cluster.install_workers(WORKER, images, concurrency=SLOTS)
    cluster.apply(POOL)
    sights = cluster.watch("deployment", DEPLOYMENT)
    cluster.wait(lambda: sights, timeout_s=20, what="the watch")
    ledger = cluster.broker.client
    began = time.monotonic()

    with Killer(cluster, seed=5) as killer:
        cluster.submit(images, "waves", str(TASKS), str(WAVES), str(PAUSE_S))
        cluster.wait(lambda: ledger.hlen("ledger:done") >= TASKS // 2, timeout_s=600, what="half of the tasks done")
        cluster.helm("upgrade", "shop", WORKER, "--reuse-values", "--set-string", "podAnnotations.change=1")
        cluster.wait(lambda: ledger.hlen("ledger:done") == TASKS, timeout_s=900, what="all tasks done")
    took_s = time.monotonic() - began
    cluster.wait(lambda: cluster.replicas(DEPLOYMENT) == LEAST, timeout_s=180, what=f"{LEAST} replicas")

    replicas = [sight.item["spec"]["replicas"] for sight in sights]
    changes = [value for i, value in enumerate(replicas) if i == 0 or value != replicas[i - 1]]
    starts = Counter(ledger.hvals("ledger:started"))
    measured(
        f"{TASKS} tasks in {took_s:.0f} s; operator killed {killer.kills} times; replicas {changes}; starts {dict(starts)};"
        f" pods that worked: {len(set(ledger.hvals('ledger:pod')))}"
    )
    assert killer.kills >= 2
    assert max(changes) > LEAST
    assert any(after < before for before, after in itertools.pairwise(changes))
    assert starts == {"1": TASKS}
    assert set(ledger.hvals("ledger:done")) == {"1"}
    assert ledger.hlen("ledger:running") == 0
    assert ledger.hlen("unacked") == 0
