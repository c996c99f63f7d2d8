"""The loop over a cluster in memory and a broker of ten lines: one tick at a time, then its threads, then a real Redis."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from scraped import page_of

from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.control import Command
from celeriac.wire.event import DrainState, Heartbeat, QueueTotals, heartbeat_to_wire
from celeriac_operator import clock
from celeriac_operator.errors import ClusterError, Conflict, Forbidden, NotFound, Unreachable
from celeriac_operator.fleet.brokers import BrokerSide, BrokerTarget
from celeriac_operator.fleet.signature import NO_KEY, Signature
from celeriac_operator.loop import OperatorLoop, Tick, broker
from celeriac_operator.loop.act import DOOMED_COST
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.resources.records import PodRecord, PoolRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import TargetSample

URL = "redis://:hunter2@broker:6379/0"


def spec(**more: Any) -> dict[str, Any]:
    return {
        "targetRef": {"name": "mails-worker"},
        "broker": {"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}},
        "queues": [{"name": "mails"}],
        "interval": "1s",
        "scaleDown": {"idleTimeout": "0s"},
        "scaleToZero": {"after": "0s"},
        "coldStart": "1s",
        **more,
    }


def pool(name: str = "mails", **more: Any) -> PoolRecord:
    return PoolRecord(namespace="shop", name=name, uid=f"uid-{name}", generation=1, spec=spec(**more))


class MemoryCluster:
    """A cluster of values; every write is kept."""

    def __init__(self, *pools: PoolRecord) -> None:
        self.records = {record.name: record for record in pools}
        self.replicas: dict[str, int] = {"mails-worker": 0}
        self.kubelet: list[PodRecord] = []
        self.secrets = {("shop", "redis", "url"): URL}
        self.unreadable: dict[str, ClusterError] = {}
        self.scaled: list[tuple[str, int]] = []
        self.statuses: list[tuple[str, Mapping[str, Any]]] = []
        self.events: list[tuple[str, str, str]] = []
        self.costs: list[Mapping[str, int]] = []
        self.killed: list[str] = []
        self.refuses: ClusterError | None = None
        self.refuses_marks: ClusterError | None = None
        self.reads: ClusterError | None = None
        self.leads = True
        self.led_times = 0

    def pools(self) -> Sequence[PoolRecord]:
        if self.reads:
            raise self.reads
        return list(self.records.values())

    def target(self, pool: PoolRecord, spec: WorkerPoolSpec) -> TargetSample:
        name = spec.target_ref.name
        if name not in self.replicas:
            return TargetSample(name=name, error=f"Deployment shop/{name} does not exist")
        ready = sum(pod.ready for pod in self.kubelet)
        return TargetSample(name=name, replicas=self.replicas[name], ready_replicas=ready, resource_version="7")

    def pods(self, pool: PoolRecord, spec: WorkerPoolSpec) -> Sequence[PodRecord]:
        return list(self.kubelet)

    def trace(self, pool: PoolRecord, spec: WorkerPoolSpec) -> object:
        return (self.target(pool, spec), tuple(self.pods(pool, spec)))

    def secret(self, namespace: str, name: str, key: str) -> str:
        if name in self.unreadable:
            raise self.unreadable[name]
        try:
            return self.secrets[namespace, name, key]
        except KeyError:
            raise NotFound(f"no Secret {namespace}/{name}", status=404) from None

    def scale(self, pool: PoolRecord, spec: WorkerPoolSpec, replicas: int, resource_version: str) -> None:
        if self.refuses:
            raise self.refuses
        assert resource_version == "7"
        self.replicas[spec.target_ref.name] = replicas
        self.scaled.append((pool.name, replicas))

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        if self.refuses_marks:
            raise self.refuses_marks
        self.costs.append(costs)

    def kill_pod(self, pool: PoolRecord, name: str) -> None:
        if self.refuses_marks:
            raise self.refuses_marks
        self.killed.append(name)

    def write_status(self, pool: PoolRecord, status: Mapping[str, Any]) -> Mapping[str, Any]:
        self.statuses.append((pool.name, status))
        return status

    def event(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        self.events.append((pool.name, kind, reason))

    def may_act(self) -> bool:
        return self.leads

    def term(self) -> int:
        return self.led_times

    def conditions(self, name: str) -> dict[str, tuple[str, str]]:
        status = next(status for who, status in reversed(self.statuses) if who == name)
        return {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}


class FakeBroker:
    """Depths that a test sets, heartbeats that it sends, commands that it reads."""

    def __init__(self) -> None:
        self.depths: dict[str, QueueDepth] = {}
        self.down: str = ""
        self.heartbeats: list[dict[str, Any]] = []
        self.commands: list[Command] = []
        self.signed: list[Command] = []
        self.probed: list[Mapping[str, float]] = []
        self.released: list[list[str]] = []
        self.closed = 0

    def probe(self, queues: Mapping[str, float]) -> Mapping[str, QueueDepth]:
        if self.down:
            raise BrokerUnavailable(self.down)
        self.probed.append(queues)
        return {name: self.depths.get(name, QueueDepth()) for name in queues}

    def release_due(self, queues: Sequence[str]) -> int:
        if self.down:
            raise BrokerUnavailable(self.down)
        self.released.append(list(queues))
        return 0

    def drain(self, timeout_s: float) -> list[dict[str, Any]]:
        if self.down:
            raise BrokerUnavailable(self.down)
        time.sleep(0.01)
        heard, self.heartbeats = self.heartbeats, []
        return heard

    def send(self, command: Command, *, signed: bool = False) -> None:
        if self.down:
            raise BrokerUnavailable(self.down)
        self.commands.append(command)
        if signed:
            self.signed.append(command)

    def close(self) -> None:
        self.closed += 1


class Bench:
    """An OperatorLoop over both, whose threads a test starts when it wants them."""

    def __init__(
        self, *pools: PoolRecord, default_broker_url: str | None = None, signature: Signature | None = None
    ) -> None:
        self.cluster = MemoryCluster(*pools)
        self.brokers: dict[str, FakeBroker] = {}
        self.ticks: list[Tick] = []
        self.metrics = OperatorMetrics(version="1.2.3")
        self.loop = OperatorLoop(
            self.cluster,
            metrics=self.metrics,
            default_broker_url=default_broker_url,
            connect=self.connect,
            watch=self.ticks.append,
            signature=signature,
        )
        self.lock = threading.Lock()

    def connect(self, target: BrokerTarget) -> BrokerSide:
        fake = self.brokers.setdefault(target.url, FakeBroker())
        return BrokerSide(probe=fake, receiver=fake, post=fake)

    @property
    def broker(self) -> FakeBroker:
        return self.brokers.setdefault(URL, FakeBroker())

    def until(self, holds: Callable[[], bool], within_s: float = 8.0) -> bool:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if holds():
                return True
            time.sleep(0.02)
        return False

    def last(self, name: str = "mails") -> Tick:
        return next(tick for tick in reversed(self.ticks) if tick.pool.name == name)


@pytest.fixture
def bench() -> Any:
    made: list[Bench] = []

    def make(*pools: PoolRecord, **more: Any) -> Bench:
        made.append(Bench(*(pools or (pool(),)), **more))
        return made[-1]

    yield make
    for one in made:
        one.loop.stop()


def pod(name: str, **more: Any) -> PodRecord:
    fields = {"phase": "Running", "ready": True, "created_at": time.time() - 60, "ready_at": time.time() - 50, **more}
    return PodRecord(name=name, uid=f"uid-{name}", **fields)


def heartbeat(name: str, **more: Any) -> dict[str, Any]:
    now = time.time()
    fields = {
        "hostname": f"celeriac@{name}", "incarnation": f"inc-{name}", "namespace": "shop", "pod": name,
        "pod_uid": f"uid-{name}", "slots": 2, "queues": ("mails",), "started_at": now - 50, **more,
    }  # fmt: skip
    return heartbeat_to_wire(Heartbeat(timestamp=now, **fields))


def test_work_that_waits_becomes_replicas(bench):
    b = bench()
    b.broker.depths["mails"] = QueueDepth(ready=500)

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.scaled))
    assert b.cluster.scaled[0] == ("mails", 10)
    assert b.until(lambda: ("mails", "Normal", "ScaledUp") in b.cluster.events)
    assert b.until(lambda: b.cluster.conditions("mails")["Ready"][0] == "True")
    assert b.broker.probed[0]["mails"] == pytest.approx(2.0)  # cold start and one tick ahead


def test_two_pools_of_one_broker_share_a_probe_and_two_brokers_do_not(bench):
    b = bench(
        pool("mails"),
        pool("bulk", queues=[{"name": "bulk"}]),
        pool("far", broker={"urlFrom": {"secretKeyRef": {"name": "far", "key": "url"}}}),
    )
    b.cluster.secrets["shop", "far", "url"] = "redis://far:6379/0"

    b.loop.start()

    assert b.until(lambda: {tick.pool.name for tick in b.ticks} == {"mails", "bulk", "far"})
    assert set(b.brokers) == {URL, "redis://far:6379/0"}
    assert set(b.broker.probed[-1]) == {"mails", "bulk"}


def test_what_waits_at_another_broker_that_a_pool_moves_to_did_not_arrive_there_just_now(bench):
    far = {"urlFrom": {"secretKeyRef": {"name": "far", "key": "url"}}}
    b = bench(pool("mails"))
    b.cluster.secrets["shop", "far", "url"] = "redis://far:6379/0"
    b.loop.start()
    assert b.until(lambda: len(b.ticks) >= 2)
    there = b.brokers["redis://far:6379/0"] = FakeBroker()
    there.depths["mails"] = QueueDepth(ready=5000)

    b.cluster.records["mails"] = replace(pool("mails", broker=far), generation=2)
    b.loop.poke("shop", "mails")

    moved = lambda: [tick for tick in b.ticks if tick.signals.queues and tick.signals.queues[0].ready == 5000]  # noqa: E731
    assert b.until(lambda: len(moved()) >= 3)
    assert [tick.decision.queues["mails"]["arrivals_per_s"] for tick in moved()] == pytest.approx([0.0] * len(moved()))


def test_a_pool_with_a_wrong_spec_gets_a_condition_and_stops_nobody(bench, caplog):
    b = bench(
        pool("mails"),
        pool("broken", minReplica=3),
        pool("lost", broker={"urlFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}),
    )
    b.broker.depths["mails"] = QueueDepth(ready=500)

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.scaled))
    assert b.cluster.conditions("broken")["Ready"] == ("False", "InvalidSpec")
    assert b.cluster.conditions("lost")["Ready"] == ("False", "SecretNotFound")
    told = page_of(b.metrics.families())
    for name, reason in (("broken", "InvalidSpec"), ("lost", "SecretNotFound")):
        assert (
            f'celeriac_pool_condition{{condition="Ready",namespace="shop",pool="{name}",reason="{reason}"}} 0.0' in told
        )
    time.sleep(0.5)
    assert sum(who == "broken" for who, _ in b.cluster.statuses) == 1
    assert sum("minReplica" in r.message for r in caplog.records) == 1


def test_a_pool_recovers_by_itself_when_its_spec_and_secret_are_put_right(bench, monkeypatch):
    monkeypatch.setattr("celeriac_operator.loop.roster.SECRET_RETRY_S", 0.1)
    b = bench(pool("mails", minReplica=3))
    del b.cluster.secrets["shop", "redis", "url"]
    b.loop.start()
    assert b.until(
        lambda: b.cluster.conditions("mails")["Ready"] == ("False", "InvalidSpec") if b.cluster.statuses else False
    )

    b.cluster.records["mails"] = replace(pool("mails"), generation=2)
    b.loop.poke("shop", "mails")
    assert b.until(lambda: b.cluster.conditions("mails")["Ready"] == ("False", "SecretNotFound"))
    b.cluster.secrets["shop", "redis", "url"] = URL

    assert b.until(lambda: b.cluster.conditions("mails")["Ready"][0] == "True")
    assert b.until(lambda: 'pool="mails",reason="Decided"} 1.0' in page_of(b.metrics.families()))


def test_a_secret_that_may_not_be_read_is_told_from_one_that_is_missing_or_was_not_answered(bench):
    b = bench(
        *(
            pool(name, broker={"urlFrom": {"secretKeyRef": {"name": name, "key": "url"}}})
            for name in ("denied", "silent")
        )
    )
    user = "system:serviceaccount:system:celeriac-operator"
    b.cluster.unreadable = {
        "denied": Forbidden(f'secrets "denied" is forbidden: User "{user}" cannot get resource "secrets"', status=403),
        "silent": Unreachable("no answer"),
    }

    b.loop.start()

    assert b.until(lambda: {who for who, _ in b.cluster.statuses} == {"denied", "silent"})
    assert b.cluster.conditions("denied")["Ready"] == ("False", "SecretForbidden")
    assert b.cluster.conditions("silent")["Ready"] == ("False", "SecretNotRead")
    status = next(status for who, status in b.cluster.statuses if who == "denied")
    [said] = [condition["message"] for condition in status["conditions"] if condition["type"] == "Ready"]
    assert said.startswith(f"{user} may not read the Secret shop/denied: name it in secrets.allowed")
    assert said.endswith('the rule {apiGroups: [""], resources: [secrets], resourceNames: [denied], verbs: [get]}')


def test_a_missing_target_is_a_condition_and_no_write(bench):
    b = bench()
    b.cluster.replicas.clear()
    b.broker.depths["mails"] = QueueDepth(ready=500)

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.statuses))
    assert b.cluster.conditions("mails")["Ready"][0] == "False"
    assert b.cluster.scaled == []


def test_a_pool_without_a_broker_uses_the_operators_own_and_says_so_when_there_is_none(bench):
    own = {name: value for name, value in spec().items() if name != "broker"}
    record = PoolRecord(namespace="shop", name="mails", uid="u", generation=1, spec=own)
    with_default, without = bench(record, default_broker_url="redis://default/0"), bench(record)

    with_default.loop.start()
    without.loop.start()

    assert with_default.until(lambda: bool(with_default.ticks))
    assert without.until(lambda: bool(without.cluster.statuses))
    assert set(with_default.brokers) == {"redis://default/0"}
    assert without.cluster.conditions("mails")["Ready"] == ("False", "BrokerMissing")


def test_a_broker_that_is_down_holds_the_pool_and_is_logged_once_without_its_password(bench, caplog):
    b = bench()
    b.cluster.replicas["mails-worker"] = 3
    b.broker.down = "cannot reach redis://:**@broker:6379/0: refused"

    b.loop.start()

    assert b.until(lambda: len(b.ticks) >= 3)
    assert b.cluster.scaled == []
    assert not b.last().signals.broker_ok
    assert b.cluster.conditions("mails")["BrokerReachable"][0] == "False"
    assert sum("cannot reach" in r.message and r.name.endswith("loop") for r in caplog.records) == 1
    assert "hunter2" not in caplog.text

    b.broker.down = ""
    b.broker.depths["mails"] = QueueDepth(ready=500)

    assert b.until(lambda: bool(b.cluster.scaled), within_s=15)
    assert b.cluster.scaled[0][1] == 10


@pytest.mark.parametrize("refused", [None, Forbidden("cannot patch pods", status=403)], ids=["marks", "marks refused"])
def test_scale_in_drains_first_and_writes_only_what_is_drained(bench, refused):
    b = bench()
    b.cluster.refuses_marks = refused
    b.cluster.replicas["mails-worker"] = 2
    b.cluster.kubelet = [pod("mails-1"), pod("mails-2")]
    b.broker.depths["mails"] = QueueDepth(leased=1)
    keep = beating(b, lambda: [heartbeat("mails-1", busy=1), heartbeat("mails-2", drain=echo(b))])
    b.loop.start()

    assert b.until(lambda: any(c.method == "drain" for c in b.broker.commands), within_s=60)
    command = next(c for c in b.broker.commands if c.method == "drain")
    assert command.destination == ["celeriac@mails-2"]
    assert command.arguments["ttl_s"] == 60.0
    assert b.cluster.costs == ([] if refused else [{"mails-2": DOOMED_COST}])
    assert b.cluster.scaled == []

    b.cluster.kubelet = [pod("mails-1"), pod("mails-2", ready=False)]

    assert b.until(lambda: b.cluster.scaled == [("mails", 1)])
    keep.set()
    assert all("celeriac@mails-1" not in (c.destination or ()) for c in b.broker.commands if c.method == "drain")


def test_workers_that_demand_signatures_are_not_told_without_a_key_and_the_pool_says_so_until_there_is_one(
    bench, caplog
):
    lacks = [NO_KEY]
    b = bench(signature=Signature(lack=lambda: lacks[0] if lacks else None, name="operator 7"))
    b.cluster.replicas["mails-worker"] = 2
    b.cluster.kubelet = [pod("mails-1"), pod("mails-2")]
    b.broker.depths["mails"] = QueueDepth(leased=1)
    keep = beating(
        b,
        lambda: [
            heartbeat("mails-1", busy=1, commands="signed"),
            heartbeat("mails-2", drain=echo(b), commands="signed"),
        ],
    )
    b.loop.start()

    assert b.until(lambda: b.ticks and b.last().decision.drain == ("mails-2",), within_s=60)
    ticks = len(b.ticks)
    assert b.until(lambda: len(b.ticks) > ticks + 2)
    assert b.broker.commands == []
    assert b.cluster.scaled == []
    assert b.cluster.conditions("mails")["CommandsNotHeeded"] == ("True", "SigningKeyMissing")
    assert b.cluster.events.count(("mails", "Warning", "CommandsNotHeeded")) == 1
    assert sum("demand signed commands, and the operator has no key" in r.message for r in caplog.records) == 1

    lacks.clear()

    assert b.until(lambda: bool(b.broker.signed), within_s=20)
    assert b.broker.signed[0].destination == ["celeriac@mails-2"]
    assert b.broker.commands == b.broker.signed
    assert b.until(lambda: b.cluster.conditions("mails")["CommandsNotHeeded"] == ("False", "Heeded"))
    assert ("mails", "Normal", "CommandsNotHeededEnded") in b.cluster.events
    b.cluster.kubelet = [pod("mails-1"), pod("mails-2", ready=False)]
    assert b.until(lambda: b.cluster.scaled == [("mails", 1)], within_s=20)
    keep.set()


def test_a_dry_run_sends_nothing_and_says_all_the_same_that_there_is_no_key(bench):
    b = bench(pool(mode="DryRun"))
    b.cluster.replicas["mails-worker"] = 2
    b.cluster.kubelet = [pod("mails-1"), pod("mails-2")]
    keep = beating(b, lambda: [heartbeat(name, commands="signed") for name in ("mails-1", "mails-2")])
    b.loop.start()

    assert b.until(
        lambda: b.cluster.statuses and b.cluster.conditions("mails")["CommandsNotHeeded"][0] == "True", within_s=20
    )
    keep.set()
    assert b.broker.commands == []


BULK = {"queues": [{"name": "bulk"}]}


def overdue(bench: Any, policy: str, **cluster: Any) -> Bench:
    """Two pods at work of which one is to go, which it does not within a second."""
    b = bench(pool(scaleDown={"idleTimeout": "0s", "drainTimeout": "1s", "onDrainTimeout": policy}))
    b.cluster.refuses_marks = cluster.get("refuses")
    b.cluster.replicas["mails-worker"] = 2
    b.cluster.kubelet = [pod("mails-1"), pod("mails-2")]
    b.broker.depths["mails"] = QueueDepth(leased=2)
    b.keep = beating(
        b,
        lambda: [
            heartbeat("mails-1", busy=1),
            heartbeat("mails-2", busy=1, longest_running_s=90.0, drain=echo(b, "draining")),
        ],
    )
    b.loop.start()
    return b


@pytest.mark.parametrize(
    ("policy", "ended", "killed"),
    [("Wait", [], []), ("Requeue", [["celeriac@mails-2"]], []), ("Kill", [], ["mails-2"])],
)
def test_a_task_that_outlasts_the_drain_is_dealt_with_as_the_spec_says(bench, policy, ended, killed, monkeypatch):
    monkeypatch.setattr("celeriac_operator.scaling.guards.STARTUP_GRACE_S", 0.5)
    b = overdue(bench, policy)

    assert b.until(lambda: ("mails", "Warning", "DrainTimeout") in b.cluster.events, within_s=40)
    assert b.until(lambda: len(b.ticks) > 2)
    b.keep.set()

    assert [c.destination for c in b.broker.commands if c.method == "shutdown"][:1] == ended
    assert b.cluster.killed[:1] == killed
    assert b.cluster.scaled == []


def test_a_pod_that_may_not_be_killed_is_told_once_and_stops_nothing(bench, caplog, monkeypatch):
    monkeypatch.setattr("celeriac_operator.scaling.guards.STARTUP_GRACE_S", 0.5)
    b = overdue(bench, "Kill", refuses=Forbidden("cannot delete pods", status=403))

    assert b.until(lambda: "cannot delete pods" in caplog.text, within_s=40)
    ticks = len(b.ticks)
    assert b.until(lambda: len(b.ticks) > ticks + 2)
    b.keep.set()

    assert sum("ending overdue pods" in record.message for record in caplog.records) == 1
    assert b.cluster.conditions("mails")["Ready"][0] == "True"
    assert b.cluster.conditions("mails")["Draining"] == ("True", "NotEnded")
    told = [reason for _, _, reason in b.cluster.events if reason.startswith("DrainTimeout")]
    assert told == ["DrainTimeoutNotHeeded"]


def test_a_deleted_pool_has_its_first_replicas_restored_when_its_spec_says_so(bench):
    b = bench(pool("mails", onDelete="RestoreReplicas"), pool("left", targetRef={"name": "left-worker"}, **BULK))
    b.cluster.replicas |= {"mails-worker": 12, "left-worker": 12}
    b.loop.start()
    assert b.until(lambda: {("mails", 10), ("left", 10)} <= set(b.cluster.scaled))  # maxReplicas
    b.cluster.refuses = Conflict("changed since it was read", status=409)

    b.cluster.records.clear()
    assert b.until(lambda: not b.loop._states)  # the first try has failed by now
    b.cluster.refuses = None

    assert b.until(lambda: b.cluster.replicas["mails-worker"] == 12)
    assert b.cluster.replicas["left-worker"] == 10


def test_a_pool_whose_target_was_changed_is_a_fault_and_its_first_target_is_restored(bench):
    b = bench(pool("mails", onDelete="RestoreReplicas", **BULK))
    b.cluster.replicas |= {"mails-worker": 12, "new": 1}
    b.loop.start()
    assert b.until(lambda: ("mails", 10) in b.cluster.scaled)
    target = {"kind": "Deployment", "name": "mails-worker"}
    assert b.until(lambda: any(status.get("target") == target for _, status in list(b.cluster.statuses)))

    record = b.cluster.records["mails"]
    b.cluster.records["mails"] = replace(record, generation=2, spec={**record.spec, "targetRef": {"name": "new"}})
    b.loop.poke("shop", "mails")

    assert b.until(lambda: b.cluster.conditions("mails")["Ready"] == ("False", "InvalidSpec"))
    b.cluster.records.clear()
    assert b.until(lambda: b.cluster.replicas["mails-worker"] == 12)
    assert b.cluster.replicas["new"] == 1


def test_a_deleted_pool_with_more_replicas_than_at_first_keeps_them_for_nobody_would_drain_them(bench, caplog):
    b = bench(pool("mails", onDelete="RestoreReplicas"))
    b.cluster.replicas["mails-worker"] = 3
    b.broker.depths["mails"] = QueueDepth(ready=500)
    b.loop.start()
    assert b.until(lambda: ("mails", 10) in b.cluster.scaled)

    b.cluster.records.clear()

    assert b.until(lambda: "10 replicas stay, not 3 as before" in caplog.text or ("mails", 3) in b.cluster.scaled)
    assert b.cluster.replicas["mails-worker"] == 10
    assert sum("replicas stay" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("why", ["made anew", "dry run"])
def test_a_deleted_pool_restores_nothing_when_it_is_there_again_or_never_acted(bench, why):
    mode = {"mode": "DryRun"} if why == "dry run" else {}
    b = bench(
        pool("mails", onDelete="RestoreReplicas", **mode), pool("other", targetRef={"name": "other-worker"}, **BULK)
    )
    b.cluster.replicas |= {"mails-worker": 12, "other-worker": 12}
    b.loop.start()
    assert b.until(lambda: ("other", 10) in b.cluster.scaled and b.last("mails") is not None)
    assert b.until(lambda: "mails" in {name for name, _ in b.cluster.statuses})

    if why == "made anew":
        b.cluster.records["mails"] = replace(pool("mails"), uid="another")
        b.loop.poke("shop", "mails")
    else:
        del b.cluster.records["mails"]
    ticks = len(b.ticks)
    assert b.until(lambda: len(b.ticks) > ticks + 3)

    assert ("mails", 12) not in b.cluster.scaled


def echo(b: Bench, state: str = "drained") -> DrainState | None:
    """What a worker answers to the last drain command it got."""
    marks = [c for c in b.broker.commands if c.method == "drain"]
    if not marks:
        return None
    arguments = marks[-1].arguments
    return DrainState(id=arguments["id"], epoch=arguments["epoch"], state=state, expires_in_s=60.0)


def beating(b: Bench, beats: Callable[[], list[dict[str, Any]]]) -> threading.Event:
    """Heartbeats from a thread, until the event is set."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.1):
            b.broker.heartbeats = beats()

    threading.Thread(target=run, daemon=True).start()
    return stop


