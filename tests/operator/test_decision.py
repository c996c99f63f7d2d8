"""The specification of the autoscaler: what `decide` answers, case by case, and what holds in every case."""

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celeriac_operator.resources.spec import Mode, WorkerPoolSpec
from celeriac_operator.scaling.decision import Decision, decide
from celeriac_operator.scaling.learning import horizon_s
from celeriac_operator.scaling.memory import ClassMemory, Memory, QueueMemory, Service
from celeriac_operator.scaling.signals import LimitedClass, PodSample, QueueSample, Signals, TargetSample
from celeriac_operator.scaling.victims import ordinal_of

#: 2026-01-01 10:00:00 UTC, a Thursday.
NOW = 1_767_261_600.0
LEAST = {"targetRef": {"name": "mails-worker"}, "queues": [{"name": "mails"}], "maxReplicas": 100}


def spec_of(**fields: Any) -> WorkerPoolSpec:
    return WorkerPoolSpec.parse({**LEAST, **fields})


def knows(
    *,
    rate: float = 0.0,
    fast: float | None = None,
    service_s: float = 1.0,
    slots: float = 4,
    cold_s: float = 20,
    **more: Any,
) -> Memory:
    """A memory that has watched the pool for an hour; fields of its queue and of itself by name."""
    of_queue = {name: more.pop(name) for name in list(more) if name in ("classes", "other_claims", "headroom")}
    sampled_at = more.pop("sampled_at", NOW)
    queue = QueueMemory(
        last=QueueSample(name="mails"),
        sampled_at=sampled_at,
        fast_per_s=rate if fast is None else fast,
        surge_per_s=rate if fast is None else fast,
        slow_per_s=rate,
        service=Service(value_s=service_s),
        overall=Service(value_s=service_s),
        **of_queue,
    )
    kept: dict[str, Any] = {
        "sampled_at": sampled_at,
        "fresh_at": NOW - 5,
        "steady_since": NOW - 3600,
        "queues": {"mails": queue},
        "slots_per_pod": slots,
        "cold_start_s": cold_s,
    }
    return Memory(**{**kept, **more})


def sees(replicas: int = 1, *, pods: tuple[PodSample, ...] | None = None, **fields: Any) -> Signals:
    """Signals of a pool with so many ready, idle pods; queue fields by name, the rest as given."""
    names = set(QueueSample.__dataclass_fields__) - {"name"}
    queue = QueueSample(name="mails", **{name: fields.pop(name) for name in list(fields) if name in names})
    target = fields.pop("target", {})
    found = tuple(pod(f"mails-{i}") for i in range(replicas)) if pods is None else pods
    signals = {"sampled_at": NOW, "queues": (queue,), "pods": found}
    return Signals(
        **{**signals, **fields},
        target=TargetSample(**{"name": "mails-worker", "replicas": replicas, "resource_version": "7", **target}),
    )


def pod(name: str, **fields: Any) -> PodSample:
    usual = {
        "uid": name,
        "node": f"celeriac@{name}",
        "created_at": NOW - 600,
        "ready_at": NOW - 590,
        "heartbeat_age_s": 1.0,
        "slots": 4,
        "queues": ("mails",),
    }
    return PodSample(name=name, **{**usual, **fields})


def drained(name: str, mark: str = "d1", **fields: Any) -> PodSample:
    usual = {"ready": False, "drain_state": "drained", "drain_id": mark, "drain_expires_in_s": 55.0}
    return pod(name, **{**usual, **fields})


@dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    signals: Signals
    spec: WorkerPoolSpec = field(default_factory=spec_of)
    memory: Memory = field(default_factory=knows)
    now: float = NOW
    desired: int
    replicas: int | None
    limited_by: str = "none"
    says: str = ""
    terms: dict[str, float] = field(default_factory=dict)


