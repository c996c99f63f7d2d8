"""Processes instead of pods: a small kubelet and ReplicaSet that keeps as many as replicas, by Kubernetes' own rules.

    Pending ──start──▶ Running, not ready ──/readyz 200──▶ Running, ready ──scale-in: SIGTERM──▶ deleting ──exit──▶ gone
                              ▲                                  │
                              └── back-off: CrashLoopBackOff ◀───┴── the process ended by itself

One thread does it all; what other threads ask for is a number and a kill, under one lock.
"""

import http.client
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celeriac_operator.local.guard import Guard
from celeriac_operator.local.manifest import Program, expanded
from celeriac_operator.local.ports import free_port
from celeriac_operator.resources.records import PodRecord

log = logging.getLogger("celeriac_operator.local")

#: Seconds between two looks at the processes.
LOOK_S = 0.1
#: Seconds between two questions for readiness, before and after the first yes.
ASK_STARTING_S = 0.2
ASK_READY_S = 1.0
#: Seconds one question may take.
ASK_TIMEOUT_S = 0.5
#: Seconds before the first restart of a process that ended, doubled each time, and the most. Kubernetes starts at 10 s;
#: here a person waits.
BACKOFF_S = 1.0
BACKOFF_MOST_S = 30.0
#: Seconds of running after which the back-off begins anew.
HEALTHY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A process that ended.

    signal_sent      what we had sent it, 0 for one that ended by itself.
    grace_exceeded   it was told to go and did not in time, so SIGKILL came.
    """

    pod: str
    code: int
    signal_sent: int
    grace_exceeded: bool
    at: float


@dataclass(slots=True, kw_only=True)
class _Pod:
    name: str
    uid: str
    namespace: str
    owner: str
    program: Program
    env: Mapping[str, str]
    log_path: Path
    created_at: float
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_at: float | None = None
    ready_at: float | None = None
    ready: bool = False
    asked_at: float = 0.0
    deleting_at: float | None = None
    killed: bool = False
    failures: int = 0
    restart_at: float = 0.0
    cost: int = 0


@dataclass(slots=True, kw_only=True)
class _Set:
    """One Deployment: how many, of what."""

    namespace: str
    name: str
    program: Program
    env: Callable[[], Mapping[str, str]]
    replicas: int = 0
    hash: str = field(default_factory=lambda: secrets.token_hex(4))
    pods: list[_Pod] = field(default_factory=list)


class Processes:
    """The machine as a cluster.

    logs        directory: one file a pod.
    guard       told of every process, so that none outlives us.
    on_change   called, from the thread, when a pod came, went or changed its readiness.
    """

    def __init__(self, *, logs: Path, guard: Guard, on_change: Callable[[], None]) -> None:
        self._logs = logs
        self._guard = guard
        self._on_change = on_change
        self._lock = threading.Lock()
        self._sets: dict[tuple[str, str], _Set] = {}
        self._exits: list[Exit] = []
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="processes", daemon=True)

    def add(
        self, namespace: str, name: str, program: Program, *, env: Callable[[], Mapping[str, str]], replicas: int
    ) -> None:
        """A Deployment to keep. env: the whole environment of a new process, without what is the pod's own."""
        with self._lock:
            self._sets[namespace, name] = _Set(
                namespace=namespace, name=name, program=program, env=env, replicas=replicas
            )

    def start(self) -> None:
        self._thread.start()

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        """From now on so many. Surplus processes get SIGTERM, and SIGKILL when their grace is over."""
        with self._lock:
            self._sets[namespace, name].replicas = replicas
        self._wake.set()

    def mark(self, namespace: str, name: str, costs: Mapping[str, int]) -> None:
        """Deletion costs by pod name; unknown pods are passed over."""
        with self._lock:
            for pod in self._sets[namespace, name].pods:
                pod.cost = costs.get(pod.name, pod.cost)

    def pods(self, namespace: str, name: str) -> list[PodRecord]:
        now = time.time()
        with self._lock:
            found = self._sets.get((namespace, name))
            return [_record(pod, found.hash, now) for pod in found.pods] if found else []

    def replicas(self, namespace: str, name: str) -> int:
        with self._lock:
            return self._sets[namespace, name].replicas

    def exits(self) -> list[Exit]:
        """Every process that has ended so far."""
        with self._lock:
            return list(self._exits)

    def empty(self) -> bool:
        """Whether no process is left."""
        with self._lock:
            return not any(pods.pods for pods in self._sets.values())

    def stop(self, *, timeout_s: float) -> bool:
        """Scale everything to zero and wait; False when something still runs after timeout_s (see `kill`)."""
        with self._lock:
            for pods in self._sets.values():
                pods.replicas = 0
        self._wake.set()
        until = time.monotonic() + timeout_s
        while not self.empty():
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_S)
        return True

    def kill_pod(self, namespace: str, name: str, pod_name: str) -> None:
        """SIGKILL to one pod's process and its children; another takes its place."""
        with self._lock:
            for pod in self._sets[namespace, name].pods:
                if pod.name == pod_name:
                    _kill(pod)
        self._wake.set()

    def kill(self) -> None:
        """SIGKILL to every process and its children, at once."""
        with self._lock:
            for pods in self._sets.values():
                pods.replicas = 0
                for pod in pods.pods:
                    _kill(pod)
        self._wake.set()

    def close(self) -> None:
        """End the thread; nothing may run any more but what `kill` could not reach."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    # -- the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            with self._lock:
                changed = [self._look(pods) for pods in self._sets.values()]
                asked = [pod for pods in self._sets.values() for pod in pods.pods if _wants_asking(pod)]
            answers = [(pod, _is_ready(pod)) for pod in asked]  # outside the lock: it may take its time
            with self._lock:
                changed += [_settle_ready(pod, ready) for pod, ready in answers]
            if any(changed):
                self._on_change()
            self._wake.wait(LOOK_S)

    def _look(self, pods: _Set) -> bool:
        now = time.time()
        changed = [self._reap(pods, pod, now) for pod in list(pods.pods)]
        staying = [pod for pod in pods.pods if pod.deleting_at is None]
        for pod in victims(staying, len(staying) - pods.replicas, now):
            _terminate(pod, now)
            changed.append(True)
        for _ in range(pods.replicas - len(staying)):
            pods.pods.append(self._new(pods, now))
            changed.append(True)
        for pod in pods.pods:
            if pod.process is None and pod.deleting_at is None and now >= pod.restart_at:
                pid = _start(pod, now)
                if pid is not None:
                    self._guard.watch(pid)
                changed.append(True)
            elif pod.deleting_at is not None and not pod.killed and now > pod.deleting_at + pod.program.grace_s:
                log.warning("%s did not end within its %g s of grace: killed", pod.name, pod.program.grace_s)
                _kill(pod)
        return any(changed)

    def _new(self, pods: _Set, now: float) -> _Pod:
        name = f"{pods.name}-{pods.hash}-{secrets.token_hex(3)[:5]}"
        return _Pod(
            name=name,
            uid=str(uuid.uuid4()),
            namespace=pods.namespace,
            owner=pods.name,
            program=pods.program,
            env=pods.env(),
            log_path=self._logs / f"{name}.log",
            created_at=now,
        )

    def _reap(self, pods: _Set, pod: _Pod, now: float) -> bool:
        """Note an end: a pod that was told to go is gone, any other is restarted after a while."""
        if pod.process is None:
            if pod.deleting_at is not None:
                pods.pods.remove(pod)
                return True
            return False
        code = pod.process.poll()
        if code is None:
            return False
        self._guard.forget(pod.process.pid)
        told = pod.deleting_at is not None
        sent = 0 if not told and not pod.killed else signal.SIGKILL if pod.killed else signal.SIGTERM
        self._exits.append(
            Exit(pod=pod.name, code=code, signal_sent=int(sent), grace_exceeded=told and pod.killed, at=now)
        )
        pod.process, pod.ready = None, False
        if told or pod.killed:
            pods.pods.remove(pod)
            return True
        if pod.started_at is not None and now - pod.started_at > HEALTHY_S:
            pod.failures = 0
        delay_s = min(BACKOFF_MOST_S, BACKOFF_S * 2**pod.failures)
        pod.failures += 1
        pod.restart_at = now + delay_s
        log.warning("%s ended with %s; its log is %s; restart in %g s", pod.name, _ended(code), pod.log_path, delay_s)
        return True


def victims(pods: Sequence[_Pod], count: int, now: float) -> list[_Pod]:
    """The pods a ReplicaSet would remove: those not running, then not ready, then by deletion cost, then the youngest."""

    def order(pod: _Pod) -> tuple[bool, bool, int, float, float]:
        ready_s = now - pod.ready_at if pod.ready_at is not None else 0.0
        return (pod.process is not None, pod.ready, pod.cost, ready_s, now - pod.created_at)

    return sorted(pods, key=order)[: max(0, count)]


def _record(pod: _Pod, revision: str, now: float) -> PodRecord:
    waiting = pod.process is None
    return PodRecord(
        name=pod.name,
        uid=pod.uid,
        phase="Pending" if pod.started_at is None else "Running",
        ready=pod.ready,
        deleting=pod.deleting_at is not None,
        created_at=pod.created_at,
        ready_at=pod.ready_at,
        pending_reason="CrashLoopBackOff" if waiting and pod.failures and pod.restart_at > now else "",
        revision=revision,
        running=not waiting,
    )


def argv_of(words: Sequence[str]) -> list[str]:
    """The command line; `celeriac` is this interpreter's own, so that no PATH has to be set up."""
    own = {"celeriac": ["-m", "celeriac"], "python": [], "python3": []}
    if words and words[0] in own:
        return [sys.executable, *own[words[0]], *words[1:]]
    return list(words)


