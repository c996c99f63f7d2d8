"""What all workers share, on a real Redis and a real Valkey: rates, places, lines of throttled messages, revokes."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from brokers import Broker, claim, numbers
from missing import give_up
from servers import Missing, RedisServer, ValkeyServer

from celeriac.broker.consumer import GOES, GONE, WAITS, Ask, Delivery
from celeriac.broker.coordination import Coordination, Granted, Place, TokenAsk
from celeriac.broker.redis_consumer import RedisConsumer
from celeriac.policy.throttle import SEP, Throttle
from celeriac.wire.message import CONCURRENCY_KEY, RATE_KEY

QUEUES = ["q"]


@pytest.fixture(scope="module", params=[RedisServer, ValkeyServer], ids=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One for all tests here: each finds it empty."""
    try:
        server = request.param()
    except Missing as missing:
        give_up(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def broker(server: RedisServer) -> Iterator[Broker]:
    with server.client() as client:
        client.flushall()
    broker = Broker(kind="redis", url=server.url, server=server, queue="q")
    with broker.closing:
        yield broker


class Worker:
    """One of several on the broker: claims, and asks what its messages may do."""

    def __init__(self, broker: Broker, throttle: Throttle) -> None:
        consumer = broker.consumer("q", lease_s=30.0)
        assert isinstance(consumer, RedisConsumer)
        self.consumer, self.throttle = consumer, throttle

    def claims(self, count: int) -> list[Delivery]:
        return claim(self.consumer, count)

    def limit(self, deliveries: Sequence[Delivery], own: bool | None = None) -> list[int]:
        return self.consumer.throttled.limit([Ask(delivery, self.throttle, own) for delivery in deliveries])[0]

    def released(self, count: int = 100, own: int | None = None) -> list[Any]:
        return numbers(self.consumer.throttled.claim(count, [(self.throttle, own)], QUEUES)[0])


def publish(broker: Broker, *arguments: Any, task: str = "shop.work", **headers: str) -> None:
    broker.publish(*arguments, task=task, headers=headers)


def coordination(broker: Broker, *, lease_s: float = 30.0, ttl_s: float = 60.0) -> Coordination:
    store = Coordination(broker.address, lease_s=lease_s, revoke_ttl_s=ttl_s)
    broker.closing.callback(store.close)
    return store


LATER = """
for _, key in ipairs(redis.call('KEYS', 'celeriac.*')) do
  if string.find(key, 'celeriac.limit', 1, true) == 1 then
    redis.call('SET', key, string.format('%.6f', redis.call('GET', key) - ARGV[1]))
  elseif string.find(key, 'celeriac.holders', 1, true) == 1 or string.find(key, 'celeriac.throttled', 1, true) == 1 then
    if redis.call('TYPE', key)['ok'] == 'zset' then
      for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
    end
  end
end
"""


def later(broker: Broker, seconds: float) -> None:
    """As if so much time had passed for rates, lines and places: what is kept of them lies earlier by as much."""
    with broker.server.client() as client:
        client.eval(LATER, 0, seconds)


def nothing_is_throttled(broker: Broker) -> bool:
    with broker.server.client() as client:
        return not [key for key in client.scan_iter() if "celeriac.throttled" in key]


# -- rates


def test_what_may_not_start_yet_waits_in_its_line_first_in_first_out(broker: Broker) -> None:
    publish(broker, *range(5))
    worker = Worker(broker, Throttle("shop.work", 0.1, shared=True))

    deliveries = worker.claims(5)
    assert worker.limit(deliveries) == [GOES, WAITS, WAITS, WAITS, WAITS]

    assert numbers(list(worker.consumer._open.values())) == [0]
    depth = broker.depth()
    assert (depth.ready, depth.leased, depth.throttled, depth.throttled_by_task) == (0, 1, 4, {"shop.work": 4})
    assert worker.released() == []
    later(broker, 10)
    assert worker.released() == [1]
    later(broker, 25)
    assert worker.released() == [2]  # what is more than a tenth of a second late is lost
    assert worker.released() == []
    later(broker, 10)
    assert worker.released() == [3]
    later(broker, 10)
    assert worker.released() == [4]
    assert broker.depth().leased == 5
    assert nothing_is_throttled(broker)


def test_who_comes_later_waits_behind_who_waits_already(broker: Broker) -> None:
    worker = Worker(broker, Throttle("shop.work", 0.1, shared=True))
    publish(broker, "first", "second", "late")
    worker.limit(worker.claims(2))
    later(broker, 10)  # there is a token by now

    assert worker.limit(worker.claims(1)) == [WAITS]

    assert worker.released() == ["second"]


def test_a_rate_holds_for_all_workers_together_and_is_reached(broker: Broker) -> None:
    throttle = Throttle("shop.work", 5.0, shared=True)
    workers = [Worker(broker, throttle) for _ in range(3)]
    publish(broker, *range(100))
    for worker in workers:
        worker.limit(worker.consumer.claim(40))

    started, count, passed_s = time.monotonic(), 0, 0.0
    for step in range(100):
        later(broker, 0.1)
        passed_s += 0.1
        count += len(workers[step % 3].released(2))
    passed_s += time.monotonic() - started

    assert 5 * 10 * 0.95 <= count <= 5 * passed_s + 2


def test_an_idle_limit_saves_no_burst(broker: Broker) -> None:
    store = coordination(broker)
    ask = TokenAsk("slow", 10.0, "", 0, 100, "")

    assert store.take([ask], 0.0)[0].calls == 2  # this moment's and what a tenth of a second may make up for
    later(broker, 60)
    assert store.take([ask], 0.0)[0].calls == 2


def test_each_key_has_a_rate_and_a_line_of_its_own(broker: Broker) -> None:
    worker = Worker(broker, Throttle("shop.work", 0.1, shared=True, rate_keyed=True))
    for account in ("ann", "bob"):
        publish(broker, *(f"{account}{number}" for number in range(3)), **{RATE_KEY: account})
    publish(broker, "nobody")

    outcomes = worker.limit(worker.claims(7))

    assert outcomes == [GOES, WAITS, WAITS, GOES, WAITS, WAITS, GOES]
    assert broker.depth().throttled_by_task == {"shop.work": 4}
    later(broker, 10)
    assert sorted(map(str, worker.released())) == ["ann1", "bob1"]


def test_ten_thousand_accounts_cost_one_look(broker: Broker) -> None:
    worker = Worker(broker, Throttle("shop.work", 0.01, shared=True, rate_keyed=True))
    with broker.server.client() as client:
        names = f"celeriac.throttled{SEP}q"
        client.zadd(names, {f"shop.work{SEP}{number}{SEP}": time.time() + 60 for number in range(10_000)})
        client.zadd(names, {f"shop.work{SEP}due{SEP}": 0})
        client.lpush(f"{names}{SEP}shop.work{SEP}due{SEP}", worker_envelope(broker))
        before = client.info("commandstats")

        assert worker.released() == ["due"]

        after = client.info("commandstats")
    calls = {name: entry["calls"] - before.get(name, {"calls": 0})["calls"] for name, entry in after.items()}
    calls.pop("cmdstat_info", None)
    assert sum(calls.values()) < 25, calls


def worker_envelope(broker: Broker) -> bytes:
    from celeriac.broker.producer import envelope_of

    return envelope_of(broker.message("due", task="shop.work"))


def test_a_rate_of_a_worker_s_own_lets_go_as_many_as_that_worker_says(broker: Broker) -> None:
    throttle = Throttle("shop.work", 0.1)
    one, two = Worker(broker, throttle), Worker(broker, throttle)
    publish(broker, *range(6))
    first = one.claims(6)

    outcomes, next_s = one.consumer.throttled.limit(
        [Ask(delivery, throttle, own=place == 0) for place, delivery in enumerate(first)]
    )

    assert (outcomes, next_s) == ([GOES] + [WAITS] * 5, None)  # no time is known that is everyone's
    assert two.released(100, own=0) == []
    assert two.released(100, own=2) == [1, 2]
    assert one.released(1, own=3) == [3]
    assert [one.released(own=9), nothing_is_throttled(broker)] == [[4, 5], True]


def test_a_message_that_was_taken_away_meanwhile_is_left_alone(broker: Broker) -> None:
    worker = Worker(broker, Throttle("shop.work", 1.0, shared=True))
    publish(broker, "a", "b")
    deliveries = worker.claims(2)
    with broker.server.client() as client:
        client.hdel("unacked", deliveries[0].claim)

    assert worker.limit(deliveries) == [GONE, GOES]


def test_lines_of_a_type_that_is_bounded_no_more_go_on(broker: Broker) -> None:
    bounded, free = Worker(broker, Throttle("shop.work", 0.01)), Worker(broker, Throttle("shop.other", 1.0))
    publish(broker, *range(3))
    bounded.limit(bounded.claims(3), own=False)

    assert free.released(own=5) == []
    assert not bounded.consumer.throttled.strays(["shop.work"], QUEUES)
    assert free.consumer.throttled.strays(["shop.other"], QUEUES)
    assert free.released(own=5) == [0, 1, 2]
    assert not free.consumer.throttled.strays([], QUEUES)


def test_a_rate_that_was_raised_counts_from_now_on(broker: Broker) -> None:
    slow = Worker(broker, Throttle("shop.work", 0.001, shared=True))
    publish(broker, *range(3))
    slow.limit(slow.claims(3))
    fast = Worker(broker, Throttle("shop.work", 0.1, shared=True))
    assert fast.released() == []

    fast.consumer.throttled.reconsider("shop.work", QUEUES)

    assert fast.released() == []
    later(broker, 10)
    assert fast.released() == [1]
    later(broker, 10)
    assert fast.released() == [2]


def test_a_claim_from_the_lines_is_leased_like_any_other(broker: Broker) -> None:
    worker = Worker(broker, Throttle("shop.work", 0.1, shared=True))
    publish(broker, "a", "b")
    worker.limit(worker.claims(2))
    later(broker, 10)

    worker.released()

    assert broker.depth().leased == 2
    assert worker.consumer.renew() == []
    worker.consumer.give_back(list(worker.consumer._open.values()))
    assert (broker.depth().ready, broker.depth().leased) == (2, 0)


# -- places


def places(worker: Worker, deliveries: Sequence[Delivery]) -> list[Place]:
    throttle = worker.throttle
    return [
        Place(
            throttle.task + (SEP + key if (key := throttle.concurrency_key(delivery.headers)) else ""), delivery.claim
        )
        for delivery in deliveries
    ]


def test_no_more_run_at_once_than_there_are_places_and_the_next_goes_when_one_ends(broker: Broker) -> None:
    worker, other = (Worker(broker, Throttle("shop.work", most=2, shared=True)) for _ in range(2))
    publish(broker, *range(5))
    deliveries = worker.claims(5)

    assert worker.limit(deliveries) == [GOES, GOES, WAITS, WAITS, WAITS]
    assert other.released() == []

    store = coordination(broker)
    assert store.release(places(worker, deliveries[:1])) is True
    assert (other.released(), worker.released()) == ([2], [])
    assert store.release(places(worker, deliveries[:1])) is False  # again: it had ended already
    store.release(places(worker, deliveries[1:2]))
    assert (worker.released(), nothing_is_throttled(broker)) == ([3], False)


def test_places_are_counted_for_each_key(broker: Broker) -> None:
    worker = Worker(broker, Throttle("shop.work", most=1, shared=True, concurrency_keyed=True))
    for shop in ("a", "b"):
        publish(broker, f"{shop}1", f"{shop}2", **{CONCURRENCY_KEY: shop})
    deliveries = worker.claims(4)

    assert worker.limit(deliveries) == [GOES, WAITS, GOES, WAITS]
    coordination(broker).release(places(worker, deliveries[2:3]))

    assert worker.released() == ["b2"]


def test_places_of_a_worker_that_died_become_free_with_its_lease_and_renewed_ones_do_not(broker: Broker) -> None:
    store = coordination(broker, lease_s=40)
    ask = TokenAsk("", 0.0, "work", 1, 1, "dead.")
    kept = TokenAsk("", 0.0, "other", 1, 1, "alive.")
    assert store.take([ask, kept, ask, kept], 0.0) == [Granted(1, 0.0)] * 2 + [Granted(0, None)] * 2

    for _ in range(4):
        later(broker, 15)
        store.renew([Place("other", "alive.1")])

    assert store.take([ask, kept], 0.0) == [Granted(1, 0.0), Granted(0, None)]


def test_a_place_that_one_line_cannot_use_goes_to_another(broker: Broker) -> None:
    """Two accounts, one place for both: the first in line has used up its rate when the place becomes free."""
    throttle = Throttle("shop.work", 0.001, shared=True, rate_keyed=True, most=1)
    worker = Worker(broker, throttle)
    for account in ("a", "a", "b"):
        publish(broker, account, **{RATE_KEY: account})
    deliveries = worker.claims(3)
    assert worker.limit(deliveries) == [GOES, WAITS, WAITS]

    coordination(broker).release(places(worker, deliveries[:1]))

    assert worker.released() + worker.released() == ["b"]


def test_the_same_claim_asked_for_twice_takes_one_place(broker: Broker) -> None:
    """As when the answer to the first was lost."""
    worker = Worker(broker, Throttle("shop.work", most=1, shared=True))
    publish(broker, "a")
    deliveries = worker.claims(1)

    assert [worker.limit(deliveries), worker.limit(deliveries)] == [[GOES], [GOES]]


def test_tokens_and_places_of_many_lines_come_in_one_answer(broker: Broker) -> None:
    store = coordination(broker)
    asks = [
        TokenAsk("slow", 1.0, "", 0, 5, "x."),
        TokenAsk("", 0.0, "narrow", 3, 5, "y."),
        TokenAsk("both", 10.0, "wide", 9, 5, "z."),
        TokenAsk("", 0.0, "", 0, 5, "w."),
    ]

    first, second, third, fourth = store.take(asks, 0.0)

    assert (first.calls, second.calls, third.calls, fourth.calls) == (1, 3, 2, 5)
    assert second.wait_s is None
    assert first.wait_s is not None and 0.8 < first.wait_s <= 1.0
    assert third.wait_s is not None and 0 < third.wait_s <= 0.1


# -- revokes


def test_a_revoke_is_read_once_by_everyone_and_forgotten_in_time(broker: Broker) -> None:
    writer, reader, late = (coordination(broker, ttl_s=0.8) for _ in range(3))
    writer.revoke(["a", "b"])
    assert reader.newly_revoked().keys() == {"a", "b"}
    writer.revoke(["c"])
    assert "c" in reader.newly_revoked()
    until = late.newly_revoked()
    assert until.keys() == {"a", "b", "c"}
    assert all(0 < at - time.time() <= 0.8 for at in until.values())

    time.sleep(0.9)

    assert coordination(broker, ttl_s=0.8).newly_revoked() == {}
    with broker.server.client() as client:
        assert not client.exists("celeriac.revoked")


def test_many_revokes_are_kept_and_the_oldest_of_too_many_go(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeriac.broker.coordination.MOST_REVOKED", 2500)
    store = coordination(broker)

    store.revoke(f"id{number}" for number in range(3000))

    assert len(store.newly_revoked()) == 2500


def test_all_keys_carry_the_prefix(broker: Broker) -> None:
    from dataclasses import replace

    address = replace(broker.address, transport_options={"global_keyprefix": "shop:"})
    store = Coordination(address, lease_s=30.0, revoke_ttl_s=60.0)
    broker.closing.callback(store.close)

    store.revoke(["a"])
    store.take([TokenAsk("work", 1.0, "work", 1, 1, "x.")], 0.0)

    with broker.server.client() as client:
        assert {key for key in client.scan_iter() if not key.startswith("shop:celeriac.")} == set()
