"""The scripts on a real Redis and a real Valkey: where a message is before and after each move, and that kombu reads what we write."""

import base64
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import kombu
import pytest
import redis
from brokers import Broker, claim, number_of, numbers
from processes import wait_until

from celeriac.broker.connection import BrokerAddress, connect
from celeriac.broker.consumer import Ask, Delivery, Settled
from celeriac.broker.depth import DepthProbe
from celeriac.broker.producer import RedisProducer, envelope_of
from celeriac.broker.redis_consumer import RedisConsumer
from celeriac.broker.transport.redis import SEP, SETTLE, RedisQueues
from celeriac.policy.throttle import Throttle
from celeriac.wire.message import STARTS

LEASE_S = 0.4


@dataclass
class Place:
    """A server, our view of its keys, and a plain client to look behind them."""

    broker: Broker
    queues: RedisQueues
    client: Any

    def consumer(self, *names: str, lease_s: float = 30.0) -> RedisConsumer:
        consumer = self.broker.consumer(*names, lease_s=lease_s)
        assert isinstance(consumer, RedisConsumer)
        return consumer

    def list(self, queue: str, step: int = 0) -> list[Any]:
        """The arguments of the messages in a list, the next one first."""
        envelopes = self.client.lrange(self.queues.list_key(queue, step), 0, -1)[::-1]
        return [_argument(envelope) for envelope in envelopes]

    def all_keys(self) -> set[str]:
        """Every key but kombu's tables of bindings."""
        return {key for key in self.client.scan_iter() if "_kombu.binding" not in key}


def throttle(consumer: RedisConsumer, deliveries: Sequence[Delivery]) -> None:
    """Put them into their lines."""
    consumer.throttled.limit([Ask(delivery, Throttle("shop.count", 1.0), own=False) for delivery in deliveries])


def _argument(envelope: str | bytes) -> Any:
    message = json.loads(envelope)
    return json.loads(base64.b64decode(message["body"]))[0][0]