DEMAND = [
    Case(
        id="an empty queue that keeps up is staffed for its rate, head-room included",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=7,
        replicas=7,
        terms={"steady": 20.0, "headroom": 4.5},
        says="steady 20.0 (40/s x 0.5 s) + headroom 4.5 + backlog 0.0 = 24.5 slots / 4 per pod",
    ),
    Case(
        id="a backlog adds the slots that drain it in the time left",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, ready=2400, oldest_age_s=10),
        desired=15,
        replicas=15,
        terms={"backlog": 31.6},
    ),
    Case(
        id="the same backlog, older, pushes harder, up to fourfold",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, ready=2400, oldest_age_s=45),
        desired=27,
        replicas=27,
        terms={"backlog": 80.0},
    ),
    Case(
        id="long tasks get no more pods than there are tasks",
        memory=knows(rate=0.01, service_s=600, slots=1, cold_s=40),
        signals=sees(2, ready=3, leased=2, oldest_age_s=5, pods=(pod("a", slots=1, busy=1), pod("b", slots=1, busy=1))),
        desired=6,
        replicas=6,
        limited_by="work",
        terms={"cap": 5.5},
        says="but there is work for 5.5 only",
    ),
    Case(
        # Before the amendments throttled work was left out and the pool was capped as a whole. Now it is the demand of
        # its class, and the class is capped: with one class the same number.
        id="work behind a rate limit gets the pods that the limit can feed",
        memory=knows(service_s=0.5),
        signals=sees(
            1,
            throttled=20_000,
            limited=(LimitedClass(task="crawl", queue="mails", rate_per_s=10, throttled=20_000),),
        ),
        desired=2,
        replicas=2,
        limited_by="rate_limit",
        terms={"cap": 7.2},
        says="crawl (10/s)",
    ),
    Case(
        id="work that comes due soon is staffed before it is due",
        memory=knows(rate=1, service_s=1, cold_s=40),
        signals=sees(1, delayed=3000, due_soon=3000),
        desired=17,
        replicas=17,
        terms={"eta": 62.5},
    ),
    Case(
        id="work that comes due soon is not staffed ahead when eta is off",
        spec=spec_of(eta={"enabled": False}),
        memory=knows(rate=1, service_s=1, cold_s=40),
        signals=sees(1, delayed=3000, due_soon=3000),
        desired=1,
        replicas=None,
    ),
    Case(
        id="a rate-limited type does not hold back what else is on its queue",
        memory=knows(
            service_s=1,
            classes={"crawl": ClassMemory(service=Service(value_s=1), claims=500)},
            other_claims=500,
        ),
        signals=sees(
            1,
            ready=2400,
            throttled=500,
            limited=(LimitedClass(task="crawl", queue="mails", rate_per_s=1, throttled=500),),
        ),
        # Half of what is ready is limited. Of the other 1200 x 1 s the 4 slots there are do 80 before another starts:
        # 1120 / 48 s = 23.3 slots, and 2 for the limited type.
        desired=7,
        replicas=7,
        limited_by="rate_limit",
        terms={"cap": 25.3},
    ),
    Case(
        id="rate limits play no part when the spec says so",
        spec=spec_of(rateLimitAware=False),
        memory=knows(service_s=0.5),
        signals=sees(
            1,
            throttled=2000,
            limited=(LimitedClass(task="crawl", queue="mails", rate_per_s=10, throttled=2000),),
        ),
        desired=6,
        replicas=6,
    ),
    Case(
        id="a limit per worker is no reason to hold pods back",
        memory=knows(service_s=0.5),
        signals=sees(
            1,
            throttled=2000,
            limited=(LimitedClass(task="crawl", queue="mails", rate_per_s=10, per_worker=True, throttled=2000),),
        ),
        desired=6,
        replicas=6,
    ),
    Case(
        id="tasks that outlive a cold start keep their slot though the formula asks for fewer",
        spec=spec_of(objective={"type": "Backlog", "target": 10}),
        memory=knows(service_s=600, slots=1),
        signals=sees(8, leased=8, pods=tuple(pod(f"p{i}", slots=1, busy=1) for i in range(8))),
        desired=8,
        replicas=None,
        terms={"floor": 8.0},
        says="at least 8.0 for long tasks that run",
    ),
    Case(
        id="spare pods come on top of need",
        spec=spec_of(spareReplicas=2),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=9,
        replicas=9,
        says="+ 2 spare",
    ),
    Case(
        id="the concurrency of the spec beats the heartbeats'",
        spec=spec_of(concurrency=8),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=4,
        replicas=4,
    ),
    Case(
        id="more head-room is more pods",
        spec=spec_of(headroom="3.0"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=9,
        replicas=9,
    ),
    Case(
        id="a backlog objective is messages a slot",
        spec=spec_of(objective={"type": "Backlog", "target": 10}),
        signals=sees(1, ready=200),
        desired=5,
        replicas=5,
    ),
    Case(
        id="a utilization objective keeps that part of the slots busy",
        spec=spec_of(objective={"type": "Utilization", "target": 50}),
        signals=sees(4, leased=16, pods=tuple(pod(f"p{i}", busy=4) for i in range(4))),
        memory=knows(service_s=0.5, rate=100),
        desired=8,
        replicas=8,
    ),
    Case(
        id="a pool that shares its queue takes its part of the demand",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, share={"mails": 0.5}),
        desired=4,
        replicas=4,
    ),
    Case(
        id="a burst is staffed at its own rate, not at the average, and for what will wait when a pod has started",
        memory=knows(rate=4, fast=40, service_s=0.5),
        signals=sees(1),
        # 20 slots and the root of that; 800 tasks come in within 20 s, of which 4 slots do 160: 640 x 0.5 s / 48 s.
        desired=8,
        replicas=8,
        terms={"backlog": 6.7},
    ),
    Case(
        id="work in flight is work, whatever heartbeats say",
        memory=knows(service_s=0.1),
        signals=sees(1, leased=5, pods=(pod("a", busy=0),)),
        desired=1,
        replicas=None,
    ),
    Case(
        id="what an expired lease held is waiting work",
        memory=knows(service_s=60, slots=1),
        signals=sees(1, leased=3, expired=3, pods=(pod("a", slots=1),)),
        desired=3,
        replicas=3,
        limited_by="work",
    ),
]

ZERO = [
    Case(id="nothing to do and nobody there: it stays so", signals=sees(0), desired=0, replicas=None),
    Case(id="from zero, one ready message wakes one pod at once", signals=sees(0, ready=1), desired=1, replicas=1),
    Case(
        id="from zero, an expired lease wakes one pod",
        signals=sees(0, leased=1, expired=1),
        desired=1,
        replicas=1,
    ),
    Case(
        id="from zero, a delayed message that is due soon wakes one pod",
        signals=sees(0, delayed=1, due_soon=1),
        desired=1,
        replicas=1,
    ),
    Case(id="from zero, a message due later wakes nobody", signals=sees(0, delayed=1), desired=0, replicas=None),
    Case(
        id="from zero, throttled work wakes one pod",
        memory=knows(service_s=0.001),
        signals=sees(0, throttled=1, limited=(LimitedClass(task="c", queue="mails", rate_per_s=0.01, throttled=1),)),
        desired=1,
        replicas=1,
        limited_by="none",
    ),
    Case(
        id="from zero, a burst goes straight to its number",
        memory=knows(service_s=1),
        signals=sees(0, ready=2400),
        desired=13,
        replicas=13,
    ),
    Case(
        id="a cold pool goes by one second a task and one slot a pod",
        memory=Memory(),
        signals=sees(0, ready=500),
        desired=11,
        replicas=11,
    ),
    Case(
        id="at zero a rate that lingers wakes nobody",
        memory=knows(rate=3),
        signals=sees(0),
        desired=0,
        replicas=None,
    ),
    Case(
        id="the last pod stays until the pool was quiet for long enough",
        memory=knows(quiet_since=NOW - 299),
        signals=sees(1),
        desired=1,
        replicas=None,
        limited_by="scale_to_zero",
        says="until 300 s without work (299 s so far)",
    ),
    Case(
        id="a pool that was quiet for long enough is drained to zero, whatever the rate was",
        memory=knows(quiet_since=NOW - 300, rate=3),
        signals=sees(1),
        desired=0,
        replicas=None,
        limited_by="drain",
        says="nothing to do for 300 s",
    ),
    Case(
        id="a pool that was quiet does not wait for the idle time-out too",
        spec=spec_of(scaleToZero={"after": "5s"}),
        memory=knows(quiet_since=NOW - 5, wants=((NOW - 6, 9),), marked=(("mails-0", NOW - 5),), drain_id="d1"),
        signals=sees(1, pods=(drained("mails-0"),)),
        desired=0,
        replicas=0,
    ),
    Case(
        id="an arrival that came and went between two ticks counts as one",
        memory=replace(
            knows(quiet_since=NOW - 400),
            queues={"mails": QueueMemory(last=QueueSample(name="mails"), sampled_at=NOW, arrived_at=NOW - 100)},
        ),
        signals=sees(1),
        desired=1,
        replicas=None,
        limited_by="scale_to_zero",
        says="100 s so far",
    ),
    Case(
        id="leased work keeps the last pod however quiet the queue is",
        memory=knows(quiet_since=NOW - 400),
        signals=sees(1, leased=1, pods=(pod("mails-0", busy=1),)),
        desired=1,
        replicas=None,
    ),
    Case(
        id="without scale to zero the last pod stays",
        spec=spec_of(scaleToZero={"enabled": False}),
        memory=knows(quiet_since=NOW - 4000),
        signals=sees(1),
        desired=1,
        replicas=None,
        limited_by="scale_to_zero",
    ),
    Case(
        id="with a minimum the pool does not go below it",
        spec=spec_of(minReplicas=2),
        memory=knows(quiet_since=NOW - 4000),
        signals=sees(2),
        desired=2,
        replicas=None,
        limited_by="min",
    ),
    Case(
        id="with a spare pod the pool does not go to zero",
        spec=spec_of(spareReplicas=1),
        memory=knows(quiet_since=NOW - 4000),
        signals=sees(1),
        desired=1,
        replicas=None,
    ),
]

