"""`celeriac up` as a person runs it: a process, a real worker, an embedded or a private broker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import identity

APP = """
import os, time
from celeriac import Celeriac
app = Celeriac("shop")

@app.task
def work(i, seconds):
    time.sleep(seconds)
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{i}\\n")

def submit(count, seconds):
    for i in range(count):
        work.apply_async((i, seconds), queue="shop")
"""
POOL = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 15
      containers:
        - command: [celeriac]
          args: [-A, shop, worker, -Q, shop, -c, "2", -P, threads, -l, info]
          env:
            - {name: CELERIAC_BROKER_URL, valueFrom: {secretKeyRef: {name: broker, key: url}}}
---
apiVersion: celeriac.dev/v1alpha1
kind: WorkerPool
metadata: {name: shop}
spec:
  targetRef: {name: worker}
  broker: {urlFrom: {secretKeyRef: {name: broker, key: url}}}
  queues: [{name: shop}]
  maxReplicas: 2
  objective: {seconds: 5}
  interval: 1s
  scaleDown: {idleTimeout: 2s}
  scaleToZero: {after: 2s}
"""


#: This tree's own code, whichever is installed.
OURS = [Path(__file__).parents[2] / part for part in ("worker", "operator")]


class Up:
    """A folder with an app and a pool, and `celeriac up` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(APP)
        (folder / "pool.yaml").write_text(POOL)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str, **env: str) -> None:
        bare = {name: value for name, value in os.environ.items() if not name.startswith(("CELERIAC_", "CELERY_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celeriac", "up", "-f", "pool.yaml", "--logs", "logs", "--summary", "summary.json", *options],
            cwd=self.folder,
            env={**bare, "PYTHONPATH": os.pathsep.join(map(str, (self.folder, *OURS))), "LEDGER": str(self.folder / "ledger"), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def end(self, timeout_s: float = 60.0) -> tuple[int, str, str]:
        """(exit status, output, errors)"""
        assert self.process is not None
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err

    def until_said(self, words: str) -> str:
        """Its output up to these words, or all of it when it never says them; `end` gives what comes after."""
        assert self.process is not None
        assert self.process.stdout is not None
        said = b""
        while words.encode() not in said and (more := os.read(self.process.stdout.fileno(), 65536)):
            said += more
        return said.decode()

    def producer(self, count: int, seconds: float) -> str:
        return f"{sys.executable} -c 'import shop; shop.submit({count}, {seconds})'"

    def done(self) -> Counter[str]:
        """How often each task ran to its end."""
        ledger = self.folder / "ledger"
        return Counter(ledger.read_text().split()) if ledger.exists() else Counter()

    def until_done(self, count: int, within_s: float = 30.0) -> bool:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if len(self.done()) >= count:
                return True
            time.sleep(0.1)
        return False

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def left_running(self) -> list[str]:
        """Processes whose environment or command line names this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                try:
                    text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                    zombie = ") Z " in (entry / "stat").read_text()
                except OSError:
                    continue
                if str(self.folder).encode() in text and not zombie:
                    found.append(entry.name)
        return found


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    one = Up(tmp_path)
    yield one
    if one.process is not None and one.process.returncode is None:
        one.process.send_signal(signal.SIGINT)
        one.end(timeout_s=20)
    assert one.left_running() == []


@pytest.mark.slow
def test_a_burst_scales_from_zero_up_and_back_to_zero_and_every_task_is_done_once(up):
    up.start("--until-idle", "--timeout", "50", "--json", "--broker-file", "url", "--run", up.producer(80, 0.1))

    status, out, err = up.end()

    story = up.summary()
    assert (status, story["outcome"]) == (0, "idle"), out + err
    assert up.done() == Counter(map(str, range(80)))
    assert story["totals"]["succeeded"] == 80
    assert story["peak_replicas"] == 2
    assert story["pods_killed_while_busy"] == []
    shop = story["pools"]["default/shop"]
    assert (shop["final_replicas"], shop["left"], shop["pods"]["drained"]) == (0, {"shop": 0}, 2)
    assert shop["seen_to_scale_seconds"] < 2.0
    assert next((step["from"], step["to"]) for step in shop["scale_events"]) == (0, 2)
    assert (up.folder / "url").read_text().startswith("redis://127.0.0.1:")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["event"] for line in lines} >= {"note", "scale", "event", "tick"}
    assert err == ""


