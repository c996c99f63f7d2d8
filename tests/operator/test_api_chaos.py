"""The operator's parts together, against an API server that misbehaves: nothing stops, and nothing is scaled wrongly."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apiserver import ApiServer
from kubernetes.client import Configuration
from objects import autoscaler, deployment, worker_pool

from celeriac.broker.depth import QueueDepth
from celeriac_operator.cluster.access import Kubeconfig
from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.index import ClusterIndex
from celeriac_operator.cluster.kube import KubeCluster
from celeriac_operator.cluster.sweep import Sweep
from celeriac_operator.fleet.brokers import BrokerSide, BrokerTarget
from celeriac_operator.handlers import Watches
from celeriac_operator.loop import OperatorLoop, members, report
from celeriac_operator.metrics import OperatorMetrics

SCALE, STATUS = r"/deployments/mails/scale$", r"/workerpools/mails/status$"


class Broker:
    """A broker of ten lines: so many messages wait."""

    def __init__(self) -> None:
        self.ready = 0

    def probe(self, queues: dict[str, float]) -> dict[str, QueueDepth]:
        return {name: QueueDepth(ready=self.ready) for name in queues}

    def release_due(self, queues: list[str]) -> int:
        return 0

    def drain(self, timeout_s: float) -> list[dict[str, Any]]:
        time.sleep(0.05)
        return []

    def send(self, command: object) -> None:
        pass

    def close(self) -> None:
        pass


class Site:
    """Watches, sweep, index and loop as `main.run` puts them together, without a process of their own."""

    def __init__(self, api: ApiServer) -> None:
        self.api, self.broker = api, Broker()
        configuration = Configuration(host=api.url)
        configuration.api_key["BearerToken"] = "Bearer first"
        self.configuration = configuration
        self.client = KubeClient(Kubeconfig(configuration), connect_timeout_s=0.5, read_timeout_s=0.5)
        index = ClusterIndex()
        self.loop = OperatorLoop(
            KubeCluster(self.client, index), metrics=OperatorMetrics(version=""), connect=self.connect,
            default_broker_url="redis://broker/0",
        )  # fmt: skip
        self.sweep = Sweep(self.client, index, namespaces=["shop"], poke=self.loop.poke, first_s=0.3, interval_s=0.3)
        self.watches = Watches(self.client, index, namespaces=["shop"], poke=self.loop.poke)
        self.sweep.fill()
        self.seen: list[int] = []
        self._stop = threading.Event()
        self._look = threading.Thread(target=self._watch)
        for part in (self.loop, self.watches, self.sweep, self._look):
            part.start()

    def connect(self, target: BrokerTarget) -> BrokerSide:
        return BrokerSide(probe=self.broker, receiver=self.broker, post=self.broker)  # type: ignore[arg-type]

    @property
    def replicas(self) -> int:
        return int(self.api.get("deployments", "mails")["spec"]["replicas"])

    def _watch(self) -> None:
        """Every number of replicas there ever was, in order."""
        while not self._stop.wait(0.01):
            if not self.seen or self.seen[-1] != self.replicas:
                self.seen.append(self.replicas)

    def close(self) -> None:
        self.api.faults.clear()
        self._stop.set()
        self.loop.stop()
        self.watches.stop()
        self.sweep.stop()
        self._look.join()
        self.client.close()


@pytest.fixture
def site(api: ApiServer) -> Iterator[Site]:
    api.put("deployments", deployment(replicas=0, ready=0))
    api.put("workerpools", worker_pool(interval="1s", maxReplicas=50, coldStart="1s", scaleToZero={"after": "24h"}))
    made = Site(api)
    yield made
    made.close()


def conflicts(site: Site) -> None:
    site.api.fail("PUT", SCALE, status=409, times=3)


def refusals(site: Site) -> None:
    site.api.fail("*", ".*", status=500, times=12)


def throttling(site: Site) -> None:
    site.api.fail("PUT", SCALE, status=429, times=2, headers={"Retry-After": "1"})


def slowness(site: Site) -> None:
    site.api.fail(
        "PUT", SCALE, delay_s=1.0, times=2
    )  # longer than the client waits: it cannot know whether it was written


def old_versions(site: Site) -> None:
    site.api.compact()
    site.api.close_watches()


def an_expired_token(site: Site) -> None:
    site.api.token = "second"
    site.api.close_watches()
    time.sleep(1.5)
    site.configuration.api_key["BearerToken"] = (
        "Bearer second"  # as the `kubernetes` package does when the file is renewed
    )


def silent_watches(site: Site) -> None:
    """The target is scaled by somebody, and no watch tells: the write conflicts, and the object is read anew."""
    site.api.change_untold("deployments", "mails", {"metadata": {"labels": {"a": "b"}}})


FAULTS: list[Callable[[Site], None]] = [
    conflicts, refusals, throttling, slowness, old_versions, an_expired_token, silent_watches,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.replace("_", " "))
def test_work_that_comes_in_during_it_is_staffed_and_nothing_else_happens(
    site: Site, eventually: Callable[..., Any], fault: Callable[[Site], None]
) -> None:
    site.broker.ready = 60
    first = eventually(lambda: site.replicas, within_s=20)

    fault(site)
    site.broker.ready = 2000

    assert eventually(lambda: site.seen[-1:] == [50], within_s=25)
    alive, why = site.loop.livez()
    assert alive, why
    assert site.seen in ([0, first, 50], [first, 50])


def test_the_status_is_told_again_once_the_server_takes_it(site: Site, eventually: Callable[..., Any]) -> None:
    site.api.fail("PATCH", STATUS, status=500)
    site.broker.ready = 60
    assert eventually(lambda: site.replicas, within_s=20)

    site.api.faults.clear()

    assert eventually(lambda: site.api.get("workerpools", "mails").get("status", {}).get("decision"), within_s=20)


def test_an_autoscalers_target_is_left_alone_however_the_first_list_of_autoscalers_ends(
    api: ApiServer, eventually: Callable[..., Any]
) -> None:
    api.put("deployments", deployment(replicas=2))
    api.put("workerpools", worker_pool(interval="1s", maxReplicas=50))
    api.put("horizontalpodautoscalers", autoscaler("hpa", target="mails"))
    api.fail("GET", "horizontalpodautoscalers$", status=500, times=1)
    site = Site(api)
    try:
        site.broker.ready = 600
        told = eventually(lambda: _state(api) == "Conflict", within_s=20)
        seen = site.seen
    finally:
        site.close()

    assert told
    assert seen == [2]
    assert api.sent("PUT", "/scale$") == []


def _state(api: ApiServer) -> str | None:
    return api.get("workerpools", "mails").get("status", {}).get("state")


@pytest.mark.parametrize("spec", [{}, {"queues": []}], ids=["of a pool that rests", "of a pool with a wrong spec"])
def test_a_status_that_somebody_else_wrote_is_put_right_once(
    api: ApiServer, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    monkeypatch.setattr(report, "QUIET_WRITE_S", 1.0)
    monkeypatch.setattr(members, "ECHO_S", 1.0)
    api.put("deployments", deployment(replicas=1, ready=1))
    api.put("workerpools", worker_pool(interval="1s", minReplicas=1, maxReplicas=5, **spec))
    site = Site(api)
    try:
        state = eventually(lambda: _state(api), within_s=20)
        time.sleep(3.0)  # until it has come to rest
        body = api.get("workerpools", "mails")
        body["status"] = {**body["status"], "state": "Draining", "desiredReplicas": 17}
        written = len(api.sent("PATCH", STATUS))
        api.put("workerpools", body)

        assert eventually(lambda: _state(api) == state, within_s=30)
        assert api.get("workerpools", "mails")["status"].get("desiredReplicas") != 17
        time.sleep(3.0)
        assert len(api.sent("PATCH", STATUS)) - written == 1
    finally:
        site.close()
