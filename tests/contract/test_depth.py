"""Depths that a broker refuses to tell: an unknown number is never taken for none."""

from typing import Any

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
