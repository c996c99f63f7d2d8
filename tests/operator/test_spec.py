"""A WorkerPool's spec as a value: what is filled in, and how problems read."""

from typing import Any

import pytest

from celeriac_operator.resources.fields import seconds_of
from celeriac_operator.resources.spec import (
    Broker,
    DrainTimeoutPolicy,
    Mode,
    Objective,
    ObjectiveType,
    QueueSpec,
    RateLimit,
    SecretKeyRef,
    Selection,
    SpecError,
    WorkerPoolSpec,
)

LEAST: dict[str, Any] = {"targetRef": {"name": "mails-worker"}, "queues": [{"name": "mails"}]}


def test_the_ten_line_pool() -> None:
    spec = WorkerPoolSpec.parse(
        {
            "targetRef": {"name": "emails-worker"},
            "broker": {"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}},
            "queues": [{"name": "emails"}],
            "maxReplicas": 20,
            "objective": {"seconds": 30},
        }
    )

    assert (spec.target_ref.api_version, spec.target_ref.kind, spec.target_ref.name) == (
        "apps/v1",
        "Deployment",
        "emails-worker",
    )
    assert spec.broker == Broker(url_from=SecretKeyRef(name="redis", key="url"))
    assert spec.queues == (QueueSpec(name="emails"),)
    assert (spec.min_replicas, spec.max_replicas, spec.interval_s) == (0, 20, 5.0)
    assert spec.objective == Objective(type=ObjectiveType.DRAIN_TIME, seconds=30, percentile=95)
    assert (spec.scale_down.idle_timeout_s, spec.cold_start_s, spec.concurrency, spec.replicas) == (None,) * 4


def test_the_full_pool() -> None:
    spec = WorkerPoolSpec.parse(
        {
            "targetRef": {"kind": "StatefulSet", "name": "reports-worker"},
            "queues": [
                {
                    "name": "reports.high",
                    "weight": 4,
                    "objective": {"type": "Latency", "seconds": 10, "percentile": 99},
                },
                {"name": "reports.bulk"},
            ],
            "minReplicas": 1,
            "maxReplicas": 60,
            "headroom": "1.5",
            "scaleUp": {"maxPods": 10, "maxPercent": 100, "perSeconds": 15},
            "scaleDown": {
                "idleTimeout": "3m",
                "drainTimeout": "2h",
                "onDrainTimeout": "Wait",
                "maxConcurrentDrains": 2,
                "selection": "Any",
            },
            "rateLimits": [{"task": "crawl", "rate": "90/m"}],
            "fallback": {"after": "2m", "behavior": "AtLeast", "replicas": 5},
            "eta": {"enabled": True, "horizon": "10m"},
            "mode": "DryRun",
        }
    )

    high, bulk = spec.queues
    assert spec.objective_of(high).percentile == 99
    assert spec.objective_of(bulk) == spec.objective
    assert spec.headroom == 1.5
    assert (spec.scale_down.idle_timeout_s, spec.scale_down.drain_timeout_s) == (180.0, 7200.0)
    assert spec.scale_down.on_drain_timeout is DrainTimeoutPolicy.WAIT
    assert spec.scale_down.selection is Selection.ANY
    assert spec.rate_limits == (RateLimit(task="crawl", rate_per_s=1.5),)
    assert (spec.eta.horizon_s, spec.mode) == (600.0, Mode.DRY_RUN)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"targetRef": None}, "spec.targetRef is missing"),
        ({"targetRef": {}}, "spec.targetRef.name is missing"),
        ({"targetRef": "mails"}, "spec.targetRef is 'mails', must be an object"),
        ({"queues": None}, "spec.queues is missing"),
        ({"queues": []}, "spec.queues has 0 entries, may have 1 to 64"),
        ({"queues": "mails"}, "spec.queues is 'mails', must be a list"),
        ({"queues": ["mails"]}, "spec.queues[0] is 'mails', must be an object"),
        ({"queues": [{"name": "a"}, {"name": "a"}]}, "spec.queues names 'a' more than once"),
        (
            {"maxReplica": 5},
            "spec.maxReplica is not a field of this version; did you mean maxReplicas?",
        ),
        (
            {"scaleDown": {"drainTimout": "1h"}},
            "spec.scaleDown.drainTimout is not a field of this version; did you mean drainTimeout?",
        ),
        (
            {"scaleToZero": {"xyz": 1}},
            "spec.scaleToZero.xyz is not a field of this version; known are after, enabled",
        ),
        ({"maxReplicas": "5"}, "spec.maxReplicas is '5', must be a whole number from 1 to 10000"),
        ({"maxReplicas": True}, "spec.maxReplicas is True, must be a whole number from 1 to 10000"),
        ({"maxReplicas": 0}, "spec.maxReplicas is 0, must be from 1 to 10000"),
        ({"minReplicas": 11}, "spec.minReplicas is 11, above maxReplicas 10"),
        ({"replicas": 11}, "spec.replicas is 11, above maxReplicas 10"),
        ({"interval": 5}, "spec.interval is 5, must be a duration such as 30s, 5m or 1h30m"),
        ({"interval": "6m"}, "spec.interval is 6m, must be from 1s to 300s"),
        (
            {"scaleDown": {"idleTimeout": "soon"}},
            "spec.scaleDown.idleTimeout is 'soon', must be auto or a duration such as 30s, 5m or 1h30m",
        ),
        ({"headroom": 1.5}, 'spec.headroom is 1.5, must be a number in quotes, such as "1.5"'),
        (
            {"mode": "Dry"},
            "spec.mode is 'Dry', must be one of Active, DryRun, Paused, ScaleUpOnly, ScaleDownOnly",
        ),
        (
            {"scaleDown": {"maxConcurrentDrains": "150%"}},
            'spec.scaleDown.maxConcurrentDrains is \'150%\', must be 1 to 10000 pods or "1%" to "100%"',
        ),
        ({"eta": {"enabled": "yes"}}, "spec.eta.enabled is 'yes', must be true or false"),
        (
            {"brokerRef": {"name": "main"}},
            "spec.brokerRef is reserved for a later version; name the broker's Secret in broker.urlFrom",
        ),
        (
            {"scaleDown": {"onDrainTimeout": "Retry"}},
            "spec.scaleDown.onDrainTimeout is 'Retry', must be one of Wait, Requeue, Kill",
        ),
        ({"onDelete": "Restore"}, "spec.onDelete is 'Restore', must be one of Leave, RestoreReplicas"),
        (
            {"rateLimits": [{"task": "a", "rate": "0/m"}]},
            "spec.rateLimits[0].rate is '0/m'; write a rate above zero, or leave the task out: it has no limit then",
        ),
        (
            {"minReplicas": 5, "schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "maxReplicas": 4}]},
            "spec.schedules[0].maxReplicas is 4, below spec.minReplicas 5, which would win: lower that",
        ),
        (
            {"broker": {"urlFrom": {"secretKeyRef": {"name": "redis"}}}},
            "spec.broker.urlFrom.secretKeyRef.key is missing",
        ),
        (
            {"objective": {"type": "Latency", "percentile": 80}},
            "spec.objective.percentile is 80; with type Latency it may be 50, 90, 95 or 99",
        ),
        ({"objective": {"type": "Backlog"}}, "spec.objective.target is missing: type Backlog needs it"),
        (
            {"fallback": {"behavior": "Replicas"}},
            "spec.fallback.replicas is missing: behavior Replicas needs it",
        ),
        (
            {"rateLimits": [{"task": "a", "rate": "fast"}]},
            "spec.rateLimits[0].rate is 'fast'; write starts per second, minute or hour, such as 10/s, 100/m or 5/h",
        ),
        (
            {"schedules": [{"start": "0 8 * *", "end": "0 9 * * *", "minReplicas": 1}]},
            "spec.schedules[0].start is '0 8 * *': has 4 fields, needs 5: minute hour day month weekday",
        ),
        (
            {"schedules": [{"start": "0 8 * * *", "end": "0 25 * * *", "minReplicas": 1}]},
            "spec.schedules[0].end is '0 25 * * *': hour '25' is not in 0 to 23",
        ),
        (
            {"schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "timezone": "Mars", "minReplicas": 1}]},
            "spec.schedules[0].timezone 'Mars' is not a time zone known here; write an IANA name such as Europe/Berlin",
        ),
        (
            {"schedules": [{"start": "0 8 * * *", "end": "0 9 * * *"}]},
            "spec.schedules[0] sets neither minReplicas nor maxReplicas",
        ),
    ],
)
def test_a_problem_names_the_field_what_it_holds_and_what_it_may_hold(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        WorkerPoolSpec.parse({**LEAST, **fields})

    assert caught.value.problems == (problem,)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        WorkerPoolSpec.parse({"queue": [], "mode": "On", "maxReplicas": -1})

    assert len(caught.value.problems) == 5
    assert str(caught.value) == "; ".join(caught.value.problems)


def test_a_spec_that_is_no_object_is_a_problem_not_a_crash() -> None:
    with pytest.raises(SpecError, match=r"spec is 'no', must be an object"):
        WorkerPoolSpec.parse("no")  # type: ignore[arg-type]


def test_null_is_the_same_as_not_set() -> None:
    assert WorkerPoolSpec.parse({**LEAST, "replicas": None, "objective": None}) == WorkerPoolSpec.parse(LEAST)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30.0), ("5m", 300.0), ("1h30m", 5400.0), ("500ms", 0.5), ("1.5h", 5400.0), ("0s", 0.0)],
)
def test_durations(text: str, expected: float) -> None:
    assert seconds_of(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "5d", "5s5", "auto", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("rate", "per_s"), [("10", 10.0), ("10/s", 10.0), ("90/m", 1.5), ("36/h", 0.01), ("0.5/s", 0.5)]
)
def test_rates(rate: str, per_s: float) -> None:
    spec = WorkerPoolSpec.parse({**LEAST, "rateLimits": [{"task": "t", "rate": rate}]})

    assert spec.rate_limits[0].rate_per_s == pytest.approx(per_s)
