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
from celeriac_operator.errors import CannotSign
from celeriac_operator.loop.members import Changes
from celeriac_operator.loop.rates import ORDERS, Asked, Rates, disagreements
from celeriac_operator.scaling.rates import Keeper, Kept, Order, divided, lifted

POOL = "shop/mail"


def keeper(node: str, per_s: float | None = None, *, slots: int = 1, starts: bool = True, by: str = POOL) -> Keeper:
    rates = {} if per_s is None else {"mail": Kept(per_s, "worker", by)}
    return Keeper(node=node, slots=slots, starts=starts, rates=rates)


@pytest.mark.parametrize(
    ("keepers", "coming_slots", "orders"),
    [
        ([], 0, []),
        ([], 3, []),
        ([keeper("a")], 0, [(("a",), 10.0)]),
        ([keeper("a", 10.0)], 0, []),
        ([keeper("a", 10.0)], 1, [(("a",), 5.0)]),
        ([keeper("a", 5.0), keeper("b")], 0, [(("b",), 5.0)]),
        ([keeper("a", 10.0), keeper("b")], 0, [(("a", "b"), 5.0)]),
        ([keeper("a", 10.0), keeper("b", 0.001)], 0, [(("a",), 5.0)]),
        ([keeper("a", 5.0), keeper("b", 0.001)], 0, [(("b",), 5.0)]),
        ([keeper("a", 2.5)], 0, [(("a",), 10.0)]),
        ([keeper("a", 2.5, slots=3), keeper("b", 2.5)], 0, [(("a",), 7.5)]),
        ([keeper("a", 10.0, by="")], 0, [(("a",), 10.0)]),
        ([keeper("a", 10.0), keeper("b", starts=False)], 0, []),
        ([keeper("a", starts=False)], 0, []),
    ],
    ids=[
        "nobody", "nobody yet", "one that knows nothing", "one that knows", "another is starting", "a newcomer",
        "a newcomer beside one that has all", "lower first", "then raise", "the others are gone", "by slots", "the code's own rate",
        "one is drained", "all are drained",
    ],
)  # fmt: skip
def test_a_rate_is_divided_among_those_that_start_tasks(
    keepers: Sequence[Keeper], coming_slots: float, orders: list[tuple[tuple[str, ...], float]]
) -> None:
    found = divided("mail", 10.0, keepers, ours={POOL}, coming_slots=coming_slots)
    assert [(order.nodes, order.per_s) for order in found] == orders


def test_what_is_wanted_no_more_is_lifted_where_these_pools_have_set_it() -> None:
    keepers = [keeper("a", 5.0), keeper("b", 5.0), keeper("c", 5.0, by="shop/other"), keeper("d", 5.0, by="")]
    assert lifted((), keepers, ours={POOL}) == (Order(("a", "b"), "mail", None),)
    assert lifted({"mail"}, keepers, ours={POOL}) == ()


@settings(max_examples=100, deadline=None)
@given(
    limit=st.floats(0.01, 1e4),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    slots=st.lists(st.integers(1, 16), min_size=1, max_size=7),
    hears=st.lists(st.booleans(), min_size=1, max_size=40),
)
def test_told_workers_start_no_more_than_the_limit_and_soon_most_of_it(
    limit: float, sizes: list[int], slots: list[int], hears: list[bool]
) -> None:
    """Fleets that grow, shrink and miss orders; a newcomer takes over the part of one that is there."""
    told: dict[str, float] = {}
    for size in sizes:
        fleet = {f"w{number}": slots[number % len(slots)] for number in range(size)}
        lowest = min(told.values(), default=None)
        kept = {node: told.get(node, lowest) for node in fleet}
        for step in range(12):
            known = [keeper(node, kept[node], slots=fleet[node]) for node in fleet]
            for order in divided("mail", limit, known, ours={POOL}, coming_slots=0.0):
                for number, node in enumerate(order.nodes):
                    if step > 5 or hears[(step + number) % len(hears)]:
                        kept[node] = order.per_s
        rates = [rate for rate in kept.values() if rate is not None]
        assert len(rates) == size
        assert sum(rates) <= limit * 1.05
        assert sum(rates) >= limit * 0.8
        told = dict(zip(kept, rates, strict=True))


# -- kept by a broker


