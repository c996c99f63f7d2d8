"""docs/from-a-deployment.md, typed: `replicas` changes its owner, and no worker is lost on the way."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import OPERATOR, ROOT, WORKER
from clusters import Cluster, Images, run

PAGE = (ROOT / "docs" / "from-a-deployment.md").read_text()
REPLICAS = 3

pytestmark = pytest.mark.slow

#: Pods that no node takes: for what is about the number alone.
NOWHERE = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "mails"},
    "spec": {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": "mails"}},
        "template": {
            "metadata": {"labels": {"app": "mails"}},
            "spec": {"nodeSelector": {"celeriac.test/nowhere": "yes"}, "containers": [{"name": "worker", "image": "none:0"}]},
        },
    },
}  # fmt: skip

POOL = """
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {name: mails}
spec:
  targetRef: {name: mails}
  broker: {urlFrom: {secretKeyRef: {name: redis, key: url}}}
  queues: [{name: shop}]
  minReplicas: 1
  maxReplicas: 5
  mode: DryRun
  scaleDown: {idleTimeout: 5s}
"""

HPA = {
    "apiVersion": "autoscaling/v1",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "mails"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "mails"},
        "minReplicas": 2,
        "maxReplicas": 5,
    },
}


def block(beginning: str) -> list[str]:
    """The commands of the page's console block that begins so, each as a shell takes it."""
    (found,) = [
        text for text in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if beginning in text
    ]
    return [command.strip() for command in re.split(r"^\$ ", found, flags=re.MULTILINE) if command.strip()]


def typed(cluster: Cluster, *commands: str, folder: Path | None = None, **env: str) -> str:
    """What the page's commands print, typed into one shell, with this run's namespace for `shop`."""
    script = "\n".join(commands).replace("-n shop", f"-n {cluster.namespace}").replace("shop/", f"{cluster.namespace}/")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False, timeout=180, cwd=folder,
        env={**os.environ, "PATH": path, **env},
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def without_replicas(deployment: dict[str, Any]) -> str:
    spec = {name: value for name, value in deployment["spec"].items() if name != "replicas"}
    return yaml.safe_dump({**deployment, "spec": spec})


@pytest.fixture
def nowhere(cluster: Cluster) -> Iterator[None]:
    """Nothing called `mails` is left by the test."""
    yield
    cluster.kubectl("delete", "deployment", "mails", "--ignore-not-found", "--wait=true")


@pytest.mark.parametrize("how", [[], ["--server-side"]], ids=["client-side", "server-side"])
@pytest.mark.parametrize("prepared", [False, True], ids=["just deleted", "as the page says"])
def test_the_number_stays_only_when_its_field_was_handed_over_before(
    cluster: Cluster, nowhere: None, how: list[str], prepared: bool
) -> None:
    cluster.kubectl("apply", *how, "-f", "-", text=yaml.safe_dump(NOWHERE))
    if prepared and how:
        typed(cluster, *block("--field-manager=handover"))
    elif prepared:
        typed(cluster, *block("edit-last-applied"), KUBE_EDITOR="sed -i '/^ *replicas:/d'")

    cluster.kubectl("apply", *how, "-f", "-", text=without_replicas(NOWHERE))

    assert cluster.replicas("mails") == (REPLICAS if prepared else 1)


@pytest.mark.parametrize("made", ["--server-side=true", "--server-side=false"], ids=["by Helm 4", "client-side"])
def test_a_helm_release_lets_go_of_the_number(cluster: Cluster, nowhere: None, tmp_path: Path, made: str) -> None:
    if not run("helm", "version", "--template", "{{.Version}}").startswith("v4"):
        pytest.skip("helm is not Helm 4")
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: mails\nversion: 0.1.0\n")
    (chart / "values.yaml").write_text("replicas: null\n")
    text = yaml.safe_dump(NOWHERE).replace(
        f"  replicas: {REPLICAS}\n", "  {{- with .Values.replicas }}\n  replicas: {{ . }}\n  {{- end }}\n"
    )
    (chart / "templates" / "deployment.yaml").write_text(text)
    cluster.helm("install", "mails", chart, made, "--set", f"replicas={REPLICAS}")
    cluster.kubectl("scale", "deployment", "mails", f"--replicas={REPLICAS + 1}")

    typed(cluster, *block("--field-manager=handover"))
    typed(cluster, *block("helm -n shop upgrade"), folder=tmp_path)

    assert cluster.replicas("mails") == REPLICAS + 1
    cluster.helm("uninstall", "mails", "--wait")


