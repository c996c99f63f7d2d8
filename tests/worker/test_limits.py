"""Bounds in force on a worker: tokens from here or from the cluster, lines in the broker or here, and when to look again."""

from collections.abc import Sequence
from typing import Any

import pytest
from deliveries import delivery
from lines import Lines

from celeriac.broker.consumer import Delivery
from celeriac.broker.coordination import Granted, Place, TokenAsk
from celeriac.exceptions import BackendUnavailable
from celeriac.policy.throttle import Throttle
from celeriac.wire.message import CONCURRENCY_KEY, RATE_KEY
from celeriac.worker.limits import BLOCKED_S, LOOK_S, MOST_KEYS, STRAYS_S, BrokerLimits, HeldLimits, LocalStore, Places

QUEUES = ["celery"]
NOW = 100.0


class Store:
    """A coordination store that may be away, and tells what it was asked."""

    def __init__(self) -> None:
        self._kept = LocalStore()
        self.away = False
        self.asked: list[Any] = []

    def take(self, asks: Sequence[TokenAsk], now: float) -> list[Granted]:
        self._note("take", *(ask.rate for ask in asks))
        return self._kept.take(asks, now)

    def renew(self, places: Sequence[Place]) -> None:
        self._note("renew", *(place.id for place in places))

    def release(self, places: Sequence[Place]) -> bool:
        self._note("release", *(place.id for place in places))
        self._kept.release(places)
        return True

    def _note(self, *asked: Any) -> None:
        if self.away:
            raise BackendUnavailable("the store is away")
        self.asked.append(asked)


def work(*ids: str, **headers: str) -> list[Delivery]:
    return [delivery("work", id=task_id, **headers) for task_id in ids]


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [entry.headers["id"] for entry in deliveries]


def broker_limits(throttle: Throttle | None, lines: Lines) -> tuple[BrokerLimits, Places]:
    places = Places(Store(), lease_s=30.0)
    return BrokerLimits({throttle.task: throttle} if throttle else {}, lines, places), places


def held_limits(throttle: Throttle, store: Store) -> tuple[HeldLimits, Places]:
    places = Places(store, lease_s=30.0)
    return HeldLimits({throttle.task: throttle}, places), places


def admitted(
    limits: BrokerLimits | HeldLimits, throttle: Throttle, deliveries: list[Delivery], now: float
) -> list[str]:
    starting, waiting = limits.admit([(entry, throttle) for entry in deliveries], now)
    assert sorted(ids(starting) + ids([entry for entry, _ in waiting])) == sorted(ids(deliveries))
    return ids(starting)


# -- in the broker


def test_a_worker_s_own_rate_goes_with_what_it_asks_and_is_spent_by_what_starts() -> None:
    lines = Lines()
    throttle = Throttle("work", 10.0)
    limits, _ = broker_limits(throttle, lines)

    assert admitted(limits, throttle, work("a", "b", "c"), NOW) == ["a", "b"]
    assert limits.look_at() <= NOW + 0.1
    assert limits.release(9, NOW + 0.05, QUEUES) == []
    assert ids(limits.release(9, NOW + 0.11, QUEUES)) == ["c"]


def test_where_no_token_is_left_the_broker_is_told_so() -> None:
    throttle = Throttle("work", 1.0)
    lines = Lines()
    limits, _ = broker_limits(throttle, lines)
    admitted(limits, throttle, work("a", "b"), NOW)

    limits.release(9, NOW + 0.5, QUEUES)

    assert lines.claims == [] or lines.claims[-1] == [("work", 0)]


def test_one_look_serves_all_types_and_comes_when_the_next_may_start() -> None:
    lines = Lines()
    first, second = Throttle("work", 5.0, shared=True), Throttle("other", 5.0, shared=True)
    limits = BrokerLimits({"work": first, "other": second}, lines, Places(Store(), lease_s=30.0))
    lines.tokens, lines.next_s = 0, 0.2
    limits.release(9, NOW, QUEUES)
    admitted(limits, first, work("a"), NOW)
    admitted(limits, second, [delivery("other", id="b")], NOW)
    assert limits.look_at() == pytest.approx(NOW + 0.2)
    lines.tokens = 9

    assert limits.release(9, NOW + 0.1, QUEUES) == []
    assert ids(limits.release(9, NOW + 0.21, QUEUES)) == ["a", "b"]

    assert lines.claims == [[("work", None), ("other", None)]] * 2
    assert limits.look_at() == pytest.approx(NOW + 0.21 + LOOK_S)  # others' leftovers