class Sent:
    """A post that keeps what it is given."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        #: Nodes that demand a signature, which there is none of.
        self.unreached: set[str] = set()

    def send(self, command: Command) -> None:
        left = [node for node in command.destination or () if node in self.unreached]
        if set(command.destination or ()) - set(left) or command.destination is None:
            self.commands.append(command)
        if left:
            raise CannotSign("the operator has no key", nodes=left)

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


def asked(name: str, rates: Mapping[str, float], *keepers: Keeper) -> Asked:
    return Asked(key=("shop", name), rates=rates, keepers=keepers)


class Pools:
    """The keys of the pools that there are."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def __call__(self) -> set[tuple[str, str]]:
        return {("shop", name) for name in self.names}


def kept_on(store: Any, post: Sent, *names: str) -> tuple[Rates, Pools]:
    pools = Pools(*names)
    return Rates(store, post, name="b", changes=Changes(), exists=pools), pools


def test_a_broker_keeps_a_rate_for_all_workers_and_they_are_told_once(store: Coordination) -> None:
    post = Sent()
    rates, _ = kept_on(store, post, "mail")

    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    assert store.rates() == {"mail": (10.0, "shop/mail")}
    assert post.taken() == [
        {"task_name": "mail", "rate_limit": 10.0, "scope": "cluster", "by": "shop/mail", "epoch": 1}
    ]
    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    assert post.taken() == []

    rates.keep([asked("mail", {"mail": 4.0})], epoch=1)
    assert store.rates() == {"mail": (4.0, "shop/mail")}
    rates.keep([asked("mail", {})], epoch=1)
    assert store.rates() == {}
    assert [order["rate_limit"] for order in post.taken()] == [4.0, "declared"]


def test_a_worker_that_keeps_something_else_is_told_again_but_not_at_each_tick(store: Coordination) -> None:
    post = Sent()
    rates, _ = kept_on(store, post, "mail")
    told = Keeper(node="a", slots=1, rates={"mail": Kept(10.0, "cluster", "shop/mail")})
    by_hand = Keeper(node="b", slots=1, rates={"mail": Kept(100.0, "cluster", "")})

    for _ in range(3):
        rates.keep([asked("mail", {"mail": 10.0}, told, by_hand)], epoch=1)

    first, again = post.commands
    assert first.destination is None
    assert (again.destination, again.arguments["rate_limit"]) == (("b",), 10.0)


def test_of_two_pools_the_stricter_holds_and_when_it_goes_the_other(store: Coordination) -> None:
    rates, pools = kept_on(store, Sent(), "mail", "news")
    rates.keep([asked("mail", {"mail": 10.0}), asked("news", {"mail": 4.0})], epoch=1)
    assert store.rates() == {"mail": (4.0, "shop/news")}
    pools.names.remove("news")
    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    assert store.rates() == {"mail": (10.0, "shop/mail")}


def test_a_pool_that_goes_takes_its_own_along_and_another_operators_are_left_alone(store: Coordination) -> None:
    store.set_rate("other", 3.0, "elsewhere/pool")
    rates, pools = kept_on(store, Sent(), "mail", "news")
    rates.keep([asked("mail", {"mail": 10.0}), asked("news", {})], epoch=1)
    pools.names.remove("mail")
    rates.keep([asked("news", {})], epoch=1)
    assert store.rates() == {"other": (3.0, "elsewhere/pool")}


def test_a_pool_that_cannot_be_served_now_keeps_its_rate(store: Coordination) -> None:
    """A wrong spec, a Secret that is made anew, another URL of the same broker: the pool is still there."""
    rates, _ = kept_on(store, Sent(), "mail")
    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    rates.keep([], epoch=1)
    rates.close(lift=True)
    assert store.rates() == {"mail": (10.0, "shop/mail")}


def test_the_last_pool_of_a_broker_takes_its_rate_along(store: Coordination) -> None:
    rates, pools = kept_on(store, Sent(), "mail")
    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    pools.names.clear()
    rates.close(lift=True)
    assert store.rates() == {}


def test_an_operator_that_ends_lifts_nothing(store: Coordination) -> None:
    rates, pools = kept_on(store, Sent(), "mail")
    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    pools.names.clear()  # its index is empty by now
    rates.close(lift=False)
    assert store.rates() == {"mail": (10.0, "shop/mail")}


@pytest.mark.parametrize("there", [("mail",), ("another",)], ids=["taken out of the spec", "deleted with its pool"])
def test_an_operator_that_starts_lifts_what_went_meanwhile(store: Coordination, there: tuple[str, ...]) -> None:
    store.set_rate("mail", 3.0, "shop/mail")
    rates, _ = kept_on(store, Sent(), *there)
    rates.keep([asked(name, {}) for name in there], epoch=1)
    assert store.rates() == {}


