"""Commands to workers over a broker that goes away: whoever sends one is told so, and does not wait until it is back."""

import threading
from typing import Any

import pytest
from brokers import Broker
from processes import wait_until

from celeriac.broker.mailbox import Mailbox
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire import control

MARK = control.drain(mark="m", epoch=1, ttl_s=60.0, destination=["celeriac@w"])


def mailbox(broker: Broker, **options: Any) -> Mailbox:
    """One that has sent a command, so that it has a connection."""
    made = Mailbox(broker.url, transport_options=options)
    broker.closing.callback(made.close)
    made.send(MARK)
    return made


def outcome(box: Mailbox, *, within_s: float) -> BaseException | None:
    """What sending one more comes to. It must come to something."""
    ends: list[BaseException | None] = []

    def send() -> None:
        try:
            box.send(MARK)
        except BrokerUnavailable as error:
            ends.append(error)
        else:
            ends.append(None)

    threading.Thread(target=send, daemon=True).start()
    wait_until(lambda: ends, timeout_s=within_s, what="an answer or an error")
    return ends[0]


@pytest.mark.parametrize("broker", ["redis", "valkey", "rabbitmq"], indirect=True)
def test_a_command_to_a_broker_that_is_gone_is_an_error_and_the_next_one_goes_when_it_is_back(broker: Broker) -> None:
    box = mailbox(broker)
    broker.server.kill()

    assert isinstance(outcome(box, within_s=20), BrokerUnavailable)

    broker.server.start()
    wait_until(lambda: outcome(box, within_s=20) is None, timeout_s=60, what="a command that is sent")


@pytest.mark.parametrize("broker", ["redis"], indirect=True)  # what RabbitMQ is told waits in the socket
def test_a_command_to_a_broker_that_has_fallen_silent_is_an_error(broker: Broker) -> None:
    box = mailbox(broker, socket_timeout=1.0)
    broker.server.pause()

    assert isinstance(outcome(box, within_s=30), BrokerUnavailable)


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_a_command_finds_its_way_where_the_broker_was_restarted_since_the_last_one(broker: Broker) -> None:
    box = mailbox(broker)
    broker.server.kill()
    broker.server.start()

    assert outcome(box, within_s=30) is None
