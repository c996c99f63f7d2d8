"""A smaller number is written, and not yet carried out: controllers that come late, and StatefulSets, which take one pod at a time."""

from collections.abc import Callable
from functools import partial

import pytest
from worlds import LEAST, TICK_S, Operator, StatefulWorld, World, keep_time

from celeriac_operator.loop.broker import interval_s

KINDS = [
    pytest.param(World, id="Deployment"),
    pytest.param(StatefulWorld, id="StatefulSet, OrderedReady"),
    pytest.param(partial(StatefulWorld, parallel=True), id="StatefulSet, Parallel"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late_s", [30.0, 60.0, 65.0, 75.0, 90.0, 120.0, 300.0])
def test_pods_that_are_to_go_claim_nothing_however_late_their_controller_is(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[], World], late_s: float
) -> None:
    world = kind()
    world.late_s = late_s
    keep_time(monkeypatch, world)
    operator = Operator(world, 1)

    for tick in range(120):
        if tick % 2 == 0:
            world.waiting.append(25.0)
        step(world, operator)

    assert (world.cut_off, len(world.living)) == (0, world.replicas)
    assert world.replicas < 4


@pytest.mark.parametrize("parallel", [False, True], ids=["OrderedReady", "Parallel"])
@pytest.mark.parametrize("pods", [4, 8])
def test_a_stateful_set_that_shrinks_under_a_backlog_cuts_nothing_off(
    monkeypatch: pytest.MonkeyPatch, pods: int, parallel: bool
) -> None:
    world = StatefulWorld(pods=pods, parallel=parallel)
    world.waiting = [25.0] * 60
    keep_time(monkeypatch, world)
    operator = Operator(world, 1, replicas=1)  # as by kubectl scale, a lower maximum or a schedule

    for _ in range(150):
        step(world, operator)

    assert (world.cut_off, world.replicas, len(world.pods)) == (0, 1, 1)


def test_marks_hold_in_a_pool_that_is_looked_at_every_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    keep_time(monkeypatch, world)
    operator = Operator(world, 1, interval="5m")

    world.late_s, world.waiting = 120.0, [400.0] * 4
    for _ in range(40):
        world.pass_time(interval_s([operator.member]))
        operator.tick(world)

    assert interval_s([operator.member]) == 300.0
    assert (world.cut_off, world.replicas, len(world.pods)) == (0, LEAST, LEAST)


@pytest.mark.parametrize("mode", ["Paused", "DryRun"])
def test_a_pool_that_is_paused_while_it_drains_has_its_workers_back_at_the_next_tick(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    world, operator = draining(monkeypatch)

    operator.told(mode=mode)
    operator.tick(world)
    marked = [pod.name for pod in world.pods if pod.mark(world.now)]

    assert marked == []
    assert {pod.cost for pod in world.pods} == {0}


@pytest.mark.parametrize("mode", ["Paused", "DryRun"])
def test_a_pool_that_is_paused_after_it_wrote_a_number_keeps_those_drained_that_are_to_go(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    world, operator = draining(monkeypatch)
    world.late_s = 120.0
    while not world.scaled:
        step(world, operator)
    world.waiting = [45.0] * 30

    operator.told(mode=mode)
    for _ in range(40):
        step(world, operator)

    assert (world.cut_off, len(world.pods)) == (0, world.scaled[0])


def draining(monkeypatch: pytest.MonkeyPatch) -> tuple[World, Operator]:
    """A pool of which a pod is marked, and a number not yet written."""
    world = World()
    keep_time(monkeypatch, world)
    operator = Operator(world, 1)
    while "drain" not in world.writes:
        step(world, operator)
    assert world.scaled == []
    return world, operator


def step(world: World, operator: Operator) -> None:
    world.pass_time(TICK_S)
    operator.tick(world)
