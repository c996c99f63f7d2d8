"""A connection to Redis on which the server may speak first: commands in one round trip, and what it pushes in between (RESP3).

The worker's hot path and its ear. Packing and parsing are hiredis'; nothing is sent twice: a broken line is an error, and its owner
opens another.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError

log = logging.getLogger(__name__)

#: What one command's parts may be.
Part = str | bytes | int | float
Command = tuple[Part, ...]
_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub takes tuples of one


class Line:
    """One connection of `pool`'s kind. Calls may come from several threads; they take turns.

    pushed   whether the server has said something since it was last set to False: a list that was looked at has changed, or somebody
             rang `channel`.
    listens  whether it can: RESP3, CLIENT TRACKING and SUBSCRIBE are there and allowed.
    """

    def __init__(self, pool: Any, *, channel: str, scripts: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._reader = hiredis.Reader()
        self._scripts = {hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(): script for script in scripts}
        self.pushed = False
        self.listens = True
        self._timeout_s: float | None = pool.connection_kwargs.get("socket_timeout") or 10.0
        try:
            self._open(pool, 3)
            self.call([("CLIENT", "TRACKING", "ON")])
            self._subscribe(channel)
        except (ResponseError, _Refused) as error:
            log.warning(
                "the broker does not tell its clients of changes (%s): an idle worker asks it a hundred times a second instead;"
                " Redis 6 or Valkey, with CLIENT TRACKING and SUBSCRIBE allowed, would do better",
                error,
            )
            self.listens = False
            self.close()
            self._open(pool, 2)
        self.call([("SCRIPT", "LOAD", script) for script in scripts])

    def _open(self, pool: Any, protocol: int) -> None:
        self._reader = hiredis.Reader()
        self._connection: Any = pool.connection_class(**{**pool.connection_kwargs, "protocol": protocol})
        self._connection.connect()
        self._socket: Any = self._connection._sock
        self._socket.settimeout(self._timeout_s)

    def _subscribe(self, channel: str) -> None:
        """The answer to SUBSCRIBE is a push, too; a refusal is an ordinary error."""
        self._socket.sendall(_pack(("SUBSCRIBE", channel)))
        while (reply := self._reader.gets()) is False:
            self._receive()
        if isinstance(reply, hiredis.ReplyError):
            raise _Refused(str(reply))

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def call(self, commands: Sequence[Command]) -> list[Any]:
        """The replies, in order, in one round trip. Raises redis-py's errors; the first refusal after all replies are read."""
        with self._lock:
            replies = self._exchange(commands)
            for place, reply in enumerate(replies):
                if isinstance(reply, hiredis.ReplyError):
                    replies[place] = self._again(commands[place], reply)
        return replies

    def _again(self, command: Command, error: Exception) -> Any:
        """The reply once the script is there: a server that was restarted or failed over knows none. Raises any other refusal."""
        text = str(error)
        if not text.startswith("NOSCRIPT"):
            raise ResponseError(text)
        loaded, reply = self._exchange([("SCRIPT", "LOAD", self._scripts[str(command[1])]), command])
        for answer in (loaded, reply):
            if isinstance(answer, hiredis.ReplyError):
                raise NoScriptError(str(answer))
        return reply

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            self._socket.sendall(b"".join([_pack(command) for command in commands]))
            replies: list[Any] = []
            while True:
                while (reply := self._reader.gets()) is not False:
                    if type(reply) is hiredis.PushNotification:
                        self.pushed = True
                    else:
                        replies.append(reply)
                if len(replies) >= len(commands):
                    return replies
                self._receive()
        except BaseException:
            self.close()  # a reply that was not read would be taken for the next one's
            raise

    def _receive(self) -> None:
        data = self._socket.recv(262144)
        if not data:
            raise RedisConnectionError("the server closed the connection")
        self._reader.feed(data)

    def peek(self) -> bool:
        """Whether the server has pushed something; what has come by now is read, nothing is waited for."""
        if self.pushed:
            return True
        with self._lock:
            self._socket.settimeout(0.0)
            try:
                self._receive()
            except (BlockingIOError, InterruptedError):
                return self.pushed
            except OSError as error:
                if type(error).__name__ not in {"SSLWantReadError", "SSLWantWriteError"}:
                    raise
                return self.pushed
            finally:
                self._socket.settimeout(self._timeout_s)
            while self._reader.gets() is not False:
                self.pushed = True
        return self.pushed

    def close(self) -> None:
        """Disconnect."""
        try:
            self._connection.disconnect()
        except (OSError, RedisError) as error:  # broken already
            log.debug("closing a broken connection: %s", error)


class _Refused(Exception):
    """The server does not let us listen."""


def script_sha(script: str) -> str:
    """By what EVALSHA knows a script."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
