"""Two operators and one Lease: the leader is frozen, thawed and killed, and work that comes in meanwhile is staffed once."""

import base64
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from apiserver import ApiServer
from objects import deployment, worker_pool
from processes import Child, wait_until
from servers import RedisServer, free_port

#: From the leader's end to the first decision of the next, as the Lease of 10 s allows.
FAILOVER_S = 20.0


class Replica:
    """One `celeriac-operator run --ha`."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        self.port = free_port()
        program = "from celeriac_operator.cli import main; main()"
        run = ["run", "-n", "shop", "--ha", "--lease", "shop/celeriac-operator", "--kubeconfig", str(kubeconfig)]
        http = ["--http-host", "127.0.0.1", "--http-port", str(self.port)]
        self.child = Child([sys.executable, "-c", program, *run, *http], log=log)

    def leads(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=2) as page:
                return b"celeriac_operator_leader 1.0" in page.read()
        except OSError:
            return False

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


def test_the_other_takes_over_and_one_that_wakes_up_does_no_harm(
    api: ApiServer, redis_server: RedisServer, tmp_path: Path
) -> None:
    url = base64.b64encode(redis_server.url.encode()).decode()
    api.put("secrets", {"metadata": {"name": "redis"}, "data": {"url": url}})
    api.put("deployments", deployment(replicas=0, ready=0))
    broker = {"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}}
    api.put("workerpools", worker_pool(broker=broker, interval="1s", maxReplicas=50))
    access = {
        "clusters": [{"name": "c", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(access))
    first, second = (Replica(tmp_path / "kubeconfig", tmp_path / name) for name in ("first", "second"))
    try:
        wait_until(lambda: first.ready() and second.ready(), timeout_s=40, what="both operators")
        wait_until(lambda: first.leads() or second.leads(), timeout_s=20, what="a leader")
        leader, other = (first, second) if first.leads() else (second, first)

        def replicas() -> int:
            return int(api.get("deployments", "mails")["spec"]["replicas"])

        def writes() -> list[int]:
            return [body["spec"]["replicas"] for method, path, body in api.requests if path.endswith("/scale") and body]

        leader.child.send(signal.SIGSTOP)
        frozen_at = time.monotonic()
        with redis_server.client() as client:
            client.lpush("mails", *["{}"] * 60)
        wait_until(lambda: replicas() > 0, timeout_s=FAILOVER_S, what="the other's first decision")
        assert time.monotonic() - frozen_at < FAILOVER_S
        assert other.leads()
        few, told = replicas(), writes()

        leader.child.send(signal.SIGCONT)
        time.sleep(3.0)
        assert not leader.leads()
        assert (replicas(), writes()) == (few, told)

        other.child.kill()
        killed_at = time.monotonic()
        with redis_server.client() as client:
            client.lpush("mails", *["{}"] * 5000)
        wait_until(lambda: replicas() == 50, timeout_s=FAILOVER_S, what="the first one's decision")
        assert time.monotonic() - killed_at < FAILOVER_S
        assert leader.leads()
        assert min(writes()[len(told) :]) > few
    finally:
        for replica in (first, second):
            replica.child.kill()
