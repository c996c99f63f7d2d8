"""spec.rateLimits: who is told which part of a rate, as tables; and kept on a real Redis for workers that start later."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import RedisServer

from celeriac.broker.connection import BrokerAddress
from celeriac.broker.coordination import Coordination
from celeriac.wire.control import Command
from celeriac_operator.loop.members import Changes
from celeriac_operator.loop.rates import Asked, Rates
from celeriac_operator.scaling.rates import Keeper, Kept, Order, divided

POOL = "shop/mail"


def keeper(node: str, per_s: float | None = None, *, slots: int = 1, starts: bool = True, by: str = POOL) -> Keeper:
    rates = {} if per_s is None else {"mail": Kept(per_s, "worker", by)}
    return Keeper(node=node, slots=slots, starts=starts, rates=rates)


@pytest.mark.parametrize(
    ("keepers", "expected_slots", "orders"),
    [
        ([], 0, []),
        ([keeper("a")], 1, [(("a",), 10.0)]),
        ([keeper("a", 10.0)], 1, []),
        ([keeper("a", 10.0)], 2, [(("a",), 5.0)]),
        ([keeper("a", 5.0), keeper("b")], 2, [(("b",), 5.0)]),
        ([keeper("a", 10.0), keeper("b")], 2, [(("a", "b"), 5.0)]),
        ([keeper("a", 10.0), keeper("b", 0.001)], 2, [(("a",), 5.0)]),
        ([keeper("a", 5.0), keeper("b", 0.001)], 2, [(("b",), 5.0)]),
        ([keeper("a", 2.5)], 1, [(("a",), 10.0)]),
        ([keeper("a", 2.5, slots=3), keeper("b", 2.5)], 0, [(("a",), 7.5)]),
        ([keeper("a", 10.0, by="")], 1, [(("a",), 10.0)]),
        ([keeper("a", 10.0), keeper("b", starts=False)], 1, []),
        ([keeper("a", starts=False)], 1, []),
    ],
    ids=[
        "nobody", "one that knows nothing", "one that knows", "more are ordered", "a newcomer", "a newcomer beside one that has all",
        "lower first", "then raise", "the others are gone", "by slots", "the code's own rate", "one is drained", "all are drained",
    ],
)  # fmt: skip
def test_a_rate_is_divided_among_those_that_start_tasks(
    keepers: Sequence[Keeper], expected_slots: float, orders: list[tuple[tuple[str, ...], float]]
) -> None:
    found = divided({"mail": 10.0}, keepers, by=POOL, expected_slots=expected_slots)
    assert [(order.nodes, order.per_s) for order in found] == orders


def test_what_is_wanted_no_more_is_lifted_where_this_pool_has_set_it() -> None:
    keepers = [keeper("a", 5.0), keeper("b", 5.0), keeper("c", 5.0, by="shop/other"), keeper("d", 5.0, by="")]
    assert divided({}, keepers, by=POOL, expected_slots=4) == (Order(("a", "b"), "mail", None),)


@settings(max_examples=300, deadline=None)
@given(
    limit=st.floats(0.01, 1e4),
    fleets=st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=8), min_size=1, max_size=5),
    hears=st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_told_workers_never_start_more_than_the_limit_and_soon_at_least_most_of_it(
    limit: float, fleets: list[list[int]], hears: list[bool]
) -> None:
    """Fleets that grow, shrink and miss orders; a newcomer takes over the part of one that is there."""
    told: dict[str, float] = {}
    for fleet in fleets:
        slots = {f"w{number}": count for number, count in enumerate(fleet)}
        lowest = min(told.values(), default=None)
        kept = {node: told.get(node, lowest) for node in slots}
        expected = max(sum(slots.values()), len(slots))
        for step in range(30):
            known = [keeper(node, kept[node], slots=slots[node]) for node in slots]
            orders = divided({"mail": limit}, known, by=POOL, expected_slots=expected)
            for order in orders:
                for number, node in enumerate(order.nodes):
                    if step > 20 or hears[(step + number) % len(hears)]:
                        kept[node] = order.per_s
        whole = sum(rate for rate in kept.values() if rate is not None)
        assert all(rate is not None for rate in kept.values())
        assert whole <= limit * 1.05
        assert whole >= limit * 0.8
        told = {node: rate for node, rate in kept.items() if rate is not None}


# -- kept by a broker


class Sent:
    """A post that keeps what it is given."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def send(self, command: Command) -> None:
        self.commands.append(command)

    def close(self) -> None:
        """Nothing is open."""

    def taken(self) -> list[dict[str, Any]]:
        commands, self.commands = self.commands, []
        return [dict(command.arguments) for command in commands]


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[Coordination]:
    with redis_server.client() as client:
        client.flushall()
    made = Coordination(BrokerAddress(url=redis_server.url), lease_s=30.0, revoke_ttl_s=60.0)
    yield made
    made.close()


def asked(name: str, rates: Mapping[str, float]) -> Asked:
    return Asked(key=("shop", name), rates=rates, keepers=(), expected_slots=1)


def test_a_broker_keeps_a_rate_for_all_workers_and_they_are_told_once(store: Coordination) -> None:
    post = Sent()
    rates = Rates(store, post, name="b", changes=Changes())

    rates.keep([asked("mail", {"mail": 10.0})])
    assert store.rates() == {"mail": (10.0, "shop/mail")}
    assert post.taken() == [{"task_name": "mail", "rate_limit": 10.0, "scope": "cluster", "by": "shop/mail"}]
    rates.keep([asked("mail", {"mail": 10.0})])
    assert post.taken() == []

    rates.keep([asked("mail", {"mail": 4.0})])
    assert store.rates() == {"mail": (4.0, "shop/mail")}
    rates.keep([asked("mail", {})])
    assert store.rates() == {}
    assert [order["rate_limit"] for order in post.taken()] == [4.0, "declared"]


def test_of_two_pools_the_stricter_holds_and_when_it_goes_the_other(store: Coordination) -> None:
    rates = Rates(store, Sent(), name="b", changes=Changes())
    rates.keep([asked("mail", {"mail": 10.0}), asked("news", {"mail": 4.0})])
    assert store.rates() == {"mail": (4.0, "shop/news")}
    rates.keep([asked("mail", {"mail": 10.0})])
    assert store.rates() == {"mail": (10.0, "shop/mail")}


def test_another_operators_rates_are_left_alone_and_a_pool_that_goes_takes_its_own_along(store: Coordination) -> None:
    store.set_rate("other", 3.0, "elsewhere/pool")
    rates = Rates(store, Sent(), name="b", changes=Changes())
    rates.keep([asked("mail", {"mail": 10.0})])
    rates.drop([("shop", "mail")])
    assert store.rates() == {"other": (3.0, "elsewhere/pool")}


def test_an_operator_that_starts_again_lifts_what_was_taken_out_of_the_spec_meanwhile(store: Coordination) -> None:
    store.set_rate("mail", 3.0, "shop/mail")
    Rates(store, Sent(), name="b", changes=Changes()).keep([asked("mail", {})])
    assert store.rates() == {}


def test_a_store_that_is_away_is_told_and_tried_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    away = Coordination(BrokerAddress(url="redis://127.0.0.1:1/0"), lease_s=30.0, revoke_ttl_s=60.0)
    rates = Rates(away, Sent(), name="b", changes=Changes())
    rates.keep([asked("mail", {"mail": 10.0})])
    rates.keep([asked("mail", {"mail": 10.0})])
    assert caplog.text.count("rate limits") == 1
