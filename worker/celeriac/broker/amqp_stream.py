"""A py-amqp connection whose frames are read in bulk and written in one piece.

py-amqp still does the handshake, TLS and every method but one: `basic.deliver` is cut out of the bytes here (`amqp_frames`), because
that is where a worker's time goes.
"""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from amqp.method_framing import frame_writer

from celeriac.broker.amqp_frames import Arrival, deliveries, frame_at

#: Bytes asked of the socket at once.
_READ_BYTES = 262144


class AmqpStream:
    """Takes over the reading and writing of an open py-amqp connection. Not safe to use from several threads at once.

    arrived  gets every small delivery; a large one goes to the callback that its consumer was started with.
    """

    def __init__(self, raw: Any, arrived: Callable[[Arrival], None] | None = None) -> None:
        self.raw = raw
        self._arrived = arrived
        # Their own, not py-amqp's properties: those would connect again, in silence and without our consumers.
        self._transport = raw.transport
        self._socket = raw.sock
        self._tls = isinstance(raw.sock, ssl.SSLSocket)
        self._buffer = b""
        self._at = 0
        self._corked: list[bytes] | None = None
        #: Whether the broker takes nothing from publishers now: it has an alarm, for memory or disk.
        self.blocked = False
        raw.on_blocked = self._block
        raw.on_unblocked = self._unblock
        raw.blocking_read = self._wait_for_one
        raw.frame_writer = frame_writer(raw, self)

    # -- reading

    def read(self) -> None:
        """Take all that has come, without waiting. Raises OSError when the connection is gone, AMQPError as the broker says."""
        while True:
            while self._next() is not None:
                pass
            if not self._fill_at_once():
                return

    def wait(self, timeout_s: float) -> None:
        """Take one event, waiting for it. Raises TimeoutError when none came."""
        self.raw.drain_events(timeout=timeout_s)

    def pending(self) -> bool:
        """Whether TLS holds bytes of which the socket's descriptor knows nothing any more."""
        return self._tls and self._socket.pending() > 0

    def fileno(self) -> int:
        """The socket's descriptor. Raises ConnectionResetError when there is none any more."""
        descriptor: int = self._socket.fileno()
        if descriptor < 0:
            raise ConnectionResetError("the connection is gone")
        return descriptor

    def _wait_for_one(self, timeout: float | None = None) -> bool:
        """In place of py-amqp's blocking_read: whether an event was complete. Raises TimeoutError."""
        while True:
            done = self._next()
            if done is not None:
                return done
            self._fill(timeout)

    def _next(self) -> bool | None:
        """Handle what the buffer begins with: all small deliveries in a row, or one frame; None: it holds no whole one.

        True when something was complete, False for a part (py-amqp goes on reading then).
        """
        buffer, at = self._buffer, self._at
        if at >= len(buffer):
            return None
        if self._arrived is not None:
            found: list[Arrival] = []
            self._at, short = deliveries(buffer, at, found)
            for arrival in found:
                self._arrived(arrival)
            if found:
                return True
            if short:
                return None
        frame = frame_at(buffer, at)
        if frame is None:
            return None
        kind, channel, start, end = frame
        self._at = end
        done: bool = self.raw.on_inbound_frame((kind, channel, buffer[start : end - 1]))
        return done

    def _fill_at_once(self) -> bool:
        try:
            self._fill(0)
        except TimeoutError:
            return False
        return True

    def _fill(self, timeout: float | None) -> None:
        """Read once. Raises TimeoutError."""
        transport = self._transport
        try:
            if timeout == 0 and not self._tls:
                data = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            else:
                with transport.having_timeout(timeout) as sock:
                    data = sock.recv(_READ_BYTES)
        except BlockingIOError as error:  # SO_RCVTIMEO, or nothing there
            raise TimeoutError("the broker sent nothing in time") from error
        except TimeoutError:
            raise
        except OSError:
            transport.connected = False
            raise
        if not data:
            transport.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        self.raw.bytes_recv += 1

    # -- writing

    def write(self, data: Any) -> None:
        """Write frames; while corked, keep them."""
        if self._corked is not None:
            self._corked.append(bytes(data))  # py-amqp reuses its buffer
            return
        self._transport.write(data)
        self.raw.bytes_sent += 1

    @contextmanager
    def corked(self) -> Iterator[None]:
        """What is written meanwhile goes out in one piece at the end; nothing of it when the body raises. May be nested."""
        outer, kept = self._corked, list[bytes]()
        self._corked = kept
        try:
            yield
        finally:
            self._corked = outer
        if kept:
            self.write(b"".join(kept))

    def _block(self, _reason: str) -> None:
        self.blocked = True

    def _unblock(self) -> None:
        self.blocked = False
