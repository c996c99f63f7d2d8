"""Listens to what the workers of one broker say, and tells the fleet."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from celeriac.broker.eventbus import Unread
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac_operator import clock
from celeriac_operator.fleet.heartbeats import Fleet

log = logging.getLogger("celeriac_operator.fleet")

#: Seconds in which events gather before they are read: to wake for each of a fleet's costs more than to read it.
GATHER_S = 0.5


class Receiver(Protocol):
    """Where events come from: `celeriac.broker.eventbus.EventReceiver`, or a test's list."""

    def drain(self, timeout_s: float) -> Sequence[Mapping[str, Any] | Unread]: ...

    def close(self) -> None: ...


class Ears:
    """A thread that feeds a Fleet from the broker's events, and reconnects for ever.

    on_change   called when a worker came, went or changed its drain state.
    """

    def __init__(self, receiver: Receiver, fleet: Fleet, *, name: str, on_change: Callable[[], None]) -> None:
        self._receiver = receiver
        self._fleet = fleet
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"ears-{name}", daemon=True)
        self._listening_since: float | None = None
        self._error = ""
        self._malformed: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def retire(self) -> None:
        """Ask the thread to end and close its connection, without waiting."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until it has, some seconds at the most."""
        if self._thread.ident is not None:
            self._thread.join(timeout=5.0)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def listening_since(self) -> float | None:
        """When the present, unbroken hearing began (epoch seconds), or None while the broker cannot be heard."""
        return self._listening_since

    def _run(self) -> None:
        pause_s = 0.5
        while not self._stopping.is_set():
            try:
                self._take(self._receiver.drain(0.5))
            # Whatever a broker or somebody's event makes the transport raise: deaf ears would hold every pool for ever.
            except Exception as error:
                self._listening_since = None
                known = isinstance(error, BrokerUnavailable | ImproperlyConfigured)
                text = str(error) if known else repr(error)
                if text != self._error:
                    self._error = text
                    log.warning("cannot hear heartbeats: %s", text, exc_info=None if known else error)
                self._stopping.wait(pause_s)
                pause_s = min(pause_s * 2, 10.0)
                continue
            if self._listening_since is None:
                self._listening_since = clock.now()
                if self._error:
                    log.info("hearing heartbeats again")
                self._error, pause_s = "", 0.5
            self._stopping.wait(GATHER_S)
        self._receiver.close()

    def _take(self, events: Sequence[Mapping[str, Any] | Unread]) -> None:
        changed = False
        now = clock.now()
        for event in events:
            try:
                changed = self._fleet.hear(event, now) or changed
            except ValueError as error:
                sender = event.glance.incarnation if isinstance(event, Unread) else str(event.get("hostname"))[:100]
                if sender not in self._malformed and len(self._malformed) < 100:
                    self._malformed.add(sender)  # once each: it will send the next one in two seconds
                    log.warning("malformed events of %s are passed over: %s", sender, error)
        if changed:
            self._on_change()
