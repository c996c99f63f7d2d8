"""Depths that a broker refuses to tell: an unknown number is never taken for none."""

from typing import Any

import amqp
import kombu
import pytest
from amqp.exceptions import NotFound
from kombu.transport.virtual import Channel

from celeriac.broker.depth import DepthProbe, QueueDepth


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        pytest.param("NOT_FOUND - no queue 'mails' in vhost '/'", "", id="a queue that does not exist is empty"),
        pytest.param(
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'mails' in vhost '/' is down or inaccessible",
            "the queue mails cannot be read",
            id="a queue whose node is down is not",
        ),
    ],
)
def test_depth_of_a_queue_that_rabbitmq_does_not_find(
    monkeypatch: pytest.MonkeyPatch, refusal: str, error: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:  # a cluster of two nodes for one sentence would be too much
        raise NotFound(refusal, (50, 10))

    monkeypatch.setattr(Channel, "queue_declare", refuse)
    probe = DepthProbe("memory://")

    depth = probe.probe({"mails": 1.0})["mails"]
    probe.close()

    assert (depth == QueueDepth(consumers=0)) is (error == "")
    assert error in depth.error


def test_a_place_of_dead_letters_that_rabbitmq_does_not_have_is_not_asked_for_each_time(
    rabbitmq: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kombu.Connection(rabbitmq.url) as connection, connection.channel() as channel:
        for name in ("mails", "mails.dead", "bulk"):
            channel.queue_declare(name, durable=True, auto_delete=False)
        for name in ("mails", "mails.dead", "mails.dead"):
            channel.basic_publish(amqp.Message(b"x"), routing_key=name)
        probe = DepthProbe(rabbitmq.url)
        queues = {"mails": 1.0, "bulk": 1.0, "nowhere": 1.0}
        asked: list[str] = []
        declare = amqp.Channel.queue_declare
        monkeypatch.setattr(
            amqp.Channel,
            "queue_declare",
            lambda self, queue, **more: asked.append(queue) or declare(self, queue, **more),
        )

        first = probe.probe(queues)
        asked.clear()
        again = probe.probe(queues)
        probe.close()

    assert first == again
    assert (first["mails"].ready, first["mails"].dead, first["bulk"].dead, first["nowhere"].ready) == (1, 2, 0, 0)
    assert asked == ["mails", "mails.dead", "bulk", "nowhere"]