def test_a_write_that_lost_a_race_is_tried_again_on_fresh_data(bench):
    b = bench()
    b.broker.depths["mails"] = QueueDepth(ready=500)
    b.cluster.refuses = Conflict("changed since it was read", status=409)
    b.loop.start()
    assert b.until(lambda: len(b.ticks) >= 2)

    b.cluster.refuses = None

    assert b.until(lambda: b.cluster.scaled == [("mails", 10)])


def test_a_cluster_that_forbids_is_logged_once_and_the_status_is_written_all_the_same(bench, caplog):
    b = bench()
    b.broker.depths["mails"] = QueueDepth(ready=500)
    b.cluster.refuses = Forbidden("cannot patch deployments/scale", status=403)

    b.loop.start()

    assert b.until(lambda: len(b.ticks) >= 0 and len(b.broker.probed) >= 3)
    assert sum("cannot patch" in r.message for r in caplog.records) == 1
    assert b.cluster.statuses


def test_a_replica_without_the_lease_watches_and_writes_nothing(bench):
    b = bench()
    b.cluster.leads = False
    b.broker.depths["mails"] = QueueDepth(ready=500)

    b.loop.start()

    assert b.until(lambda: len(b.ticks) >= 2)
    assert b.last().decision.replicas is not None
    assert (b.cluster.scaled, b.cluster.statuses, b.cluster.events, b.broker.commands) == ([], [], [], [])

    b.cluster.leads = True

    assert b.until(lambda: bool(b.cluster.scaled))


