"""Connections to Redis that read into 8 KiB, for a process that holds many: redis-py keeps 64 KiB for each."""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

#: Bytes that one read takes from a socket. A heartbeat has one or two thousand.
READ_SIZE = 8192


class SmallChannel(Channel):  # type: ignore[misc]
    """kombu's, but for the size of what a connection reads into."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        return {**super()._connparams(asynchronous), "socket_read_size": READ_SIZE}


class SmallTransport(Transport):  # type: ignore[misc]
    """kombu's, with those channels."""

    Channel = SmallChannel


def read_little() -> None:
    """From now on connections of this process by `redis://` and `rediss://` URLs are such. To be called before the first one is made."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:{SmallTransport.__name__}"))
