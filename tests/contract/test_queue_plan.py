"""task_queues on real brokers: what is declared, and that a message arrives by its exchange."""

from collections.abc import Iterator
from typing import Any

import amqp
import kombu
import pytest
from brokers import Broker, claim

from celeriac import Celeriac
from celeriac.broker.connection import connect
from celeriac.broker.consumer import open_consumer

MEDIA = kombu.Exchange("media", type="topic")
QUEUES = [
    kombu.Queue("video", MEDIA, routing_key="video.#"),
    kombu.Queue("sound", MEDIA, routing_key="sound.*"),
    kombu.Queue("plain", kombu.Exchange("plain"), routing_key="plain"),
]


@pytest.fixture
def app(broker: Broker) -> Iterator[Celeriac]:
    with Celeriac("shop", broker=broker.url, set_as_current=False, task_queues=QUEUES) as made:
        yield made


@pytest.mark.parametrize("broker", ["redis", "rabbitmq", "memory"], indirect=True)
def test_a_message_for_a_queue_of_a_topic_exchange_arrives_by_its_key(app: Celeriac) -> None:
    app.send_task("t", task_id="both", queue="video", routing_key="video.hd")
    app.send_task("t", task_id="by the exchange", exchange="media", routing_key="sound.mp3")
    app.send_task("t", task_id="direct", queue="plain")

    consumer = open_consumer(app.broker_address(), ["video", "sound", "plain"], node="w", lease_s=30.0, prefetch=9)
    try:
        found = {each.headers["id"]: each.queue for each in claim(consumer, 3)}
    finally:
        consumer.close()
    assert found == {"both": "video", "by the exchange": "sound", "direct": "plain"}


def arguments_of(address: Any, name: str, arguments: dict[str, Any]) -> bool:
    """Whether RabbitMQ has the queue with just these arguments: it refuses another declaration."""
    with connect(address) as connection:
        channel = connection.connection.channel()
        try:
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            return True
        except amqp.exceptions.PreconditionFailed:
            return False


def test_queues_are_declared_as_the_settings_say(rabbitmq: Any) -> None:
    app = Celeriac("shop", broker=rabbitmq.url, set_as_current=False, task_queues=["a"], task_queue_max_priority=5)
    app.conf.task_create_missing_queue_type = "quorum"

    with app:
        app.send_task("t", queue="a")
        app.send_task("t", queue="missing")
        address = app.broker_address()

    assert arguments_of(address, "a", {"x-max-priority": 5})
    assert not arguments_of(address, "a", {})
    assert arguments_of(address, "missing", {"x-queue-type": "quorum"})


def test_an_existing_queue_is_used_as_it_is_and_bound_as_the_settings_say(rabbitmq: Any) -> None:
    with kombu.Connection(rabbitmq.url) as connection:
        kombu.Queue("video", queue_arguments={"x-max-length": 9})(connection.default_channel).queue_declare()
    app = Celeriac("shop", broker=rabbitmq.url, set_as_current=False, task_queues=QUEUES, task_queue_max_priority=5)

    with app:
        app.send_task("t", queue="video")
        address = app.broker_address()

    assert arguments_of(address, "video", {"x-max-length": 9})
    with kombu.Connection(rabbitmq.url) as connection:
        assert kombu.Queue("video")(connection.default_channel).get() is not None