def test_a_drain_that_was_planned_without_leading_or_in_another_time_of_it_is_none(bench, monkeypatch):
    b = bench(pool())
    b.loop.look()
    (serving,) = b.loop._loops.values()
    serving.retire()
    serving.stop()  # its threads are out of the way: each step by hand
    serving._stopping.clear()
    (member,) = serving._members()
    decided_on: list[Memory] = []
    monkeypatch.setattr(broker, "decide", lambda *asked: decided_on.append(asked[2]) or decide(*asked))
    planned = Memory(
        drain_id="shadow", marked=(("mails-1", 1.0),), drained=(("mails-1", 2.0),), ended=frozenset({"mails-2"})
    )
    member.state.memory, member.state.served_by, member.state.rest, member.state.epoch = planned, serving, None, 0

    serving.tick([member])
    member.state.memory, member.state.rest = planned, None
    serving.tick([member])

    assert decided_on == [Memory(), planned]  # not ours yet; then it is


def test_a_status_is_not_written_when_nothing_a_person_would_notice_changed(bench):
    b = bench()
    b.loop.start()
    assert b.until(lambda: len(b.ticks) >= 2)
    settled = len(b.cluster.statuses)

    assert b.until(lambda: len(b.ticks) >= 5)

    assert len(b.cluster.statuses) <= settled + 1