SIGNAL = [
    Case(
        id="a broker that does not answer holds the pool",
        signals=sees(3, broker_ok=False, broker_error="connection refused", sampled_at=NOW - 5),
        desired=3,
        replicas=None,
        limited_by="signal",
        says="connection refused",
    ),
    Case(
        id="data older than three ticks holds the pool",
        signals=sees(3, ready=5000, sampled_at=NOW - 16),
        desired=3,
        replicas=None,
        limited_by="signal",
    ),
    Case(
        id="stale data holds a pool at zero too",
        signals=sees(0, ready=5000, sampled_at=NOW - 16),
        desired=0,
        replicas=None,
        limited_by="signal",
    ),
    Case(
        id="before the time-out a fallback does nothing",
        spec=spec_of(fallback={"after": "60s", "behavior": "Max"}),
        memory=knows(fresh_at=NOW - 59),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 59),
        desired=3,
        replicas=None,
        limited_by="signal",
    ),
    Case(
        id="fallback Hold holds for ever",
        memory=knows(fresh_at=NOW - 6000),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 6000),
        desired=3,
        replicas=None,
        limited_by="signal",
    ),
    Case(
        id="fallback Max goes to the maximum",
        spec=spec_of(fallback={"behavior": "Max"}, maxReplicas=8),
        memory=knows(fresh_at=NOW - 61),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 61),
        desired=8,
        replicas=8,
        limited_by="signal",
        says="fallback Max: 8",
    ),
    Case(
        id="fallback AtLeast raises",
        spec=spec_of(fallback={"behavior": "AtLeast", "replicas": 5}),
        memory=knows(fresh_at=NOW - 61),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 61),
        desired=5,
        replicas=5,
        limited_by="signal",
    ),
    Case(
        id="fallback Replicas does not lower, for nothing is known of what runs",
        spec=spec_of(fallback={"behavior": "Replicas", "replicas": 1}),
        memory=knows(fresh_at=NOW - 61),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 61),
        desired=3,
        replicas=None,
        limited_by="signal",
    ),
    Case(
        id="on stale data the maximum still lowers, by drained pods only",
        spec=spec_of(maxReplicas=2),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 61),
        desired=2,
        replicas=None,
        limited_by="drain",
        says="maxReplicas 2",
    ),
    Case(
        id="on stale data the override is obeyed",
        spec=spec_of(replicas=6),
        signals=sees(3, broker_ok=False, sampled_at=NOW - 61),
        desired=6,
        replicas=6,
        limited_by="override",
    ),
    Case(
        id="before the first sample nothing is done",
        memory=Memory(),
        signals=sees(3, sampled_at=0.0),
        desired=3,
        replicas=None,
        limited_by="signal",
    ),
]

DOWN = [
    Case(
        id="scale-in waits for the largest wish of the idle time-out",
        memory=knows(rate=40, service_s=0.5, wants=((NOW - 39, 8),)),
        signals=sees(9),
        desired=8,
        replicas=None,
        limited_by="drain",
        says="8 kept: wanted within the last 40 s",
    ),
    Case(
        id="a wish that is older than the idle time-out is forgotten",
        memory=knows(rate=40, service_s=0.5, wants=((NOW - 41, 9),)),
        signals=sees(9),
        desired=7,
        replicas=None,
        limited_by="drain",
    ),
    Case(
        id="the idle time-out is the spec's when it sets one",
        spec=spec_of(scaleDown={"idleTimeout": "5s"}),
        memory=knows(rate=40, service_s=0.5, wants=((NOW - 6, 9),)),
        signals=sees(9),
        desired=7,
        replicas=None,
        limited_by="drain",
    ),
    Case(
        id="during a burst nothing is scaled in",
        memory=knows(rate=1, fast=10, service_s=0.1),
        signals=sees(9),
        desired=9,
        replicas=None,
        limited_by="stabilization",
        says="a burst on mails",
    ),
    Case(
        id="an operator that has only begun to hear the workers scales nothing in",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9, listened_s=9),
        desired=9,
        replicas=None,
        limited_by="startup",
        says="only begun to hear the workers",
    ),
    Case(
        id="an operator that has just started does not go to zero either",
        memory=knows(quiet_since=NOW - 400),
        signals=sees(2, listened_s=9),
        desired=2,
        replicas=None,
        limited_by="startup",
    ),
    Case(
        id="a pool that was not watched for a whole idle time-out is not scaled in",
        memory=knows(rate=40, service_s=0.5, steady_since=NOW - 39),
        signals=sees(9),
        desired=9,
        replicas=None,
        limited_by="startup",
        says="watched for 39 of 40 s",
    ),
    Case(
        id="during a rollout nothing is scaled in",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9, target={"rollout": True}),
        desired=7,
        replicas=None,
        limited_by="rollout",
    ),
    Case(
        id="during a rollout the pool may grow",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(5, target={"rollout": True}),
        desired=7,
        replicas=7,
    ),
    Case(
        id="with selection Any nothing is drained",
        spec=spec_of(scaleDown={"selection": "Any"}),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9),
        desired=7,
        replicas=7,
    ),
    Case(
        id="when its victims are drained and nobody else is unready, the number is written",
        memory=knows(rate=40, service_s=0.5, drain_id="d1"),
        signals=sees(9, pods=(drained("a"), drained("b"), *(pod(f"p{i}", busy=4) for i in range(7)))),
        desired=7,
        replicas=7,
    ),
    Case(
        id="demand that returns lifts the marks",
        memory=knows(rate=40, service_s=0.5, drain_id="d1"),
        signals=sees(7, pods=(drained("a"), drained("b"), *(pod(f"p{i}") for i in range(5)))),
        desired=7,
        replicas=None,
    ),
]

