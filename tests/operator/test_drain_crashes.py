"""An operator that dies at any of its writes, before or after it: its successor ends what it began, and no task is cut off.

Its successor knows nothing but the pool's status.
"""

from collections.abc import Callable
from functools import partial

import pytest
from worlds import LEAST, TICK_S, Killed, Operator, StatefulWorld, World, keep_time


def live(
    monkeypatch: pytest.MonkeyPatch,
    *,
    dies_at: tuple[int, str] | None = None,
    happens: str = "",
    ticks: int = 60,
    kind: Callable[[], World] = World,
) -> World:
    """Five tasks of 8 to 40 s for four pods, then nothing: the pool goes down to one. The operator is away for two ticks
    when it dies.
    """
    world = kind()
    keep_time(monkeypatch, world)
    world.waiting = [8.0, 16.0, 24.0, 32.0, 40.0]
    world.pass_time(0.1)
    world.dies_at = dies_at
    epoch, away = 1, 0
    operator = Operator(world, epoch)
    for tick in range(ticks):
        if happens == "rollout" and tick == 8:
            world.revision = "r2"
        if happens == "eviction" and tick == 8:
            world.living[0].deleting = True  # a node is drained: its pods go, busy or not, with their grace
        if happens == "demand" and tick == 8:
            world.waiting += [8.0] * 12
        world.pass_time(TICK_S)
        if away:
            away -= 1
            continue
        try:
            operator.tick(world)
        except Killed:
            world.dies_at, world.dead, away, epoch = None, False, 2, epoch + 1
            operator = Operator(world, epoch)
    return world


HAPPENINGS = ["", "rollout", "eviction", "demand"]


@pytest.mark.parametrize("happens", HAPPENINGS, ids=["quiet", "rollout", "eviction", "demand returns"])
def test_the_pool_shrinks_and_cuts_nothing_off(monkeypatch: pytest.MonkeyPatch, happens: str) -> None:
    world = live(monkeypatch, happens=happens)

    assert (world.replicas, world.cut_off, world.waiting) == (LEAST, 0, [])
    assert {"drain", "cost", "scale", "status", "event"} <= set(world.writes)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("happens", HAPPENINGS, ids=["quiet", "rollout", "eviction", "demand returns"])
def test_an_operator_that_dies_at_any_write_cuts_nothing_off(
    monkeypatch: pytest.MonkeyPatch, happens: str, when: str
) -> None:
    writes = len(live(monkeypatch, happens=happens).writes)
    assert writes > 12

    for number in range(0, writes, 1 if not happens else 4):
        world = live(monkeypatch, dies_at=(number, when), happens=happens)

        assert (world.replicas, world.cut_off, world.waiting) == (LEAST, 0, []), f"died {when} write {number}"


STATEFUL = [
    pytest.param(StatefulWorld, id="OrderedReady"),
    pytest.param(partial(StatefulWorld, parallel=True), id="Parallel"),
]


@pytest.mark.parametrize("kind", STATEFUL)
@pytest.mark.parametrize("happens", ["", "eviction", "demand"], ids=["quiet", "eviction", "demand returns"])
def test_a_stateful_set_shrinks_and_cuts_nothing_off_whenever_its_operator_dies(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[], World], happens: str
) -> None:
    writes = len(live(monkeypatch, happens=happens, kind=kind).writes)
    assert writes > 12

    for number in range(0, writes, 4):
        for when in ("before", "after"):
            world = live(monkeypatch, dies_at=(number, when), happens=happens, kind=kind)

            assert (world.replicas, world.cut_off, world.waiting) == (LEAST, 0, []), f"died {when} write {number}"