def test_only_queues_where_something_may_be_due_are_asked_to_release_it(bench):
    queues = [{"name": "due"}, {"name": "later"}, {"name": "empty"}]
    b = bench(
        pool("mails", queues=queues, coldStart="20s"),
        pool("blind", queues=[{"name": "unseen"}], eta={"enabled": False}),
    )
    b.broker.depths["unseen"] = QueueDepth(delayed=1)
    b.broker.depths |= {"due": QueueDepth(delayed=2, due_soon=1), "later": QueueDepth(delayed=9)}

    b.loop.start()

    assert b.until(lambda: len(b.broker.released) >= 3)
    assert set(b.broker.released[0]) == {"due", "later", "empty", "unseen"}  # nothing is known of them yet
    assert [set(names) for names in b.broker.released[1:3]] == [{"due", "unseen"}] * 2


def test_a_broker_whose_last_pool_went_is_let_go_and_its_pool_vanishes_from_the_metrics(bench):
    b = bench()
    b.loop.start()
    assert b.until(lambda: 'pool="mails"' in page_of(b.metrics.families()))

    b.cluster.records.clear()
    b.loop.poke("shop", "mails")

    assert b.until(lambda: b.broker.closed >= 3)
    assert 'pool="mails"' not in page_of(b.metrics.families())
    assert b.loop.livez()[0]


