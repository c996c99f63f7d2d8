"""The operator's /metrics: names and labels of the set, from the last tick; counters that only grow; gone pools vanish."""

import threading
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scraped import page_of

from celeriac.telemetry.metrics import NAMES as WORKERS_NAMES
from celeriac.wire.event import QueueTotals, TaskTotals
from celeriac_operator.metrics import WRONG_IF_FALSE, WRONG_IF_TRUE, BrokerReading, OperatorMetrics, PoolReading
from celeriac_operator.resources.spec import WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample

MAILS = ("shop", "mails")
SPEC = WorkerPoolSpec.parse({"targetRef": {"name": "mails"}, "queues": [{"name": "q"}], "maxReplicas": 3})


def reading(at: float = 100.0, **more) -> PoolReading:
    fields = {
        "broker": "redis:6379",
        "signals": Signals(
            queues=(QueueSample(name="q", ready=7, reserved=2, leased=5, expired=1, delayed=3, dead=4, oldest_age_s=12.0, consumers=2),),
            limited=(LimitedClass(task="send", queue="q", rate_per_s=10.0, throttled=6),),
            pods=(
                PodSample(name="a", slots=4, busy=3, heartbeat_age_s=1.0),
                PodSample(name="b", slots=4, busy=0, heartbeat_age_s=1.0),
                PodSample(name="c", ready=False, drain_state="draining", slots=4, busy=1, heartbeat_age_s=1.0),
                PodSample(name="d", ready=False),
            ),
            target=TargetSample(replicas=4, ready_replicas=2),
        ),
        "decision": Decision(
            desired=3, unclamped=12, replicas=None, summary="", limited_by="max", terms={"steady": 2.5, "backlog": 9.0},
            predicted_drain_s=33.0,
        ),
        "min_replicas": 1,
        "max_replicas": 3,
        "objective": "DrainTime",
        "objective_s": 60.0,
        "queue_objectives": {"q": ("DrainTime", 600.0)},
        "at": at,
        **more,
    }  # fmt: skip
    return PoolReading(**fields)


def samples(metrics: OperatorMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page_of(metrics.families()))
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> OperatorMetrics:
    leading = OperatorMetrics(version="1.2.3")
    leading.leads(True)
    leading.broker_serves("redis:6379", BrokerReading)
    return leading


def value(metrics: OperatorMetrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


POOL = {"namespace": "shop", "pool": "mails"}
QUEUE = {**POOL, "queue": "q"}


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("celeriac_queue_messages", {**QUEUE, "kind": "ready"}, 7),
        ("celeriac_queue_messages", {**QUEUE, "kind": "reserved"}, 2),
        ("celeriac_queue_messages", {**QUEUE, "kind": "running"}, 2),
        ("celeriac_queue_messages", {**QUEUE, "kind": "expired"}, 1),
        ("celeriac_queue_messages", {**QUEUE, "kind": "delayed"}, 3),
        ("celeriac_queue_messages", {**QUEUE, "kind": "dead"}, 4),
        ("celeriac_queue_oldest_task_age_seconds", QUEUE, 12),
        ("celeriac_queue_consumers", QUEUE, 2),
        ("celeriac_queue_slo_target_seconds", {**QUEUE, "objective": "DrainTime"}, 600),
        ("celeriac_pool_replicas", {**POOL, "kind": "desired"}, 3),
        ("celeriac_pool_replicas", {**POOL, "kind": "unclamped"}, 12),
        ("celeriac_pool_replicas", {**POOL, "kind": "current"}, 4),
        ("celeriac_pool_replicas", {**POOL, "kind": "ready"}, 2),
        ("celeriac_pool_replicas", {**POOL, "kind": "starting"}, 1),
        ("celeriac_pool_replicas", {**POOL, "kind": "draining"}, 1),
        ("celeriac_pool_replicas", {**POOL, "kind": "idle"}, 1),
        ("celeriac_pool_replicas", {**POOL, "kind": "min"}, 1),
        ("celeriac_pool_replicas", {**POOL, "kind": "max"}, 3),
        ("celeriac_pool_slots", POOL, 8),
        ("celeriac_pool_slots_busy", POOL, 4),
        ("celeriac_pool_demand_slots", {**POOL, "term": "backlog"}, 9),
        ("celeriac_pool_demand_slots", {**POOL, "term": "eta"}, 0),
        ("celeriac_pool_limited_by", {**POOL, "reason": "max"}, 1),
        ("celeriac_pool_limited_by", {**POOL, "reason": "none"}, 0),
        ("celeriac_pool_predicted_drain_seconds", POOL, 33),
        ("celeriac_pool_slo_target_seconds", {**POOL, "objective": "DrainTime"}, 60),
        ("celeriac_fleet_ratelimit_limit_per_second", {**QUEUE, "limit": "send"}, 10),
        ("celeriac_fleet_ratelimit_throttled_messages", {**QUEUE, "limit": "send"}, 6),
    ],
    ids=lambda field: (
        field if isinstance(field, str) else next(reversed(field.values())) if isinstance(field, dict) else ""
    ),
)
def test_a_pools_last_tick_is_shown(metrics, name, labels, expected):
    metrics.pool_decided(MAILS, reading())

    assert value(metrics, name, **labels) == expected


