"""A pool of stock Celery workers: their heartbeats know no drain, so selection Any is how such a pool shrinks."""

from celeriac_operator.fleet.heartbeats import Fleet
from celeriac_operator.fleet.match import crews_of, match, pod_samples
from celeriac_operator.resources.records import PodRecord
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import QueueSample, Signals, TargetSample

T0 = 1_000_000.0
NAMES = ("mails-1-a", "mails-1-b", "mails-1-c")
TICK_S, TICKS = 5.0, 40


def stock_heartbeat(host: str, at: float) -> dict[str, object]:
    """What Celery 5 sends every two seconds with events on."""
    return {
        "type": "worker-heartbeat",
        "hostname": f"celery@{host}",
        "timestamp": at,
        "freq": 2.0,
        "active": 1,
        "processed": 100,
        "loadavg": [0.1, 0.1, 0.1],
        "sw_ident": "py-celery",
        "sw_ver": "5.5.3",
        "sw_sys": "Linux",
    }


def decided(selection: str) -> list[Decision]:
    """The decisions of three minutes over three pods that each run one task while the work is enough for one."""
    spec = WorkerPoolSpec.parse(
        {
            "targetRef": {"name": "mails"},
            "queues": [{"name": "mails"}],
            "minReplicas": 1,
            "scaleDown": {"selection": selection, "idleTimeout": "30s"},
        }
    )
    pods = [
        PodRecord(name=name, uid=name, phase="Running", ready=True, created_at=T0 - 600, ready_at=T0 - 590)
        for name in NAMES
    ]
    target = TargetSample(replicas=3, ready_replicas=3, name="mails", resource_version="7", existing=3)
    fleet, memory, found = Fleet(started_at=T0 - 600), Memory(), []
    for now in (T0 + TICK_S * n for n in range(TICKS)):
        for name in NAMES:
            fleet.hear(stock_heartbeat(name, now), now)
        workers = fleet.workers(now)
        signals = Signals(
            sampled_at=now,
            queues=(QueueSample(name="mails"),),
            pods=pod_samples(pods, match(pods, crews_of(workers), namespace="shop"), now),
            target=target,
        )
        found.append(decide(signals, spec, memory, now))
        memory = found[-1].memory
    return found


def test_with_selection_any_a_pool_of_stock_workers_is_scaled_in_without_a_drain() -> None:
    found = decided("Any")

    assert next(decision.replicas for decision in found if decision.replicas is not None) == 1
    assert not any(decision.drain or decision.undrain for decision in found)
    assert found[-1].conditions["Draining"][0] is False


def test_with_a_drain_that_stock_workers_do_not_know_the_pool_says_what_to_set() -> None:
    found = decided("IdleFirst")

    assert [decision.replicas for decision in found if decision.replicas is not None] == []
    held, reason, message = found[-1].conditions["Draining"]
    assert (held, reason) == (True, "ScaleIn")
    assert "no answer to the drain from mails-1-a" in message
    assert "set scaleDown.selection to Any" in message


def test_failures_and_retries_of_stock_workers_are_known_from_their_task_events() -> None:
    fleet = Fleet(started_at=T0)
    for tick in range(4):
        now = T0 + 2.0 * tick
        heartbeat = {**stock_heartbeat("mails-1-a", now), "pid": 7, "active": 0, "processed": 100 + 10 * tick}
        fleet.hear(heartbeat, now)
        fleet.own("celery@mails-1-a#7", ("shop", "mails"), ("mails",))
        for kind in ("task-failed", "task-failed", "task-retried", "task-succeeded"):
            fleet.hear({"type": kind, "hostname": "celery@mails-1-a", "pid": 7, "uuid": "u", "timestamp": now}, now)
        fleet.hear({"type": "task-failed", "hostname": "celery@elsewhere", "pid": 7, "uuid": "u"}, now)
    fleet.settle(T0 + 8)

    totals = fleet.totals().by_queue["mails"]

    assert (totals.started, totals.failed, totals.retried) == (30, 6, 3)
    assert totals.succeeded == 21