@pytest.mark.slow
def test_the_first_interrupt_lets_running_tasks_finish(up):
    up.start("--plain", "--run", up.producer(40, 1.0))
    assert up.until_done(2)

    up.process.send_signal(signal.SIGINT)
    status, out, _ = up.end(timeout_s=20)

    story = up.summary()
    assert (status, story["outcome"], story["pods_killed_while_busy"]) == (0, "interrupted", []), out
    assert set(up.done().values()) == {1}
    assert story["totals"]["started"] == sum(up.done().values())


@pytest.mark.slow
def test_the_second_interrupt_kills(up):
    up.start("--plain", "--run", up.producer(40, 20.0))
    assert wait_for(lambda: running(up))

    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    up.process.send_signal(signal.SIGINT)
    status, _, _ = up.end(timeout_s=20)

    assert status == 130
    assert time.monotonic() - began < 10


def running(up: Up) -> bool:
    """Whether a worker says in its log that it is up."""
    return any(
        "started" in log.read_text() or "ready" in log.read_text() for log in (up.folder / "logs").glob("worker-*.log")
    )


def wait_for(holds, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.1)
    return False


SIGNED = """
app.conf.update(
    task_serializer="auth", accept_content=["auth"], security_cert_store=os.environ["TRUSTED"],
    security_key=os.environ.get("CELERIAC_SECURITY_KEY") or os.environ["KEY"],
    security_certificate=os.environ.get("CELERIAC_SECURITY_CERTIFICATE") or os.environ["CERTIFICATE"],
)
app.setup_security()
"""


def signs(up: Up) -> dict[str, str]:
    """Let the app demand signatures: (where its key is, where its certificate is) and whom it trusts."""
    (up.folder / "shop.py").write_text(APP + SIGNED)
    who = identity(up.folder, "shop", store=up.folder / "trusted")
    return {"KEY": str(who.key), "CERTIFICATE": str(who.certificate), "TRUSTED": str(up.folder / "trusted")}


@pytest.mark.slow
@pytest.mark.parametrize("by", ["the container's environment", "options"])
def test_workers_that_demand_signatures_are_drained_with_the_apps_key(up, by):
    keys = signs(up)
    options: list[str] = []
    if by == "options":
        options = ["--signing-key", keys["KEY"], "--signing-certificate", keys["CERTIFICATE"]]
    else:
        keys |= {f"CELERIAC_SECURITY_{name}": keys.pop(name) for name in ("KEY", "CERTIFICATE")}

    up.start("--until-idle", "--timeout", "50", "--plain", *options, "--run", up.producer(80, 0.1), **keys)
    status, out, err = up.end()

    story = up.summary()
    assert (status, story["outcome"]) == (0, "idle"), out + err
    assert up.done() == Counter(map(str, range(80)))
    shop = story["pools"]["default/shop"]
    assert (shop["final_replicas"], shop["pods"]["drained"]) == (0, shop["peak_replicas"])
    assert "drains are signed as DE shop" in out
    assert "CommandsNotHeeded" not in out


@pytest.mark.slow
def test_workers_that_demand_signatures_stay_when_nobody_has_told_of_a_key_and_what_is_lacking_is_said(up):
    keys = signs(up)

    up.start("--timeout", "25", "--plain", "--run", up.producer(8, 0.1), **keys)
    status, out, err = up.end()

    story = up.summary()
    assert (status, story["outcome"]) == (3, "timeout"), out + err
    assert up.done() == Counter(map(str, range(8)))
    assert [step for step in story["pools"]["default/shop"]["scale_events"] if step["to"] < step["from"]] == []
    assert "CommandsNotHeeded" in out
    assert "--signing-key and --signing-certificate" in out


@pytest.mark.slow
@pytest.mark.server("redis")
def test_a_broker_that_is_down_at_start_is_waited_for(up, redis_server):
    url = redis_server.url
    redis_server.kill()
    up.start("--plain", "--until-idle", "--timeout", "100", CELERIAC_BROKER_URL=url)
    said = up.until_said("BrokerUnreachable")
    assert up.process.poll() is None

    redis_server.start()
    subprocess.run(
        ["/bin/sh", "-c", up.producer(10, 0.01)], cwd=up.folder, check=True,
        env={**os.environ, "PYTHONPATH": str(up.folder), "CELERIAC_BROKER_URL": url, "LEDGER": "unused"},
    )  # fmt: skip
    status, out, err = up.end(timeout_s=110)

    assert status == 0, out + err
    assert up.done() == Counter(map(str, range(10)))
    assert "BrokerUnreachable" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=["killed", "terminal closed"])
