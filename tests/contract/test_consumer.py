"""The contract of a consumer: one suite for Redis, Valkey, RabbitMQ and memory."""

import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import kombu
import pytest
from brokers import LEASE_S, Broker, claim, dead_letter_of, number_of, numbers
from processes import Child, wait_until

from celeriac.broker.consumer import Settled
from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.message import DEATH

every = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq", "memory"], indirect=True)
servers = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq"], indirect=True)
leasing = pytest.mark.parametrize("broker", ["redis", "valkey"], indirect=True)
rabbitmq_alone = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)


# -- claim and settle


@every
def test_a_published_message_is_claimed_as_it_was_sent(broker: Broker) -> None:
    [sent] = broker.publish("Stra\u00dfe", headers={"custom": [1, {"a": None}]})

    [delivery] = claim(broker.consumer(), 1)

    assert delivery.queue == broker.queue
    assert delivery.headers == sent.headers
    assert delivery.content_type == "application/json"
    assert number_of(delivery) == "Stra\u00dfe"
    assert (delivery.starts, delivery.redelivered, delivery.sent_at) == (0, False, sent.headers["celeriac_sent_at"])


@every
def test_a_message_says_by_which_way_it_came(broker: Broker) -> None:
    broker.producer().publish(broker.message(1))

    [delivery] = claim(broker.consumer(), 1)

    info = {name: delivery.info[name] for name in ("exchange", "routing_key", "queue", "redelivered")}
    assert info == {"exchange": "", "routing_key": broker.queue, "queue": broker.queue, "redelivered": False}


@every
def test_an_acknowledged_message_leaves_nothing(broker: Broker) -> None:
    broker.publish(1, 2, 3)
    consumer = broker.consumer()

    consumer.settle([Settled(delivery) for delivery in claim(consumer, 3)])

    assert consumer.open_claims() == 0
    assert consumer.claim(10) == []
    consumer.close()
    last = broker.consumer()
    assert last.claim(10) == []
    last.close()
    if broker.kind in ("redis", "valkey"):
        with broker.server.client() as client:
            assert [key for key in client.scan_iter() if not key.startswith("_kombu.binding")] == []


@every
def test_messages_come_in_the_order_in_which_they_were_sent_and_no_more_than_asked_for(broker: Broker) -> None:
    broker.publish(*range(10))
    consumer = broker.consumer()

    assert numbers(claim(consumer, 4)) == [0, 1, 2, 3]
    assert len(consumer.claim(2)) == 2
    assert numbers(claim(consumer, 4)) == [6, 7, 8, 9]


@every
def test_a_busy_queue_does_not_starve_another(broker: Broker) -> None:
    other = broker.queue + "b"
    broker.publish(*range(50))
    broker.publish("other", queue=other)
    consumer = broker.consumer(broker.queue, other)

    served = [claim(consumer, 1)[0].queue for _ in range(51)] if broker.kind != "memory" else None

    if served is not None and broker.kind != "rabbitmq":  # RabbitMQ pushes both queues at once, in its own order
        assert served.index(other) < 5
    if served is None:
        assert other in {delivery.queue for delivery in claim(consumer, 51)}


@every
def test_what_follows_from_a_task_is_published_with_its_acknowledgement(broker: Broker) -> None:
    broker.publish("first")
    consumer = broker.consumer()
    [delivery] = claim(consumer, 1)

    consumer.settle([Settled(delivery, publish=[broker.message("next")])])

    [following] = claim(consumer, 1)
    assert number_of(following) == "next"
    consumer.settle([Settled(following)])
    assert consumer.claim(1) == []


@every
def test_settling_again_after_a_lost_answer_does_not_fork_the_task(broker: Broker) -> None:
    broker.publish("first")
    consumer = broker.consumer()
    [delivery] = claim(consumer, 1)
    settled = Settled(delivery, publish=[broker.message("next")])

    consumer.settle([settled])
    consumer.settle([settled])

    assert numbers(claim(consumer, 1)) == ["next"]
    assert consumer.claim(1) == []


@every
def test_a_dead_letter_keeps_its_body_and_headers_and_says_why(broker: Broker) -> None:
    [sent] = broker.publish("poison")
    consumer = broker.consumer()
    [delivery] = claim(consumer, 1)

    consumer.settle([Settled(delivery, death={"reason": "unknown_task", "detail": "no such task"})])

    assert consumer.claim(1) == []
    letter = dead_letter_of(broker)
    assert number_of(letter) == "poison"
    assert letter.headers[DEATH] == {"reason": "unknown_task", "detail": "no such task"}
    assert {name: value for name, value in letter.headers.items() if name != DEATH} == sent.headers


