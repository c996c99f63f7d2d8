"""task-sent events of clients: on request, for every way to send, and never in the way of a call."""

import contextlib
import socket
from typing import Any

import pytest
from brokers import Broker
from processes import wait_until

from celeriac import Celeriac
from celeriac.broker.connection import BrokerAddress
from celeriac.broker.eventbus import EventReceiver, SentEvents


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_monitors_hear_of_calls_as_they_are_sent(broker: Broker) -> None:
    app = Celeriac("shop", broker=broker.url, set_as_current=False, task_send_sent_event=True)
    task = app.task(lambda x: x, name="shop.pay")
    heard: list[dict[str, Any]] = []

    with contextlib.closing(EventReceiver(broker.url)) as receiver, app:
        receiver.drain(0.01)
        one = app.send_task("shop.pay", [7], task_id="a1", queue="money", retries=2)
        two, three = task.send_many([(1,), (2,)])
        wait_until(lambda: heard.extend(receiver.drain(0.2)) or len(heard) >= 3, timeout_s=10)

    assert [event["uuid"] for event in heard] == [one.id, two.id, three.id]
    first = heard[0]
    assert (first["type"], first["name"], first["args"], first["queue"], first["retries"]) == (
        "task-sent",
        "shop.pay",
        "[7]",
        "money",
        2,
    )
    assert (first["routing_key"], first["root_id"], first["hostname"][:3]) == ("money", "a1", "gen")


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_nobody_is_told_unless_the_settings_say_so(broker: Broker) -> None:
    app = Celeriac("shop", broker=broker.url, set_as_current=False)

    with contextlib.closing(EventReceiver(broker.url)) as receiver, app:
        receiver.drain(0.01)
        app.send_task("t")
        assert receiver.drain(0.3) == []


def test_a_monitor_that_cannot_be_told_harms_no_call_and_is_left_alone_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)
    message = app.message("t", (), {}, None, countdown=None, eta=None, expires=None, task_id="a1", options={})
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        events = SentEvents(BrokerAddress(url=f"redis://127.0.0.1:{closed.getsockname()[1]}/0"), "gen@here")

        events.tell(message)
        events.tell(message)

    assert caplog.text.count("no task-sent events for 30 s") == 1
    events.close()
