"""Hearing of many results on one connection: SUBSCRIBE to their keys, to which every record is published as it is stored."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from celeriac.backends.base import ResultBackend
from celeriac.backends.watching import read_each
from celeriac.exceptions import DecodeError
from celeriac.wire.result import ResultMeta

log = logging.getLogger(__name__)

#: Channels in one command.
MANY = 1000
#: The server is asked for a sign of life this often, and all records are looked at once more: one may have been missed.
LOOK_S = 10.0
SEND_TIMEOUT_S = 10.0


class Listener:
    """See watching.Source. pool: whose kind of connection it opens, one of its own."""

    pause_s = LOOK_S

    def __init__(
        self, backend: ResultBackend, pool: Any, prefix: str, read: Callable[[bytes], ResultMeta],
        errors: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        self._backend = backend
        self._prefix = prefix
        self._read = read
        self._errors = errors
        self._ids: set[str] = set()
        self._look_at = time.monotonic() + LOOK_S
        self._pinged = False
        self._reader = hiredis.Reader()
        with self._errors():
            self._connection = pool.connection_class(**{**pool.connection_kwargs, "protocol": 2})
            self._connection.connect()
            self._socket = self._connection._sock

    def add(self, ids: Sequence[str]) -> None:
        self._ids.update(ids)
        self._send("SUBSCRIBE", ids)

    def remove(self, ids: Sequence[str]) -> None:
        self._ids.difference_update(ids)
        self._send("UNSUBSCRIBE", ids)

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def read(self) -> list[tuple[str, ResultMeta | Exception]]:
        told: list[tuple[str, ResultMeta | Exception]] = []
        confirmed: list[str] = []
        for reply in self._replies():
            kind, channel, data = reply if len(reply) == 3 else (b"pong", b"", b"")
            self._pinged = False
            task_id = channel.decode()[len(self._prefix) :]
            if kind == b"message":
                told.append((task_id, self._record(data)))
            elif kind == b"subscribe":
                confirmed.append(task_id)
        if time.monotonic() >= self._look_at:
            self._ping()
            confirmed = list(self._ids)
        # What was stored before the server listened for us; and whatever a lost connection has hidden.
        told.extend(read_each(self._backend, confirmed).items())
        return told

    def _record(self, payload: bytes) -> ResultMeta | Exception:
        try:
            return self._read(payload)
        except DecodeError as error:
            return error

    def _ping(self) -> None:
        with self._errors():
            if self._pinged:
                raise RedisConnectionError(f"the server has not answered for {LOOK_S:g} s")
        self._pinged = True
        self._look_at = time.monotonic() + LOOK_S
        self._send("PING")

    def _replies(self) -> list[Any]:
        replies = []
        with self._errors():
            self._receive()
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise RedisConnectionError(str(reply))
                replies.append(reply)
        return replies

    def _receive(self) -> None:
        """Whatever has come by now."""
        self._socket.settimeout(0.0)
        while True:
            try:
                data = self._socket.recv(262144)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}:
                    return
                raise
            if not data:
                raise RedisConnectionError("the server closed the connection")
            self._reader.feed(data)

    def _send(self, command: str, ids: Sequence[str] = ()) -> None:
        keys = [self._prefix + task_id for task_id in ids]
        with self._errors():
            self._socket.settimeout(SEND_TIMEOUT_S)
            for start in range(0, max(1, len(keys)), MANY):
                parts: Any = (command, *keys[start : start + MANY])
                self._socket.sendall(hiredis.pack_command(parts))

    def close(self) -> None:
        try:
            self._connection.disconnect()
        except (OSError, RedisError) as error:  # broken already
            log.debug("closing a broken connection: %s", error)