def test_who_leads_again_looks_anew_at_what_another_leader_has_set(store: Coordination) -> None:
    rates, _ = kept_on(store, Sent(), "mail")
    rates.keep([asked("mail", {})], epoch=1)
    store.set_rate("mail", 3.0, "shop/mail")
    rates.keep([asked("mail", {})], epoch=3)
    assert store.rates() == {}


def test_a_leader_that_was_frozen_and_wakes_sets_no_rate(store: Coordination) -> None:
    old, new = Sent(), Sent()
    frozen, _ = kept_on(store, old, "mail")
    successor, _ = kept_on(store, new, "mail")
    frozen.keep([asked("mail", {"mail": 10.0})], epoch=1)
    successor.keep([asked("mail", {"mail": 4.0})], epoch=2)
    old.taken()

    said = frozen.keep([asked("mail", {"mail": 20.0})], epoch=1)

    assert "a newer leader than this one speaks for shop/mail" in said
    assert store.rates() == {"mail": (4.0, "shop/mail")}
    assert old.taken() == []
    assert not store.set_rate("mail", None, "shop/mail", epoch=1)
    assert store.set_rate("other", 1.0, "elsewhere/pool", epoch=1)  # that one has leaders of its own


def test_a_store_that_is_away_is_told_and_tried_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    away = Coordination(BrokerAddress(url="redis://127.0.0.1:1/0"), lease_s=30.0, revoke_ttl_s=60.0)
    rates, _ = kept_on(away, Sent(), "mail")
    assert "127.0.0.1:1" in rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    rates.keep([asked("mail", {"mail": 10.0})], epoch=1)
    assert caplog.text.count("rate limits") == 1


# -- divided among workers


def test_two_pools_of_one_task_share_the_stricter_rate_of_a_broker_that_keeps_none() -> None:
    post = Sent()
    rates, _ = kept_on(None, post, "mail", "news")
    rates.keep([asked("mail", {"mail": 10.0}, keeper("a")), asked("news", {"mail": 20.0}, keeper("b"))], epoch=1)
    assert [(command.destination, command.arguments["rate_limit"]) for command in post.commands] == [(("a", "b"), 5.0)]


def test_a_worker_that_does_not_know_the_task_holds_nobody_back_for_long() -> None:
    post = Sent()
    rates, _ = kept_on(None, post, "mail")
    for _ in range(ORDERS):
        rates.keep([asked("mail", {"mail": 10.0}, keeper("a", 5.0), keeper("old"))], epoch=1)
        assert {command.destination for command in post.commands} == {("old",)}
    post.commands.clear()
    rates.keep([asked("mail", {"mail": 10.0}, keeper("a", 5.0), keeper("old"))], epoch=1)
    assert [(command.destination, command.arguments["rate_limit"]) for command in post.commands] == [(("a",), 10.0)]


# -- workers that demand signed commands, and an operator without a key


def test_workers_that_cannot_be_told_read_the_rate_in_the_store(store: Coordination) -> None:
    post = Sent()
    post.unreached = {"a"}
    rates, _ = kept_on(store, post, "mail", "news")
    pools = [asked("mail", {"mail": 10.0}, keeper("a")), asked("news", {"news": 3.0}, keeper("b"))]

    said = [rates.keep(pools, epoch=1) for _ in range(3)]

    assert said == ["", "", ""]
    assert store.rates() == {"mail": (10.0, "shop/mail"), "news": (3.0, "shop/news")}


def test_without_a_store_the_rate_is_not_kept_and_stays_so_for_as_long_as_they_cannot_be_told() -> None:
    post = Sent()
    post.unreached = {"a"}
    rates, _ = kept_on(None, post, "mail", "news")
    pools = [asked("mail", {"mail": 10.0}, keeper("a")), asked("news", {"news": 3.0}, keeper("b"))]

    said = [rates.keep(pools, epoch=1) for _ in range(2 * ORDERS)]

    assert set(said) == {"the operator has no key"}
    assert {command.destination for command in post.commands} == {("b",)}  # the others are told all the same
    post.unreached.clear()
    assert rates.keep(pools, epoch=1) == ""
    assert ("a",) in {command.destination for command in post.commands}


def test_pools_that_disagree_on_a_rate_are_all_told_and_others_are_not() -> None:
    a, b, c, d = (("shop", name) for name in "abcd")

    told = disagreements({a: {"t": 5, "u": 1}, b: {"t": 10}, c: {"u": 1}, d: {}})

    sentence = "of t pools ask for different rates (shop/a for 5/s, shop/b for 10/s): the lowest holds"
    assert told == {a: sentence, b: sentence}
