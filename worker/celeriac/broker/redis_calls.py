"""One command and its answer on connections to Redis that are kept: a client's road. redis-py's pool and client take three times the CPU."""

from collections.abc import Callable
from typing import Any

import hiredis

#: What one command's parts may be.
Command = tuple[str | bytes | int | float, ...]
#: Connections kept for the next call: after a burst from many threads the others are closed.
_MOST_KEPT = 10
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub takes tuples of one


class RedisCalls:
    """Connections of `pool`'s kind, beside those it counts; as many as threads call at once. Safe to use from several threads.

    Opening them, TLS, authentication, Sentinel, time-outs and the question after a long silence whether the server is there are redis-py's.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        #: Taken and given back by list operations that no other thread can come between.
        self._free: list[Any] = []

    def call(self, *command: str | bytes | int | float) -> Any:
        """The answer. Raises redis-py's errors; nothing is sent twice. After an error the connection is given up, whatever it was."""
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._pool.connection_class(**self._pool.connection_kwargs)
            connection.connect()  # by itself it would not ask Sentinel where the master is
        try:
            connection.send_packed_command((_pack(command),))
            answer = connection.read_response()
        except BaseException:
            connection.disconnect()  # an answer that was not read would be taken for the next one's
            raise
        if len(self._free) < _MOST_KEPT:
            self._free.append(connection)
        else:
            connection.disconnect()
        return answer

    def close(self) -> None:
        """Disconnect what is not in use."""
        while self._free:
            self._free.pop().disconnect()
