"""Local mode's kubelet and ReplicaSet with real child processes, the manifest it reads, the environment it gives."""

import base64
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celeriac_operator.errors import Conflict, NotFound, SetupError
from celeriac_operator.local.cluster import LocalCluster, environment
from celeriac_operator.local.guard import Guard
from celeriac_operator.local.manifest import Program, expanded, read_manifest
from celeriac_operator.local.processes import Processes, argv_of
from celeriac_operator.resources.spec import WorkerPoolSpec

AT = ("default", "web")

#: Serves /readyz on its port: 200, but 503 after SIGUSR1. SIGTERM ends it with status 0.
SERVER = """
import http.server, os, signal, sys
ready = [True]
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if ready[0] else 503); self.end_headers()
    def log_message(self, *a): pass
signal.signal(signal.SIGUSR1, lambda *a: ready.clear() or ready.append(False))
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
print("serving as", os.environ["CELERIAC_POD_NAME"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["CELERIAC_WORKER_HTTP_PORT"])), H).serve_forever()
"""


def python(code: str, **more: object) -> Program:
    return Program(argv=(sys.executable, "-c", code), **{"ready_path": "/readyz", "grace_s": 5.0, **more})


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    guard = Guard()
    guard.start()
    kept = Processes(logs=tmp_path, guard=guard, on_change=lambda: None)
    kept.start()
    yield kept
    kept.kill()
    kept.stop(timeout_s=10)
    kept.close()
    guard.stop()


def until(holds: Callable[[], bool], within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


def run(processes: Processes, program: Program, replicas: int) -> None:
    processes.add(*AT, program, env=lambda: dict(os.environ), replicas=replicas)


def ready(processes: Processes) -> list[str]:
    return sorted(pod.name for pod in processes.pods(*AT) if pod.ready)


def test_as_many_processes_run_as_replicas_and_become_ready(processes, tmp_path):
    run(processes, python(SERVER), 2)

    assert until(lambda: len(ready(processes)) == 2)

    pods = processes.pods(*AT)
    assert [(pod.phase, pod.pending_reason) for pod in pods] == [("Running", "")] * 2
    assert all(pod.ready_at and pod.created_at and pod.ready_at >= pod.created_at for pod in pods)
    assert (tmp_path / f"{pods[0].name}.log").read_text() == f"serving as {pods[0].name}\n"


def test_scale_in_takes_the_pod_that_is_not_ready(processes):
    run(processes, python(SERVER), 3)
    assert until(lambda: len(ready(processes)) == 3)
    drained = processes.pods(*AT)[0].name
    pod = next(pod for pods in processes._sets.values() for pod in pods.pods if pod.name == drained)
    assert pod.process is not None
    os.kill(pod.process.pid, __import__("signal").SIGUSR1)
    assert until(lambda: len(ready(processes)) == 2)

    processes.scale(*AT, 2)

    assert until(lambda: len(processes.pods(*AT)) == 2)
    assert drained not in {pod.name for pod in processes.pods(*AT)}
    (end,) = processes.exits()
    assert (end.pod, end.code, end.signal_sent, end.grace_exceeded) == (drained, 0, 15, False)


def test_scale_in_among_ready_pods_goes_by_deletion_cost(processes):
    run(processes, python(SERVER), 3)
    assert until(lambda: len(ready(processes)) == 3)
    cheap = processes.pods(*AT)[1].name
    processes.mark(*AT, {cheap: -1000, "gone-long-ago": 5})

    processes.scale(*AT, 2)

    assert until(lambda: len(processes.pods(*AT)) == 2)
    assert cheap not in {pod.name for pod in processes.pods(*AT)}


def test_a_process_that_ignores_sigterm_is_killed_when_its_grace_is_over(processes):
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    run(processes, python(stubborn, ready_path="", grace_s=0.5), 1)
    assert until(lambda: len(ready(processes)) == 1)
    time.sleep(0.3)  # until its handler is set

    processes.scale(*AT, 0)

    assert until(processes.empty)
    (end,) = processes.exits()
    assert (end.code, end.grace_exceeded) == (-9, True)


def test_a_process_that_ends_by_itself_is_restarted_after_a_while_and_says_so(processes):
    run(processes, python("raise SystemExit(3)", ready_path=""), 1)

    assert until(lambda: any(pod.pending_reason == "CrashLoopBackOff" for pod in processes.pods(*AT)))
    assert until(lambda: len(processes.exits()) >= 2)

    assert {(end.code, end.signal_sent) for end in processes.exits()} == {(3, 0)}
    assert len({end.pod for end in processes.exits()}) == 1


def test_a_command_that_does_not_exist_is_a_crash_loop_and_not_the_end(processes, tmp_path):
    run(processes, Program(argv=("no-such-program", "-x")), 1)

    assert until(lambda: any(pod.pending_reason == "CrashLoopBackOff" for pod in processes.pods(*AT)))

    (pod,) = processes.pods(*AT)
    assert "cannot start no-such-program" in (tmp_path / f"{pod.name}.log").read_text()


def test_kill_ends_children_of_children_too(processes, tmp_path):
    mark = tmp_path / "child"
    code = f"""
import subprocess, sys, time, pathlib
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path({str(mark)!r}).write_text(str(child.pid)); time.sleep(60)"""
    run(processes, python(code, ready_path=""), 1)
    assert until(lambda: mark.exists() and mark.read_text() != "")

    processes.kill()

    assert until(processes.empty)
    assert until(lambda: not Path(f"/proc/{mark.read_text()}").exists() or _is_zombie(mark.read_text()))


def _is_zombie(pid: str) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_celeriac_and_python_mean_this_interpreter():
    assert argv_of(["celeriac", "-A", "shop"]) == [sys.executable, "-m", "celeriac", "-A", "shop"]
    assert argv_of(["python", "-c", "1"]) == [sys.executable, "-c", "1"]
    assert argv_of(["/bin/true"]) == ["/bin/true"]


FILE = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 7
      containers:
        - command: [celeriac]
          args: [-A, shop, worker, -n, "$(WHO)@%h"]
          env:
            - {name: WHO, value: shop}
            - {name: GREETING, value: "hello $(WHO), $(NOBODY), $$(WHO)"}
            - {name: CELERIAC_BROKER_URL, valueFrom: {secretKeyRef: {name: redis, key: url}}}
            - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: MAYBE, valueFrom: {secretKeyRef: {name: extra, key: x, optional: true}}}
