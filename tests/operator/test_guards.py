"""The guards one by one, where the table of `decide` does not show their edges."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from celeriac_operator.resources.cron import Cron
from celeriac_operator.resources.spec import Schedule, WorkerPoolSpec
from celeriac_operator.scaling import guards
from celeriac_operator.scaling.guards import Course, Tick
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import QueueSample, Signals, TargetSample

NOW = 1_000_000.0


def spec_of(**fields: Any) -> WorkerPoolSpec:
    return WorkerPoolSpec.parse({"targetRef": {"name": "w"}, "queues": [{"name": "q"}], **fields})


def tick_of(replicas: int, now: float = NOW, **fields: Any) -> Tick:
    signals = Signals(sampled_at=now, queues=(QueueSample(name="q"),), target=TargetSample(replicas=replicas))
    return Tick(signals=signals, spec=spec_of(**fields), now=now)


def watched(**fields: Any) -> Memory:
    return Memory(**{"steady_since": NOW - 3600, "fresh_at": NOW, **fields})


def epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("fields", "memory", "expected"),
    [
        ({}, Memory(), 60.0),
        ({}, Memory(cold_start_s=100), 200.0),
        ({}, Memory(cold_start_s=2), 30.0),
        ({"coldStart": "1m"}, Memory(cold_start_s=2), 120.0),
        ({"scaleDown": {"idleTimeout": "5s"}}, Memory(cold_start_s=100), 5.0),
    ],
    ids=[
        "twice the first guess of a cold start",
        "twice the cold start observed",
        "half a minute at the least",
        "twice the spec's cold start",
        "the spec's own",
    ],
)
def test_the_idle_time_out(fields: dict[str, Any], memory: Memory, expected: float) -> None:
    assert guards.idle_timeout_s(spec_of(**fields), memory) == expected


def test_stabilization_remembers_only_wishes_that_can_still_be_the_largest() -> None:
    course = Course(pods=4, memory=watched(wants=((NOW - 50, 9), (NOW - 40, 6), (NOW - 30, 4), (NOW - 20, 3))))

    after = guards.stabilization(course, tick_of(9))

    assert after.memory.wants == ((NOW - 50, 9), (NOW - 40, 6), (NOW, 4))
    assert after.pods == 9


def test_stabilization_never_raises_the_pool_above_what_is_there() -> None:
    course = Course(pods=4, memory=watched(wants=((NOW - 50, 20),)))

    after = guards.stabilization(course, tick_of(9))

    assert (after.pods, after.limited_by) == (9, "stabilization")


def test_a_wish_for_one_more_persists_over_irregular_ticks() -> None:
    memory = watched()
    outcomes = []
    for after_s in (0, 0.2, 4, 9, 9.5):  # pokes in between do not count as ticks
        course = guards.deadband(Course(pods=11, memory=memory), tick_of(10, NOW + after_s))
        memory = course.memory
        outcomes.append(course.pods)

    assert outcomes == [10, 10, 10, 10, 11]


def test_a_wish_that_was_withdrawn_starts_anew() -> None:
    memory = guards.deadband(Course(pods=11, memory=watched()), tick_of(10)).memory
    memory = guards.deadband(Course(pods=10, memory=memory), tick_of(10, NOW + 5)).memory

    course = guards.deadband(Course(pods=11, memory=memory), tick_of(10, NOW + 10))

    assert course.pods == 10


def test_below_ten_pods_there_is_no_deadband() -> None:
    assert guards.deadband(Course(pods=10, memory=watched()), tick_of(9)).pods == 10


@pytest.mark.parametrize(
    ("scale_up", "trail", "replicas", "expected"),
    [
        ({}, (), 0, 500),
        ({"perSeconds": 15}, (), 3, 500),
        ({"maxPods": 4}, (), 3, 7),
        ({"maxPods": 4}, ((NOW - 16, 3), (NOW - 10, 7)), 7, 7),
        ({"maxPods": 4}, ((NOW - 30, 3), (NOW - 16, 7)), 7, 11),
        ({"maxPercent": 50}, (), 3, 5),
        ({"maxPercent": 50, "maxPods": 1}, (), 1, 2),
        ({"maxPods": 4}, ((NOW - 40, 9), (NOW - 10, 3)), 3, 13),
    ],
    ids=[
        "unset, there is no limit",
        "a period alone is no limit",
        "pods on top of what is there",
        "what was added within the period counts",
        "what was added before the period does not",
        "per cent are rounded up",
        "the larger of the two counts",
        "what went within the period may come back",
    ],
)
def test_the_step_limit(
    scale_up: dict[str, int], trail: tuple[tuple[float, int], ...], replicas: int, expected: int
) -> None:
    course = Course(pods=500, memory=watched(trail=trail))

    assert guards.step(course, tick_of(replicas, scaleUp=scale_up), None).pods == expected


def test_the_first_fallback_counts_from_the_last_fresh_tick() -> None:
    tick = tick_of(2, fallback={"behavior": "AtLeast", "replicas": 5, "after": "60s"})

    assert guards.fallback(tick, Memory(fresh_at=NOW - 59)).pods == 2
    assert guards.fallback(tick, Memory(fresh_at=NOW - 60)).pods == 5
    assert guards.falls_back(tick, Memory(fresh_at=NOW - 60))
    assert not guards.falls_back(tick, Memory())


WEEKDAYS = Schedule(start="0 8 * * 1-5", end="0 18 * * 1-5", timezone="Europe/Berlin", min_replicas=1)
NIGHT = Schedule(start="0 22 * * *", end="0 6 * * *", min_replicas=1)


@pytest.mark.parametrize(
    ("window", "at", "expected"),
    [
        (WEEKDAYS, "2026-01-01T07:00:00+00:00", True),
        (WEEKDAYS, "2026-01-01T06:59:59+00:00", False),
        (WEEKDAYS, "2026-01-01T16:59:59+00:00", True),
        (WEEKDAYS, "2026-01-01T17:00:00+00:00", False),
        (WEEKDAYS, "2026-07-01T06:00:00+00:00", True),
        (WEEKDAYS, "2026-07-01T05:59:59+00:00", False),
        (WEEKDAYS, "2026-01-03T10:00:00+00:00", False),
        (NIGHT, "2026-01-01T23:00:00+00:00", True),
        (NIGHT, "2026-01-02T05:59:00+00:00", True),
        (NIGHT, "2026-01-02T06:00:00+00:00", False),
        (replace(NIGHT, start="0 0 30 2 *"), "2026-01-01T00:00:00+00:00", False),
        (replace(NIGHT, end="0 0 30 2 *"), "2026-01-01T00:00:00+00:00", True),
    ],
    ids=[
        "opens at the hour of its time zone",
        "is closed a second before",
        "is open a second before its end",
        "closes at its end",
        "opens an hour earlier by UTC in summer",
        "is closed before that",
        "is closed on a Saturday",
        "spans midnight",
        "lasts until the morning",
        "ends in the morning",
        "never opens when its start never fires",
        "never closes when its end never fires",
    ],
)
def test_a_schedule_is_open(window: Schedule, at: str, expected: bool) -> None:
    assert guards.is_open(window, epoch(at)) is expected


@pytest.mark.parametrize(
    ("expression", "now", "expected"),
    [
        ("*/15 * * * *", "2026-03-04T10:14:59+00:00", "2026-03-04T10:00:00+00:00"),
        ("5,35 3-5 * * *", "2026-03-04T10:00:00+00:00", "2026-03-04T05:35:00+00:00"),
        ("10/20 * * * *", "2026-03-04T10:59:00+00:00", "2026-03-04T10:50:00+00:00"),
        ("0 0 29 2 *", "2026-03-04T10:00:00+00:00", "2024-02-29T00:00:00+00:00"),
        ("0 0 1 jan *", "2026-03-04T10:00:00+00:00", "2026-01-01T00:00:00+00:00"),
        ("0 9 * * sun", "2026-03-04T10:00:00+00:00", "2026-03-01T09:00:00+00:00"),
        ("0 9 * * 7", "2026-03-04T10:00:00+00:00", "2026-03-01T09:00:00+00:00"),
        ("0 9 13 * fri", "2026-03-12T10:00:00+00:00", "2026-03-06T09:00:00+00:00"),
        ("0 9 13 * *", "2026-03-12T10:00:00+00:00", "2026-02-13T09:00:00+00:00"),
        ("1-59 * * * *", "2026-03-04T00:00:30+00:00", "2026-03-03T23:59:00+00:00"),
        ("30 * * * *", "2026-03-04T10:29:00+00:00", "2026-03-04T09:30:00+00:00"),
    ],
    ids=[
        "steps",
        "lists and ranges",
        "steps from a number",
        "leap days",
        "names of months",
        "names of days",
        "seven is Sunday",
        "either day when both are given",
        "one day when one is given",
        "yesterday's last minute",
        "the hour before",
    ],
)
def test_when_a_cron_expression_last_fired(expression: str, now: str, expected: str) -> None:
    assert Cron.parse(expression).last_fired_at(epoch(now), "UTC") == epoch(expected)


def test_a_time_that_summer_time_skips_fires_as_much_later_and_one_that_comes_twice_fires_first() -> None:
    skipped = Cron.parse("30 2 29 3 *").last_fired_at(epoch("2026-03-30T00:00:00+00:00"), "Europe/Berlin")
    doubled = Cron.parse("30 2 25 10 *").last_fired_at(epoch("2026-10-26T00:00:00+00:00"), "Europe/Berlin")

    assert skipped == epoch("2026-03-29T03:30:00+02:00")
    assert doubled == epoch("2026-10-25T02:30:00+02:00")