@every
def test_what_is_given_back_is_claimed_again_in_order_and_counts_as_never_started(broker: Broker) -> None:
    broker.publish(*range(5))
    consumer = broker.consumer(prefetch=3)
    first = claim(consumer, 3)

    consumer.give_back(first)

    again = claim(broker.consumer() if broker.kind in ("redis", "valkey") else consumer, 3)
    assert [delivery.starts for delivery in again] == [0, 0, 0]
    # In front on Redis; RabbitMQ would count what it puts in front as redelivered, so there a fresh copy goes to the back.
    assert numbers(again) == ([0, 1, 2] if broker.kind in ("redis", "valkey") else [3, 4, 0])


@every
def test_a_closed_consumer_returns_what_it_had_claimed(broker: Broker) -> None:
    broker.publish(*range(4))
    consumer = broker.consumer()
    claim(consumer, 4)

    consumer.close()

    assert numbers(claim(broker.consumer(), 4, timeout_s=LEASE_S / 2)) == [0, 1, 2, 3]


@every
def test_a_consumer_can_be_given_other_queues(broker: Broker) -> None:
    other = broker.queue + "b"
    broker.publish("other", queue=other)
    consumer = broker.consumer()
    assert consumer.claim(1) == []

    consumer.set_queues([other])

    assert numbers(claim(consumer, 1)) == ["other"]


@every
def test_a_megabyte_travels(broker: Broker) -> None:
    text = "x" * 1_000_000
    broker.publish(text)

    [delivery] = claim(broker.consumer(), 1)

    assert number_of(delivery) == text


@every
def test_many_messages_are_claimed_and_settled_in_batches(broker: Broker) -> None:
    broker.publish(*range(1200))
    consumer = broker.consumer(prefetch=500)
    seen: list[object] = []

    while len(seen) < 1200:
        batch = claim(consumer, 400, timeout_s=20)
        seen += numbers(batch)
        consumer.settle([Settled(delivery) for delivery in batch])

    assert seen == list(range(1200))
    assert consumer.claim(1) == []


# -- order


@leasing
def test_the_lower_priority_number_goes_first_as_in_celery_on_redis(broker: Broker) -> None:
    for priority in (9, 0, 4, 3):
        broker.publish(priority, priority=priority)

    assert numbers(claim(broker.consumer(), 4)) == [0, 4, 3, 9]  # 3 and 4 share a step


@leasing
def test_a_message_keeps_its_priority_when_it_is_given_back(broker: Broker) -> None:
    broker.publish("urgent")
    broker.publish("later", priority=9)
    consumer = broker.consumer()

    consumer.give_back(claim(consumer, 2))

    assert numbers(claim(consumer, 2)) == ["urgent", "later"]


@rabbitmq_alone
def test_an_existing_queue_with_priorities_is_used_as_it_is(broker: Broker) -> None:
    with kombu.Connection(broker.url) as connection:
        kombu.Queue(broker.queue, max_priority=9, channel=connection.default_channel).declare()
    for priority in (0, 9, 4):
        broker.publish(priority, priority=priority)

    assert numbers(claim(broker.consumer(prefetch=1), 1)) == [9]


# -- delays


@leasing
@pytest.mark.parametrize("parked_by", ["the client", "a worker"])
def test_a_delayed_message_comes_at_its_time_and_within_a_second(broker: Broker, parked_by: str) -> None:
    consumer = broker.consumer()
    if parked_by == "the client":
        due_at = time.time() + 1.0
        message = broker.message("late")
        broker.producer(park=True).publish(message._replace(due_at=due_at))
    else:
        broker.publish("late")
        [delivery] = claim(consumer, 1)
        due_at = time.time() + 1.0
        consumer.park([(delivery, due_at)])
        assert consumer.open_claims() == 0

    while not (found := consumer.claim(1)):
        consumer.sweep()
        assert time.time() < due_at + 1
        time.sleep(0.01)

    assert time.time() >= due_at
    assert numbers(found) == ["late"]