def test_a_pool_that_is_deleted_while_its_tick_runs_leaves_no_series(bench):
    b = bench(pool("mails"), pool("bulk", queues=[{"name": "bulk"}]))
    b.cluster.replicas["mails-worker"] = 1
    b.loop.look()
    (serving,) = b.loop._loops.values()
    serving.retire()
    serving.stop()  # its threads are out of the way: each step by hand
    serving._stopping.clear()
    members = serving._members()

    del b.cluster.records["bulk"]
    b.loop.look()
    serving.tick(members)
    serving.tick(serving._members())

    assert 'pool="bulk"' not in page_of(b.metrics.families())


def test_pools_that_share_a_queue_split_its_demand_by_their_slots(bench):
    b = bench(pool("mails"), pool("more", targetRef={"name": "more-worker"}))
    b.cluster.replicas["more-worker"] = 0
    b.loop.start()

    assert b.until(lambda: {tick.pool.name for tick in b.ticks} == {"mails", "more"})

    assert b.last("mails").signals.share == {"mails": 0.5}
    assert b.last("more").signals.share == {"mails": 0.5}


def test_heartbeats_become_totals_of_their_pool_that_survive_the_pod(bench):
    b = bench()
    b.cluster.replicas["mails-worker"] = 1
    b.cluster.kubelet = [pod("mails-1")]
    b.loop.start()
    assert b.until(lambda: bool(b.ticks))
    b.broker.heartbeats = [
        heartbeat("mails-1", started_at=time.time() - 0.01, queue_totals={"mails": QueueTotals(started=9, succeeded=8)})
    ]

    line = 'celeriac_fleet_tasks_total{namespace="shop",pool="mails",queue="mails",state="started",task=""} 9.0'
    assert b.until(lambda: line in page_of(b.metrics.families()))

    b.cluster.kubelet = []
    ticks = len(b.ticks)
    assert b.until(lambda: len(b.ticks) > ticks + 1)
    assert line in page_of(b.metrics.families())