@pytest.fixture(params=["redis", "valkey"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    server = request.getfixturevalue(f"{request.param}_server")
    broker = Broker(kind=request.param, url=server.url, server=server, queue="q")
    with broker.closing, server.client() as client:
        connection = connect(broker.address)
        broker.closing.callback(connection.release)
        yield Place(broker, RedisQueues(connection), client)


# -- claim


def test_claims_go_by_priority_step_over_all_queues_and_in_order_within_a_list(place: Place) -> None:
    for queue in ("q", "r"):
        for priority in (9, 0, 6, 3, 0):
            place.broker.publish(f"{queue}{priority}", queue=queue, priority=priority)

    claimed = place.consumer("q", "r").claim(100)

    steps = [delivery.step for delivery in claimed]
    assert steps == sorted(steps) == [0, 0, 0, 0, 3, 3, 6, 6, 9, 9]
    assert sorted(numbers(claimed)[:4]) == ["q0", "q0", "r0", "r0"]
    assert {delivery.queue for delivery in claimed} == {"q", "r"}


def test_a_priority_belongs_to_the_step_that_kombu_gives_it(place: Place) -> None:
    channel, queues = place.queues.channel, place.queues

    assert [queues.step_of(priority) for priority in range(10)] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    assert (queues.step_of(None), queues.step_of(-1), queues.step_of(99)) == (0, 0, 9)
    for priority in range(10):
        assert queues.list_key("q", queues.step_of(priority)) == channel._q_for_pri("q", priority)


def test_a_claim_is_recorded_as_kombu_does_and_in_our_lease_set(place: Place) -> None:
    [message] = place.broker.publish("x")

    [claimed] = place.consumer(lease_s=30.0).claim(1)

    record = json.loads(place.client.hget("unacked", claimed.claim))
    envelope, exchange, routing_key = record
    assert (envelope["headers"]["id"], exchange, routing_key) == (message.id, "", "q")
    ends = place.client.zscore("unacked_index", claimed.claim)
    assert ends == place.client.zscore(f"celeriac.lease{SEP}q", claimed.claim)
    assert time.time() + 25 < ends < time.time() + 35
    assert place.list("q") == []


def test_a_claim_takes_no_more_than_asked_for_even_beyond_what_one_command_can_carry(place: Place) -> None:
    envelope = envelope_of(place.broker.message(1))
    place.client.lpush("q", *[envelope] * 700)
    consumer = place.consumer()

    assert [len(consumer.claim(limit)) for limit in (0, 1, 500, 500)] == [0, 1, 500, 199]
    assert consumer.open_claims() == place.client.hlen("unacked") == 700


def test_claim_ids_are_ours_so_that_two_messages_with_one_delivery_tag_are_both_kept(place: Place) -> None:
    envelope = envelope_of(place.broker.message("twin"))
    place.client.lpush("q", envelope, envelope)

    first, second = place.consumer().claim(2)

    assert first.claim != second.claim
    assert place.client.hlen("unacked") == 2


# -- settle


def settle(place: Place, claimed: Delivery, *pushes: Any) -> int:
    keys, args = place.queues.settle_args(claimed.queue, claimed.claim, pushes)
    return int(place.queues.client.eval(SETTLE, len(keys), *keys, *args))


def test_an_acknowledgement_publishes_what_follows_once_and_leaves_nothing_else(place: Place) -> None:
    place.broker.publish("first")
    [claimed] = place.consumer().claim(1)
    following = envelope_of(place.broker.message("next"))
    pushes = [("list", "q", 0, following), ("delayed", place.queues.delayed_key("q"), 99.0, b"0 " + following)]

    assert [settle(place, claimed, *pushes) for _ in range(3)] == [1, 0, 0]

    assert place.list("q") == ["next"]
    assert place.client.zrange(place.queues.delayed_key("q"), 0, -1, withscores=True) == [
        ("0 " + following.decode(), 99.0)
    ]
    assert place.all_keys() == {"q", place.queues.delayed_key("q")}


def test_a_retry_of_a_claim_that_another_worker_has_by_now_does_not_fork(place: Place) -> None:
    place.broker.publish("first")
    slow, other = place.consumer(lease_s=LEASE_S), place.consumer(lease_s=LEASE_S)
    [lost] = slow.claim(1)
    [again] = claim(other, 1, timeout_s=4 * LEASE_S + 2)

    slow.settle(
        [
            Settled(lost, publish=[place.broker.message("fork")]),
            Settled(lost, death={"reason": "rejected"}),
            Settled(lost),
        ]
    )

    assert place.list("q") == place.list("q.dead") == []
    other.settle([Settled(again, publish=[place.broker.message("next")])])
    assert place.list("q") == ["next"]


# -- move


@pytest.mark.parametrize("kind", ["front", "delayed", "throttled"])
def test_a_moved_message_is_in_its_new_place_and_nowhere_else(place: Place, kind: str) -> None:
    place.broker.publish("a", "b", "waits", priority=3)
    consumer = place.consumer()
    claimed = consumer.claim(2)

    move = {
        "front": lambda: consumer.give_back(claimed),
        "delayed": lambda: consumer.park([(delivery, 5.0 + place_) for place_, delivery in enumerate(claimed)]),
        "throttled": lambda: throttle(consumer, claimed),
    }[kind]
    move()
    before = {key: place.client.dump(key) for key in place.all_keys()}
    move()  # once more, after a lost answer

    assert {key: place.client.dump(key) for key in place.all_keys()} == before
    delayed = place.client.zrange(place.queues.delayed_key("q"), 0, -1, withscores=True)
    throttled = place.client.lrange(place.queues.throttled_key("q", "shop.count"), 0, -1)
    assert place.list("q", 3) == (["a", "b", "waits"] if kind == "front" else ["waits"])
    assert [(member.split()[0], _argument(member[member.index("{") :]), score) for member, score in delayed] == (
        [("3", "a", 5.0), ("3", "b", 6.0)] if kind == "delayed" else []
    )
    assert [_argument(envelope) for envelope in reversed(throttled)] == (["a", "b"] if kind == "throttled" else [])
    lines = place.client.zrange(place.queues.throttled_key("q"), 0, -1)
    counts = place.client.hgetall(place.queues.throttled_count_key("q"))
    assert (lines, counts) == ((["shop.count"], {"shop.count": "2"}) if kind == "throttled" else ([], {}))
    assert place.client.exists("unacked", "unacked_index", place.queues.lease_key("q")) == 0
    assert consumer.open_claims() == 0


def test_an_envelope_is_moved_byte_by_byte(place: Place) -> None:
    strange = b'{"body": "W1tdLCB7fSwge31d",  "headers": {"id": "a", "x": 1.0, "task": "\\u00e9"}, "properties": {}, "extra": [ ]}'
    place.client.lpush("q", strange)
    consumer = place.consumer()

    for _ in range(2):
        consumer.give_back(consumer.claim(1))

    assert place.client.lindex("q", 0).encode() == strange


def test_a_queue_whose_name_needs_escaping_loses_nothing_of_its_messages(place: Place) -> None:
    name = 'stra\u00dfe "1",[\\]'
    place.broker.publish("x", queue=name)
    consumer = place.consumer(name)

    consumer.give_back(consumer.claim(1))

    [again] = consumer.claim(1)
    assert (number_of(again), again.queue) == ("x", name)


# -- renew, restore


def test_renewing_keeps_what_is_ours_and_tells_what_is_not(place: Place) -> None:
    place.broker.publish("kept", "lost")
    consumer = place.consumer(lease_s=30.0)
    kept, lost = consumer.claim(2)
    before = place.client.zscore("unacked_index", kept.claim)
    place.client.hdel("unacked", lost.claim)
    time.sleep(0.02)

    assert consumer.renew() == [lost]

    assert place.client.zscore("unacked_index", kept.claim) > before
    assert place.client.zscore(place.queues.lease_key("q"), lost.claim) is None
    assert place.client.hkeys("unacked") == [kept.claim]
    assert (consumer.renew(), consumer.open_claims()) == ([], 1)


def test_only_what_has_expired_and_only_what_is_ours_is_restored_with_one_start_more(place: Place) -> None:
    place.broker.publish("ours", priority=6)
    dead, alive = place.consumer(lease_s=2.0), place.consumer(lease_s=30.0)
    dead.claim(1)
    place.broker.publish("fresh")
    [fresh] = alive.claim(1)
    stranger = json.dumps([json.loads(envelope_of(place.broker.message("celery's"))), "", "q"])
    place.client.hset("unacked", "celery-tag", stranger)
    place.client.zadd("unacked_index", {"celery-tag": time.time() - 9999})

    sweeper = place.consumer(lease_s=0.01)
    assert sweeper.sweep() == 0  # its lease is not over
    wait_until(lambda: sweeper.sweep() == 1, timeout_s=10)

    assert set(place.client.hkeys("unacked")) == {"celery-tag", fresh.claim}
    assert place.list("q", 6) == ["ours"]
    [again] = place.consumer().claim(1)
    assert (again.starts, again.headers[STARTS], again.redelivered, again.step) == (1, 1, True, 6)


def test_what_was_renewed_between_the_look_and_the_move_is_not_restored(place: Place) -> None:
    place.broker.publish("x")
    consumer = place.consumer(lease_s=30.0)
    [claimed] = consumer.claim(1)
    queues = place.queues
    keys = [queues.unacked, queues.unacked_index, queues.lease_key("q"), "q"]

    assert queues.restore_script(keys=keys, args=[claimed.claim, "whatever"]) == 0
    assert queues.restore_script(keys=keys, args=["no such claim", "whatever"]) == 0

    assert (place.list("q"), place.client.hkeys("unacked")) == ([], [claimed.claim])


# -- delays


def test_only_what_is_due_is_released_to_its_step_in_the_order_of_due_times(place: Place) -> None:
    producer = RedisProducer(place.broker.address, park=True)
    place.broker.closing.callback(producer.close)
    now = time.time()
    for argument, due_s, priority in (("second", -1, 0), ("first", -2, 0), ("urgent not", -3, 9), ("later", 60, 0)):
        producer.publish(
            place.broker.message(argument, eta=datetime.fromtimestamp(now + due_s, UTC), priority=priority)
        )
    assert place.list("q") == []

    assert place.queues.release_due("q", most=2)[0] == 2
    moved, next_s = place.queues.release_due("q")

    assert (moved, next_s) == (1, pytest.approx(60, abs=5))
    assert (place.list("q"), place.list("q", 9)) == (["first", "second"], ["urgent not"])
    assert place.queues.release_due("empty") == (0, None)


# -- depth


def test_depth_counts_each_message_where_it_is(place: Place) -> None:
    consumer, short = place.consumer(lease_s=30.0), place.consumer(lease_s=0.05)
    place.broker.publish(*range(9))
    throttle(consumer, consumer.claim(2))
    consumer.park(
        [(delivery, time.time() + due_s) for delivery, due_s in zip(consumer.claim(3), (-1, 5, 500), strict=True)]
    )
    consumer.claim(1)
    short.claim(1)
    consumer.settle([Settled(consumer.claim(1)[0], death={"reason": "x"})])
    [waits] = [json.loads(envelope) for envelope in place.client.lrange("q", 0, -1)]
    place.broker.publish("low", priority=9)
    time.sleep(0.1)

    depth = place.broker.depth(horizon_s=60.0)

    assert (depth.ready, depth.leased, depth.expired, depth.delayed, depth.due_soon, depth.dead) == (2, 2, 1, 3, 2, 1)
    assert (depth.throttled, depth.throttled_by_task) == (2, {"shop.count": 2})
    assert depth.oldest_sent_at == waits["headers"]["celeriac_sent_at"]


def test_work_that_was_sent_for_later_waits_from_when_it_was_due(place: Place) -> None:
    due = datetime.now(UTC)
    place.broker.publish("x")
    envelope = json.loads(place.client.lindex("q", 0))
    envelope["headers"] |= {"celeriac_sent_at": due.timestamp() - 3600, "eta": due.isoformat()}
    place.client.lset("q", 0, json.dumps(envelope))

    depth = place.broker.depth()

    assert depth.oldest_sent_at == due.timestamp()


@pytest.mark.parametrize("kind", ["list", "lease set", "delayed set", "throttled counts", "dead letters"])
def test_a_queue_whose_name_belongs_to_something_else_is_told_alone(place: Place, kind: str) -> None:
    keys = {
        "list": "odd",
        "lease set": place.queues.lease_key("odd"),
        "delayed set": place.queues.delayed_key("odd"),
        "throttled counts": place.queues.throttled_count_key("odd"),
        "dead letters": "odd.dead",
    }
    place.client.set(keys[kind], "text")
    place.broker.publish("x")
    probe = DepthProbe(place.broker.url)

    released = probe.release_due(["odd", "q"])
    depths = probe.probe({"odd": 1.0, "q": 1.0})
    probe.close()

    assert (released, depths["q"]) == (0, place.broker.depth())
    assert depths["q"].ready == 1
    assert depths["odd"].ready == 0
    assert "the queue odd cannot be read" in depths["odd"].error
    assert "WRONGTYPE" in depths["odd"].error


def test_the_queues_of_a_broker_are_read_and_released_in_a_round_trip_each(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer = RedisProducer(place.broker.address, park=True)
    place.broker.closing.callback(producer.close)
    for n in range(20):
        producer.publish(place.broker.message(n, queue=f"q{n}", eta=datetime.fromtimestamp(time.time() - 1, UTC)))
    probe = DepthProbe(place.broker.url)
    names = [f"q{n}" for n in range(20)]
    probe.release_due(["warm"])  # the scripts are known after that
    probe.probe({"warm": 1.0})
    sent: list[Any] = []
    send = redis.Connection.send_packed_command
    monkeypatch.setattr(
        redis.Connection, "send_packed_command", lambda self, *a, **k: sent.append(a) or send(self, *a, **k)
    )

    released = probe.release_due(names)
    trips = len(sent)
    depths = probe.probe(dict.fromkeys(names, 1.0))
    probe.close()

    assert (released, [depth.ready for depth in depths.values()]) == (20, [1] * 20)
    assert (trips, len(sent) - trips) == (2, 1)  # whether the script is there, and all of them


def test_a_queue_that_the_user_may_not_read_is_told_alone(place: Place) -> None:
    place.client.execute_command(
        "ACL", "SETUSER", "shop", "on", ">word", "+@all", "~q*", "~celeriac.*\x06\x16q*", "~_kombu*"
    )
    place.broker.publish("x")
    probe = DepthProbe(place.broker.url.replace("://", "://shop:word@"))

    probe.release_due(["theirs", "q"])
    depths = probe.probe({"theirs": 1.0, "q": 1.0})
    probe.close()

    assert depths["q"].ready == 1
    assert "the queue theirs cannot be read" in depths["theirs"].error


# -- kombu and we


def drained(url: str, queue: str, count: int, **options: Any) -> list[Any]:
    """Messages that a stock kombu consumer takes and acknowledges."""
    found: list[Any] = []
    with kombu.Connection(url, transport_options=options) as connection, connection.channel() as channel:
        bound = kombu.Queue(queue, kombu.Exchange(queue, type="direct"), routing_key=queue)
        with kombu.Consumer(channel, [bound], on_message=found.append, accept=["json"]):
            while len(found) < count:
                connection.drain_events(timeout=5)
        for message in found:
            message.ack()
    return found


def test_a_stock_kombu_consumer_reads_what_we_publish(place: Place) -> None:
    place.broker.publish("plain", "and", queue="q")
    place.broker.publish("low", priority=9, compression="gzip")

    messages = drained(place.broker.url, "q", 3)

    assert [message.payload[0][0] for message in messages] == ["plain", "and", "low"]
    assert [message.headers["task"] for message in messages] == ["shop.count"] * 3
    assert messages[2].properties["priority"] == 9
    assert messages[0].properties["correlation_id"] == messages[0].headers["id"]
    assert place.all_keys() == set()


def test_we_read_what_a_stock_kombu_producer_publishes(place: Place) -> None:
    with kombu.Connection(place.broker.url) as connection:
        connection.Producer().publish(
            [["x"], {}, None], routing_key="q", headers={"id": "a", "task": "t"}, priority=5, serializer="json"
        )

    [claimed] = place.consumer().claim(1)

    assert (number_of(claimed), claimed.headers["task"], claimed.step, claimed.starts) == ("x", "t", 3, 0)


def test_what_we_hold_is_restored_by_kombus_own_hand(place: Place) -> None:
    place.broker.publish("x", priority=3)
    [claimed] = place.consumer().claim(1)

    with kombu.Connection(place.broker.url) as connection:
        connection.default_channel.qos.restore_by_tag(claimed.claim)

    assert place.client.hlen("unacked") == 0
    [message] = drained(place.broker.url, "q", 1)
    assert (message.payload[0][0], message.delivery_info["redelivered"], message.properties["priority"]) == (
        "x",
        True,
        3,
    )


def test_a_stock_worker_with_a_short_visibility_does_not_restore_what_we_renew(place: Place) -> None:
    place.broker.publish("x")
    consumer = place.consumer(lease_s=LEASE_S)
    consumer.claim(1)
    time.sleep(0.5)
    consumer.renew()

    with kombu.Connection(place.broker.url, transport_options={"visibility_timeout": 0.3}) as connection:
        qos = connection.default_channel.qos
        qos.restore_visible(interval=1)
        assert (place.list("q"), place.client.hlen("unacked")) == ([], 1)
        place.client.zadd("unacked_index", {place.client.hkeys("unacked")[0]: time.time() - 5})  # had we stopped
        qos.restore_visible(interval=1)

    assert place.list("q") == ["x"]


def test_with_a_prefix_every_key_is_below_it(place: Place) -> None:
    address = BrokerAddress(url=place.broker.url, transport_options={"global_keyprefix": "shop:"})
    consumer = RedisConsumer(address, ["q"], lease_s=30.0)
    producer = RedisProducer(address, park=True)
    try:
        for number in range(4):
            producer.publish(place.broker.message(number))
        held, thrown, parked, dead = claim(consumer, 4)
        throttle(consumer, [thrown])
        consumer.park([(parked, time.time() + 99)])
        consumer.settle([Settled(dead, death={"reason": "x"})])
        assert consumer.renew() == []
        assert place.client.hlen("shop:unacked") == 1
        assert all(key.startswith("shop:") for key in place.client.scan_iter())
        consumer.give_back([held])
        assert drained(place.broker.url, "q", 1, global_keyprefix="shop:")[0].payload[0] == [0]
    finally:
        consumer.close()
        producer.close()