UP = [
    Case(
        id="pods pending for more than a minute stop growth",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            3,
            pods=(
                pod("a"),
                pod("b"),
                PodSample(name="c", phase="Pending", ready=False, created_at=NOW - 61, pending_reason="Unschedulable"),
            ),
        ),
        desired=3,
        replicas=None,
        limited_by="pending_pods",
        says="Unschedulable",
    ),
    Case(
        id="a pod that is stuck where younger ones have started stops nothing",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            3, pods=(pod("a"), pod("b"), PodSample(name="c", phase="Pending", ready=False, created_at=NOW - 700))
        ),
        desired=7,
        replicas=7,
    ),
    Case(
        id="pods that are pending for a moment stop nothing",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            3, pods=(pod("a"), pod("b"), PodSample(name="c", phase="Pending", ready=False, created_at=NOW - 59))
        ),
        desired=7,
        replicas=7,
    ),
    Case(
        id="pods of a rollout that are pending do not stop the growth of those that serve",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            2,
            target={"rollout": True},
            pods=(
                pod("a", revision="r1"),
                pod("b", revision="r1"),
                PodSample(
                    name="c",
                    phase="Pending",
                    ready=False,
                    created_at=NOW - 600,
                    pending_reason="ImagePullBackOff",
                    revision="r2",
                ),
            ),
        ),
        desired=7,
        replicas=7,
    ),
    Case(
        id="pods of the revision that serves stop growth in a rollout too",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            2,
            target={"rollout": True},
            pods=(
                pod("a", revision="r1"),
                pod("b", revision="r2"),
                PodSample(name="c", phase="Pending", ready=False, created_at=NOW - 61, revision="r2"),
            ),
        ),
        desired=2,
        replicas=None,
        limited_by="pending_pods",
    ),
    Case(
        id="another container that crashes beside a worker that is heard stops nothing",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            2,
            pods=tuple(pod(n, ready=False, pending_reason="CrashLoopBackOff", running=True) for n in "ab"),
        ),
        desired=7,
        replicas=7,
    ),
    Case(
        id="pods that are never created stop growth",
        memory=knows(rate=40, service_s=0.5, missing_since=NOW - 61),
        signals=sees(3, pods=(pod("a"),)),
        desired=3,
        replicas=None,
        limited_by="pending_pods",
        says="1 pods exist for 3 replicas",
    ),
    Case(
        id="pods that crash at start stop growth",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            2, pods=(pod("a"), pod("b", ready=False, heartbeat_age_s=None, pending_reason="CrashLoopBackOff"))
        ),
        desired=2,
        replicas=None,
        limited_by="pending_pods",
        says="crash at start (b)",
    ),
    Case(
        id="ready pods that send no heartbeat stop growth",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(2, pods=tuple(pod(n, heartbeat_age_s=None, queues=(), ready_at=NOW - 61) for n in "ab")),
        desired=2,
        replicas=None,
        limited_by="not_consuming",
        says="no heartbeat",
    ),
    Case(
        id="ready pods have three cold starts of time for their first heartbeat",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(2, pods=tuple(pod(n, heartbeat_age_s=None, queues=(), ready_at=NOW - 59) for n in "ab")),
        desired=7,
        replicas=7,
    ),
    Case(
        id="an operator that has listened for less has not heard them yet",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(
            2,
            listened_s=59,
            pods=tuple(pod(n, heartbeat_age_s=None, queues=(), ready_at=NOW - 9999) for n in "ab"),
        ),
        desired=7,
        replicas=7,
    ),
    Case(
        id="workers that consume other queues stop growth",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(2, pods=tuple(pod(n, queues=("celery",)) for n in "ab")),
        desired=2,
        replicas=None,
        limited_by="not_consuming",
        says="consume celery, none of the pool's queues",
    ),
    Case(
        id="a listed queue that no worker consumes stops growth",
        spec=spec_of(queues=[{"name": "mails"}, {"name": "letters"}]),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=1,
        replicas=None,
        limited_by="not_consuming",
        says="no worker of the pool consumes letters: start them with -Q letters,mails",
    ),
    Case(
        id="a step limit in pods holds for its period",
        spec=spec_of(scaleUp={"maxPods": 4}),
        memory=knows(rate=40, service_s=0.5, trail=((NOW - 100, 1), (NOW - 5, 3))),
        signals=sees(3),
        desired=5,
        replicas=5,
        limited_by="step",
        says="5 at most: a step from 1 within 15 s",
    ),
    Case(
        id="of two step limits the larger counts",
        spec=spec_of(scaleUp={"maxPods": 1, "maxPercent": 100}),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(3),
        desired=6,
        replicas=6,
        limited_by="step",
    ),
    Case(
        id="a step in per cent still takes the first pod from zero",
        spec=spec_of(scaleUp={"maxPercent": 100}),
        signals=sees(0, ready=5000),
        desired=1,
        replicas=1,
        limited_by="step",
    ),
    Case(
        id="of ten pods, one more is not ordered at the first wish",
        memory=knows(rate=77, service_s=0.5),
        signals=sees(11),
        desired=11,
        replicas=None,
        limited_by="deadband",
    ),
    Case(
        id="of ten pods, one more is ordered when the wish has lasted three ticks",
        memory=knows(rate=77, service_s=0.5, nudge=(1, NOW - 10)),
        signals=sees(11),
        desired=12,
        replicas=12,
    ),
    Case(
        id="a wish in the other direction starts the three ticks anew",
        memory=knows(rate=77, service_s=0.5, nudge=(-1, NOW - 10)),
        signals=sees(11),
        desired=11,
        replicas=None,
        limited_by="deadband",
    ),
    Case(
        id="two more are ordered at once",
        memory=knows(rate=77, service_s=0.5),
        signals=sees(10),
        desired=12,
        replicas=12,
    ),
]