def test_the_health_of_the_loop_is_that_of_its_threads(bench):
    b = bench()
    assert b.loop.livez() == (False, "the operator's loop has ended")
    assert b.loop.readyz()[0] is False

    b.loop.start()

    assert b.until(lambda: b.loop.readyz()[0])
    assert b.loop.livez() == (True, "1 brokers served")
    b.loop._loops[next(iter(b.loop._loops))]._progress_at -= 1000
    assert "has come no further for" in b.loop.livez()[1]


def test_an_api_that_is_away_keeps_everything_as_it_was(bench, caplog):
    b = bench()
    b.loop.start()
    assert b.until(lambda: bool(b.ticks))

    b.cluster.reads = ClusterError("no answer from the API")
    b.loop.poke("shop", "mails")
    ticks = len(b.ticks)

    assert b.until(lambda: len(b.ticks) > ticks + 1)
    assert sum("no answer" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize(
    "url", ["kafka://:hunter2@far:9092", "", "redis://[::1/0"], ids=["unknown scheme", "empty", "half an address"]
)
def test_a_broker_url_that_cannot_be_used_is_a_fault_of_its_pool_alone(bench, url, caplog):
    b = bench(pool("far", broker={"urlFrom": {"secretKeyRef": {"name": "far", "key": "url"}}}), pool("mails"))
    b.cluster.secrets["shop", "far", "url"] = url
    b.broker.depths["mails"] = QueueDepth(ready=500)

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.scaled))
    assert b.until(lambda: b.cluster.conditions("far")["Ready"] == ("False", "InvalidBroker"))
    assert b.until(lambda: b.loop.livez() == (True, "1 brokers served"))  # a loop starts before it is known
    assert "hunter2" not in caplog.text

    b.cluster.secrets["shop", "far", "url"] = "redis://far:6379/0"
    b.loop._secrets.clear()

    assert b.until(lambda: b.cluster.conditions("far")["Ready"][0] == "True")


def test_a_broker_that_cannot_be_opened_is_a_fault_of_its_pool_alone_and_is_told_once(bench):
    b = bench(pool("far", broker={"urlFrom": {"secretKeyRef": {"name": "far", "key": "url"}}}), pool("mails"))
    b.cluster.secrets["shop", "far", "url"] = "redis://far:6379/0"
    opened, connect = [], b.loop._connect

    def refuse(target):
        opened.append(target.url)
        if "far" in target.url:
            raise OSError("no space left for redis://:hunter2@far")
        return connect(target)

    b.loop._connect = refuse
    b.broker.depths["mails"] = QueueDepth(ready=500)

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.scaled))
    assert b.until(lambda: opened.count("redis://far:6379/0") >= 3)
    assert b.cluster.conditions("far")["Ready"] == ("False", "InvalidBroker")
    faults = [status for who, status in b.cluster.statuses if who == "far"]
    assert len(faults) == 1
    assert "no space left" in str(faults[0])
    assert "hunter2" not in str(faults[0])


def test_a_heartbeat_that_no_worker_would_send_stops_nobody(bench):
    b = bench()
    b.broker.depths["mails"] = QueueDepth(ready=500)
    odd = [heartbeat("odd") for _ in range(5)]
    odd[0]["freq"] = None
    odd[1]["celeriac"]["busy"] = "1"
    odd[2]["celeriac"]["limits"] = [{"task": "t", "per_s": "10/s"}]
    odd[3]["celeriac"]["queue_totals"] = {"mails": {"started": "7"}}
    odd[4]["celeriac"]["slots"] = float("nan")
    stop = beating(b, lambda: [dict(body) for body in odd])

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.scaled))
    ticks = len(b.ticks)
    assert b.until(lambda: len(b.ticks) > ticks + 1)
    stop.set()
    assert b.loop.livez() == (True, "1 brokers served")
    assert b.last().signals.listened_s > 0


def test_a_loop_whose_ticks_all_fail_is_not_alive(bench, monkeypatch):
    for module in ("broker", "roster"):
        monkeypatch.setattr(f"celeriac_operator.loop.{module}.STUCK_S", 2.0)
    b = bench()
    b.loop.start()
    assert b.until(lambda: bool(b.ticks))
    assert b.until(lambda: b.loop.livez()[0])

    def broken(members):
        raise RuntimeError("boom")

    assert b.until(lambda: bool(b.loop._loops))
    next(iter(b.loop._loops.values())).tick = broken

    assert b.until(lambda: "broker broker:6379 has come no further" in b.loop.livez()[1])


def test_many_slow_steps_are_progress_all_the_same(bench, monkeypatch):
    for module in ("broker", "roster"):
        monkeypatch.setattr(f"celeriac_operator.loop.{module}.STUCK_S", 3.0)
    monkeypatch.setattr("celeriac_operator.loop.roster.ROSTER_S", 0.1)
    monkeypatch.setattr("celeriac_operator.loop.roster.SECRET_TTL_S", 0.0)
    b = bench(*(pool(f"pool-{number}") for number in range(14)))
    read = b.cluster.secret

    def slow(*at):
        time.sleep(0.3)
        return read(*at)

    b.cluster.secret = slow
    b.cluster.write_status = lambda *_: time.sleep(0.4)
    answers: list[tuple[bool, str]] = []

    b.loop.start()
    end = time.monotonic() + 9
    while time.monotonic() < end:
        answers.append(b.loop.livez())
        time.sleep(0.05)

    assert {answer for answer in answers if not answer[0]} == set()
    assert b.ticks


def test_a_queue_that_cannot_be_read_makes_its_own_pool_stale_and_no_other(bench):
    b = bench(pool("mails"), pool("odd", queues=[{"name": "odd"}]))
    b.broker.depths = {
        "mails": QueueDepth(ready=500),
        "odd": QueueDepth(error="the queue odd cannot be read: WRONGTYPE"),
    }

    b.loop.start()

    assert b.until(lambda: bool(b.cluster.scaled))
    assert b.until(lambda: any(who == "odd" for who, _ in b.cluster.statuses))
    assert {who for who, _ in b.cluster.scaled} == {"mails"}
    odd = b.cluster.conditions("odd")
    assert (odd["Ready"], odd["BrokerReachable"]) == (("False", "QueueUnreadable"), ("True", "Answered"))
    assert b.cluster.conditions("mails")["Ready"][0] == "True"

    b.broker.depths["odd"] = QueueDepth(ready=3)

    assert b.until(lambda: b.cluster.conditions("odd")["Ready"][0] == "True")


