"""An API server that answers late: what was seen before its answers is not acted on when it is no longer true."""

from collections.abc import Mapping

import pytest
from worlds import LEAST, TICK_S, Operator, World, keep_time

from celeriac_operator.loop import act
from celeriac_operator.resources.records import PoolRecord


class Slow(World):
    """may_act is asked between the look and the act: there the writes for other pools of the broker take their time, once, and
    work comes in meanwhile.
    """

    stall_s = 0.0
    mark_s = 0.0
    marks_a_tick: tuple[int, ...] = (0,)

    def may_act(self) -> bool:
        stall_s, self.stall_s = self.stall_s, 0.0
        if stall_s:
            self.waiting = [25.0] * 12
        while stall_s > 0:
            self.pass_time(min(1.0, stall_s))
            stall_s -= 1.0
        return True

    def mark_pods(self, pool: PoolRecord, costs: Mapping[str, int]) -> None:
        super().mark_pods(pool, costs)
        self.marks_a_tick = (*self.marks_a_tick[:-1], self.marks_a_tick[-1] + len(costs))
        self.now += self.mark_s * len(costs)


def step(world: Slow, operator: Operator) -> None:
    world.marks_a_tick += (0,)
    world.pass_time(TICK_S)
    operator.tick(world)


@pytest.mark.parametrize("stall_s", [30.0, 58.0, 62.0, 90.0, 300.0])
def test_a_number_that_was_decided_on_long_ago_takes_no_pod_that_works_by_now(
    monkeypatch: pytest.MonkeyPatch, stall_s: float
) -> None:
    for stalled_at in range(1, 12):
        world = Slow()
        keep_time(monkeypatch, world)
        operator = Operator(world, 1)

        for tick in range(60):
            if tick == stalled_at:
                world.stall_s = stall_s
            step(world, operator)

        assert (world.cut_off, world.replicas, world.waiting) == (0, LEAST, []), f"stalled at tick {stalled_at}"


def test_marking_pods_one_slow_request_after_the_other_does_not_hold_up_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = Slow(pods=20)
    world.mark_s = 3.0
    keep_time(monkeypatch, world)
    operator = Operator(world, 1)

    for _ in range(60):
        step(world, operator)

    assert 0 < max(world.marks_a_tick) <= 3
    assert (world.cut_off, world.replicas) == (0, LEAST)


def test_of_many_pods_that_are_drained_some_are_marked_at_each_tick_and_all_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(act, "MOST_MARKS", 2)
    world = Slow(pods=6)
    world.late_s = 60.0
    keep_time(monkeypatch, world)
    operator = Operator(world, 1)

    for _ in range(10):
        step(world, operator)

    assert max(world.marks_a_tick) == 2
    assert sorted(pod.cost for pod in world.pods) == [*[act.DOOMED_COST] * 5, 0]
