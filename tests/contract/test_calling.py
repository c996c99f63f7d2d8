"""The contract of a call's options: one suite for Redis, Valkey, RabbitMQ and memory, on real servers."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import kombu
import pytest
from brokers import Broker, claim, numbers
from processes import wait_until

from celeriac import Celeriac
from celeriac.broker.connection import connect
from celeriac.exceptions import BrokerUnavailable, MessageRefused, NotRoutable, NotSupported
from celeriac.wire.message import Patience, Terms

every = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq", "memory"], indirect=True)
servers = pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq"], indirect=True)
redis_alone = pytest.mark.parametrize("broker", ["redis"], indirect=True)
rabbitmq_alone = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)

MANDATORY = Terms(mandatory=True)


@contextlib.contextmanager
def bound(broker: Broker, kind: str, *bindings: tuple[str, str]) -> Iterator[kombu.Exchange]:
    """An exchange, and queues bound to it by (queue, key), as kombu declares them."""
    exchange = kombu.Exchange(f"ex.{broker.queue}", type=kind)
    connection = connect(broker.address)
    try:
        channel = connection.channel()
        for queue, key in bindings:
            kombu.Queue(queue, exchange, routing_key=key)(channel).declare()
        yield exchange
    finally:
        connection.release()


# -- mandatory


@every
def test_a_mandatory_message_to_a_queue_that_nobody_has_declared_is_not_sent(broker: Broker) -> None:
    producer = broker.producer()

    with pytest.raises(NotRoutable, match=f"no queue '{broker.queue}'"):
        producer.publish(broker.message(1)._replace(terms=MANDATORY))

    assert broker.consumer().claim(1) == []


@every
def test_a_mandatory_message_goes_where_a_worker_has_declared_the_queue(broker: Broker) -> None:
    consumer = broker.consumer()
    consumer.claim(1)

    broker.producer().publish(broker.message(1)._replace(terms=MANDATORY))

    assert numbers(claim(consumer, 1)) == [1]


@every
def test_the_next_message_goes_after_one_that_could_not_be_routed(broker: Broker) -> None:
    producer = broker.producer()
    with pytest.raises(NotRoutable):
        producer.publish(broker.message(1, queue=broker.queue + "x")._replace(terms=MANDATORY))

    producer.publish(broker.message(2))
    producer.publish(broker.message(3)._replace(terms=MANDATORY))

    assert numbers(claim(broker.consumer(), 2)) == [2, 3]


@servers
def test_a_mandatory_message_that_is_not_due_needs_a_queue_too(broker: Broker) -> None:
    producer = broker.producer(park=True)
    message = broker.message(1)._replace(terms=MANDATORY)
    with pytest.raises(NotRoutable):
        producer.publish(message._replace(due_at=time.time() + 1))
    consumer = broker.consumer()
    if broker.kind == "rabbitmq":
        producer.delays([broker.queue])  # type: ignore[attr-defined]  # declares its queues, for a second or more

    producer.publish(message._replace(due_at=time.time() + 1.5))

    assert consumer.claim(1) == []
    assert numbers(claim(consumer, 1, timeout_s=10)) == [1]


@rabbitmq_alone
def test_a_queue_that_was_deleted_is_not_declared_again_for_a_mandatory_message(broker: Broker) -> None:
    producer = broker.producer()
    producer.publish(broker.message(1))
    with connect(broker.address) as connection:
        connection.channel().queue_delete(broker.queue)

    with pytest.raises(NotRoutable):
        producer.publish(broker.message(2)._replace(terms=MANDATORY))
    producer.publish(broker.message(3))

    assert numbers(claim(broker.consumer(), 1)) == [3]


@redis_alone
def test_a_queue_that_is_bound_to_another_exchange_counts_as_declared(broker: Broker) -> None:
    with bound(broker, "direct", (broker.queue, "key")):
        broker.producer().publish(broker.message(1)._replace(terms=MANDATORY))

    assert numbers(claim(broker.consumer(), 1)) == [1]


# -- exchanges


@every
@pytest.mark.parametrize(
    ("kind", "key", "reached"),
    [
        pytest.param("direct", "a", ["1"], id="direct"),
        pytest.param("topic", "news.sport", ["2", "3"], id="topic"),
        pytest.param("direct", "nobody", [], id="no match is dropped, as the caller did not mind"),
    ],
)
def test_a_message_to_an_exchange_goes_to_all_queues_that_match(
    broker: Broker, kind: str, key: str, reached: list[str]
) -> None:
    names = {number: f"{broker.queue}.{number}" for number in "123"}
    with bound(broker, kind, (names["1"], "a"), (names["2"], "news.*"), (names["3"], "news.#")) as exchange:
        message = broker.message(7)._replace(exchange=exchange.name, routing_key=key)
        broker.producer().publish(message)
        for number, name in names.items():
            consumer = broker.consumer(name)
            got = claim(consumer, 1) if number in reached else consumer.claim(1)
            assert [(each.exchange, each.routing_key) for each in got] == [(exchange.name, key)] * len(got)
            assert (numbers(got), [each.queue for each in got]) == (([7], [name]) if number in reached else ([], []))


@every
def test_a_mandatory_message_to_an_exchange_needs_a_binding_that_matches(broker: Broker) -> None:
    with bound(broker, "topic", (broker.queue, "news.#")) as exchange:
        producer = broker.producer()
        lost = broker.message(1)._replace(exchange=exchange.name, routing_key="sport", terms=MANDATORY)
        with pytest.raises(NotRoutable, match="'sport'"):
            producer.publish(lost)

        producer.publish(lost._replace(routing_key="news.sport"))

        assert numbers(claim(broker.consumer(), 1)) == [1]


@every
def test_an_exchange_that_is_not_there_is_an_error_for_every_message(broker: Broker) -> None:
    producer = broker.producer()

    with pytest.raises(MessageRefused, match="no exchange 'nowhere'"):
        producer.publish(broker.message(1)._replace(exchange="nowhere", routing_key="a"))


@pytest.mark.parametrize("broker", ["rabbitmq", "memory"], indirect=True)
def test_a_fanout_exchange_reaches_all_its_queues(broker: Broker) -> None:
    with bound(broker, "fanout", (broker.queue, ""), (broker.queue + "b", "")) as exchange:
        broker.producer().publish(broker.message(1)._replace(exchange=exchange.name, terms=MANDATORY))

        assert numbers(claim(broker.consumer(), 1)) == [1]
        assert numbers(claim(broker.consumer(broker.queue + "b"), 1)) == [1]


@redis_alone
def test_a_fanout_on_redis_reaches_who_listens_and_says_when_nobody_does(broker: Broker) -> None:
    """kombu's fanout on Redis is PUB/SUB: those who listen hear it, nothing is kept for the others."""
    terms = Terms(mandatory=True, exchange_type="fanout")
    exchange = kombu.Exchange("news", type="fanout")
    message = broker.message(1)._replace(exchange="news", routing_key="", terms=terms, queue="")
    producer = broker.producer()
    with pytest.raises(NotRoutable, match="nobody listens"):
        producer.publish(message)
    heard: list[Any] = []
    with connect(broker.address) as connection:
        queue = kombu.Queue(broker.queue, exchange)
        with kombu.Consumer(connection.channel(), [queue], callbacks=[lambda body, _: heard.append(body)], no_ack=True):
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.3)

            producer.publish(message)
            wait_until(lambda: _drained(connection, heard), what="the message")

    assert heard[0][0] == [1]