@leasing
def test_a_parked_message_keeps_its_priority(broker: Broker) -> None:
    broker.publish("later", priority=9)
    consumer = broker.consumer()
    consumer.park([(delivery, time.time() - 1) for delivery in claim(consumer, 1)])
    broker.publish("at once")

    consumer.sweep()

    assert numbers(claim(consumer, 2)) == ["at once", "later"]


# -- leases, lost workers


@leasing
def test_a_lease_that_is_renewed_is_kept_for_longer_than_it_lasts(broker: Broker) -> None:
    broker.publish("long")
    holder, other = broker.consumer(), broker.consumer()
    [delivery] = claim(holder, 1)
    until = time.monotonic() + 2.5 * LEASE_S

    while time.monotonic() < until:
        assert holder.renew() == []
        other.sweep()
        assert other.claim(1) == []
        time.sleep(LEASE_S / 4)

    holder.settle([Settled(delivery)])
    assert broker.depth() == QueueDepth()


@leasing
def test_a_lease_that_ran_out_comes_back_counted_and_stays_with_its_new_holder(
    broker: Broker,
) -> None:
    broker.publish("twice")
    first, second = broker.consumer(), broker.consumer()
    [lost] = claim(first, 1)

    [again] = claim(second, 1, timeout_s=2 * LEASE_S)

    assert (number_of(again), again.starts, again.redelivered) == ("twice", 1, True)
    assert [delivery.claim for delivery in first.renew()] == [lost.claim]
    assert first.acknowledge([lost]) == [lost]
    first.settle([Settled(lost, publish=[broker.message("forked")])])
    assert broker.depth().leased == 1
    assert broker.depth().ready == 0
    second.settle([Settled(again)])
    assert broker.depth() == QueueDepth()


@leasing
def test_an_acknowledgement_before_the_start_says_what_is_no_longer_ours(broker: Broker) -> None:
    broker.publish("lost")
    first, second = broker.consumer(), broker.consumer()
    [lost] = claim(first, 1)
    [again] = claim(second, 1, timeout_s=2 * LEASE_S)
    broker.publish("kept")
    [kept] = claim(first, 1)

    assert (again.starts, first.acknowledge([lost, kept])) == (1, [lost])
    assert broker.depth().leased == 1
    assert second.acknowledge([again]) == []
    assert broker.depth() == QueueDepth()


@leasing
def test_what_was_acknowledged_and_lost_its_answer_is_taken_for_ours(broker: Broker) -> None:
    broker.publish("once")
    consumer = broker.consumer()
    [delivery] = claim(consumer, 1)
    exchange = consumer._line._exchange

    def unanswered(commands: Any) -> Any:
        exchange(commands)
        raise ConnectionError("the answer is lost")

    consumer._line._exchange = unanswered
    with pytest.raises(BrokerUnavailable):
        consumer.acknowledge([delivery])
    consumer.reconnect()

    assert consumer.renew() == []
    assert consumer.acknowledge([delivery]) == []


@servers
def test_a_killed_workers_message_comes_back_to_another(broker: Broker, tmp_path: Path) -> None:
    broker.publish("orphan")
    other = broker.consumer(broker.queue + "b")
    claimer = Path(__file__).with_name("claimer.py")
    worker = Child([sys.executable, claimer, broker.url, broker.queue, str(LEASE_S)], log=tmp_path / "log")
    worker.wait_for("claimed 1")
    assert broker.depth().ready == 0

    worker.send(signal.SIGKILL)
    killed_at = time.monotonic()
    worker.wait()
    other.set_queues([broker.queue])
    [delivery] = claim(other, 1, timeout_s=2 * LEASE_S + 2)

    assert number_of(delivery) == "orphan"
    assert delivery.redelivered
    assert time.monotonic() - killed_at < (LEASE_S + 1 if broker.kind != "rabbitmq" else 5)


@leasing
def test_what_a_stock_kombu_worker_holds_is_never_restored_by_ours(broker: Broker) -> None:
    broker.publish("theirs")
    consumer = broker.consumer()
    with kombu.Connection(broker.url) as connection:
        held: list[object] = []
        queue = kombu.Queue(broker.queue)
        theirs = kombu.Consumer(connection, queue, callbacks=[lambda body, message: held.append(message)])
        with theirs:
            connection.drain_events(timeout=5)
            until = time.monotonic() + 2 * LEASE_S
            while time.monotonic() < until:
                consumer.sweep()
                assert consumer.claim(1) == []
                time.sleep(0.1)
            held[0].ack()  # type: ignore[attr-defined]

    assert len(held) == 1
    assert broker.depth() == QueueDepth()


