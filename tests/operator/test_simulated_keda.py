"""The HPA's rules and KEDA's, case by case: what the comparison rests on."""

import random
from array import array
from dataclasses import dataclass
from typing import Any

import pytest

from celeriac_operator.simulate.hpa import HpaMemory, HpaSettings, proposal, sync
from celeriac_operator.simulate.keda import Keda, KedaSettings
from celeriac_operator.simulate.load import QueueLoad, ServiceTime, Tasks
from celeriac_operator.simulate.scenario import Pods, Scenario, pool_spec
from celeriac_operator.simulate.world import World


@pytest.mark.parametrize(
    ("usage", "existing", "expected"),
    [
        (100, 10, 10),
        (110, 10, 10),  # within 10 %
        (111, 10, 12),
        (90, 10, 10),
        (89, 10, 9),
        (0, 10, 0),
        (25, 0, 3),
    ],
)
def test_an_average_value_asks_for_the_metric_over_its_target(usage: float, existing: int, expected: int) -> None:
    assert proposal(10, usage=usage, existing=existing) == expected


@dataclass(frozen=True)
class Round:
    """One sync: at, the metric with a target of 1 a pod, and the replicas it should leave."""

    at: float
    usage: float
    expected: int


@dataclass(frozen=True)
class Story:
    id: str
    rounds: tuple[Round, ...]
    start: int = 1
    window_s: float | None = None


STORIES = [
    Story("without behavior the first step is to four", (Round(0, 50, 4), Round(15, 50, 8), Round(30, 50, 16))),
    Story("without behavior growth ends at the maximum", (Round(0, 500, 40), Round(15, 500, 50)), start=20),
    Story(
        "without behavior the largest recommendation of 300 s is kept",
        (Round(0, 20, 20), Round(15, 5, 20), Round(299, 5, 20), Round(300, 5, 5)),
        start=20,
    ),
    Story("what is within the tolerance changes nothing", (Round(0, 21, 20), Round(15, 19, 20)), start=20),
    Story("at zero the HPA does nothing", (Round(0, 50, 0),), start=0),
    Story("above the maximum it comes down to it", (Round(0, 500, 50),), start=60),
    Story(
        "with behavior a step is four pods or the double, in 15 s",
        (Round(0, 50, 5), Round(10, 50, 5), Round(15, 50, 10), Round(30, 50, 20)),
        window_s=60,
    ),
    Story(
        "with behavior scale-in waits for its window and then goes all the way",
        (Round(0, 20, 20), Round(30, 3, 20), Round(59, 3, 20), Round(60, 3, 3)),
        start=20,
        window_s=60,
    ),
    Story("the HPA goes no lower than one", (Round(0, 0, 1),), start=3, window_s=0),
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.id)
def test_rounds_of_the_hpa(story: Story) -> None:
    settings = HpaSettings(minimum=1, maximum=50, target=1, down_window_s=story.window_s)
    memory, replicas = HpaMemory(), story.start

    for each in story.rounds:
        memory, replicas = sync(
            settings, memory, usage=each.usage, replicas=replicas, existing=replicas, now=1000 + each.at
        )
        assert replicas == each.expected, each


def world(*due_at: float, run_s: float = 1.0, **pool: Any) -> World:
    scenario = Scenario(
        name="small",
        title="small",
        spec=pool_spec({"maxReplicas": 10, **pool}, ["q"]),
        loads=(QueueLoad(name="q", service=ServiceTime(mean_s=run_s), shapes=()),),
        duration_s=1200,
        pods=Pods(slots=1, cold_start_s=10),
    )
    tasks = Tasks(due_at=array("d", due_at), run_s=array("d", [run_s] * len(due_at)))
    return World(scenario, [tasks], chance=random.Random(1))


def replicas_over_time(small: World, settings: KedaSettings) -> dict[float, int]:
    """When the number of replicas changed, and to what. Polls at 10, 40, 70 …, syncs at 5, 20, 35 …"""
    Keda(small, settings, first_poll_at=10, first_sync_at=5)
    seen: list[tuple[float, int]] = []
    for second in range(1200):
        small.at(second + 0.5, lambda at=second: seen.append((at, small.replicas)))  # type: ignore[misc]
    small.run()
    changes: dict[float, int] = {}
    for at, count in seen:
        if not changes or count != list(changes.values())[-1]:
            changes[at] = count
    return changes


def test_keda_wakes_one_pod_at_a_poll_and_the_hpa_the_others() -> None:
    small = world(*[20.0] * 8, run_s=100)

    found = replicas_over_time(small, KedaSettings(value=2, min_replicas=0, max_replicas=10))

    # Polled at 40; synced at 50: 8 messages over 2.
    assert list(found.items())[:3] == [(0, 0), (40, 1), (50, 4)]


def test_keda_goes_to_zero_when_nothing_was_active_for_its_cooldown() -> None:
    small = world(20.0, run_s=5)

    found = replicas_over_time(small, KedaSettings(value=1, min_replicas=0, max_replicas=10))

    # Starts at 50 and ends at 55: seen last at the poll of 40. The cooldown of 300 s is over after 340, polled at 370.
    assert found == {0: 0, 40: 1, 370: 0}


def test_keda_with_a_minimum_of_one_stays_there() -> None:
    small = world(20.0, run_s=5, minReplicas=1)

    assert replicas_over_time(small, KedaSettings(value=1, min_replicas=1, max_replicas=10)) == {0: 1}


def test_keda_that_sees_only_what_waits_wakes_nobody_for_what_runs() -> None:
    waits, runs = (
        replicas_over_time(
            world(*[20.0] * 4, run_s=400),
            KedaSettings(value=1, min_replicas=0, max_replicas=10, down_window_s=60, ready_only=ready_only),
        )
        for ready_only in (True, False)
    )

    assert 4 in waits.values()
    assert 4 in runs.values()
    # All four run from 80 on: then nothing waits, and a KEDA that sees no more scales in under them.
    assert min(count for at, count in waits.items() if at > 90) < 4
    assert not [at for at, count in runs.items() if 90 < at < 420 and count < 4]
