"""The keeper: a thread that does what must be done in time even while a body holds the main thread.

It renews leases, releases what is due, restores what dead workers left, settles outcomes that a long body would keep waiting, gives
back what was claimed behind it, enforces its time limits, and ends a shutdown whose grace is over.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from celeriac.broker.consumer import Consumer
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable
from celeriac.worker.loop import LONG_S, SLICE_S, SLOTLESS_S, Loop
from celeriac.worker.pool import Pool

log = logging.getLogger(__name__)

#: Between two looks for what is due: a due task starts within a second.
SWEEP_S = 0.5
#: Between two looks whether the grace is over, while a body holds the main thread.
GRACE_S = 0.05


class Keeper:
    """One daemon thread. leaving: called before it ends the process, which a body holds."""

    def __init__(
        self, *, loop: Loop, consumer: Consumer, pool: Pool, lease_s: float, leaving: Callable[[], None] | None
    ) -> None:
        self._loop, self._consumer, self._pool, self._leaving = loop, consumer, pool, leaving
        self._renew_s = lease_s / 3 if consumer.leased else 1.0
        self._bodies = loop.bodies
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="celeriac-keeper", daemon=True)

    def start(self) -> None:
        """Keep from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop keeping."""
        self._stopped.set()
        self._bodies.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        renew_at = sweep_at = 0.0
        while not self._stopped.is_set():
            now = time.monotonic()
            try:
                if now >= renew_at:
                    self._renew()
                    self._loop.intake.keep(now)
                    renew_at = now + self._renew_s
                if now >= sweep_at:
                    if self._loop.broker_up:
                        self._consumer.sweep()
                    sweep_at = now + SWEEP_S
                    if self._pool.slotless_s(now) > SLOTLESS_S and self._loop.intake.reserved():
                        self._loop.intake.give_back_waiting()  # nobody here would run them soon
                if self._pool.in_caller:
                    self._relieve(now)
            except (BrokerUnavailable, BackendUnavailable) as error:
                log.debug("keeper: %s", error)  # the loop says it, once, and reconnects
                renew_at = sweep_at = now + SWEEP_S
            except Exception:  # leases must be renewed whatever happens: this thread may not end
                log.exception("the keeper failed; it goes on")
                renew_at = sweep_at = now + SWEEP_S
            wait_s = max(0.0, min(renew_at, sweep_at) - time.monotonic())
            if self._loop.stopping and self._pool.in_caller:
                wait_s = min(wait_s, GRACE_S)  # a signal handler may not wake us
            if self._bodies.wait(wait_s):
                self._stopped.wait(SLICE_S)

    def _renew(self) -> None:
        lost = self._consumer.renew()
        for delivery in lost:
            log.warning(
                "%s[%s] is no longer ours: its lease was over and another worker has it",
                delivery.headers.get("task"),
                delivery.headers.get("id"),
            )
        if lost:
            self._loop.intake.drop(lost)

    def _relieve(self, now: float) -> None:
        """What the main thread would do if a body did not hold it."""
        self._loop.announce_end()
        self._pool.tend(now)
        running = self._pool.running()
        if not running and not self._pool.lost:
            return
        held_s = now - running[0].started if running else LONG_S
        if self._loop.overdue(now):
            self._loop.abandon()
            log.warning("the grace is over: ending")
            if self._leaving is not None:
                self._leaving()
            logging.shutdown()
            os._exit(0)
        if held_s >= SLICE_S:
            self._loop.flush()
        if held_s >= LONG_S and self._pool.waiting():
            self._loop.intake.give_back_waiting()