def test_a_deployment_with_an_hpa_becomes_a_pool_and_a_deployment_again(
    cluster: Cluster, images: Images, measured: Callable[[str], None], tmp_path: Path
) -> None:
    cluster.install_operator(OPERATOR, images)
    cluster.install_workers(WORKER, images, concurrency=2)
    mails = as_a_user_wrote_it(cluster.get("deployment", "shop-celeriac-worker"))
    cluster.helm("uninstall", "shop", "--wait")
    cluster.apply(mails, HPA)
    cluster.wait(
        lambda: cluster.get("deployment", "mails")["status"].get("readyReplicas") == REPLICAS,
        timeout_s=120,
        what="workers",
    )

    cluster.apply(POOL)
    cluster.wait(lambda: condition(cluster, "Ready")[0] == "True", timeout_s=60, what="the pool's dry run")
    assert condition(cluster, "Conflict") == ("False", "HandsOff")
    compared = typed(cluster, *block("celeriac-operator explain"))
    assert "HorizontalPodAutoscaler/mails" in compared, compared
    assert "ERROR" not in compared

    typed(cluster, *block("edit-last-applied"), KUBE_EDITOR="sed -i '/^ *replicas:/d'")
    cluster.apply(without_replicas(mails))
    assert cluster.replicas("mails") == REPLICAS
    typed(cluster, *block("delete hpa"))
    sights = cluster.watch("deployment", "mails")
    cluster.wait(lambda: sights, timeout_s=30, what="the watch")
    typed(cluster, *block('"Active"'))
    cluster.wait(lambda: cluster.replicas("mails") == 1, timeout_s=180, what="an idle pool to shrink")
    cluster.wait(lambda: condition(cluster, "ScalingActive")[0] == "True", timeout_s=60, what="the pool to say so")
    assert condition(cluster, "ReplicasContested")[0] == "False"
    cluster.apply(without_replicas(mails))
    assert cluster.replicas("mails") == 1

    pause, delete = block('"Paused"')
    typed(cluster, pause)
    cluster.kubectl("scale", "deployment", "mails", "--replicas=2")
    cluster.wait(lambda: condition(cluster, "ScalingActive") == ("False", "Paused"), timeout_s=60, what="the pause")
    typed(cluster, delete)
    assert cluster.replicas("mails") == 2
    numbers = [sight.item["spec"]["replicas"] for sight in sights]
    measured(f"from a Deployment: replicas {[n for i, n in enumerate(numbers) if i == 0 or n != numbers[i - 1]]}")


def as_a_user_wrote_it(deployment: dict[str, Any]) -> dict[str, Any]:
    """A Deployment `mails` with these pods and a number of its own."""
    template = deployment["spec"]["template"]
    labels = {**template["metadata"]["labels"], "app.kubernetes.io/instance": "mails"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "mails"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app.kubernetes.io/instance": "mails"}},
            "template": {"metadata": {"labels": labels}, "spec": {**template["spec"], "serviceAccountName": "default", "serviceAccount": None}},
        },
    }  # fmt: skip


def condition(cluster: Cluster, kind: str) -> tuple[str, str]:
    """(status, reason) of a condition of the pool; both empty when it has none."""
    for one in cluster.get("workerpool", "mails").get("status", {}).get("conditions", []):
        if one["type"] == kind:
            return (one["status"], one["reason"])
    return ("", "")