def test_without_room_nothing_is_looked_for() -> None:
    lines = Lines()
    limits, _ = broker_limits(Throttle("work", 1.0, shared=True), lines)

    assert limits.release(0, NOW, QUEUES) == []
    assert lines.claims == []


def test_without_any_bounds_there_is_one_look_in_ten_seconds_for_what_others_have_left() -> None:
    lines = Lines()
    throttle = Throttle("work", 0.001)
    admitted(broker_limits(throttle, lines)[0], throttle, work("a", "b", "c"), NOW)
    limits, _ = broker_limits(None, lines)

    assert ids(limits.release(9, NOW, QUEUES)) == ["b", "c"]
    calls = len(lines.claims)
    for second in range(20):
        limits.release(9, NOW + second, QUEUES)

    assert limits.look_at() == NOW + 10 + STRAYS_S
    assert len(lines.claims) == calls  # there was nothing: it only asked


def test_a_change_of_bounds_is_told_to_the_lines_by_the_loop_s_own_thread() -> None:
    lines = Lines()
    throttle = Throttle("work", 0.001)
    limits, _ = broker_limits(throttle, lines)
    admitted(limits, throttle, work("a", "b", "c"), NOW)

    limits.change({"work": throttle._replace(per_s=1000.0)}, "work")
    assert (lines.changed, limits.look_at()) == ([], 0.0)

    assert ids(limits.release(9, NOW, QUEUES)) == ["b", "c"]
    assert lines.changed == ["work"]
    limits.change({}, "work")
    limits.release(9, NOW, QUEUES)
    assert lines.changed == ["work", "work"]


def test_a_running_call_holds_its_place_until_it_is_released_and_then_the_lines_are_looked_at() -> None:
    lines = Lines()
    throttle = Throttle("work", most=1, shared=True, concurrency_keyed=True)
    limits, places = broker_limits(throttle, lines)
    [first] = work("a", **{CONCURRENCY_KEY: "shop"})
    admitted(limits, throttle, [first], NOW)
    limits.release(9, NOW, QUEUES)
    assert limits.look_at() > NOW

    places.release([first])

    assert places.store.asked == [("release", "work\x06\x16shop")]  # type: ignore[attr-defined]
    assert limits.look_at() == 0.0
    limits.release(9, NOW + 0.01, QUEUES)
    assert len(lines.claims) == 2


# -- places


def test_places_are_renewed_three_times_a_lease_and_cost_nothing_when_there_are_none() -> None:
    store = Store()
    places = Places(store, lease_s=30.0)
    [first] = work("a")
    places.renew(NOW)
    assert (places.used, store.asked) == (False, [])

    places.hold(first, Place("work", "x"))
    for second in range(25):
        places.renew(NOW + second)

    assert store.asked == [("renew", "work")] * 3


def test_a_place_that_could_not_be_released_is_released_with_the_next_renewal() -> None:
    store = Store()
    places = Places(store, lease_s=3.0)
    first, second = work("a", "b")
    places.hold(first, Place("work", "x"))
    places.hold(second, Place("work", "y"))
    store.away = True
    places.release([first])
    with pytest.raises(BackendUnavailable):
        places.renew(NOW)

    store.away = False
    places.renew(NOW + 0.5)

    assert store.asked == [("release", "work"), ("renew", "work")]


# -- held here