def _drained(connection: kombu.Connection, heard: list[Any]) -> bool:
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.2)
    return bool(heard)


# -- delivery mode, deadlines, tries


@every
def test_the_delivery_mode_travels(broker: Broker) -> None:
    broker.producer().publish(broker.message(1)._replace(terms=Terms(delivery_mode=1)))

    [delivery] = claim(broker.consumer(), 1)

    assert delivery.properties["delivery_mode"] == 1


@servers
@pytest.mark.parametrize(
    ("terms", "at_least_s", "at_most_s"),
    [
        pytest.param(Terms(patience=Patience(0)), 0.0, 1.5, id="one try"),
        pytest.param(Terms(timeout_s=0.8), 0.3, 2.0, id="a deadline"),
        pytest.param(Terms(patience=Patience(2, 0.4, 0.0, 0.4)), 0.8, 2.5, id="a policy"),
    ],
)
def test_a_publish_gives_up_when_its_call_says_so(
    broker: Broker, terms: Terms, at_least_s: float, at_most_s: float
) -> None:
    producer = broker.producer(timeout_s=30)
    producer.publish(broker.message(0))
    broker.server.kill()
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        producer.publish(broker.message(1)._replace(terms=terms))

    assert at_least_s <= time.monotonic() - began <= at_most_s
    broker.server.start()