def test_no_name_is_also_a_workers(metrics):
    """What has two meanings, or is told twice, must not be added up by its name. Both tell what is running."""
    metrics.pool_decided(MAILS, reading())
    families = text_string_to_metric_families(page_of(metrics.families()))

    names = {family.name.removesuffix("_total").removesuffix("_info") for family in families}

    assert "celeriac_fleet_ratelimit_limit_per_second" in names
    assert names & WORKERS_NAMES.keys() == {"celeriac_build"}


def test_what_happened_to_a_pool_is_counted(metrics):
    metrics.pool_scaled(MAILS, direction="up", reason="none")
    metrics.pool_scaled(MAILS, direction="up", reason="none")
    metrics.pool_drain_ended(MAILS, outcome="idle", took_s=7.0)
    metrics.pool_pod_started(MAILS, cold_start_s=12.0)

    assert value(metrics, "celeriac_pool_scale_actions_total", **POOL, direction="up", reason="none") == 2
    assert value(metrics, "celeriac_pool_drains_total", **POOL, outcome="idle") == 1
    assert value(metrics, "celeriac_pool_drains_total", **POOL, outcome="lost") == 0
    assert value(metrics, "celeriac_pool_drain_seconds_sum", **POOL) == 7
    assert value(metrics, "celeriac_pool_cold_start_seconds_bucket", **POOL, le="10.0") == 0
    assert value(metrics, "celeriac_pool_cold_start_seconds_bucket", **POOL, le="20.0") == 1
    assert value(metrics, "celeriac_pool_cold_start_seconds_count", **POOL) == 1


def test_slot_seconds_add_up_over_ticks(metrics):
    metrics.pool_decided(MAILS, reading(at=100.0))
    metrics.pool_decided(MAILS, reading(at=105.0))

    assert value(metrics, "celeriac_pool_busy_slot_seconds_total", **POOL) == 20
    assert value(metrics, "celeriac_pool_idle_slot_seconds_total", **POOL) == 20


def test_the_fleets_totals_are_by_task_where_workers_tell_tasks(metrics):
    fleet = BrokerReading(
        queues={
            (MAILS, "q"): QueueTotals(started=9, succeeded=8, redelivered=1, wait_s=4.5, waits=9, busy_s=3.0),
            (("shop", "stock"), "s"): QueueTotals(started=5, succeeded=5),
        },
        tasks={(MAILS, "q", "send"): TaskTotals(queue="q", started=9, succeeded=8, retried=1, throttled=3)},
    )

    metrics.broker_serves("redis:6379", lambda: fleet)

    name = "celeriac_fleet_tasks_total"
    assert value(metrics, name, **QUEUE, task="send", state="succeeded") == 8
    assert value(metrics, name, **QUEUE, task="", state="redelivered") == 1
    assert value(metrics, name, **QUEUE, task="", state="succeeded") is None  # or a sum would count it twice
    assert value(metrics, name, namespace="shop", pool="stock", queue="s", task="", state="succeeded") == 5
    assert value(metrics, "celeriac_fleet_task_wait_seconds_sum", **QUEUE) == 4.5
    assert value(metrics, "celeriac_fleet_task_wait_seconds_count", **QUEUE) == 9
    assert value(metrics, "celeriac_fleet_busy_slot_seconds_total", **QUEUE) == 3
    assert value(metrics, "celeriac_fleet_ratelimit_throttled_total", **QUEUE, limit="send") == 3