WORK_HOURS = {"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "timezone": "Europe/Berlin"}

LIMITS = [
    Case(
        id="an open schedule raises the minimum",
        spec=spec_of(schedules=[{**WORK_HOURS, "minReplicas": 6}]),
        signals=sees(1),
        desired=6,
        replicas=6,
        limited_by="schedule",
        says="6 at least by schedule",
    ),
    Case(
        id="a closed schedule does nothing",
        spec=spec_of(schedules=[{**WORK_HOURS, "minReplicas": 6}]),
        signals=sees(1, sampled_at=NOW + 8 * 3600),
        memory=knows(steady_since=NOW),
        now=NOW + 8 * 3600,
        desired=1,
        replicas=None,
        limited_by="scale_to_zero",
    ),
    Case(
        id="of several open schedules the largest minimum and the smallest maximum hold",
        spec=spec_of(
            schedules=[
                {**WORK_HOURS, "minReplicas": 2, "maxReplicas": 9},
                {**WORK_HOURS, "minReplicas": 4, "maxReplicas": 5},
            ]
        ),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=5,
        replicas=5,
        limited_by="schedule",
        says="5 at most by schedule",
    ),
    Case(
        id="the maximum has the last word over demand",
        spec=spec_of(maxReplicas=5),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=5,
        replicas=5,
        limited_by="max",
    ),
    Case(
        id="the minimum is kept",
        spec=spec_of(minReplicas=3),
        signals=sees(1),
        desired=3,
        replicas=3,
        limited_by="min",
    ),
    Case(
        id="the override beats demand",
        spec=spec_of(replicas=5),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=5,
        replicas=5,
        limited_by="override",
    ),
    Case(
        id="the override may go below the minimum, by a drain",
        spec=spec_of(replicas=0, minReplicas=2),
        signals=sees(2),
        desired=0,
        replicas=None,
        limited_by="drain",
        says="spec.replicas 0 overrides",
    ),
    Case(
        id="a dry run decides and writes nothing",
        spec=spec_of(mode="DryRun"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=7,
        replicas=None,
        limited_by="dry_run",
    ),
    Case(
        id="a dry run drains nobody",
        spec=spec_of(mode="DryRun"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9),
        desired=7,
        replicas=None,
        limited_by="dry_run",
    ),
    Case(
        id="a dry run beside another autoscaler decides all the same and says who scales",
        spec=spec_of(mode="DryRun"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, target={"foreign_manager": "ScaledObject/mails"}),
        desired=7,
        replicas=None,
        limited_by="dry_run",
        says="ScaledObject/mails scales Deployment mails-worker",
    ),
    Case(
        id="a paused pool stays as it is",
        spec=spec_of(mode="Paused", maxReplicas=5),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9),
        desired=9,
        replicas=None,
        limited_by="paused",
    ),
    Case(
        id="mode ScaleUpOnly grows",
        spec=spec_of(mode="ScaleUpOnly"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=7,
        replicas=7,
    ),
    Case(
        id="mode ScaleUpOnly does not shrink",
        spec=spec_of(mode="ScaleUpOnly"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9),
        desired=9,
        replicas=None,
        limited_by="scale_up_only",
    ),
    Case(
        id="mode ScaleDownOnly does not grow",
        spec=spec_of(mode="ScaleDownOnly"),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1),
        desired=1,
        replicas=None,
        limited_by="scale_down_only",
    ),
    Case(
        id="a workload that another autoscaler drives is left alone",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, target={"foreign_manager": "HorizontalPodAutoscaler mails"}),
        desired=7,
        replicas=None,
        limited_by="conflict",
        says="HorizontalPodAutoscaler mails scales Deployment mails-worker too",
    ),
    Case(
        id="a workload that another autoscaler may drive is left alone until that is known",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, target={"foreign_unread": "whether an HPA scales it too is not known: 500"}),
        desired=7,
        replicas=None,
        limited_by="conflict_unknown",
        says="nothing is written: whether an HPA scales it too is not known: 500",
    ),
    Case(
        id="nobody is drained while another autoscaler may drive the workload",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9, target={"foreign_unread": "not known"}),
        desired=7,
        replicas=None,
        limited_by="conflict_unknown",
    ),
    Case(
        id="a workload that cannot be read is not written to",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(0, target={"error": "Deployment shop/mails-worker does not exist"}, ready=9),
        desired=7,
        replicas=None,
        limited_by="target",
        says="does not exist",
    ),
    Case(
        id="a workload whose replicas somebody else changed is still scaled",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(1, target={"contested_by": "kubectl-client-side-apply"}),
        desired=7,
        replicas=7,
    ),
]

ALL = [*DEMAND, *ZERO, *SIGNAL, *DOWN, *UP, *LIMITS]


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_decide(case: Case) -> None:
    decision = decide(case.signals, case.spec, case.memory, case.now)

    assert (decision.desired, decision.replicas, decision.limited_by) == (
        case.desired,
        case.replicas,
        case.limited_by,
    ), decision.summary
    assert case.says in decision.summary
    for name, slots in case.terms.items():
        assert decision.terms[name] == pytest.approx(slots, abs=0.06)


# ── conditions and events ──


@dataclass(frozen=True, kw_only=True)
class Told:
    id: str
    signals: Signals
    spec: WorkerPoolSpec = field(default_factory=spec_of)
    memory: Memory = field(default_factory=knows)
    conditions: dict[str, tuple[bool | None, str]]
    events: tuple[tuple[str, str], ...] = ()