def test_a_scale_that_is_refused_is_told_as_refused_and_once(bench):
    b = bench()
    b.broker.depths["mails"] = QueueDepth(ready=500)
    b.cluster.refuses = Forbidden("exceeded quota", status=403)

    b.loop.start()

    assert b.until(lambda: len(b.broker.probed) >= 4)
    assert b.cluster.conditions("mails")["ScalingActive"] == ("False", "ScaleRefused")
    assert all(status["history"] == [] for _, status in b.cluster.statuses)
    assert [event for event in b.cluster.events if event[2].startswith("Scale")] == [
        ("mails", "Warning", "ScaleRefused")
    ]

    b.cluster.refuses = None

    assert b.until(lambda: ("mails", "Normal", "ScaledUp") in b.cluster.events)
    assert b.until(lambda: b.cluster.conditions("mails")["ScalingActive"] == ("True", "Active"))
    assert [(change["from"], change["to"]) for change in b.cluster.statuses[-1][1]["history"]] == [(0, 10)]


def test_a_write_that_lost_a_race_is_not_told_as_done(bench):
    b = bench()
    b.broker.depths["mails"] = QueueDepth(ready=500)
    b.cluster.refuses = Conflict("changed since it was read", status=409)

    b.loop.start()

    assert b.until(lambda: len(b.broker.probed) >= 3)
    assert all(status["history"] == [] for _, status in b.cluster.statuses)
    assert [event for event in b.cluster.events if event[2].startswith("Scale")] == []


def test_a_loop_that_is_poked_without_a_pause_ticks_once_a_second(bench):
    b = bench(pool(interval="5s"))
    b.loop.start()
    assert b.until(lambda: bool(b.ticks))

    before, end = len(b.ticks), time.monotonic() + 3
    while time.monotonic() < end:
        b.loop.poke("shop", "mails")
        time.sleep(0.02)

    assert 2 <= len(b.ticks) - before <= 4


def test_a_leader_that_returns_trusts_the_cluster_and_not_its_memory(bench):
    b = bench(pool("mails"), pool("broken", minReplica=3))
    b.loop.start()
    assert b.until(lambda: {who for who, _ in b.cluster.statuses} == {"mails", "broken"})
    b.cluster.leads = False
    assert b.until(lambda: not b.loop._led)
    time.sleep(1.2)
    other = {"time": "2026-01-01T10:00:00Z", "from": 1, "to": 2, "reason": "another leader's"}
    b.cluster.records["mails"] = replace(pool("mails"), status={"history": [other], "replicas": 0})
    b.cluster.statuses.clear()

    b.cluster.leads = True

    assert b.until(lambda: {who for who, _ in b.cluster.statuses} == {"mails", "broken"})
    assert next(status for who, status in b.cluster.statuses if who == "mails")["history"] == [other]


def test_leading_that_was_lost_and_regained_while_nobody_looked_is_a_new_term(bench, monkeypatch):
    b = bench()
    b.loop.start()
    assert b.until(lambda: b.cluster.statuses)
    before, hangs = b.loop._term(), threading.Event()
    secret, held = b.cluster.secret, threading.Event()

    def hanging(*at):
        held.set()
        hangs.wait(20)
        return secret(*at)

    monkeypatch.setattr(b.cluster, "secret", hanging)
    b.loop._secrets.clear()
    b.loop.poke("shop", "mails")
    assert held.wait(10)
    other = {"time": "2026-01-01T10:00:00Z", "from": 1, "to": 2, "reason": "another leader's"}
    b.cluster.records["mails"] = replace(pool("mails"), status={"history": [other], "replicas": 0})
    b.cluster.led_times += 2  # another took the Lease, and gave it up

    assert b.loop._term() == 0
    b.cluster.statuses.clear()
    hangs.set()

    assert b.until(lambda: b.loop._term() > before)
    assert b.until(lambda: b.cluster.statuses)
    assert b.cluster.statuses[0][1]["history"] == [other]


def test_two_brokers_of_one_address_have_names_of_their_own(bench):
    b = bench(pool("mails"), pool("far", broker={"urlFrom": {"secretKeyRef": {"name": "far", "key": "url"}}}))
    b.cluster.secrets["shop", "far", "url"] = "redis://:other@broker:6379/0"

    b.loop.start()

    assert b.until(lambda: {tick.pool.name for tick in b.ticks} == {"mails", "far"})
    assert sorted(loop.name for loop in b.loop._loops.values()) == ["broker:6379", "broker:6379 #2"]
    assert b.until(lambda: 'celeriac_broker_up{broker="broker:6379 #2"} 1.0' in page_of(b.metrics.families()))


def test_what_is_remembered_of_pools_that_went_is_let_go(bench):
    b = bench(pool("mails"), pool("broken", minReplica=3))
    b.cluster.refuses = Forbidden("exceeded quota", status=403)
    b.broker.depths["mails"] = QueueDepth(ready=500)
    b.loop.start()
    assert b.until(lambda: len(b.loop._changes._last) >= 2)

    b.cluster.records.clear()

    assert b.until(lambda: not b.loop._loops and b.loop._changes._last == {} and b.loop._secrets == {})


def test_a_loop_that_was_retired_within_a_tick_serves_nobody_any_more(bench):
    b = bench(pool("mails"), pool("more", targetRef={"name": "more-worker"}))
    b.cluster.replicas["more-worker"] = 0
    b.broker.depths["mails"] = QueueDepth(ready=500)
    at_it, go_on = threading.Event(), threading.Event()

    def wait(pool, spec, replicas, version):
        at_it.set()
        go_on.wait(5)
        b.cluster.scaled.append((pool.name, replicas))

    b.cluster.scale = wait
    b.loop.start()
    assert at_it.wait(5)

    b.cluster.records.clear()
    b.loop.poke("shop", "mails")
    assert b.until(lambda: bool(b.loop._retired))
    go_on.set()

    (old,) = b.loop._retired
    assert b.until(lambda: old.ended)
    assert len(b.cluster.scaled) == 1
    assert 'broker="broker:6379"' not in page_of(b.metrics.families())