@pytest.mark.parametrize("shared", [True, False], ids=["for the cluster", "for this worker"])
def test_what_may_not_start_is_held_here_in_order_and_takes_one_ask_for_all_lines(shared: bool) -> None:
    store = Store()
    throttle = Throttle("work", 10.0, shared=shared, rate_keyed=True)
    limits, _ = held_limits(throttle, store)
    ann, bob = work("a1", "a2", "a3", **{RATE_KEY: "ann"}), work("b1", "b2", "b3", **{RATE_KEY: "bob"})

    assert admitted(limits, throttle, [*ann, *bob], NOW) == ["a1", "a2", "b1", "b2"]
    assert admitted(limits, throttle, work("a4", **{RATE_KEY: "ann"}), NOW) == []
    assert limits.held() == 3
    assert limits.release(9, NOW + 0.05, QUEUES) == []
    assert limits.look_at() == pytest.approx(NOW + 0.1)
    assert ids(limits.release(9, NOW + 0.11, QUEUES)) == ["a3", "b3"]
    assert ids(limits.release(9, NOW + 0.22, QUEUES)) == ["a4"]

    assert (limits.held(), limits.look_at()) == (0, float("inf"))
    assert [len(asked) - 1 for asked in store.asked] == ([2, 2, 1] if shared else [])


def test_no_more_is_let_go_than_there_is_room_for() -> None:
    throttle = Throttle("work", 1000.0)
    limits, _ = held_limits(throttle, Store())
    admitted(limits, throttle, work(*(f"{number}" for number in range(200))), NOW)
    left = limits.held()

    assert [len(limits.release(room, NOW + 1, QUEUES)) for room in (0, 3, 500)] == [0, 3, left - 3]


def test_a_store_that_is_away_holds_what_it_bounds_and_nothing_is_lost() -> None:
    store = Store()
    throttle = Throttle("work", 1000.0, shared=True)
    limits, _ = held_limits(throttle, store)
    store.away = True

    assert admitted(limits, throttle, work("a", "b"), NOW) == []
    assert limits.release(9, NOW + LOOK_S, QUEUES) == []
    store.away = False

    assert ids(limits.release(9, NOW + 2 * LOOK_S, QUEUES)) == ["a", "b"]


def test_a_call_waits_for_a_place_and_goes_when_one_of_this_worker_s_calls_ends() -> None:
    store = Store()
    throttle = Throttle("work", most=2, shared=True)
    limits, places = held_limits(throttle, store)
    calls = work("a", "b", "c", "d")
    assert admitted(limits, throttle, calls, NOW) == ["a", "b"]
    assert limits.look_at() == NOW + BLOCKED_S  # another worker's may end at any time
    assert limits.release(9, NOW + BLOCKED_S, QUEUES) == []

    places.release(calls[:1])

    assert limits.look_at() == 0.0
    assert ids(limits.release(9, NOW + BLOCKED_S + 0.01, QUEUES)) == ["c"]
    assert limits.held() == 1


def test_lifted_bounds_let_everything_go_and_letting_go_forgets_all() -> None:
    throttle = Throttle("work", 0.001)
    limits, _ = held_limits(throttle, Store())
    admitted(limits, throttle, work("a", "b", "c"), NOW)
    limits.change({}, "work")
    assert ids(limits.release(9, NOW, QUEUES)) == ["b", "c"]
    limits.change({"work": throttle}, "work")
    admitted(limits, throttle, work("d", "e", "f"), NOW)

    assert sorted(ids(limits.let_go())) == ["d", "e", "f"][3 - limits.held() - 3 :]
    assert (limits.held(), limits.release(9, NOW + 9999, QUEUES)) == (0, [])


def test_keys_that_nobody_asks_for_any_more_are_forgotten() -> None:
    store = LocalStore()
    ask = [TokenAsk(f"key{number}", 1.0, "", 0, 1, "") for number in range(MOST_KEYS + 1)]
    store.take(ask, 0.0)

    store.take([TokenAsk("last", 1.0, "", 0, 1, "")], 60.0)

    assert len(store._buckets) == 1


# -- rates of this process


@pytest.mark.parametrize(("per_s", "at_once"), [(0.1, 1), (1, 1), (2, 1), (10, 2), (20, 3), (1000, 101)])
def test_what_a_tenth_of_a_second_allows_may_start_at_once(per_s: float, at_once: int) -> None:
    assert LocalStore().take([TokenAsk("t", per_s, "", 0, 10_000, "")], 0.0)[0].calls == at_once


def test_looks_that_come_late_cost_no_start() -> None:
    store, late_s = LocalStore(), 0.03

    started = sum(
        store.take([TokenAsk("t", 10.0, "", 0, 1, "")], 0.1 * tick + late_s * (tick % 2))[0].calls
        for tick in range(600)
    )

    assert started == pytest.approx(600, abs=2)