@servers
def test_a_deadline_holds_with_a_broker_that_has_fallen_silent(broker: Broker) -> None:
    producer = broker.producer(timeout_s=30)
    producer.publish(broker.message(0))
    broker.server.pause()
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        producer.publish(broker.message(1)._replace(terms=Terms(timeout_s=0.5, patience=Patience(0))))

    assert time.monotonic() - began <= 4.0
    broker.server.resume()
    producer.publish(broker.message(2))


# -- require_consumer


@pytest.fixture
def app(broker: Broker) -> Iterator[Celeriac]:
    app = Celeriac("shop", broker=broker.url, set_as_current=False, task_default_queue=broker.queue)
    yield app
    app.close()


@servers
def test_require_consumer_raises_until_a_worker_consumes_the_queue(broker: Broker, app: Celeriac) -> None:
    task = app.task(lambda x: x, name="shop.count", require_consumer=True)
    with pytest.raises(NotRoutable, match=f"no worker consumes the queue '{broker.queue}'"):
        task.delay(1)
    consumer = broker.consumer()
    assert consumer.claim(1) == []  # an idle worker
    consumer.arm()

    task.delay(2)

    assert numbers(claim(consumer, 1)) == [2]
    task.delay(3)  # a busy one, which holds a message
    assert numbers(claim(consumer, 1)) == [3]


@servers
def test_require_consumer_holds_for_many_at_once_and_is_refused_for_a_part(broker: Broker, app: Celeriac) -> None:
    task = app.task(lambda x: x, name="shop.count", require_consumer=True)
    message = app.message(
        "shop.count", (1,), {}, task, countdown=None, eta=None, expires=None, task_id=None, options={}
    )

    with pytest.raises(NotRoutable, match="no worker consumes"):
        app.publish_many([message])
    with pytest.raises(NotSupported, match=r"shop\.count: require_consumer is not kept for a part"):
        app.message(
            "shop.count", (1,), {}, task, countdown=None, eta=None, expires=None, task_id=None, options={"require_consumer": True}
        )  # fmt: skip


@every
def test_require_consumer_asks_about_a_queue_and_not_about_an_exchange(broker: Broker, app: Celeriac) -> None:
    task = app.task(lambda x: x, name="shop.count")

    with pytest.raises(NotSupported, match="mandatory=True"):
        task.apply_async((1,), exchange="news", routing_key="a", require_consumer=True)


# -- urgency


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_urgency_means_the_same_everywhere(broker: Broker, app: Celeriac) -> None:
    if broker.kind == "rabbitmq":
        with connect(broker.address) as connection:
            kombu.Queue(broker.queue, max_priority=9)(connection.channel()).queue_declare()
    task = app.task(lambda x: x, name="shop.count")
    for urgency in ("low", "normal", "high", "low", "high"):
        task.apply_async((urgency,), urgency=urgency)
    consumer = broker.consumer(prefetch=1)

    got = []
    for _ in range(5):
        [delivery] = claim(consumer, 1)
        got += numbers([delivery])
        consumer.acknowledge([delivery])

    assert got == ["high", "high", "normal", "low", "low"]


# -- a connection of the caller's


@every
def test_a_connection_of_the_callers_is_used_and_left_open(broker: Broker, app: Celeriac) -> None:
    task = app.task(lambda x: x, name="shop.count")
    with connect(broker.address) as connection:
        task.apply_async((1,), connection=connection)
        task.apply_async((2,), producer=kombu.Producer(connection))
        with pytest.raises(NotSupported, match="connection") if broker.kind != "memory" else contextlib.nullcontext():
            task.apply_async((3,), connection=connection, mandatory=True)
        assert connection.connected

    assert numbers(claim(broker.consumer(), 2)) == [1, 2]