# -- depth, waking up


@leasing
def test_depth_tells_messages_by_kind(broker: Broker) -> None:
    consumer = broker.consumer(lease_s=LEASE_S)
    sent = broker.publish(*range(6))
    waiting, dead, leased = claim(consumer, 2), claim(consumer, 1), claim(consumer, 1)
    consumer.park([(waiting[0], time.time() + 5), (waiting[1], time.time() + 500)])
    consumer.settle([Settled(dead[0], death={"reason": "test"})])

    depth = broker.depth(horizon_s=60)
    assert (depth.ready, depth.leased, depth.expired, depth.delayed, depth.due_soon, depth.dead) == (2, 1, 0, 2, 1, 1)
    assert depth.oldest_sent_at == sent[4].headers["celeriac_sent_at"]
    wait_until(lambda: broker.depth().expired == 1, timeout_s=LEASE_S + 1)
    assert broker.depth().leased == 1
    assert leased


@rabbitmq_alone
def test_depth_on_rabbitmq_tells_what_the_broker_can(broker: Broker) -> None:
    broker.publish(*range(3))
    wait_until(lambda: broker.depth().ready == 3)
    assert broker.depth().consumers == 0
    consumer = broker.consumer(prefetch=1)
    [delivery] = claim(consumer, 1)
    consumer.settle([Settled(delivery, death={"reason": "test"})])

    wait_until(lambda: broker.depth().dead == 1)
    assert broker.depth().consumers == 1


@every
def test_the_depth_of_a_queue_that_nobody_declared_is_zero(broker: Broker) -> None:
    depth = broker.depth("nobody" + broker.queue)

    assert (depth.ready, depth.leased, depth.delayed, depth.dead) == (0, 0, 0, 0)


@servers
def test_an_idle_consumer_is_woken_by_a_message(broker: Broker) -> None:
    consumer = broker.consumer()
    assert consumer.claim(1) == []
    assert not consumer.arm()
    producer = broker.producer()
    producer.publish(broker.message("warm up", queue=broker.queue + "b"))

    threading.Timer(0.2, producer.publish, [broker.message("now")]).start()
    descriptor = consumer.fileno()
    assert descriptor is not None
    started_at = time.monotonic()
    readable, _, _ = select.select([descriptor], [], [], 3.0)

    assert readable
    assert time.monotonic() - started_at < 1.0
    assert numbers(claim(consumer, 1, timeout_s=1.0)) == ["now"]


@servers
def test_arming_says_so_when_something_waits_already(broker: Broker) -> None:
    consumer = broker.consumer()
    consumer.claim(1)
    broker.publish("already")

    if not consumer.arm():
        readable, _, _ = select.select([consumer.fileno()], [], [], 1.0)
        assert readable


# -- messages that nobody can read


