"""Rates that the operator keeps: read from the coordination store, told by command, lifted again."""

from collections.abc import Mapping
from typing import Any

import pytest
from brokers import Broker
from servers import RedisServer

from celeriac.broker.coordination import Coordination
from celeriac.worker.rates import LOOK_S, SetRate, SetRates


class Stored:
    """A store whose rates the test says."""

    def __init__(self) -> None:
        self.kept: Mapping[str, tuple[float, str]] = {}
        self.reads = 0

    def rates(self) -> Mapping[str, tuple[float, str]]:
        self.reads += 1
        return self.kept


def test_a_look_tells_what_has_changed_since_the_last() -> None:
    store: Any = Stored()
    rates = SetRates(store)
    looks = iter(range(10_000))

    def look(**kept: tuple[float, str]) -> dict[str, SetRate | None]:
        store.kept = kept
        return rates.look(next(looks) * LOOK_S)

    assert look() == {}
    assert look(a=(1.0, "p")) == {"a": SetRate(1.0, "cluster", "p")}
    assert look(a=(1.0, "p")) == {}
    assert look(a=(2.0, "p"), b=(3.0, "q")) == {"a": SetRate(2.0, "cluster", "p"), "b": SetRate(3.0, "cluster", "q")}
    assert look(b=(3.0, "q")) == {"a": None}


def test_it_looks_no_more_often_than_it_has_to_and_never_without_a_store() -> None:
    store: Any = Stored()
    rates = SetRates(store)
    for now in (0.0, 1.0, LOOK_S - 0.1, LOOK_S, LOOK_S + 1.0):
        rates.look(now)
    assert store.reads == 2
    assert SetRates(None).look(0.0) == {}


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
def test_only_who_set_a_rate_lifts_it(request: pytest.FixtureRequest, server: str) -> None:
    real: RedisServer = request.getfixturevalue(server)
    broker = Broker(kind=server.partition("_")[0], url=real.url, server=real, queue="q")
    with broker.closing:
        store = Coordination(broker.address, lease_s=30.0, revoke_ttl_s=60.0)
        broker.closing.callback(store.close)
        store.set_rate("shop.mail", 2.5, "shop/mail pool")
        store.set_rate("shop.mail", None, "shop/other")
        assert store.rates() == {"shop.mail": (2.5, "shop/mail pool")}
        store.set_rate("shop.mail", None, "shop/mail pool")
        assert store.rates() == {}
