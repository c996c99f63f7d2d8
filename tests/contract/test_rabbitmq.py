"""What only RabbitMQ does: runs of acknowledgements, prefetch, quorum queues, alarms, time-outs, queues that vanish, delay queues."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import amqp
import kombu
import pytest
from brokers import Broker, claim, number_of, numbers
from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues
from processes import wait_until

from celeriac.broker.connection import BrokerAddress
from celeriac.broker.consumer import Settled, open_consumer
from celeriac.exceptions import BrokerUnavailable, EncodeError, ImproperlyConfigured, MessageRefused

pytestmark = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)


def declare(broker: Broker, name: str = "", **arguments: Any) -> None:
    """A queue that somebody else made."""
    with kombu.Connection(broker.url) as connection:
        kombu.Queue(name or broker.queue, queue_arguments=arguments, channel=connection.default_channel).declare()


def delete(broker: Broker) -> None:
    with kombu.Connection(broker.url) as connection:
        connection.default_channel.queue_delete(broker.queue)


def vhost_of(broker: Broker) -> str:
    """Its virtual host, in Erlang."""
    return f'<<"{broker.url.rsplit("/", 1)[1]}">>'


# -- acknowledgements


def test_only_what_was_settled_is_acknowledged_however_it_lies_among_the_rest(broker: Broker) -> None:
    broker.publish(*range(7))
    consumer = broker.consumer()
    claimed = claim(consumer, 7)

    consumer.settle([Settled(claimed[place]) for place in (5, 0, 3, 1)])
    consumer.settle([Settled(claimed[4])])

    assert consumer.open_claims() == 2
    consumer.reconnect()
    assert sorted(map(str, numbers(claim(consumer, 2)))) == ["2", "6"]
    assert consumer.claim(1) == []


def test_what_a_lost_worker_held_counts_as_started_even_when_it_goes_back_unclaimed(broker: Broker) -> None:
    broker.publish("orphan")
    lost = broker.consumer()
    claim(lost, 1)
    lost.reconnect()  # RabbitMQ has it back, and pushes it again
    wait_until(lambda: lost.arm() or lost.renew(), timeout_s=5)

    lost.pause()

    [delivery] = claim(broker.consumer(), 1)
    assert delivery.starts == 1


def test_large_and_empty_messages_keep_their_place_among_small_ones(broker: Broker) -> None:
    sent = ["a", "x" * 1_000_000, "b", "y" * 100_000, "", "c"]
    broker.publish(*sent)

    assert numbers(claim(broker.consumer(), 6)) == sent


def test_what_follows_is_on_its_queue_before_the_message_is_gone(broker: Broker) -> None:
    broker.publish(*range(300))
    consumer = broker.consumer(prefetch=300)
    other = broker.queue + "next"
    claimed = claim(consumer, 300)

    consumer.settle(
        [Settled(delivery, publish=[broker.message(number_of(delivery), queue=other)]) for delivery in claimed]
    )

    assert consumer.open_claims() == 0
    assert numbers(claim(broker.consumer(other, prefetch=300), 300)) == list(range(300))


# -- queues as they are found


def test_a_quorum_queue_is_used_as_it_is_and_counts_its_deliveries_itself(broker: Broker) -> None:
    declare(broker, **{"x-queue-type": "quorum"})
    broker.publish(*range(3))
    consumer = broker.consumer(prefetch=2)
    first = claim(consumer, 2)
    assert consumer.claim(1) == []
    consumer.allow(1)
    assert numbers([*first, *claim(consumer, 1)]) == [0, 1, 2]

    consumer.reconnect()

    again = claim(consumer, 3)
    assert [(number_of(each), each.starts, each.redelivered, each.headers["celeriac_starts"]) for each in again] == [
        (number, 1, True, 1) for number in range(3)
    ]
    consumer.give_back(again)
    assert [(number_of(each), each.starts) for each in claim(consumer, 3)] == [(0, 1), (1, 1), (2, 1)]


def test_an_exchange_of_another_kind_with_the_queues_name_is_left_alone(broker: Broker) -> None:
    with kombu.Connection(broker.url) as connection:
        kombu.Exchange(broker.queue, type="topic", channel=connection.default_channel).declare()

    broker.publish("sent")

    assert numbers(claim(broker.consumer(), 1)) == ["sent"]


def test_no_more_is_pushed_than_is_allowed_beyond_what_is_claimed(broker: Broker) -> None:
    broker.publish(*range(8))
    consumer = broker.consumer(prefetch=2)
    claimed = claim(consumer, 2)
    consumer.allow(2)
    claimed += claim(consumer, 2)
    time.sleep(0.1)
    assert consumer.claim(1) == []
    consumer.settle([Settled(delivery) for delivery in claimed])  # room for four more
    [delivery] = claim(consumer, 1)
    broker.publish("one too many")

    consumer.allow(0)
    consumer.settle([Settled(delivery)])

    assert numbers(claim(consumer, 3)) == [5, 6, 7]
    time.sleep(0.1)
    assert consumer.claim(1) == []


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_consumer_at_rest_is_pushed_nothing_when_it_acknowledges(broker: Broker, kind: str) -> None:
    declare(broker, **{"x-queue-type": kind})
    broker.publish("runs", "is for others")
    consumer = broker.consumer(prefetch=1)
    [delivery] = claim(consumer, 1)

    consumer.rest()
    consumer.settle([Settled(delivery)])

    other = broker.consumer()
    other.settle([Settled(each) for each in claim(other, 1)])
    other.close()
    broker.publish("next")
    assert numbers(claim(consumer, 1)) == ["next"]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_was_pushed_before_several_rests_is_still_known(broker: Broker, kind: str) -> None:
    """A claim that needs nothing from the broker reads nothing, so many a consumer may come and go before a delivery is read."""
    declare(broker, **{"x-queue-type": kind})
    broker.publish(*range(5))
    consumer = broker.consumer(prefetch=5)
    time.sleep(0.2)  # pushed, and unread

    for _ in range(20):
        consumer.rest()
        assert consumer.claim(0) == []

    assert numbers(claim(consumer, 5)) == [0, 1, 2, 3, 4]


def test_two_queues_share_the_prefetch_count(broker: Broker) -> None:
    other = broker.queue + "b"
    broker.publish(*range(5))
    broker.publish(*range(5), queue=other)
    consumer = broker.consumer(broker.queue, other, prefetch=4)

    claim(consumer, 4)

    time.sleep(0.2)
    assert consumer.claim(10) == []


def test_the_most_urgent_goes_first_even_when_it_comes_last(broker: Broker) -> None:
    declare(broker, **{"x-max-priority": 9})
    consumer = broker.consumer(prefetch=1)
    served = []
    broker.publish("first", priority=0)
    [delivery] = claim(consumer, 1)

    for priority in (1, 9, 5):
        broker.publish(priority, priority=priority)
    for _ in range(3):
        consumer.settle([Settled(delivery)])
        [delivery] = claim(consumer, 1)
        served.append(number_of(delivery))

    assert served == [9, 5, 1]


# -- what the broker may do to us


def test_a_queue_that_is_deleted_while_it_is_consumed_is_declared_again(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    other = broker.queue + "b"
    broker.publish("lost with its queue")
    broker.publish("kept", queue=other)
    consumer = broker.consumer(broker.queue, other)
    claimed = claim(consumer, 2)

    delete(broker)
    wait_until(lambda: consumer.claim(1) == [] and "has ended our consumer" in caplog.text, timeout_s=5)
    consumer.settle([Settled(delivery) for delivery in claimed])
    broker.publish("after")

    assert numbers(claim(consumer, 1)) == ["after"]
    assert broker.queue in caplog.text


def test_a_producer_notices_that_its_queue_was_deleted(broker: Broker) -> None:
    producer = broker.producer()
    producer.publish(broker.message("before"))

    delete(broker)
    producer.publish(broker.message("after"))

    assert numbers(claim(broker.consumer(), 1)) == ["after"]


def test_a_full_queue_is_an_error_that_says_so(broker: Broker) -> None:
    declare(broker, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    producer = broker.producer(timeout_s=0.5)
    producer.publish(broker.message("fits"))

    with pytest.raises(BrokerUnavailable, match="is it full"):
        producer.publish(broker.message("too much"))


def test_what_a_full_queue_refuses_is_tried_again_and_its_message_kept_until_then(broker: Broker) -> None:
    full = broker.queue + "full"
    declare(broker, full, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    broker.publish("fills it", queue=full)
    broker.publish("work", "other work")
    consumer = broker.consumer()
    work, other = claim(consumer, 2)

    consumer.settle([Settled(work, publish=[broker.message("follows", queue=full)]), Settled(other)])
    assert consumer.open_claims() == 1
    reader = broker.consumer(full)
    reader.settle([Settled(delivery) for delivery in claim(reader, 1)])

    wait_until(lambda: consumer.claim(1) == [] and consumer.open_claims() == 0, timeout_s=5)
    assert numbers(claim(reader, 1)) == ["follows"]


@contextlib.contextmanager
def node_set(broker: Broker, erlang: str, undo: str) -> Iterator[None]:
    broker.server.node.evaluate(erlang)
    try:
        yield
    finally:
        broker.server.node.evaluate(undo)


def test_a_time_out_of_the_broker_is_a_reconnect_with_a_clear_reason(broker: Broker) -> None:
    with node_set(
        broker,
        "application:set_env(rabbit, consumer_timeout, 1000), application:set_env(rabbit, channel_tick_interval, 200).",
        "application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000).",
    ):
        broker.publish("long")
        consumer = broker.consumer()
        [before] = claim(consumer, 1)

        with pytest.raises(BrokerUnavailable, match="consumer_timeout: raise it"):
            wait_until(lambda: consumer.claim(1), timeout_s=10)
        with pytest.raises(BrokerUnavailable):  # and not in silence on a channel that py-amqp has opened anew
            consumer.claim(1)
        consumer.reconnect()
        consumer.settle([Settled(before)])

        [again] = claim(consumer, 1)
        assert (number_of(again), again.starts) == ("long", 1)
        consumer.settle([Settled(again)])
        assert consumer.open_claims() == 0


def test_during_an_alarm_publishers_hear_why_and_a_consumer_goes_on(broker: Broker) -> None:
    broker.publish(*range(4))
    consumer = broker.consumer()
    claimed = claim(consumer, 4)
    producer = broker.producer(timeout_s=1.0)
    producer.publish(broker.message("before", queue=broker.queue + "b"))
    with node_set(
        broker,
        "rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).",
        "rabbit_alarm:clear_alarm({resource_limit, memory, node()}).",
    ):
        started_at = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="alarm for memory or disk"):
            producer.publish(broker.message("during", queue=broker.queue + "b"))
        assert 0.9 < time.monotonic() - started_at < 3

        follows = broker.message("follows", queue=broker.queue + "c")
        consumer.settle([Settled(claimed[0], publish=[follows])])  # under way: neither lost nor an outage
        started_at = time.monotonic()
        consumer.settle([Settled(delivery) for delivery in claimed[1:]])
        assert time.monotonic() - started_at < 1
        assert consumer.open_claims() == 1
        figures = f"rabbit_amqqueue:info_all({vhost_of(broker)}, [name, messages_unacknowledged])."
        assert f'<<"{broker.queue}">>}}}},{{messages_unacknowledged,1}}' in "".join(
            broker.server.node.evaluate(figures).split()
        )

    wait_until(lambda: consumer.claim(1) == [] and consumer.open_claims() == 0, timeout_s=10)
    reader = broker.consumer(broker.queue + "c")
    assert numbers(claim(reader, 1)) == ["follows"]
    assert reader.claim(1) == []  # once
    producer.publish(broker.message("after", queue=broker.queue + "b"))


def test_heartbeats_are_heard_while_nobody_claims(broker: Broker) -> None:
    address = BrokerAddress(url=broker.url, heartbeat_s=1.0)
    consumer = open_consumer(address, [broker.queue], node="busy@here", lease_s=30, prefetch=1)
    broker.closing.callback(consumer.close)
    broker.publish("long")
    [delivery] = claim(consumer, 1)

    until = time.monotonic() + 4  # two heartbeats missed are an error
    while time.monotonic() < until:
        consumer.renew()
        time.sleep(0.25)

    consumer.settle([Settled(delivery)])
    assert consumer.open_claims() == 0


# -- what is not due


@pytest.fixture
def delays(broker: Broker) -> Broker:
    """The broker, with delay queues as Celery may have declared them: classic ones, which are quick to make."""
    with kombu.Connection(broker.url) as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "classic")
    return broker


def park(broker: Broker, number: object, *, in_s: float, queue: str = "", **fields: Any) -> float:
    """Have a client park a message; when it is due."""
    message = broker.message(number, queue=queue)
    due_at = time.time() + in_s
    broker.producer(timeout_s=30, park=True).publish(message._replace(due_at=due_at, **fields))
    return due_at


def test_what_a_client_or_a_worker_parks_comes_at_its_time(delays: Broker) -> None:
    consumer = delays.consumer()
    delays.publish("worker's")
    found = claim(consumer, 1)
    due = {"client's": park(delays, "client's", in_s=1.9), "worker's": time.time() + 1.9}

    consumer.park([(delivery, due["worker's"]) for delivery in found])

    wait_until(lambda: consumer.sweep() == consumer.open_claims() == 0, timeout_s=5)
    while due:
        [delivery] = claim(consumer, 1)
        assert 0 <= time.time() - due.pop(str(number_of(delivery))) < 1.5


def test_delay_queues_that_are_missing_are_declared_and_lose_nothing_with_a_node(broker: Broker) -> None:
    park(broker, "first", in_s=1)
    due_at = park(broker, "second", in_s=1)

    assert numbers(claim(broker.consumer(), 2)) == ["first", "second"]
    assert time.time() >= due_at
    vhost = broker.url.rsplit("/", 1)[1]
    queues = {each["name"]: each["type"] for each in broker.server.node.api("GET", f"queues/{vhost}")}
    assert queues["celery_delayed_0"] == queues["celery_delayed_27"] == "quorum"


def test_a_message_parked_again_and_again_is_never_taken_for_one_that_goes_in_circles(delays: Broker) -> None:
    park(delays, "again", in_s=1)
    consumer = delays.consumer()

    for _ in range(2):
        [delivery] = claim(consumer, 1)
        assert "x-death" in delivery.headers  # RabbitMQ's memory of where it was
        consumer.park([(delivery, time.time() + 0.9)])

    assert numbers(claim(consumer, 1)) == ["again"]


def test_a_message_parked_for_one_queue_comes_to_no_other_whose_name_ends_alike(delays: Broker) -> None:
    shop = f"shop.{delays.queue}"
    both = delays.consumer(delays.queue, shop)
    park(delays, "mine", in_s=1)

    park(delays, "the shop's", in_s=1, queue=shop)

    found = claim(both, 2)
    assert {(str(number_of(each)), each.queue) for each in found} == {("mine", delays.queue), ("the shop's", shop)}
    time.sleep(0.2)
    assert both.claim(1) == []


def test_an_expiry_does_not_cut_a_delay_short(delays: Broker) -> None:
    due_at = park(delays, "late", in_s=1.5, expiration_s=0.5)

    assert numbers(claim(delays.consumer(), 1)) == ["late"]
    assert time.time() >= due_at


def test_a_broker_that_lets_us_declare_no_delay_queues_leaves_what_is_not_due_to_the_worker(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    node, vhost = broker.server.node, broker.url.rsplit("/", 1)[1]
    node.api("PUT", "users/guarded", {"password": "secret", "tags": ""})
    rights = {"configure": f"^{broker.queue}$", "write": ".*", "read": ".*"}
    node.api("PUT", f"permissions/{vhost}/guarded", rights)
    guarded = Broker(kind="rabbitmq", url=broker.url.replace("guest:guest", "guarded:secret"), queue=broker.queue)
    with guarded.closing:
        park(guarded, "a client's", in_s=60)
        guarded.publish("a worker's")
        consumer = guarded.consumer()
        claimed = claim(consumer, 2)

        consumer.park([(delivery, time.time() + 60) for delivery in claimed])

        assert numbers(claimed) == ["a client's", "a worker's"]
        assert not consumer.keeps_delayed
        assert consumer.open_claims() == 2
    assert "wait in workers instead" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "fields", [{"headers": {"number": 2**70}}, {"headers": {"a": {1, 2}}}], ids=["too large a number", "a set"]
)
def test_headers_that_amqp_cannot_carry_are_an_error_at_once_and_the_next_message_goes(
    broker: Broker, fields: dict[str, Any]
) -> None:
    producer = broker.producer(timeout_s=20)
    producer.publish(broker.message("before"))
    started_at = time.monotonic()

    with pytest.raises(EncodeError, match="cannot be written"):
        producer.publish(broker.message("bad", **fields))

    assert time.monotonic() - started_at < 5
    producer.publish(broker.message("after"))
    assert numbers(claim(broker.consumer(), 2)) == ["before", "after"]


# -- what the broker never takes


def test_what_can_never_be_published_stops_nothing_else(broker: Broker) -> None:
    broker.publish("no exchange", "too large", "unwritable", "acknowledged", "followed")
    consumer = broker.consumer()
    nowhere, large, unwritable, acknowledged, followed = claim(consumer, 5)
    message = broker.message("next", queue=broker.queue + "next")
    with node_set(
        broker,
        "persistent_term:put(max_message_size, 100000), application:set_env(rabbit, max_message_size, 100000).",
        "persistent_term:put(max_message_size, 16777216), application:set_env(rabbit, max_message_size, 16777216).",
    ):
        started_at = time.monotonic()
        consumer.settle([
            Settled(nowhere, publish=[message._replace(exchange="missing", routing_key="x")]),
            Settled(large, publish=[broker.message("x" * 200_000, queue=broker.queue + "next")]),
            Settled(unwritable, publish=[message._replace(headers={**message.headers, "n": 2**70})]),
            Settled(acknowledged),
            Settled(followed, publish=[message]),
        ])  # fmt: skip

        assert time.monotonic() - started_at < 4

    refused = {number_of(delivery): str(error) for delivery, error in consumer.unpublishable()}
    assert sorted(map(str, refused)) == ["no exchange", "too large", "unwritable"]
    assert "'missing'" in refused["no exchange"]
    assert "PRECONDITION_FAILED" in refused["too large"]
    assert consumer.open_claims() == 3
    consumer.settle([Settled(delivery) for delivery in (nowhere, large, unwritable)])
    assert consumer.open_claims() == 0
    assert "next" in numbers(claim(broker.consumer(broker.queue + "next"), 1))


def test_a_client_is_told_at_once_that_its_message_is_refused(broker: Broker) -> None:
    producer = broker.producer(timeout_s=30)
    message = broker.message("lost")

    with pytest.raises(MessageRefused, match="no exchange 'missing'"):
        producer.publish(message._replace(exchange="missing", routing_key="x"))
    producer.publish(message)

    assert numbers(claim(broker.consumer(), 1)) == ["lost"]


def test_what_is_parked_for_a_queue_outlives_its_being_deleted_and_declared_again(delays: Broker) -> None:
    delays.publish("first")
    consumer = delays.consumer()
    consumer.settle([Settled(delivery) for delivery in claim(consumer, 1)])
    park(delays, "parked", in_s=1.5)

    delete(delays)

    assert numbers(claim(consumer, 1)) == ["parked"]


def test_a_queue_that_is_refused_is_an_error_and_the_others_are_still_consumed(broker: Broker) -> None:
    consumer = broker.consumer()
    broker.publish("before")
    [before] = claim(consumer, 1)
    with kombu.Connection(broker.url) as somebody:
        somebody.default_channel.queue_declare("private", exclusive=True)

        with pytest.raises(ImproperlyConfigured, match="'private' cannot be consumed"):
            consumer.set_queues([broker.queue, "private"])

        consumer.settle([Settled(before)])
        broker.publish("after")
        assert numbers(claim(consumer, 1)) == ["after"]


def test_a_queue_that_may_be_declared_and_not_consumed_is_forgotten_with_the_connection(broker: Broker) -> None:
    other = broker.queue + "only"
    consumer = broker.consumer()
    with kombu.Connection(broker.url) as somebody:
        channel = somebody.default_channel
        declare(broker, other)
        channel.basic_consume(other, exclusive=True)

        with pytest.raises(BrokerUnavailable, match="exclusive"):
            consumer.set_queues([broker.queue, other])

        consumer.reconnect()
        broker.publish("after")
        assert numbers(claim(consumer, 1)) == ["after"]


@pytest.mark.parametrize("count", ["abc", 7], ids=["text", "number"])
def test_a_delivery_count_that_the_sender_wrote_is_not_believed(broker: Broker, count: object) -> None:
    broker.publish("declares the queue")
    sent = amqp.Message(b"[[1], {}, {}]", application_headers={"x-delivery-count": count})
    with kombu.Connection(broker.url) as connection:
        connection.default_channel.basic_publish(sent, routing_key=broker.queue)

    assert [each.starts for each in claim(broker.consumer(), 2)] == [0, 0]
