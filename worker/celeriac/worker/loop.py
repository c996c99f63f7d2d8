"""The main thread's loop: take, admit, run, settle; and how it ends, drains, and lives through outages.

What becomes of a claimed message until its body starts is in `intake`; what follows when a body has ended is in `settling`.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from celeriac import signals
from celeriac.app.base import Celeriac
from celeriac.backends.base import ResultBackend
from celeriac.broker.consumer import Consumer, Delivery
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable, ImproperlyConfigured
from celeriac.policy import drain as drain_policy
from celeriac.policy import shutdown
from celeriac.policy.admission import claim_size
from celeriac.policy.outcome import Lost
from celeriac.policy.timelimit import UNLIMITED
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Totals
from celeriac.wire.event import TaskTotals
from celeriac.worker.aftermath import Aftermath
from celeriac.worker.autoscale import Autoscaler
from celeriac.worker.errormail import ErrorMails
from celeriac.worker.executor import Done, Job
from celeriac.worker.intake import Intake
from celeriac.worker.limits import LocalStore, Places
from celeriac.worker.pool import Pool
from celeriac.worker.settling import Settler
from celeriac.worker.wake import Wake

log = logging.getLogger(__name__)

#: Outcomes wait at most this long while bodies run.
SLICE_S = 0.005
#: The longest sleep: a bound on how late a flag set by another thread is seen.
NAP_S = 1.0
MAX_PAUSE_S = 10.0
#: A body that runs longer than this lets go of what was claimed behind it.
LONG_S = 0.05
#: What came here goes back when no body could have started for so long.
SLOTLESS_S = 5.0


class Loop:
    """Claims from `consumer`, runs in `pool`, stores in `backend`. Other threads may call `flush`, `heard_drain`, `stop` and the questions."""

    def __init__(
        self, *, app: Celeriac, consumer: Consumer, backend: ResultBackend, pool: Pool, totals: Totals, events: TaskEvents,
        hostname: str, queues: Sequence[str], grace_s: float, wake: Wake,
    ) -> None:  # fmt: skip
        conf = app.conf
        self._consumer, self._pool, self._totals = consumer, pool, totals
        self.hostname = hostname
        self.app = app
        #: Of failures that nobody else can tell of.
        self.aftermath = Aftermath(hostname)
        self._multiplier: int | None = conf.worker_prefetch_multiplier
        self._grace_s = grace_s
        self._wake = wake
        #: Set while bodies hold the main thread: then the keeper looks after everything else.
        self.bodies = threading.Event()
        places = Places(app.coordination or LocalStore(), conf.task_lease)
        self._settler = Settler(
            app=app, consumer=consumer, backend=backend, pool=pool, totals=totals, events=events, hostname=hostname, places=places,
            consumer_told=self, aftermath=self.aftermath,
        )  # fmt: skip
        self.flush = self._settler.flush
        #: What is claimed and has not started: see there.
        self.intake = Intake(
            app=app, consumer=consumer, backend=backend, pool=pool, settler=self._settler, totals=totals, events=events,
            hostname=hostname, queues=queues, places=places, consumer_told=self,
        )  # fmt: skip
        #: With --autoscale.
        self.autoscaler: Autoscaler | None = None
        # Life.
        self.phase = shutdown.RUNNING
        self.started = False
        self._asked_at: float | None = None
        self._cold = self._announced = False
        self._heeded = drain_policy.Heeded()
        self._leaders: dict[str, drain_policy.Heeded] = {}  # by the pool they speak for
        #: The drain mark under which the loop has seen that nothing is left here.
        self._rested = ""
        self.broker_up = True
        self._again_at = 0.0
        self._pause_s = 0.0
        #: Slots whose body has run for longer than LONG_S, and when to count them again.
        self._long = 0
        self._count_at = 0.0
        #: How many the last claim brought, when none of them took a slot.
        self._passing = 0
        #: What other threads want done here, each with where its outcome goes.
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self.turned_at = time.monotonic()

    @property
    def mails(self) -> ErrorMails | None:
        """Who sends mail about failures, if anybody does."""
        return self._settler.mails

    @mails.setter
    def mails(self, mails: ErrorMails | None) -> None:
        self._settler.mails = mails

    # -- the loop

    def run(self) -> None:
        """Until a shutdown has ended. Broker and store may come and go meanwhile."""
        self.started = True
        while self.phase != shutdown.STOPPED:
            self.turned_at = now = time.monotonic()
            try:
                if not self._turn(now):
                    self._sleep(time.monotonic())
            except (BrokerUnavailable, BackendUnavailable) as error:
                self._outage(error, time.monotonic())

    def _turn(self, now: float) -> bool:
        """One round; whether anything moved."""
        self._shutdown(now)
        while self._asked:
            self._do(*self._asked.popleft())
        self.intake.end_revoked()
        self._pool.tend(now)
        if self.autoscaler is not None and self.phase == shutdown.RUNNING:
            self.autoscaler.look(now)
        if self._pool.in_caller and self._pool.waiting():
            alone = self._settler.outstanding <= 1 and self.intake.reserved() <= 1
            if not alone or any(job.limits != UNLIMITED for job in self._pool.unstarted()):
                self.bodies.set()  # one body alone, without a limit, keeps nothing waiting: the keeper need not be woken for it
            self._pool.run(SLICE_S)
            self.bodies.clear()
        if now < self._again_at:
            return False  # broker or store are away: keep running what is claimed, and wait
        if not self.broker_up:
            self._reconnect()
        claiming = self._claiming(now)
        along = claiming and self._consumer.leased  # the others have pushed what they have
        moved = self._settler.flush(self._room if along else None)
        if claiming:
            self._rested = ""
            taken = self._settler.take_claimed()
            if taken:
                self._received(taken)
            if now >= self._count_at:
                moved |= self._let_go(now)
            moved |= self.intake.release(now)
            if not taken:
                moved |= self._claim()
        elif self.phase == shutdown.RUNNING:
            self._consumer.pause()
            taken = self._settler.take_claimed()
            if taken:
                self._consumer.give_back(taken)
            moved |= self.intake.give_back_unstarted()
            mark = self._heeded.mark
            self._rested = mark.id if mark is not None and not self._settler.busy() else ""
        self._pause_s = 0.0
        return moved

    def in_loop(self, ask: Callable[[], Any], timeout_s: float = 5.0) -> Any:
        """What `ask()` returns or raises when the loop's own thread calls it: for what the pool and the intake do not share.

        Raises TimeoutError when a body holds that thread for so long; it is done all the same, later.
        """
        answer: Future[Any] = Future()
        self._asked.append((ask, answer))
        self._wake.set()
        return answer.result(timeout_s)

    def _do(self, ask: Callable[[], Any], answer: "Future[Any]") -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            answer.set_exception(error)

    def _claiming(self, now: float) -> bool:
        heeded = self._heeded  # the control thread may change it at any time
        mark = heeded.mark
        if mark is not None and drain_policy.still(mark, now) is None:
            log.warning("drain mark %s has expired: claiming again", mark.id)
            if self._heeded is heeded:
                self._heeded = heeded._replace(mark=None)
            mark = None
        return mark is None and self.phase == shutdown.RUNNING

    # -- take

    def _claim(self) -> bool:
        limit, free = self._room()
        if limit <= 0:
            if self._pool.slotless_s(time.monotonic()) > SLOTLESS_S:
                self._consumer.pause()  # what was pushed and not claimed
            return False
        deliveries = self._consumer.claim(limit, free=free)
        if not deliveries:
            return False
        self._received(deliveries)
        return True

    def _received(self, deliveries: Sequence[Delivery]) -> None:
        before = self.intake.admitted
        self.intake.received(deliveries)
        self._passing = len(deliveries) if self.intake.admitted == before else 0

    def _let_go(self, now: float) -> bool:
        """Give back what waits behind long bodies, so that others may run it; whether anything did. In a body's own thread the keeper does."""
        self._count_at = now + LONG_S / 2
        if self._pool.in_caller or self._multiplier is not None or not self._settler.outstanding:
            self._long = 0
            return False
        self._long = sum(now - run.started > LONG_S for run in self._pool.running())
        waiting = self.intake.reserved()
        if not self._long or not waiting or waiting <= claim_size(
            free=0, slots=self._pool.slots, run_s=self._totals.recent_run_s, multiplier=None, held=self._long
        ):  # fmt: skip
            return False
        return self.intake.give_back_waiting() > 0

    def _room(self) -> tuple[int, int]:
        """(how many messages to claim now, slots that are free for them); nothing while enough of what was claimed waits."""
        waiting = self.intake.reserved()
        running = self._settler.outstanding - self._pool.waiting()
        free = max(0, self._pool.slots - running)
        size = claim_size(
            free=free, slots=self._pool.slots, run_s=self._totals.recent_run_s, multiplier=self._multiplier,
            held=self._long, passing=self._passing,
        )  # fmt: skip
        self._consumer.allow(max(0, size - waiting))
        if size <= waiting or waiting > size // 4:
            return 0, 0
        return size - waiting, max(0, free - waiting)

    # -- shutdown and drain

    def stop(self, *, cold: bool = False) -> None:
        """Begin to end: stop claiming, finish what runs, within the grace. Asked twice, or cold: at once.

        A signal handler calls it, between any two steps of the main thread: it takes no lock, and leaves the rest to whoever looks next.
        """
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        else:
            cold = True
        self._cold = self._cold or cold
        self._wake.set()

    def announce_end(self) -> None:
        """Say once that a shutdown was asked for; whoever hears of it first: a body may hold the main thread for long."""
        if self._asked_at is None or self._announced:
            return
        self._announced = True
        bodies = len(self._pool.running())
        log.warning(
            "shutting down: %d bodies run and have %.0f s to end%s", bodies, self._grace_s, "; ask again to end at once" if bodies else ""
        )  # fmt: skip

    def _shutdown(self, now: float) -> None:
        if self._asked_at is None:
            return
        step = shutdown.next_step(
            self.phase,
            asked_at=self._asked_at,
            cold=self._cold,
            busy=self._settler.busy(),
            grace_s=self._grace_s,
            now=now,
        )
        if step.phase == self.phase:
            return
        if self.phase == shutdown.RUNNING:
            self.announce_end()
            if signals.worker_shutting_down.receivers:
                signals.worker_shutting_down.send(
                    sender=self.hostname, sig="TERM", how="Cold" if self._cold else "Warm", exitcode=0
                )
            try:
                self._consumer.pause()
                self.intake.give_back_unstarted()
            except BrokerUnavailable as error:
                log.error(
                    "while shutting down: %s; what was claimed comes back by itself when its lease is over", error
                )
        if step.requeue:
            self.abandon()
        self.phase = step.phase

    @property
    def stopping(self) -> bool:
        """Whether a shutdown was asked for."""
        return self._asked_at is not None

    def overdue(self, now: float) -> bool:
        """Whether the grace is over and a body still holds the main thread: then the keeper ends the process."""
        asked = self._asked_at
        return asked is not None and (self._cold or now - asked >= self._grace_s) and self.phase != shutdown.STOPPED

    def abandon(self) -> None:
        """Settle what is done, and return what still runs: it will run again elsewhere. What was acknowledged before it ran has failed."""
        self._pool.halt()
        now, wall = time.monotonic(), time.time()
        running = self._pool.running()
        why = Lost(
            f"cut off by the shutdown of {self.hostname}: it did not end within the grace of {self._grace_s:.0f} s"
        )
        self._settler.ended(
            [
                Done(run.job, why, wall - (now - run.started), now - run.started, untold=True)
                for run in running
                if run.job.acked
            ]
        )
        try:
            self.flush()
            self.intake.give_back_waiting()
            self.intake.give_back([run.job.delivery for run in running if not run.job.acked])
            for job, *_ in running:
                how = "was acknowledged before it ran: it has failed" if job.acked else "goes back to its queue"
                log.warning(
                    "%s[%s] did not end within the grace: its message %s",
                    job.task.name,
                    job.delivery.headers.get("id"),
                    how,
                )
        except (BrokerUnavailable, BackendUnavailable) as error:
            log.error("while shutting down: %s; what was claimed comes back by itself when its lease is over", error)

    def heard_drain(self, *, mark: str, epoch: int, ttl_s: float) -> bool:
        """Heed the operator's drain mark; whether it was (an old leader's is not)."""
        self._heeded = drain_policy.heard(self._heeded, id=mark, epoch=epoch, ttl_s=ttl_s, now=time.monotonic())
        self._wake.set()
        return self._heeded.mark is not None and self._heeded.mark.id == mark

    def heard_undrain(self, *, epoch: int) -> bool:
        """Resume; whether it was heeded."""
        self._heeded = drain_policy.lifted(self._heeded, epoch=epoch, now=time.monotonic())
        self._wake.set()
        return self._heeded.mark is None

    def heeds(self, epoch: int | None, by: str = "") -> bool:
        """Whether to obey who says that it leads with this number, the first or the newest; None: a person, who is always obeyed.

        by   the pool it speaks for; "": this worker's own, which is drained.
        """
        if epoch is None:
            return True
        now = time.monotonic()
        known = self._leaders.get(by, drain_policy.Heeded()) if by else self._heeded
        heeded = drain_policy.followed(known, epoch=epoch, now=now)
        if heeded is None:
            return False
        if not by:
            self._heeded = heeded
        else:
            if len(self._leaders) > 1000:
                self._leaders.clear()  # anybody may send names
            self._leaders[by] = heeded
        return True

    def drain_state(self) -> tuple[drain_policy.Mark, str, float] | None:
        """(mark, draining or drained, seconds until it expires), None when no mark holds."""
        mark = drain_policy.still(self._heeded.mark, time.monotonic())
        if mark is None:
            return None
        at_rest = self._rested == mark.id and not self._settler.busy()
        return mark, "drained" if at_rest else "draining", mark.expires_at - time.monotonic()

    @property
    def state(self) -> str:
        """running, draining, drained or stopping."""
        if self.stopping:
            return "stopping"
        drain = self.drain_state()
        return drain[1] if drain else "running"

    # -- outages

    def _outage(self, error: BrokerUnavailable | BackendUnavailable, now: float) -> None:
        self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2 or 0.25)
        self._again_at = now + self._pause_s
        if isinstance(error, BrokerUnavailable):
            self.broker_up = False
        log.warning("%s; trying again in %.2g s", error, self._pause_s)

    def _reconnect(self) -> None:
        if not self._consumer.leased:  # what came on the old connection is delivered again
            self.intake.forget()
        self._consumer.reconnect()
        self.broker_up = True
        log.warning("the broker is back")

    def _sleep(self, now: float) -> None:
        """Until something may have to be done."""
        if self._pool.in_caller and self._pool.waiting():
            return
        until = min(now + NAP_S, self._pool.tend(now))
        if self.autoscaler is not None:
            until = min(until, self.autoscaler.look_at)
        if now < self._again_at:
            until = min(until, self._again_at)
        claiming = self._claiming(now) and self.broker_up and now >= self._again_at
        if claiming and self._multiplier is None and self.intake.reserved():
            until = min(until, max(now, self._count_at))
        free = self._pool.slots > self._settler.outstanding
        fd = None
        if claiming and (free or not self._consumer.keeps_delayed):
            until = min(until, self.intake.look_at(now))
            if free:
                if self._consumer.arm():
                    return
                fd = self._consumer.fileno()
                if fd is None:
                    until = min(until, now + 0.01)
        if self._asked_at is not None:
            until = min(until, now + 0.05)
        self._wake.wait((fd, self._pool.fileno()), max(0.0, until - now), self._pool_is_done)

    def _pool_is_done(self) -> bool:
        return self._settler.outstanding > len(self._pool.running()) + self._pool.waiting()

    # -- questions of other threads

    @property
    def queues(self) -> list[str]:
        """Queues consumed now."""
        return self.intake.queues

    def running(self) -> list[tuple[Job, float]]:
        """(job, seconds so far) of each body that runs."""
        now = time.monotonic()
        return [(run.job, now - run.started) for run in self._pool.running()]

    def at_rest(self) -> bool:
        """Whether nothing runs, is reserved, or was there to be claimed a moment ago. In the loop's own thread."""
        return not self._settler.busy() and not self.intake.reserved() and not self._claim()

    @property
    def slots(self) -> int:
        """Bodies that can run at once, child processes that are about to be ready included: what this worker is good for."""
        return max(self._pool.slots, self._pool.size - self._pool.lost)

    def slotless_s(self, now: float) -> float:
        """Seconds for which no body could have started: see `Pool.slotless_s`."""
        return self._pool.slotless_s(now)

    @property
    def lost(self) -> int:
        """Slots whose body has not come back after its hard time limit."""
        return self._pool.lost

    def set_queues(self, queues: Sequence[str]) -> None:
        """Consume these from now on. Raises ImproperlyConfigured for none."""
        if not queues:
            raise ImproperlyConfigured("a worker needs at least one queue")
        self._consumer.set_queues(queues)
        self.intake.queues = list(queues)
        self._wake.set()

    def revoke(self, ids: Iterable[str]) -> None:
        """See `Intake.revoke`."""
        self.intake.revoke(ids)
        self._wake.set()

    def revoke_stamps(self, stamps: Mapping[str, Any]) -> None:
        """See `Intake.revoke_stamps`."""
        self.intake.revoke_stamps(stamps)
        self._wake.set()

    def set_rate_limit(self, task: str, rate: Any, scope: str | None = None, by: str = "") -> None:
        """See `Intake.set_rate_limit`. Raises KeyError, ValueError."""
        self.intake.set_rate_limit(task, rate, scope, by)
        self._wake.set()

    def task_totals(self) -> Mapping[str, TaskTotals]:
        """What was done so far, by task."""
        return self._totals.task_totals()
