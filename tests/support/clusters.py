"""A real cluster as the tests see it: kubectl and helm in a namespace, watches with times, a broker beside it."""

import json
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import yaml
from processes import Child, wait_until

CRD = "workerpools.celeriac.dev"


def run(*command: str | Path, text: str | None = None, timeout_s: float = 300) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode:
        shown = " ".join(map(str, command))
        raise AssertionError(f"{shown} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    worker: str
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A Redis on this machine that pods reach. client: ours to it. password stands in no log and no status."""

    url: str
    password: str
    client: "redis.Redis"

    def now(self) -> float:
        seconds, micros = self.client.time()
        return float(seconds + micros / 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A watched object at the moment it was told of: kind of event, broker's time, object."""

    event: str
    at: float
    item: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Cluster:
    """kubectl and helm in one namespace of this run's own."""

    namespace: str
    broker: Broker
    directory: Path
    _watches: list[Child] = field(default_factory=list)

    def kubectl(self, *arguments: str, text: str | None = None, timeout_s: float = 120) -> str:
        return run("kubectl", "--namespace", self.namespace, *arguments, text=text, timeout_s=timeout_s)

    def helm(self, *arguments: str | Path, timeout_s: float = 300) -> str:
        try:
            return run("helm", "--namespace", self.namespace, *arguments, timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def apply(self, *items: Mapping[str, Any] | str) -> None:
        """Create or change objects: maps, or YAML as a user would write it."""
        texts = [item if isinstance(item, str) else yaml.safe_dump(dict(item)) for item in items]
        self.kubectl("apply", "-f", "-", text="\n---\n".join(texts))

    def get(self, kind: str, name: str = "", *, selector: str = "") -> Any:
        """One object, or the items of a list."""
        arguments = [kind, *([name] if name else []), *(["-l", selector] if selector else []), "-o", "json"]
        answer = json.loads(self.kubectl("get", *arguments))
        return answer if name else answer["items"]

    def metrics(self, pod: str) -> str:
        """What a pod serves at /metrics, fetched through the API server."""
        return self.kubectl("get", "--raw", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:8080/proxy/metrics")

    def watch(self, kind: str, name: str = "") -> list[Sight]:
        """A list that grows by itself with everything that happens to the kind's objects."""
        sights: list[Sight] = []
        arguments = [kind, *([name] if name else []), "--watch", "--output-watch-events", "-o", "json"]
        child = Child(
            ["kubectl", "--namespace", self.namespace, "get", *arguments],
            log=self.directory / f"watch-{kind}-{len(self._watches)}.log",
            talks=True,
        )
        self._watches.append(child)
        threading.Thread(target=_gather, args=(child, self.broker, sights), daemon=True).start()
        return sights

    def replicas(self, deployment: str) -> int:
        return int(self.get("deployment", deployment)["spec"]["replicas"])

    def wait(self, condition: Callable[[], object], *, timeout_s: float, what: str) -> None:
        """As `wait_until`; what the pods are doing is told when it was in vain."""
        try:
            wait_until(condition, timeout_s=timeout_s, what=what, every_s=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None

    def story(self) -> str:
        """Pools, pods, events and the operator's log: what one looks at when something is wrong."""
        parts = [
            self.kubectl("get", "deployments,pods,jobs", "-o", "wide"),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp")[-4000:],
        ]
        for command in (
            ("get", "workerpools", "-o", "yaml"),
            ("logs", "-l", "app.kubernetes.io/component=operator", "--tail=60"),
            ("logs", "-l", "app.kubernetes.io/component=worker", "--tail=30", "--prefix"),
        ):
            done = subprocess.run(
                ["kubectl", "--namespace", self.namespace, *command], capture_output=True, text=True, check=False
            )
            parts.append(done.stdout[-6000:] + done.stderr[-500:])
        return "\n".join(parts)

    def close(self) -> None:
        for child in self._watches:
            child.kill()
            for stream in (child.process.stdin, child.process.stdout):
                if stream:
                    stream.close()

    def install_operator(self, chart: Path, images: Images) -> None:
        """The operator's chart as `celeriac`, ready when this returns."""
        # The CRD outlives its release, so that of an earlier one may still be there: taken over as the chart's notes say.
        taking = []
        if CRD in self.kubectl("get", "crds", "-o", "name"):
            taking = ["--force-conflicts"]
            owner = ("meta.helm.sh/release-name=celeriac", f"meta.helm.sh/release-namespace={self.namespace}")
            self.kubectl("annotate", "--overwrite", "crd", CRD, *owner)
            self.kubectl("label", "--overwrite", "crd", CRD, "app.kubernetes.io/managed-by=Helm")
        values = [*_image_values(images.operator), "--set", "secrets.allowed={redis}"]
        self.helm("install", "celeriac", chart, *values, *taking, "--wait", "--timeout", "120s")

    def install_workers(self, chart: Path, images: Images, *, concurrency: int) -> None:
        """The workers' chart as `shop`: one worker of the app in shop.py, ready when this returns; no pool."""
        values = [
            *_image_values(images.worker),
            "--set", "app=shop",
            "--set", "broker.existingSecret=redis",
            "--set", "worker.queues={shop}",
            "--set", f"worker.concurrency={concurrency}",
            "--set", "pool.enabled=false",
            "--set", "pool.name=shop",
            "--set", "resources.requests.cpu=20m",
            "--set", "extraVolumes[0].name=app",
            "--set", "extraVolumes[0].configMap.name=shop",
            "--set", "extraVolumeMounts[0].name=app",
            "--set", "extraVolumeMounts[0].mountPath=/app",
        ]  # fmt: skip
        self.helm("install", "shop", chart, *values, "--wait", "--timeout", "120s")

    def submit(self, images: Images, *arguments: str) -> None:
        """The app pod: the workers' image, and shop.py called with these arguments, as a Job that submits and ends."""
        container = {
            "name": "submit",
            "image": images.worker,
            "command": ["python", "/app/shop.py", *arguments],
            "env": [
                {"name": "CELERIAC_BROKER_URL", "valueFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}},
            ],
            "volumeMounts": [{"name": "app", "mountPath": "/app"}],
        }
        spec = {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": "app", "configMap": {"name": "shop"}}],
        }
        self.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": "submit"},
                "spec": {"backoffLimit": 0, "template": {"spec": spec}},
            }
        )


def _image_values(image: str) -> list[str]:
    name, _, tag = image.rpartition(":")
    return ["--set", f"image.repository={name}", "--set-string", f"image.tag={tag}"]


def _gather(child: Child, broker: Broker, sights: list[Sight]) -> None:
    """One line of JSON for each event, stamped when it came."""
    assert child.process.stdout
    for line in child.process.stdout:
        event = json.loads(line)
        sights.append(Sight(event=event["type"], at=broker.now(), item=event["object"]))
