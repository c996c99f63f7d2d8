"""Brokers in this process: kombu's memory transport, with a broker of its own for each virtual host. `memory://` is kombu's one."""

from collections import defaultdict
from queue import Queue
from typing import Any

from kombu.transport import memory
from kombu.transport.virtual import BrokerState


class _Broker:
    """What a broker holds: exchanges with their bindings, and queues."""

    def __init__(self) -> None:
        self.state = BrokerState()
        self.queues: dict[str, Queue[Any]] = {}


#: By virtual host.
_brokers: defaultdict[str, _Broker] = defaultdict(_Broker)


class Channel(memory.Channel):  # type: ignore[misc]
    """A channel of one of them."""

    def __init__(self, connection: Any, **options: Any) -> None:
        self.queues = _brokers[connection.client.virtual_host].queues
        super().__init__(connection, **options)


class Transport(memory.Transport):  # type: ignore[misc]
    """A transport to one of them."""

    Channel = Channel

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = _brokers[client.virtual_host].state
