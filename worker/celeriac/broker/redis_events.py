"""What is published on Redis under a pattern, read in bulk: kombu's consumer takes ten times the CPU a message, and a fleet sends hundreds
of heartbeats a second.
"""

import logging
import time
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

log = logging.getLogger(__name__)

#: Seconds for which a stream without a pause is read before it is handed over.
_AT_ONCE_S = 0.25


class Subscription:
    """A connection of `pool`'s kind that listens to the channels of `pattern`. Opening it, TLS and authentication are redis-py's.

    Raises redis-py's errors and OSError; after one it is of no more use.
    """

    def __init__(self, pool: Any, pattern: str, *, timeout_s: float = 10.0) -> None:
        self._reader = hiredis.Reader()
        self._connection: Any = pool.connection_class(**{**pool.connection_kwargs, "protocol": 2})
        self._connection.connect()
        try:
            self._connection.send_command("PSUBSCRIBE", pattern)
            self._socket: Any = self._connection._sock
            self._socket.settimeout(timeout_s)
            while (answer := self._reader.gets()) is False:
                self._receive()
            if isinstance(answer, hiredis.ReplyError):
                raise ResponseError(str(answer))
        except BaseException:
            self.close()
            raise

    def read(self, timeout_s: float) -> list[bytes]:
        """What has been published since the last call, as it was sent; waits up to timeout_s for the first."""
        found: list[bytes] = []
        until = time.monotonic() + timeout_s + _AT_ONCE_S
        self._socket.settimeout(timeout_s)
        while time.monotonic() < until:
            try:
                self._receive()
            except OSError as error:
                if isinstance(error, TimeoutError | BlockingIOError) or type(error).__name__ == "SSLWantReadError":
                    break
                raise
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise ResponseError(str(reply))
                if reply[0] == b"pmessage":
                    found.append(reply[3])
            self._socket.settimeout(0.0 if found else max(0.0, until - _AT_ONCE_S - time.monotonic()))
        return found

    def _receive(self) -> None:
        data = self._socket.recv(262144)
        if not data:
            raise RedisConnectionError("the server closed the connection")
        self._reader.feed(data)

    def close(self) -> None:
        """Disconnect."""
        try:
            self._connection.disconnect()
        except (OSError, RedisError) as error:  # broken already
            log.debug("closing a broken connection: %s", error)