def test_what_two_brokers_tell_of_one_queue_is_one_series(metrics):
    """A pool that was moved to another broker is still in the totals of the one it left, and workers of no pool are told without a broker."""
    for pool in (("shop", "mails"), ("", "")):
        for broker, tasks in (("left", {"send": TaskTotals(queue="q", started=5, run_s=2.0)}), ("new", {})):
            metrics.broker_serves(
                f"{broker}-{pool[1]}", told_by(pool, received=7, started=6, tasks=tasks, waits=2, busy_s=3.0)
            )

    lines = [line.rpartition(" ")[0] for line in page_of(metrics.families()).splitlines() if not line.startswith("#")]

    assert [name for name, times in Counter(lines).items() if times > 1] == []
    for pool in (POOL, {"namespace": "", "pool": ""}):
        queue = {**pool, "queue": "q"}
        assert value(metrics, "celeriac_fleet_tasks_total", **queue, task="", state="received") == 14
        assert value(metrics, "celeriac_fleet_tasks_total", **queue, task="", state="started") == 6
        assert value(metrics, "celeriac_fleet_tasks_total", **queue, task="send", state="started") == 5
        assert value(metrics, "celeriac_fleet_task_wait_seconds_count", **queue) == 4
        assert value(metrics, "celeriac_fleet_busy_slot_seconds_total", **queue) == 6.0


def told_by(pool, *, tasks, **totals):
    """How a broker tells of the queue `q` of this pool."""
    queues = {(pool, "q"): QueueTotals(**totals)}
    return lambda: BrokerReading(queues=queues, tasks={(pool, "q", name): found for name, found in tasks.items()})


def test_queues_are_told_as_they_are_at_the_scrape(metrics):
    now = {"q": QueueSample(name="q", ready=90, consumers=3), "of nobody": QueueSample(name="of nobody", ready=1)}
    metrics.pool_decided(MAILS, reading())
    metrics.broker_serves("redis:6379", lambda: BrokerReading(samples=now))

    assert value(metrics, "celeriac_queue_messages", **QUEUE, kind="ready") == 90
    assert value(metrics, "celeriac_queue_consumers", **QUEUE) == 3
    assert "of nobody" not in page_of(metrics.families())


def test_a_broker_is_up_or_down_and_its_errors_are_counted(metrics):
    metrics.broker_probed("redis:6379", took_s=0.004)
    assert value(metrics, "celeriac_broker_up", broker="redis:6379") == 1

    metrics.broker_failed("redis:6379")

    assert value(metrics, "celeriac_broker_up", broker="redis:6379") == 0
    assert value(metrics, "celeriac_broker_probe_errors_total", broker="redis:6379") == 1
    assert value(metrics, "celeriac_broker_probe_seconds_count", broker="redis:6379") == 1


def test_a_broker_that_is_gone_is_not_told_of_again_by_a_probe_that_was_on_its_way(metrics):
    metrics.broker_gone("redis:6379")

    metrics.broker_failed("redis:6379")
    metrics.broker_probed("redis:6379", took_s=1.0)
    metrics.broker_ticked("redis:6379", took_s=1.0)

    assert "redis:6379" not in page_of(metrics.families())


def test_a_broker_that_cannot_be_told_of_leaves_the_page_to_the_others(metrics):
    metrics.broker_serves("broken:6379", lambda: 1 / 0)
    metrics.broker_serves("redis:6379", lambda: BrokerReading(queues={(MAILS, "q"): QueueTotals(started=9)}))

    assert value(metrics, "celeriac_fleet_tasks_total", **QUEUE, task="", state="started") == 9
    assert value(metrics, "celeriac_operator_reconcile_errors_total", error="bug") == 2  # once a scrape


def test_what_is_told_during_a_scrape_does_not_wait_for_its_end(metrics):
    metrics.pool_decided(MAILS, reading())
    scrape = metrics.families()
    next(scrape)

    loop = threading.Thread(target=metrics.pool_gone, args=(MAILS,), daemon=True)
    loop.start()
    loop.join(30.0)

    assert not loop.is_alive()
    assert "mails" in page_of(scrape)
    assert "mails" not in page_of(metrics.families())


def test_a_pool_that_is_gone_leaves_no_series(metrics):
    metrics.pool_decided(MAILS, reading())
    metrics.pool_scaled(MAILS, direction="up", reason="none")

    metrics.pool_gone(MAILS)

    assert "mails" not in page_of(metrics.families())