def _start(pod: _Pod, now: float) -> int | None:
    """Start the pod's process; its id, or None when there is no such program."""
    pod.port = free_port()
    facts = {
        "CELERIAC_POD_NAMESPACE": pod.namespace,
        "CELERIAC_POD_NAME": pod.name,
        "CELERIAC_POD_UID": pod.uid,
        "CELERIAC_WORKER_HTTP_PORT": str(pod.port),
    }
    env = {name: expanded(value, facts) if name in pod.program.env else value for name, value in pod.env.items()}
    # As the worker chart has it: what is left over is for giving back what did not finish.
    bounded_s = max(1.0, pod.program.grace_s - 5.0)
    env = {"CELERIAC_PROFILE": "kubernetes", "CELERIAC_WORKER_SHUTDOWN_GRACE_S": f"{bounded_s:g}", **env, **facts}
    argv = argv_of([expanded(word, env) for word in pod.program.argv])
    with pod.log_path.open("ab") as out:
        try:
            pod.process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is ours to translate, and killpg reaches its children
            )
        except OSError as error:
            out.write(f"cannot start {pod.program.argv[0]}: {error}\n".encode())
            pod.failures += 1
            pod.restart_at = now + min(BACKOFF_MOST_S, BACKOFF_S * 2**pod.failures)
            log.warning("cannot start %s: %s", pod.program.argv[0], error)
            return None
    pod.started_at = now
    pod.ready = False
    return pod.process.pid


def _terminate(pod: _Pod, now: float) -> None:
    pod.deleting_at, pod.ready = now, False
    if pod.process is not None and pod.process.poll() is None:
        pod.process.terminate()


def _kill(pod: _Pod) -> None:
    pod.killed = True
    if pod.process is None:
        return
    try:
        os.killpg(pod.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("%s had ended already", pod.name)


def _wants_asking(pod: _Pod) -> bool:
    if pod.process is None or pod.deleting_at is not None:
        return False
    every_s = ASK_READY_S if pod.ready else ASK_STARTING_S
    return time.monotonic() - pod.asked_at >= every_s


def _is_ready(pod: _Pod) -> bool:
    pod.asked_at = time.monotonic()
    if not pod.program.ready_path:
        return True
    connection = http.client.HTTPConnection("127.0.0.1", pod.port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", pod.program.ready_path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _settle_ready(pod: _Pod, ready: bool) -> bool:
    if pod.process is None or pod.deleting_at is not None or ready == pod.ready:
        return False
    pod.ready = ready
    if ready:
        pod.ready_at = time.time()
    return True


def _ended(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