TOLD = [
    Told(
        id="a pool in order is ready and says nothing",
        signals=sees(1, leased=1, pods=(pod("a", busy=1),)),
        conditions={
            "Ready": (True, "Decided"),
            "Reconciling": (False, "UpToDate"),
            "Stalled": (False, "NotStalled"),
            "BrokerReachable": (True, "Answered"),
            "ScalingActive": (True, "Active"),
            "AtLimit": (False, "WithinLimits"),
            "RateLimited": (False, "NotLimited"),
            "ScaleUpBlocked": (False, "NotBlocked"),
            "Draining": (False, "NoScaleIn"),
            "FallbackActive": (False, "SignalsFresh"),
            "GraceTooShort": (False, "LongEnough"),
            "Conflict": (False, "NoConflict"),
            "ReplicasContested": (False, "NotContested"),
        },
    ),
    Told(
        id="a write is an event",
        signals=sees(0, ready=1),
        conditions={"Ready": (True, "Decided")},
        events=(("Normal", "ScaledUp"),),
    ),
    Told(
        id="a broker that stops answering is told once",
        signals=sees(1, broker_ok=False, broker_error="refused", sampled_at=NOW - 5),
        conditions={
            "Ready": (False, "BrokerUnreachable"),
            "Reconciling": (True, "BrokerUnreachable"),
            "Stalled": (False, "NotStalled"),
            "BrokerReachable": (False, "NoAnswer"),
        },
        events=(("Warning", "BrokerUnreachable"),),
    ),
    Told(
        id="a broker that still does not answer is not told again",
        signals=sees(1, broker_ok=False, broker_error="refused", sampled_at=NOW - 5),
        memory=knows(truths={"BrokerReachable": False}),
        conditions={"BrokerReachable": (False, "NoAnswer")},
    ),
    Told(
        id="a broker that answers again is told",
        signals=sees(1, leased=1, pods=(pod("a", busy=1),)),
        memory=knows(truths={"BrokerReachable": False}),
        conditions={"BrokerReachable": (True, "Answered")},
        events=(("Normal", "BrokerReachable"),),
    ),
    Told(
        id="before the first sample the broker is neither reachable nor not",
        signals=sees(1, sampled_at=0.0),
        memory=Memory(),
        conditions={
            "Ready": (False, "NoSampleYet"),
            "Reconciling": (True, "NoSampleYet"),
            "BrokerReachable": (None, "NoSampleYet"),
        },
    ),
    Told(
        id="a fallback is told",
        spec=spec_of(fallback={"behavior": "AtLeast", "replicas": 1}),
        memory=knows(fresh_at=NOW - 61, truths={"BrokerReachable": False}),
        signals=sees(1, broker_ok=False, sampled_at=NOW - 61),
        conditions={"FallbackActive": (True, "AtLeast")},
        events=(("Warning", "FallbackActive"),),
    ),
    Told(
        id="a missing workload stalls the pool",
        signals=sees(0, target={"error": "Deployment shop/mails-worker does not exist"}),
        conditions={
            "Ready": (False, "TargetUnavailable"),
            "Stalled": (True, "TargetUnavailable"),
            "ScalingActive": (False, "TargetUnavailable"),
        },
        events=(("Warning", "TargetUnavailable"),),
    ),
    Told(
        id="another autoscaler stalls the pool",
        signals=sees(1, target={"foreign_manager": "ScaledObject mails"}),
        conditions={
            "Ready": (False, "Conflict"),
            "Stalled": (True, "Conflict"),
            "Conflict": (True, "AnotherAutoscaler"),
            "ScalingActive": (False, "Conflict"),
        },
        events=(("Warning", "Conflict"),),
    ),
    *(
        Told(
            id=f"in mode {mode} another autoscaler is no conflict, and is named",
            spec=spec_of(mode=mode),
            signals=sees(1, target=target),
            conditions={
                "Ready": (True, "Decided"),
                "Stalled": (False, "NotStalled"),
                "Conflict": (conflict, reason),
                "ScalingActive": (False, mode),
            },
        )
        for mode in ("DryRun", "Paused")
        for target, conflict, reason in (
            ({"foreign_manager": "ScaledObject/mails"}, False, "HandsOff"),
            ({"foreign_unread": "500"}, None, "NotRead"),
        )
    ),
    Told(
        id="that another autoscaler may be there passes by itself",
        signals=sees(1, target={"foreign_unread": "whether an HPA scales it too is not known: 500"}),
        conditions={
            "Ready": (False, "ConflictUnknown"),
            "Reconciling": (True, "ConflictUnknown"),
            "Stalled": (False, "NotStalled"),
            "Conflict": (None, "NotRead"),
            "ScalingActive": (False, "ConflictUnknown"),
        },
    ),
    Told(
        id="a pool at its maximum says so",
        spec=spec_of(maxReplicas=5),
        memory=knows(rate=40, service_s=0.5),
        signals=sees(5),
        conditions={"AtLimit": (True, "MaxReplicas")},
        events=(("Normal", "AtLimit"),),
    ),
    Told(
        id="a rate limit that holds the pool back says so",
        memory=knows(service_s=0.5, truths={"RateLimited": True}),
        signals=sees(
            2, throttled=20_000, limited=(LimitedClass(task="crawl", queue="mails", rate_per_s=10, throttled=20_000),)
        ),
        conditions={"RateLimited": (True, "RateLimit"), "AtLimit": (False, "WithinLimits")},
    ),
    Told(
        id="growth that would not help says why",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(2, pods=tuple(pod(n, queues=("celery",)) for n in "ab")),
        conditions={"ScaleUpBlocked": (True, "NotConsuming")},
        events=(("Warning", "ScaleUpBlocked"),),
    ),
    Told(
        id="tasks that outlive the grace period are warned of",
        signals=sees(1, leased=1, pods=(pod("a", busy=1, longest_running_s=31),)),
        conditions={"GraceTooShort": (True, "TasksOutliveGrace")},
        events=(("Warning", "GraceTooShort"),),
    ),
    Told(
        id="replicas that somebody else writes are warned of by name",
        signals=sees(1, leased=1, pods=(pod("a", busy=1),), target={"contested_by": "helm"}),
        conditions={"ReplicasContested": (True, "ForeignChange")},
        events=(("Warning", "ReplicasContested"),),
    ),
    Told(
        id="a drain is shown while it lasts",
        memory=knows(rate=40, service_s=0.5),
        signals=sees(9),
        conditions={"Draining": (True, "ScaleIn"), "Ready": (True, "Decided")},
    ),
    Told(
        id="a drain that takes too long is told once",
        memory=knows(quiet_since=NOW - 400, drain_id="d1", marked=(("a", NOW - 3601),)),
        signals=sees(1, pods=(pod("a", busy=1, drain_state="draining", drain_id="d1"),)),
        conditions={"Draining": (True, "ScaleIn")},
        events=(("Warning", "DrainTimeout"),),
    ),
    Told(
        id="an override shows that scaling by work is off",
        spec=spec_of(replicas=1),
        signals=sees(1),
        conditions={"ScalingActive": (False, "Override")},
    ),
    Told(
        id="a dry run shows that nothing is acted on",
        spec=spec_of(mode="DryRun"),
        signals=sees(1),
        conditions={"ScalingActive": (False, "DryRun"), "Ready": (True, "Decided")},
    ),
]


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.id)
def test_what_is_told(case: Told) -> None:
    decision = decide(case.signals, case.spec, case.memory, NOW)

    assert {name: decision.conditions[name][:2] for name in case.conditions} == case.conditions
    assert tuple(event[:2] for event in decision.events) == case.events


def test_a_limited_pool_says_when_its_work_will_be_done() -> None:
    limit = LimitedClass(task="crawl", queue="mails", rate_per_s=10, throttled=20_000)

    decision = decide(sees(2, throttled=20_000, limited=(limit,)), spec_of(), knows(service_s=0.5), NOW)

    assert decision.predicted_drain_s == pytest.approx(2000)
    assert decision.conditions["RateLimited"][2] == (
        "adding pods cannot help, a rate limit holds back crawl (10/s); what waits is done in about 2000 s"
    )


def test_the_time_until_the_backlog_is_done_counts_what_arrives_meanwhile() -> None:
    decision = decide(sees(15, ready=2400, oldest_age_s=10), spec_of(), knows(rate=40, service_s=0.5), NOW)

    # 1200 slot-seconds on the 60 - 20 slots that arrivals leave.
    assert decision.predicted_drain_s == pytest.approx(30)