def conditions(metrics: OperatorMetrics) -> dict[tuple[str, str], float]:
    """(condition, reason) -> value, of the one pool there is."""
    return {
        (labels["condition"], labels["reason"]): shown
        for (name, pairs), shown in samples(metrics).items()
        if name == "celeriac_pool_condition" and (labels := dict(pairs)).items() >= POOL.items()
    }


def decided(**found) -> PoolReading:
    decision = Decision(desired=3, unclamped=3, replicas=None, summary="", limited_by="none", conditions=found)
    return reading(decision=decision)


def test_a_healthy_pool_has_one_condition_and_a_sick_one_those_that_tell_of_it(metrics):
    well = {
        "ScaleUpBlocked": (False, "NotBlocked", ""),
        "BrokerReachable": (True, "Answered", ""),
        "Draining": (True, "ScaleIn", ""),
    }
    metrics.pool_decided(MAILS, decided(Ready=(True, "Decided", ""), **well))
    assert conditions(metrics) == {("Ready", "Decided"): 1}

    metrics.pool_decided(
        MAILS,
        decided(
            Ready=(False, "BrokerUnreachable", "no answer"),
            ScaleUpBlocked=(True, "CrashLoopBackOff", "pod a"),
            BrokerReachable=(False, "NoAnswer", "no answer"),
            Conflict=(None, "NotRead", "who knows"),
            SignalsComplete=(None, "NoSampleYet", ""),
        ),
    )  # fmt: skip
    assert conditions(metrics) == {
        ("Ready", "BrokerUnreachable"): 0,
        ("ScaleUpBlocked", "CrashLoopBackOff"): 1,
        ("BrokerReachable", "NoAnswer"): 0,
    }


def test_every_condition_that_a_decision_finds_is_told_or_known_to_be_harmless():
    found = set(decide(reading().signals, SPEC, Memory(), 100.0).conditions)

    harmless = {"Ready", "Reconciling", "Draining"}  # the first is told in any case, the others come and go
    assert found == WRONG_IF_TRUE | WRONG_IF_FALSE | harmless


def test_a_pool_that_cannot_be_served_is_told_and_what_was_decided_of_it_no_longer(metrics):
    metrics.pool_decided(MAILS, decided(Ready=(True, "Decided", "")))

    metrics.pool_fault(MAILS, "SecretNotFound")
    assert conditions(metrics) == {("Ready", "SecretNotFound"): 0, ("Stalled", "SecretNotFound"): 1}
    assert value(metrics, "celeriac_operator_decision_age_seconds", **POOL) is None

    metrics.pool_fault(MAILS, "SecretNotRead")
    assert conditions(metrics) == {("Ready", "SecretNotRead"): 0}

    metrics.pool_served(MAILS)
    assert conditions(metrics) == {("Ready", "NotDecidedYet"): 0}
    metrics.pool_decided(MAILS, decided(Ready=(True, "Decided", "")))
    metrics.pool_served(MAILS)
    assert conditions(metrics) == {("Ready", "Decided"): 1}

    metrics.pool_fault(MAILS, "InvalidSpec")
    metrics.pool_gone(MAILS)
    assert "mails" not in page_of(metrics.families())


def test_the_operator_tells_of_itself(metrics):
    metrics.leads(True)
    metrics.error("Forbidden")
    assert "signing_certificate" not in page_of(metrics.families())
    metrics.signs_until(1_800_000_000.0)

    assert value(metrics, "celeriac_build_info", component="operator", version="1.2.3") == 1
    assert value(metrics, "celeriac_operator_leader") == 1
    assert value(metrics, "celeriac_operator_signing_certificate_expiry_timestamp_seconds") == 1_800_000_000.0
    assert value(metrics, "celeriac_operator_reconcile_errors_total", error="Forbidden") == 1


def test_pools_queues_and_the_fleet_are_told_by_the_leader_alone(metrics):
    metrics.pool_decided(MAILS, reading())
    metrics.pool_scaled(MAILS, direction="up", reason="none")
    metrics.broker_probed("redis:6379", took_s=0.004)
    metrics.broker_ticked("redis:6379", took_s=0.01)
    metrics.broker_serves("redis:6379", lambda: BrokerReading(queues={(MAILS, "q"): QueueTotals(started=9)}))

    metrics.leads(False)
    standby = page_of(metrics.families())
    metrics.leads(True)
    leader = page_of(metrics.families())

    assert "mails" in leader
    assert "mails" not in standby
    assert 'celeriac_broker_up{broker="redis:6379"} 1.0' in standby
    assert "celeriac_operator_leader 0.0" in standby
