"""`broker`: one kind of broker after the other, by indirect parameter: redis, valkey, rabbitmq, memory."""

from collections.abc import Iterator

import pytest
from brokers import Broker


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """An empty broker of the kind that the parameter names."""
    kind: str = request.param
    fixtures = {"redis": "redis_server", "valkey": "valkey_server", "rabbitmq": "rabbitmq"}
    server = request.getfixturevalue(fixtures[kind]) if kind in fixtures else None
    # kombu keeps a memory broker's queues for as long as the process lives; the queue's name is new in each test.
    broker = Broker(kind=kind, url=server.url if server is not None else "memory://", server=server)
    with broker.closing:
        yield broker