def test_a_wall_clock_that_is_set_back_does_not_stop_the_loops_time(bench, monkeypatch):
    b = bench()
    b.loop.start()
    assert b.until(lambda: len(b.ticks) >= 2)
    before, real = b.last().now, time.time

    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    ticks = len(b.ticks)

    assert b.until(lambda: len(b.ticks) >= ticks + 2)
    assert before < b.last().now < before + 30
    assert b.last().signals.sampled_at > before


@pytest.mark.parametrize("ahead_s", [3600.0, -3600.0], ids=["an hour ahead", "an hour behind"])
def test_an_operator_that_started_with_a_wrong_clock_goes_by_the_right_one_once_it_is_set(bench, monkeypatch, ahead_s):
    monkeypatch.setattr(clock, "_EPOCH_AT_ZERO", clock._EPOCH_AT_ZERO + ahead_s)
    real = time.time()
    opens, closes = (datetime.fromtimestamp(real + off_s, UTC).strftime("%-M %-H * * *") for off_s in (-1800, 1800))
    b = bench(pool(schedules=[{"start": opens, "end": closes, "timezone": "UTC", "minReplicas": 3}]))
    b.cluster.replicas["mails-worker"] = 1
    b.cluster.kubelet = [pod("a", phase="Pending", ready=False, created_at=real - 20, ready_at=None)]
    b.broker.depths["mails"] = QueueDepth(ready=1, oldest_sent_at=real - 10)

    b.loop.start()
    assert b.until(lambda: b.cluster.scaled and b.cluster.statuses)

    tick = next(tick for tick in b.ticks if tick.decision.replicas)
    assert tick.signals.pods[0].created_at == pytest.approx(tick.now - 20, abs=5)
    assert tick.signals.queues[0].oldest_age_s == pytest.approx(10, abs=5)
    assert tick.decision.conditions["ScaleUpBlocked"][0] is False
    assert (tick.decision.replicas, tick.decision.limited_by) == (3, "schedule")
    status = b.cluster.statuses[0][1]
    times = [status["decision"]["time"], *(condition["lastTransitionTime"] for condition in status["conditions"])]
    assert {abs(datetime.fromisoformat(at).timestamp() - real) < 10 for at in times} == {True}


def test_delayed_work_is_not_looked_for_when_the_spec_does_not_want_it(bench):
    b = bench(pool(eta={"enabled": False}))

    b.loop.start()

    assert b.until(lambda: bool(b.broker.probed))
    assert b.broker.probed[0]["mails"] == 0.0


def test_rate_limits_that_cannot_be_kept_are_told_in_the_status_until_they_are(bench):
    b = bench(pool("mails", rateLimits=[{"task": "t", "rate": "5/s"}], interval="1s"), pool("news"))
    send, b.broker.send = b.broker.send, refused  # type: ignore[method-assign]
    b.cluster.kubelet.append(pod("mails-1"))
    beats = beating(b, lambda: [heartbeat("mails-1")])
    b.loop.start()

    def told(name: str) -> tuple[str, str]:
        statuses = {who for who, _ in b.cluster.statuses}
        return b.cluster.conditions(name)["RateLimitsNotKept"] if name in statuses else ("", "")

    assert b.until(lambda: told("mails") == ("True", "NotTold"))
    assert b.until(lambda: told("news") == ("False", "Kept"))
    assert ("mails", "Warning", "RateLimitsNotKept") in b.cluster.events
    b.broker.send = send  # type: ignore[method-assign]
    assert b.until(lambda: told("mails") == ("False", "Kept"))
    beats.set()


def test_two_pools_that_limit_one_task_differently_are_both_told(bench):
    limits = {name: [{"task": "t", "rate": rate}] for name, rate in (("mails", "5/s"), ("news", "10/s"))}
    b = bench(*(pool(name, rateLimits=rates, targetRef={"name": name}) for name, rates in limits.items()), pool("more"))
    b.cluster.replicas |= {"mails": 0, "news": 0}
    b.loop.start()

    assert b.until(lambda: {"mails", "news", "more"} == {who for who, _ in b.cluster.statuses})
    for name, told in (("mails", "True"), ("news", "True"), ("more", "False")):
        assert b.until(lambda name=name, told=told: b.cluster.conditions(name)["RateLimitsDiffer"][0] == told)
    warned = {who for who, kind, reason in b.cluster.events if (kind, reason) == ("Warning", "RateLimitsDiffer")}
    assert warned == {"mails", "news"}


def refused(command: Command) -> None:
    raise BrokerUnavailable("no permission to publish")


def test_a_command_goes_to_every_worker_of_a_pod(bench):
    b = bench()
    b.cluster.replicas["mails-worker"] = 1
    b.cluster.kubelet = [pod("mails-1")]
    nodes = ("one@mails-1", "two@mails-1")
    stop = beating(b, lambda: [heartbeat("mails-1", hostname=node, incarnation=node) for node in nodes])

    b.loop.start()

    assert b.until(lambda: any(c.method == "drain" for c in b.broker.commands), within_s=60)
    stop.set()
    command = next(c for c in b.broker.commands if c.method == "drain")
    assert command.destination == list(nodes)


@pytest.mark.server("redis")
def test_messages_in_a_real_redis_become_replicas_within_a_tick(redis_server):
    from celeriac_operator.fleet.brokers import connect

    cluster = MemoryCluster(pool())
    cluster.secrets["shop", "redis", "url"] = redis_server.url
    ticks: list[Tick] = []
    loop = OperatorLoop(cluster, metrics=OperatorMetrics(version="1"), connect=connect, watch=ticks.append)
    loop.start()
    try:
        end = time.monotonic() + 10
        while not ticks and time.monotonic() < end:
            time.sleep(0.05)
        import redis

        with redis.Redis.from_url(redis_server.url) as client:
            client.lpush("mails", *["{}"] * 100)
        pushed = time.monotonic()
        while not cluster.scaled and time.monotonic() < end:
            time.sleep(0.02)
        took_s = time.monotonic() - pushed
    finally:
        loop.stop()

    # 100 tasks of a second (nothing is known better) within 48 s, and room for as many again in two minutes.
    assert cluster.scaled == [("mails", 4)]
    assert ticks[-1].signals.queues[0].ready == 100
    assert took_s < 2.0
