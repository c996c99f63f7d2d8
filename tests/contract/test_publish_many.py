"""Many messages at once: in order, on every kind of broker, none lost and, where the broker can tell, none twice."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from brokers import Broker, claim, numbers

from celeriac.broker.amqp_producer import AmqpProducer
from celeriac.broker.consumer import Settled
from celeriac.broker.producer import MOST_AT_ONCE, RedisProducer
from celeriac.exceptions import BrokerUnavailable, EncodeError, MessageRefused

every = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq", "memory"], indirect=True)
servers = pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
redis_alone = pytest.mark.parametrize("broker", ["redis"], indirect=True)
rabbitmq_alone = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)

#: More than two goes.
MANY = 2 * MOST_AT_ONCE + 7


@every
def test_many_come_in_order_as_each_would_alone(broker: Broker) -> None:
    sent = [broker.message(number, headers={"custom": number}) for number in range(MANY)]

    broker.producer().publish_many(sent)

    found = claim(broker.consumer(prefetch=2000), MANY, timeout_s=20)
    assert [delivery.headers for delivery in found] == [message.headers for message in sent]
    assert numbers(found) == list(range(MANY))


@every
def test_many_go_each_to_its_own_queue(broker: Broker) -> None:
    other = broker.queue + "other"
    producer = broker.producer()

    producer.publish_many([broker.message(number, queue=other if number % 2 else "") for number in range(10)])

    assert numbers(claim(broker.consumer(), 5)) == [0, 2, 4, 6, 8]
    assert numbers(claim(broker.consumer(other), 5)) == [1, 3, 5, 7, 9]


@every
def test_nothing_is_sent_when_one_body_cannot_be_encoded(broker: Broker) -> None:
    with pytest.raises(EncodeError):
        broker.producer().publish_many([broker.message(1), broker.message(object()), broker.message(3)])

    assert broker.consumer().claim(3) == []


@every
def test_none_is_none(broker: Broker) -> None:
    broker.producer().publish_many([])

    assert broker.consumer().claim(1) == []


@redis_alone
def test_each_priority_has_its_list(broker: Broker) -> None:
    broker.producer().publish_many([broker.message(number, priority=9 - number) for number in range(10)])

    assert numbers(claim(broker.consumer(), 10)) == [7, 8, 9, 4, 5, 6, 1, 2, 3, 0]


@servers
def test_what_is_not_due_is_parked_in_the_broker(broker: Broker) -> None:
    producer = broker.producer(park=True)
    if broker.kind == "rabbitmq":
        producer.delays([broker.queue])  # type: ignore[attr-defined]  # declares its queues, for a second or more
    later = datetime.fromtimestamp(time.time() + 1.2, UTC)

    producer.publish_many([broker.message(number, eta=later if number else None) for number in range(4)])

    consumer = broker.consumer()
    assert numbers(claim(consumer, 1)) == [0]
    assert consumer.claim(3) == []
    assert sorted(map(str, numbers(claim(consumer, 3)))) == ["1", "2", "3"]
    assert time.time() >= later.timestamp()


@redis_alone
def test_a_large_lot_goes_in_several_pieces(broker: Broker) -> None:
    broker.producer().publish_many([broker.message("x" * 1_400_000) for _ in range(5)])

    assert len(claim(broker.consumer(), 5)) == 5
    assert _notes(broker) == 3


@redis_alone
def test_a_lot_whose_answer_is_lost_is_there_once(broker: Broker) -> None:
    producer = broker.producer()
    assert isinstance(producer, RedisProducer)
    producer.publish(broker.message("connected"))
    queues = producer._open()
    queues.push_once_script = _loses_its_answer(queues.push_once_script)

    producer.publish_many([broker.message(number) for number in range(20)])

    assert numbers(claim(broker.consumer(), 21)) == ["connected", *range(20)]
    assert broker.depth().ready == 0


@redis_alone
def test_a_lot_that_the_server_refuses_leaves_no_note_that_it_has_come(broker: Broker) -> None:
    with broker.server.client() as client:
        client.set(broker.queue, "no list")
        producer = broker.producer(timeout_s=1.5)
        mended = threading.Timer(0.5, client.delete, [broker.queue])
        mended.start()

        producer.publish_many([broker.message(number) for number in range(5)])

        mended.join()
    assert numbers(claim(broker.consumer(), 5)) == [0, 1, 2, 3, 4]


@servers
def test_many_survive_a_restart_of_the_broker_in_their_midst(broker: Broker) -> None:
    producer = broker.producer(timeout_s=100)  # a busy machine starts RabbitMQ in half a minute
    lots = [[broker.message(number) for number in range(start, start + 600)] for start in range(0, 6000, 600)]
    producer.publish_many(lots[0])
    done: list[int] = []

    def publish() -> None:
        for lot in lots[1:]:
            producer.publish_many(lot)
            done.append(len(lot))

    thread = threading.Thread(target=publish)
    thread.start()
    while len(done) < 2:
        time.sleep(0.001)
    broker.server.stop()
    broker.server.start()
    thread.join(timeout=120)

    assert sum(done) == 5400
    found: list[Any] = []
    consumer = broker.consumer(prefetch=500)
    while (batch := consumer.claim(500)) or len(set(found)) < 6000:
        found += numbers(batch)
        consumer.settle([Settled(delivery) for delivery in batch])
    assert set(found) == set(range(6000))
    assert len(found) == 6000 or broker.kind == "rabbitmq"


@servers
def test_without_a_broker_many_fail_within_the_deadline_and_it_says_how_many_are_there(broker: Broker) -> None:
    producer = broker.producer(timeout_s=1.0)
    messages = [broker.message(number) for number in range(3)]
    producer.publish_many(messages)
    broker.server.stop()
    began = time.monotonic()
    try:
        with pytest.raises(BrokerUnavailable, match=r"^0 of 3 messages are surely on their queues") as refused:
            producer.publish_many(messages)
        took_s = time.monotonic() - began
    finally:
        broker.server.start()

    assert took_s < 10
    assert refused.value.published == frozenset()


@redis_alone
def test_what_is_there_is_told_from_what_is_not(broker: Broker) -> None:
    with broker.server.client() as client:
        client.set("broken", "no list")
    messages = [broker.message(number, queue="broken" if number == 1 else "") for number in range(4)]

    with pytest.raises(BrokerUnavailable, match=r"^3 of 4 messages") as refused:
        broker.producer(timeout_s=0.3).publish_many([messages[0], messages[2], messages[3], messages[1]])

    assert refused.value.published == {0, 1, 2}
    assert numbers(claim(broker.consumer(), 3)) == [0, 2, 3]


@rabbitmq_alone
def test_a_refused_message_does_not_keep_its_neighbours_from_going(broker: Broker) -> None:
    messages = [broker.message(number) for number in range(5)]
    messages[2] = messages[2]._replace(exchange="nowhere", routing_key="x")

    with pytest.raises(MessageRefused, match=r"4 of 5 messages are surely on their queues.*nowhere") as refused:
        broker.producer().publish_many(messages)

    assert refused.value.published == {0, 1, 3, 4}
    assert numbers(claim(broker.consumer(), 4)) == [0, 1, 3, 4]


@rabbitmq_alone
def test_two_threads_share_a_producer(broker: Broker) -> None:
    producer = broker.producer(timeout_s=20)
    assert isinstance(producer, AmqpProducer)
    lots = [[broker.message(start + number) for number in range(800)] for start in (0, 1000)]
    threads = [threading.Thread(target=producer.publish_many, args=(lot,)) for lot in lots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = [int(str(number)) for number in numbers(claim(broker.consumer(prefetch=2000), 1600))]
    assert sorted(found) == [*range(800), *range(1000, 1800)]
    assert [number for number in found if number < 1000] == list(range(800))


def _loses_its_answer(script: Callable[..., Any]) -> Callable[..., Any]:
    """Runs it, and breaks the connection as if before its answer; once."""
    lost: list[bool] = []

    def run(**named: Any) -> Any:
        answer = script(**named)
        if not lost:
            lost.append(True)
            raise ConnectionResetError("the answer was lost")
        return answer

    return run


def _notes(broker: Broker) -> int:
    with broker.server.client() as client:
        return len([key for key in client.scan_iter() if key.startswith("celeriac.sent")])