EXTRA_ENV
---
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {name: shop}
spec:
  targetRef: {name: worker}
  broker: {urlFrom: {secretKeyRef: {name: redis, key: url}}}
  queues: [{name: shop}]
  minReplicas: 1
"""
SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {name: redis}
data: {url: %s}
"""

DEPLOYMENT = """
kind: Deployment
metadata: {name: worker}
spec: {template: {spec: {%s}}}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pool.yaml"
    path.write_text(text.replace("EXTRA_ENV", ""))
    return path


def test_the_file_of_a_cluster_is_read(tmp_path):
    encoded = base64.b64encode(b"redis://elsewhere/0").decode()

    manifest = read_manifest(write(tmp_path, FILE + SECRET % encoded))

    (pool,) = manifest.pools
    worker = manifest.workloads["default", "worker"]
    assert pool.key == ("default", "shop")
    assert worker.program.argv == ("celeriac", "-A", "shop", "worker", "-n", "$(WHO)@%h")
    assert (worker.program.grace_s, worker.program.ready_path, worker.replicas) == (7.0, "/readyz", None)
    assert environment(worker, manifest, "redis://local/0", "")["CELERIAC_BROKER_URL"] == "redis://elsewhere/0"


def test_a_secret_that_is_not_in_the_file_is_the_local_broker_where_a_pool_names_it(tmp_path):
    manifest = read_manifest(write(tmp_path, FILE))

    env = environment(manifest.workloads["default", "worker"], manifest, "redis://local/0", "redis://local/1")

    assert env["CELERIAC_BROKER_URL"] == "redis://local/0"
    assert env["CELERIAC_RESULT_BACKEND"] == "redis://local/1"
    assert env["GREETING"] == "hello shop, $(NOBODY), $(WHO)"
    assert env["POD"] == "$(CELERIAC_POD_NAME)"
    assert "MAYBE" not in env


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("a: [", "is not YAML", id="not YAML"),
        pytest.param("kind: Secret\nmetadata: {name: x}\n", "holds no WorkerPool", id="no pool"),
        pytest.param(FILE.replace("minReplicas: 1", "minReplica: 1"), "did you mean minReplicas", id="a wrong field"),
        pytest.param(FILE.replace("metadata: {name: shop}", "metadata: {}"), "no metadata.name", id="no name"),
        pytest.param(FILE + SECRET % "plain-text!", "is not base64", id="a Secret that is not base64"),
        pytest.param(
            FILE.replace("EXTRA_ENV", "            - {name: A, valueFrom: {configMapKeyRef: {name: c, key: k}}}"),
            "knows secretKeyRef and fieldRef",
            id="an unknown source",
        ),
        pytest.param(DEPLOYMENT % "containers: 5", "spec.template.spec.containers is 5, must be a list", id="no list"),
        pytest.param(DEPLOYMENT % "containers: [5]", r"containers\[0\] is 5, must be an object", id="no container"),
        pytest.param(
            DEPLOYMENT % "containers: [{name: w, args: worker}]",
            r"args is 'worker', must be a list of texts",
            id="no words",
        ),
        pytest.param(
            FILE.replace("EXTRA_ENV", "            - {name: A, valueFrom: {secretKeyRef: {name: c}}}"),
            r"containers\[0\].env\[5\].valueFrom.secretKeyRef.key is missing",
            id="no key",
        ),
        pytest.param(
            FILE.replace("EXTRA_ENV", "            - {name: A, value: {b: c}}"),
            "value is {'b': 'c'}, must be text",
            id="no text",
        ),
        pytest.param(FILE + SECRET.replace("data: {url: %s}", "data: 7"), "data is 7, must be an object", id="no data"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path, text, complaint):
    with pytest.raises(SetupError, match=complaint):
        read_manifest(write(tmp_path, text))


def test_a_missing_secret_that_is_no_broker_is_told_before_anything_starts(tmp_path, processes):
    extra = "            - {name: TOKEN, valueFrom: {secretKeyRef: {name: api, key: token}}}"
    manifest = read_manifest(write(tmp_path, FILE.replace("EXTRA_ENV", extra)))

    with pytest.raises(SetupError, match="env TOKEN needs key 'token' of Secret 'api'"):
        LocalCluster(manifest, processes, broker_url="redis://local/0", result_url="")


def test_the_local_cluster_answers_as_the_api_would(tmp_path, processes):
    manifest = read_manifest(write(tmp_path, FILE.replace("minReplicas: 1", "minReplicas: 0")))
    cluster = LocalCluster(manifest, processes, broker_url="redis://local/0", result_url="")
    (pool,) = cluster.pools()
    spec = WorkerPoolSpec.parse(pool.spec)

    target = cluster.target(pool, spec)
    cluster.write_status(pool, {"replicas": 0})

    assert (target.replicas, target.kind, target.name, target.grace_s) == (0, "Deployment", "worker", 7.0)
    assert cluster.secret("default", "redis", "url") == "redis://local/0"
    with pytest.raises(NotFound):
        cluster.secret("default", "other", "url")
    with pytest.raises(Conflict):
        cluster.scale(pool, spec, 3, "99")
    assert cluster.pools()[0].status == {"replicas": 0}
    assert cluster.scaled() == []


def test_a_stateful_sets_processes_are_drained_like_any_others_for_they_have_no_ordinals(tmp_path, processes):
    manifest = read_manifest(write(tmp_path, FILE.replace("kind: Deployment", "kind: StatefulSet")))
    cluster = LocalCluster(manifest, processes, broker_url="redis://local/0", result_url="")
    (pool,) = cluster.pools()

    assert cluster.target(pool, WorkerPoolSpec.parse(pool.spec)).kind == "ReplicaSet"


def test_references_expand_as_in_a_pod():
    assert expanded("$(A) $(B) $$(A) $A", {"A": "x"}) == "x $(B) $(A) $A"