@leasing
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"not json", id="not json"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"body": "e30="}', id="no headers"),
        pytest.param(b'{"body": 1, "headers": null, "properties": null}', id="null headers"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_list_item_that_is_no_message_can_be_claimed_and_made_a_dead_letter(broker: Broker, raw: bytes) -> None:
    consumer = broker.consumer()
    with broker.server.client() as client:
        client.lpush(broker.queue, raw)
    broker.publish("good")

    bad, good = claim(consumer, 2)
    consumer.settle([Settled(bad, death={"reason": "malformed"}), Settled(good)])

    assert number_of(good) == "good"
    letter = dead_letter_of(broker)
    assert letter.headers[DEATH]["reason"] == "malformed"
    depth = broker.depth()
    assert (depth.ready, depth.leased, depth.dead) == (0, 0, 0)  # dead_letter_of took it


@leasing
def test_a_lost_item_that_is_no_message_comes_back_too(broker: Broker) -> None:
    with broker.server.client() as client:
        client.lpush(broker.queue, b"not json")
    first, second = broker.consumer(), broker.consumer()
    claim(first, 1)

    [again] = claim(second, 1, timeout_s=2 * LEASE_S)

    assert again.headers == {}


@rabbitmq_alone
def test_a_message_without_headers_can_be_claimed_and_made_a_dead_letter(broker: Broker) -> None:
    consumer = broker.consumer()
    with kombu.Connection(broker.url) as connection:
        kind = {"content_type": "x/unknown", "content_encoding": "binary"}
        connection.Producer().publish(b"\x00\xff", routing_key=broker.queue, **kind)

    [bad] = claim(consumer, 1)
    consumer.settle([Settled(bad, death={"reason": "malformed"})])

    letter = dead_letter_of(broker)
    assert (bytes(letter.body), letter.headers[DEATH]["reason"]) == (b"\x00\xff", "malformed")


# -- outages


@servers
def test_a_consumer_survives_its_brokers_kill_and_nothing_is_lost(broker: Broker) -> None:
    broker.publish("claimed", "waiting")
    consumer = broker.consumer(prefetch=1)
    [before] = claim(consumer, 1)

    broker.server.kill()
    with pytest.raises(BrokerUnavailable):
        for _ in range(3):  # an AMQP socket may first have to notice
            consumer.claim(1)
            consumer.settle([Settled(before)])
    started_at = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        consumer.reconnect()
    assert time.monotonic() - started_at < 6
    broker.server.start()
    consumer.reconnect()

    seen = numbers(claim(consumer, 1))
    if broker.kind != "rabbitmq" and seen == ["waiting"]:
        # Ours still: a lease outlives the outage, and its holder goes on with it.
        assert consumer.renew() == []
        consumer.settle([Settled(before)])
        seen.append("claimed")
    elif broker.kind == "rabbitmq":
        consumer.close()
        seen = numbers(claim(broker.consumer(), 2))
    assert sorted(map(str, seen)) == ["claimed", "waiting"]


@leasing
def test_after_an_outage_nothing_is_restored_for_one_lease(broker: Broker) -> None:
    broker.publish("held")
    holder, other = broker.consumer(), broker.consumer()
    claim(holder, 1)

    broker.server.kill()
    time.sleep(1.2 * LEASE_S)
    broker.server.start()
    holder.reconnect()
    other.reconnect()
    back_at = time.monotonic()

    while time.monotonic() < back_at + 0.6 * LEASE_S:
        assert other.sweep() == 0
        assert holder.renew() == []
        time.sleep(0.05)


@servers
def test_publishing_during_an_outage_fails_within_its_deadline_and_names_what_it_tried(broker: Broker) -> None:
    producer = broker.producer(timeout_s=1.0)
    producer.publish(broker.message("before"))
    broker.server.kill()

    started_at = time.monotonic()
    with pytest.raises(BrokerUnavailable) as raised:
        producer.publish(broker.message("during"))

    assert time.monotonic() - started_at < 3
    assert broker.queue in str(raised.value)
    assert "127.0.0.1" in str(raised.value)
    assert "guest:guest" not in str(raised.value)


@leasing
def test_publishing_goes_on_when_the_broker_is_back_within_the_deadline(broker: Broker) -> None:
    producer = broker.producer(timeout_s=10.0)
    producer.publish(broker.message("before"))
    broker.server.kill()

    publishing = threading.Thread(target=producer.publish, args=[broker.message("during")])
    publishing.start()
    time.sleep(1.0)
    broker.server.start()
    publishing.join()

    assert numbers(claim(broker.consumer(), 2)) == ["before", "during"]


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)  # ten seconds each: the socket's own time-out
def test_a_broker_that_has_fallen_silent_is_an_error_within_bounds(broker: Broker) -> None:
    producer = broker.producer(timeout_s=1.0)
    producer.publish(broker.message("before"))
    broker.server.pause()

    started_at = time.monotonic()
    try:
        with pytest.raises(BrokerUnavailable):
            producer.publish(broker.message("during"))
        assert time.monotonic() - started_at < 15
    finally:
        broker.server.resume()


@servers
def test_the_depth_probe_recovers_from_an_outage_by_itself(broker: Broker) -> None:
    from celeriac.broker.depth import DepthProbe

    broker.publish(1)
    probe = DepthProbe(broker.url, timeout_s=1.0)
    broker.closing.callback(probe.close)
    wait_until(lambda: probe.probe({broker.queue: 0.0})[broker.queue].ready == 1)

    broker.server.kill()
    with pytest.raises(BrokerUnavailable):
        probe.probe({broker.queue: 0.0})
    broker.server.start()

    assert probe.probe({broker.queue: 0.0})[broker.queue].ready == 1