def test_soon_means_a_cold_start_and_a_tick_unless_the_spec_says_otherwise() -> None:
    assert horizon_s(spec_of(), knows(cold_s=20)) == 25
    assert horizon_s(spec_of(), Memory()) == 35
    assert horizon_s(spec_of(coldStart="1m"), knows(cold_s=20)) == 65
    assert horizon_s(spec_of(eta={"horizon": "10m"}), Memory()) == 600
    assert horizon_s(spec_of(eta={"enabled": False}), Memory()) == 0


# ── what holds in every case ──

#: How many inputs are drawn; a hundred thousand with CELERIAC_PROPERTY_EXAMPLES=100000.
EXAMPLES = int(os.environ.get("CELERIAC_PROPERTY_EXAMPLES", "300"))

counts = st.integers(min_value=0, max_value=20_000)
rates = st.floats(min_value=0, max_value=500, allow_nan=False)


#: Pods by all that makes a difference; one draw each, since a hundred thousand inputs are to be drawn.
PODS = tuple(
    pod(
        "",
        busy=busy,
        ready=ready,
        deleting=deleting,
        phase=phase,
        heartbeat_age_s=heard_s,
        created_at=NOW - age_s,
        drain_state=state,
        drain_id="d1" if state else "",
        drain_expires_in_s=left_s,
    )
    for state, busy, ready in (
        *((state, busy, ready) for state in ("", "", "draining") for busy in (0, 1, 4) for ready in (True, False)),
        *6 * (("drained", 0, False),),
    )
    for deleting in (False, False, True)
    for phase in ("Running", "Running", "Pending")
    for heard_s in (None, 1.0, 1.0, 60.0)
    for age_s in (10.0, 600.0)
    for left_s in (5.0, 50.0)
)


SOME_PODS = st.lists(st.sampled_from(range(len(PODS))), max_size=12)


def named(pods: list[PodSample]) -> tuple[PodSample, ...]:
    return tuple(replace(pod, name=f"w-{i}", uid=f"w-{i}", node=f"celeriac@w-{i}") for i, pod in enumerate(pods))


@st.composite
def queue_of(draw: st.DrawFn, name: str) -> QueueSample:
    leased = draw(counts)
    return QueueSample(
        name=name,
        ready=draw(counts),
        leased=leased,
        reserved=draw(st.integers(min_value=0, max_value=leased)),
        expired=draw(st.sampled_from((0, 0, 3))),
        throttled=draw(st.sampled_from((0, 0, 300))),
        delayed=draw(st.sampled_from((0, 0, 500))),
        due_soon=draw(st.sampled_from((0, 0, 50))),
        oldest_age_s=draw(st.one_of(st.none(), st.floats(min_value=0, max_value=1e6))),
        completed=draw(counts),
        busy_s=draw(st.floats(min_value=0, max_value=1e6)),
        waits=draw(st.sampled_from((0, 10, 5000))),
        wait_s=draw(st.floats(min_value=0, max_value=1e6)),
    )


KINDS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"kind": "StatefulSet", "ordered": True},
    {"kind": "StatefulSet", "ordered": False},
    {"kind": "StatefulSet", "ordered": True, "first_ordinal": 2},
)


@st.composite
def signals_of(draw: st.DrawFn) -> Signals:
    signals = sees(
        draw(st.integers(min_value=0, max_value=15)),
        pods=named([PODS[number] for number in draw(SOME_PODS)]),
        limited=(LimitedClass(task="crawl", queue="mails", rate_per_s=draw(rates), throttled=100),),
        broker_ok=draw(st.sampled_from((True, True, True, False))),
        sampled_at=NOW - draw(st.sampled_from((0.0, 0.0, 10.0, 20.0, 300.0))),
        listened_s=draw(st.sampled_from((1.0, 1e6))),
        share=draw(st.sampled_from(({}, {"mails": 0.25}))),
        target={
            "rollout": draw(st.sampled_from((False, False, True))),
            "settling": draw(st.sampled_from((False, False, True))),
            **draw(st.sampled_from(KINDS)),
        },
    )
    return replace(
        signals, queues=(draw(queue_of("mails")), *draw(st.sampled_from(((), (draw(queue_of("reports")),)))))
    )


OBJECTIVES: tuple[dict[str, Any], ...] = (
    {"type": "DrainTime"},
    {"type": "DrainTime"},
    {"type": "Latency", "percentile": 99},
    {"type": "Backlog", "target": 20},
    {"type": "Utilization", "target": 70},
)