def test_nothing_outlives_it_however_it_ends(up, number):
    up.start("--plain", "--run", up.producer(40, 1.0))
    assert up.until_done(2)
    assert len(up.left_running()) >= 3

    up.process.send_signal(number)
    up.end()

    assert wait_for(lambda: up.left_running() == [])


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_in_order(up):
    up.start("--json", "--run", up.producer(40, 0.2))
    assert up.until_done(2)

    up.process.stdout.close()
    status = up.process.wait(20)
    err = up.process.stderr.read()
    up.process.stderr.close()

    assert (status, up.summary()["outcome"], err) == (0, "interrupted", "")


def test_a_file_with_a_wrong_field_is_refused_with_status_1(up):
    (up.folder / "pool.yaml").write_text(POOL.replace("maxReplicas", "maxReplica"))

    up.start()
    status, out, err = up.end()

    assert (status, out) == (1, "")
    assert "spec.maxReplica is not a field of this version; did you mean maxReplicas?" in err
    assert "Traceback" not in err


def test_a_pool_whose_deployment_is_not_in_the_file_is_refused_with_status_1(up):
    (up.folder / "pool.yaml").write_text(POOL.replace("targetRef: {name: worker}", "targetRef: {name: wroker}"))

    up.start()
    status, _, err = up.end()

    assert status == 1
    assert "scales Deployment 'wroker', which is not in the file" in err


@pytest.mark.parametrize(
    ("options", "broker", "complaint"),
    [
        ((), "nonsense://:hunter2@host", "has the scheme 'nonsense'"),
        ((), "redis://:hunter2@host:port", "cannot be read"),
        (("--summary", "nowhere/summary.json"), "", "--summary cannot write nowhere/summary.json"),
        (("--broker-file", "nowhere/url"), "", "--broker-file cannot write nowhere/url"),
        (("--logs", "pool.yaml/logs"), "", "--logs cannot write to pool.yaml/logs"),
    ],
    ids=["scheme", "port", "summary", "broker file", "logs"],
)
def test_what_cannot_work_is_told_at_once_and_not_waited_for(up, options, broker, complaint):
    up.start("--plain", "--until-idle", *options, CELERIAC_BROKER_URL=broker)

    status, out, err = up.end()

    assert (status, out) == (1, ""), err
    assert complaint in err
    assert "Traceback" not in err
    assert "hunter2" not in err


def test_a_broker_that_only_the_files_secret_names_is_looked_at_too(up):
    secret = "\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: broker}\nstringData: {url: 'redis//host'}\n"
    (up.folder / "pool.yaml").write_text(POOL + secret)

    up.start("--plain")
    status, _, err = up.end()

    assert status == 1
    assert "has the scheme ''" in err


@pytest.mark.parametrize(
    "options", [("--http-port", "70000"), ("--http-port", "-1"), ("--timeout", "-1")], ids=" ".join
)
def test_numbers_out_of_range_are_refused_with_status_2(up, options):
    up.start(*options)

    status, _, err = up.end()

    assert status == 2
    assert f"Invalid value for '{options[0]}'" in err


def test_a_port_that_is_taken_is_told_by_the_options_name(up):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        up.start("--plain", "--http-port", str(port))
        status, _, err = up.end()

    assert status == 1
    assert f"--http-port {port} is not free" in err


def test_a_producer_that_fails_ends_the_run_with_status_4(up):
    up.start("--plain", "--until-idle", "--run", "echo oops; exit 7")

    status, out, _ = up.end()

    assert status == 4
    assert "--run ended with status 7" in out
    assert (up.folder / "logs" / "run.log").read_text() == "oops\n"


def test_a_run_that_is_not_over_in_time_ends_with_status_3(up):
    up.start("--plain", "--until-idle", "--timeout", "2")

    status, _, _ = up.end()

    assert (status, up.summary()["outcome"]) == (3, "timeout")


def test_the_operator_serves_its_metrics_where_it_is_asked_to(up):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up.start("--plain", "--http-port", str(port))

    import http.client

    def get(path: str) -> tuple[int, str]:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""

    assert wait_for(lambda: get("/readyz")[0] == 200)
    assert wait_for(lambda: 'celeriac_pool_replicas{kind="desired"' in get("/metrics")[1])
    assert get("/livez") == (200, "1 brokers served\n")
