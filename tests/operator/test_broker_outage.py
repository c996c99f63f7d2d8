"""The broker is down for five minutes while ten pods work: what is there is held, and one tick after its return all is as before."""

import pytest
from worlds import TICK_S, Operator, World, keep_time


def test_ten_pods_that_work_are_held_for_five_minutes_and_one_tick_after_that_decided_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(pods=10)
    keep_time(monkeypatch, world)
    operator = Operator(world, epoch=1)
    world.waiting = [600.0] * 20  # ten pods of two slots have something to do all the time

    for _ in range(12):
        world.pass_time(TICK_S)
        operator.tick(world)
    world.broker_down = True
    for _ in range(60):
        world.pass_time(TICK_S)
        operator.tick(world)
    conditions = {each["type"]: (each["status"], each["reason"]) for each in world.status["conditions"]}
    held, summary = list(world.scaled), world.status["decision"]["summary"]

    world.broker_down = False
    world.pass_time(TICK_S)
    operator.tick(world)

    assert held == []
    assert conditions["BrokerReachable"] == ("False", "NoAnswer")
    assert conditions["FallbackActive"] == ("True", "Hold")
    assert "10 held: the queues were last read" in summary
    after = {each["type"]: each["status"] for each in world.status["conditions"]}
    assert (after["BrokerReachable"], after["Ready"], after["FallbackActive"]) == ("True", "True", "False")
    assert (world.scaled, world.replicas, world.cut_off) == ([], 10, 0)


def test_what_came_in_during_the_outage_is_staffed_in_the_first_tick_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(pods=2)
    keep_time(monkeypatch, world)
    operator = Operator(world, epoch=1)
    world.waiting = [600.0] * 4
    for _ in range(12):
        world.pass_time(TICK_S)
        operator.tick(world)
    world.broker_down = True
    for _ in range(60):
        world.pass_time(TICK_S)
        operator.tick(world)
    world.waiting = [8.0] * 200

    world.broker_down = False
    world.pass_time(TICK_S)
    operator.tick(world)

    assert len(world.scaled) == 1
    assert world.scaled[0] > 2