@st.composite
def specs(draw: st.DrawFn) -> WorkerPoolSpec:
    least = draw(st.integers(min_value=0, max_value=5))
    always = {"start": "* * * * *", "end": "0 0 * * *"}
    raw: dict[str, Any] = {
        "queues": [{"name": "mails", "weight": draw(st.sampled_from((1, 3)))}, {"name": "reports"}],
        "minReplicas": least,
        "maxReplicas": draw(st.integers(min_value=max(1, least), max_value=30)),
        "spareReplicas": draw(st.sampled_from((0, 0, 2))),
        "fallback": {"behavior": draw(st.sampled_from(("Hold", "Max", "AtLeast", "Replicas"))), "replicas": 4},
        "objective": draw(st.sampled_from(OBJECTIVES)) | {"seconds": draw(st.integers(min_value=1, max_value=3600))},
        "headroom": draw(st.sampled_from(("0", "1.0", "2.5"))),
        "mode": draw(st.sampled_from(("Active", "Active", "Active", "DryRun"))),
    }
    if draw(st.sampled_from((False, False, False, True))):
        raw["schedules"] = [always | {"maxReplicas": max(least, draw(st.integers(min_value=0, max_value=8)))}]
    if draw(st.sampled_from((False, False, False, True))):
        raw["replicas"] = draw(st.integers(min_value=0, max_value=raw["maxReplicas"]))
    return spec_of(**raw)


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    return knows(
        rate=draw(rates),
        fast=draw(rates),
        service_s=draw(st.floats(min_value=1e-4, max_value=5000, allow_nan=False)),
        slots=draw(st.sampled_from((1, 4, 8.5))),
        cold_s=draw(st.sampled_from((1, 30, 200))),
        quiet_since=draw(st.sampled_from((None, NOW - 1000))),
        fresh_at=NOW - draw(st.sampled_from((5, 100))),
        sampled_at=NOW - 5,
        drain_id=draw(st.sampled_from(("", "d1"))),
        wants=draw(st.sampled_from(((), ((NOW - 20, 9),)))),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(signals=signals_of(), spec=specs(), memory=memories(), more=counts)
def test_whatever_is_seen(signals: Signals, spec: WorkerPoolSpec, memory: Memory, more: int) -> None:
    decision = decide(signals, spec, memory, NOW)

    stays_within_the_limits(decision, spec)
    holds_no_nonsense(decision)
    lowers_nothing_on_stale_data(decision, signals, spec)
    drains_only_who_is_heard(decision, signals)
    writes_only_between_here_and_there(decision, signals)
    if signals.target.kind == "StatefulSet":
        drains_from_the_top(decision, signals)
        takes_no_ordinal_that_may_work(decision, signals)
    else:
        drains_nobody_busy_while_somebody_is_idle(decision, signals)
        takes_nobody_who_may_work(decision, signals)
    keeps_the_marks_of_those_that_leave(decision, signals, spec)
    asks_for_no_fewer_pods_when_more_waits(decision, signals, spec, memory, more)


def stays_within_the_limits(decision: Decision, spec: WorkerPoolSpec) -> None:
    if spec.replicas is not None:
        assert decision.desired == spec.replicas
    else:
        assert spec.min_replicas <= decision.desired <= spec.max_replicas


def holds_no_nonsense(decision: Decision) -> None:
    assert all(math.isfinite(slots) and slots >= 0 for slots in decision.terms.values())
    assert decision.predicted_drain_s is None or 0 <= decision.predicted_drain_s < math.inf
    assert "nan" not in decision.summary
    for queue in decision.memory.queues.values():
        assert math.isfinite(queue.slow_per_s) and math.isfinite(queue.fast_per_s) and math.isfinite(queue.surge_per_s)
        assert math.isfinite(queue.overall.value_s) and queue.overall.value_s > 0


def lowers_nothing_on_stale_data(decision: Decision, signals: Signals, spec: WorkerPoolSpec) -> None:
    if signals.broker_ok and NOW - signals.sampled_at <= 15:
        return
    may_lower = [window.max_replicas for window in spec.schedules if window.max_replicas is not None]
    if spec.replicas is not None:
        may_lower.append(spec.replicas)
    assert decision.desired >= min(signals.target.replicas, spec.max_replicas, *may_lower)


def known_of(signals: Signals) -> list[PodSample]:
    return [pod for pod in signals.pods if pod.phase == "Running" and not pod.deleting and pod.heartbeat_age_s == 1.0]


def drains_only_who_is_heard(decision: Decision, signals: Signals) -> None:
    drained = {pod.name for pod in signals.pods if pod.drain_state == "drained" and not pod.deleting}
    assert set(decision.drain) <= {pod.name for pod in known_of(signals)} | drained
    assert not set(decision.drain) & set(decision.undrain)


def drains_nobody_busy_while_somebody_is_idle(decision: Decision, signals: Signals) -> None:
    by_name, known = {pod.name: pod for pod in signals.pods}, known_of(signals)
    if any(by_name[name].busy for name in decision.drain):
        assert not [pod for pod in known if not pod.busy and pod.name not in decision.drain]


def writes_only_between_here_and_there(decision: Decision, signals: Signals) -> None:
    if decision.replicas is None:
        return
    here = signals.target.replicas
    assert decision.replicas != here
    assert min(here, decision.desired) <= decision.replicas <= max(here, decision.desired)


def takes_nobody_who_may_work(decision: Decision, signals: Signals) -> None:
    if decision.replicas is not None and decision.replicas < signals.target.replicas:
        idle = {pod.name for pod in signals.pods if pod.drain_state == "drained"}
        unready = {pod.name for pod in signals.pods if not pod.ready and not pod.deleting}
        assert unready <= idle


def drains_from_the_top(decision: Decision, signals: Signals) -> None:
    """Of the pods that are there and stay by the present number: the highest in a row, and with OrderedReady one at most."""
    target = signals.target
    stays = range(target.first_ordinal, target.first_ordinal + target.replicas)
    there = [ordinal_of(pod.name) for pod in signals.pods if not pod.deleting]
    mine = [ordinal for ordinal in there if ordinal in stays]
    marked = sorted(ordinal for ordinal in map(ordinal_of, decision.drain) if ordinal in stays)
    if target.settling and not target.rollout:
        return  # the number may yet be another
    assert marked == sorted(mine)[len(mine) - len(marked) :]
    if target.ordered:
        assert len(marked) <= 1
        assert not marked or set(there) <= set(stays), "the last one is on its way out before the next is marked"


def takes_no_ordinal_that_may_work(decision: Decision, signals: Signals) -> None:
    target = signals.target
    if decision.replicas is None or decision.replicas >= target.replicas:
        return
    taken = range(target.first_ordinal + decision.replicas, target.first_ordinal + target.replicas)
    by_ordinal = {ordinal_of(pod.name): pod for pod in signals.pods}
    there = [by_ordinal[ordinal] for ordinal in taken if ordinal in by_ordinal]
    assert all(pod.drain_state == "drained" and pod.drain_id == decision.drain_id for pod in there)
    if target.ordered and there:
        below = [by_ordinal.get(ordinal) for ordinal in range(target.first_ordinal, taken.start)]
        assert len(there) == 1
        assert all(pod is not None and pod.ready and not pod.deleting for pod in below)


def keeps_the_marks_of_those_that_leave(decision: Decision, signals: Signals, spec: WorkerPoolSpec) -> None:
    target = signals.target
    drained = [pod for pod in signals.pods if pod.drain_state == "drained" and not pod.deleting]
    if target.kind == "StatefulSet":
        stays = range(target.first_ordinal, target.first_ordinal + target.replicas)
        leaving = {pod.name for pod in drained if ordinal_of(pod.name) not in stays}
    elif target.replicas < sum(not pod.deleting for pod in signals.pods):
        leaving = {pod.name for pod in drained}
    else:
        leaving = set()
    assert not leaving & set(decision.undrain)
    if spec.mode is Mode.ACTIVE and not target.rollout:
        assert leaving <= set(decision.drain)


def asks_for_no_fewer_pods_when_more_waits(
    decision: Decision, signals: Signals, spec: WorkerPoolSpec, memory: Memory, more: int
) -> None:
    queue, *others = signals.queues
    longer = replace(signals, queues=(replace(queue, ready=queue.ready + more), *others))

    there = decide(longer, spec, memory, NOW)

    assert there.unclamped >= decision.unclamped
    assert there.desired >= decision.desired
