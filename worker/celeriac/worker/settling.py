"""Settling: what was done is stored, published, acknowledged and observed, a batch at a time.

The line that acknowledges a message is in `Settler._apply`, step 3. Its four steps never change their order.
"""

import logging
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celeriac import signals, states
from celeriac.app.base import Celeriac
from celeriac.app.task import Task
from celeriac.backends.base import ResultBackend
from celeriac.broker.codec import content_types
from celeriac.broker.consumer import Consumer, Delivery, Settled, once_more, retried
from celeriac.broker.topology import dead_queue_name
from celeriac.exceptions import BrokerUnavailable, EncodeError, MessageRefused
from celeriac.policy.outcome import Failed, Lost, Outcome, RetryAsked, Revoked, Succeeded, Unreadable
from celeriac.policy.settlement import ACK, AGAIN, DEAD, DEATH, REQUEUE, Rules, Settlement, settle, untold
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Observation, Totals
from celeriac.wire.chord import Joined
from celeriac.wire.message import parse_time, short_repr
from celeriac.wire.result import class_name
from celeriac.worker.aftermath import Aftermath
from celeriac.worker.errormail import ErrorMails
from celeriac.worker.executor import Done, Job
from celeriac.worker.joining import FALLEN, Ended, Joiner
from celeriac.worker.limits import Places
from celeriac.worker.pool import Pool
from celeriac.worker.request import TaskRequest
from celeriac.worker.storing import store_each, with_call
from celeriac.worker.uniques import let_go

log = logging.getLogger(__name__)
task_log = logging.getLogger("celeriac.task")

#: Seconds until what was refused by the store or the broker is tried again.
AGAIN_S = 1.0

_SIGNALS = {
    "dead_lettered": (signals.task_unknown, signals.task_rejected),
    "revoked": (signals.task_revoked,),
    "expired": (signals.task_revoked,),
    "rejected": (signals.task_rejected,),
}
#: States in which a body was to run, and has failed.
_FAILURES = frozenset({"failed", "dead_lettered"})

#: The states of calls that were ended; all others that fell have failed.
_STATES = {"revoked": states.REVOKED, "expired": states.REVOKED, "succeeded": states.SUCCESS}

#: Settlements that put the message at the end of its queue again, and what that adds to its starts.
_ONCE_MORE = {AGAIN: 1, REQUEUE: 0}

Pair = tuple[Done, Settlement]


class Unknown(Task):
    """Stands for the type of a message whose task is not registered here."""

    name = "unknown"


UNKNOWN = Unknown()


class Settler:
    """Knows every job from its submission to its settlement. The main thread and the keeper both call it; one lock holds them apart."""

    def __init__(
        self, *, app: Celeriac, consumer: Consumer, backend: ResultBackend, pool: Pool, totals: Totals, events: TaskEvents, hostname: str,
        places: Places, consumer_told: Any, aftermath: Aftermath,
    ) -> None:  # fmt: skip
        self._app, self._consumer, self._backend, self._pool = app, consumer, backend, pool
        self._totals, self._events = totals, events
        self._hostname = hostname
        self._places = places
        #: What signals of the worker name as their sender.
        self._consumer_told = consumer_told
        self._aftermath = aftermath
        self._accept = content_types(app.conf.accept_content)
        #: Told of failures, where mail is sent about them.
        self.mails: ErrorMails | None = None
        self._joiner = Joiner(app, backend, self._accept)
        self._lock = threading.Lock()
        #: Done and not settled; and those of them that were refused, to be tried again later.
        self._pending: list[Done] = []
        self._refused: list[Done] = []
        self._refused_until = 0.0
        #: Jobs submitted to the pool and not yet collected from it.
        self.outstanding = 0
        #: Came with an acknowledgement, and waits for the loop to take it.
        self._claimed: list[Delivery] = []

    def submit(self, jobs: list[Job]) -> None:
        """Hand jobs to the pool."""
        with self._lock:
            self.outstanding += len(jobs)
            starting = [
                job.delivery for job in jobs if job.task._unique is not None and job.task._unique.until == "start"
            ]
            if starting:
                let_go(self._app, starting)
            self._pool.submit(jobs)

    def take_back(self) -> list[Job]:
        """Jobs that the pool has not started; they will not run."""
        with self._lock:
            jobs = self._pool.take_back()
            self.outstanding -= len(jobs)
        return jobs

    def ended(self, done: list[Done]) -> None:
        """Note messages that end without a run."""
        with self._lock:
            self._pending += done

    def busy(self) -> int:
        """Jobs that are not settled; a batch that is being settled counts."""
        with self._lock:
            return self.outstanding + len(self._pending) + len(self._refused)

    def take_claimed(self) -> list[Delivery]:
        """What was claimed together with acknowledgements since the last call."""
        with self._lock:
            claimed, self._claimed = self._claimed, []
        return claimed

    def flush(self, room: Callable[[], tuple[int, int]] | None = None) -> bool:
        """Settle what is done; whether anything was. Raises BrokerUnavailable, BackendUnavailable; then all of it is kept.

        room  (how many to claim, free slots) now that what is done has left its slots: they come with the acknowledgement, in one
              round trip, where the broker can do that. See `take_claimed`.
        """
        with self._lock:
            done = self._pool.finished()
            self.outstanding -= len(done)
            self._pending += done
            if self._refused and time.monotonic() >= self._refused_until:
                self._pending += self._refused
                self._refused = []
            self._pending += self._unpublishable()
            if not self._pending:
                return False
            batch, self._pending = self._pending, []
            try:
                refused = self._apply(batch, room)
            except BaseException:
                self._pending = batch  # nothing was acknowledged that is not stored; all of it is tried again
                raise
            if refused:
                self._refused += refused
                self._refused_until = time.monotonic() + AGAIN_S
        return True

    def _apply(self, batch: Sequence[Done], room: Callable[[], tuple[int, int]] | None) -> list[Done]:
        """Store, publish, acknowledge, observe: in this order. Returns what was refused and must be tried again.

        1. the result is safe; 2. and 3. what follows is queued and the message may go, in one step where the broker can; 4. only then
        is it told. A crash between any two leads to a second delivery, never to a lost task or result.
        """
        now = time.time()
        kept = [(done, self._settle(done, now)) for done in batch]
        # 1. store
        refused, unstorable = self._store([pair for pair in kept if pair[1].store is not None and not pair[0].stored])
        if refused:
            out = {id(done.job) for done in refused}
            kept = [pair for pair in kept if id(pair[0].job) not in out]
        if unstorable:
            kept = self._untold(kept, unstorable, now)
        joined: Mapping[int, Sequence[Joined]] = {}
        for _, settlement in kept:
            if settlement.chords or settlement.part is not None or settlement.state in FALLEN:
                kept, joined, later = self._join(kept, now)
                refused += later
                break
        # 2. publish, 3. acknowledge
        late = [
            Settled(
                done.job.delivery,
                s.publish if s.then not in _ONCE_MORE else (once_more(done.job.delivery, _ONCE_MORE[s.then]),),
                s.death,
            )
            for done, s in kept
            if not done.job.acked
        ]
        if late:
            claimed = self._consumer.settle(late, claim=room() if room is not None else (0, 0))
            self._claimed += claimed
        unpublished, failed = self._follow_early(kept)
        failed += self._unpublishable({done.job.delivery.claim: done for done, _ in kept} if late else {})
        if unpublished or failed:
            out = {id(done.job) for done in (*unpublished, *failed)}
            kept = [pair for pair in kept if id(pair[0].job) not in out]
            refused += unpublished
        if failed:
            refused += self._apply(failed, None)
        ended = [done.job.delivery for done, s in kept if done.job.task._unique is not None and _has_ended(done, s)]
        if ended:
            let_go(self._app, ended)
        if joined:  # but those whose body may not be on its queue: who ended it may have to join again
            closing = [
                one
                for done, _ in kept
                if not self._consumer.under_way(done.job.delivery)
                for one in joined.get(id(done.job), ())
            ]
            if closing:
                self._backend.close_chords(closing)
        if self._places.used:  # others may run
            self._places.release([done.job.delivery for done, _ in kept])
        # 4. observe
        self._totals.settled([self._observation(done, settlement) for done, settlement in kept])
        self._tell(kept)
        return refused

    def _join(self, kept: list[Pair], now: float) -> tuple[list[Pair], Mapping[int, Sequence[Joined]], list[Done]]:
        """Open the chords that begin, count the members that end: what is to be published with whom, and what is to be closed after it, by
        the identity of the job it is published with; and those whose followers' records the store refuses for now."""
        starts = [start for _, settlement in kept for start in settlement.chords]
        if starts:
            self._backend.open_chords(starts)
        follows = self._joiner.join([
            Ended(done, s.part, _STATES.get(s.state, states.FAILURE), s.error, s.traceback)
            for done, s in kept
            if s.part is not None or s.state in FALLEN
        ])  # fmt: skip
        if follows.messages:
            more = follows.messages
            kept = [(done, s._replace(publish=(*s.publish, *more.get(id(done.job), ())))) for done, s in kept]
        later = [done for done, _ in kept if id(done.job) in follows.later]
        kept = [pair for pair in kept if id(pair[0].job) not in follows.later]
        if follows.untold:
            kept = self._untold(kept, follows.untold, now)
        return kept, follows.joined, later

    def _untold(self, kept: list[Pair], reasons: Mapping[int, str], now: float) -> list[Pair]:
        """The same, where a reason is given, by the job's identity, with the message as a dead letter."""
        return [
            (done, untold(s, reasons[id(done.job)], done.job.delivery.headers, queue=done.job.delivery.queue, hostname=self._hostname, now=now))
            if id(done.job) in reasons else (done, s)
            for done, s in kept
        ]  # fmt: skip

    def _settle(self, done: Done, now: float) -> Settlement:
        """The settlement; what cannot be settled as it asks to be is a failure of that task alone."""
        delivery, rules = done.job.delivery, done.job.rules
        try:
            found = settle(
                done.outcome, delivery.headers, rules, queue=delivery.queue, hostname=self._hostname, now=now
            )
        except Exception as error:
            log.exception("%s[%s] asked for what cannot be done", *_named(done))
            failed = Failed(error, tracebacks.format_exc())
            found = settle(failed, delivery.headers, rules, queue=delivery.queue, hostname=self._hostname, now=now)
        if found.retry_at is not None:
            found = found._replace(publish=(*found.publish, retried(delivery, found.retry_at)))
        if rules.result_extended and found.store is not None and found.encoded is None:
            found = found._replace(store=with_call(found.store, delivery, self._accept))
        return found

    def _store(self, storing: Sequence[Pair]) -> tuple[list[Done], Mapping[int, str]]:
        """Write the records. Returns those to be tried again: refused for now, or as the failure that a record which cannot be written is;
        and why there will be no record of those, by the job's identity, of which not even that can be written."""
        if not storing:
            return [], {}
        if self._app.has_own_stores:
            errors = store_each(
                self._app,
                [
                    (done.job.task, s.store._replace(reply_to=done.job.delivery.reply_to), s.encoded)
                    for done, s in storing
                    if s.store is not None
                ],
            )
        else:
            records = [(s.store, s.encoded) for _, s in storing if s.store is not None]
            if self._backend.answers:
                replies = [done.job.delivery.reply_to for done, _ in storing]
                records = [
                    (meta._replace(reply_to=to), encoded) for (meta, encoded), to in zip(records, replies, strict=True)
                ]
            errors = self._backend.store(records)
        refused = []
        unstorable = {}
        for (done, settlement), error in zip(storing, errors, strict=True):
            if isinstance(error, EncodeError):
                log.error("the record of %s[%s] cannot be written: %s", *_named(done), error)
                if _may_fail(done.outcome):
                    refused.append(done._replace(outcome=Failed(error, f"{type(error).__name__}: {error}")))
                elif settlement.state != "retried":
                    unstorable[id(done.job)] = f"the result store takes no record of how it ended: {error}"
            elif error is not None:
                log.error("the result of %s[%s] was refused, its message is kept: %s", *_named(done), error)
                refused.append(done)
        return refused, unstorable

    def _unpublishable(self, batch: Mapping[Any, Done] | None = None) -> list[Done]:
        """Those whose next message the broker refuses, as failures. batch: what was settled just now, by claim."""
        failed: list[Done] = []
        for delivery, error in self._consumer.unpublishable():
            done = (batch or {}).get(delivery.claim)
            if done is None:  # the broker has taken its time
                rules = Rules(ignore_result=bool(delivery.headers.get("ignore_result")))
                done = Done(Job(UNKNOWN, delivery, rules), Failed(error, ""), time.time(), 0.0)
            failed.append(_not_followed(done, error))
        return failed

    def _follow_early(self, kept: Sequence[tuple[Done, Settlement]]) -> tuple[list[Done], list[Done]]:
        """Publish what follows messages that were acknowledged before they ran.

        Returns those that the broker did not take for now, and those that it never takes, as failures.
        """
        failed: list[Done] = []
        early = [(done, s) for done, s in kept if done.job.acked and (s.publish or s.then != ACK)]
        for place, (done, settlement) in enumerate(early):
            try:
                self._publish_early(done, settlement)
            except BrokerUnavailable as error:
                log.error("what follows %s[%s] is kept: %s", *_named(done), error)
                return [done for done, _ in early[place:]], failed
            except (EncodeError, MessageRefused) as error:
                failed.append(_not_followed(done, error))
        return [], failed

    def _publish_early(self, done: Done, settlement: Settlement) -> None:
        for message in settlement.publish:
            self._app.producer.publish(message)
        delivery = done.job.delivery
        if settlement.then != ACK:
            dead = settlement.then == DEAD
            more = {DEATH: dict(settlement.death or {})} if dead else {"redelivered": True}
            headers = {**delivery.headers, **more}
            self._app.producer.publish_raw(
                dead_queue_name(delivery.queue) if dead else delivery.queue, delivery.body, headers,
                content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
            )  # fmt: skip

    def _observation(self, done: Done, settlement: Settlement) -> Observation:
        delivery, outcome = done.job.delivery, done.outcome
        ran = done.job.task is not UNKNOWN and settlement.state not in {"revoked", "expired", "dead_lettered"}
        wait_s = None
        sent_at = delivery.sent_at
        if ran and sent_at is not None:
            eta = delivery.headers.get("eta")
            wait_s = max(0.0, done.started_at - max(sent_at, (parse_time(eta) or 0.0) if eta else 0.0))
        reason = _reason(outcome) if settlement.state == "retried" else ""
        name = done.job.task.name or "unknown"
        return Observation(
            delivery.queue, name, settlement.state, done.run_s if ran else None, wait_s, reason, delivery.starts > 0
        )

    def _tell(self, kept: Sequence[tuple[Done, Settlement]]) -> None:
        """Log lines and events. The commonest case, a success nobody listens to, costs nothing here."""
        info = task_log.isEnabledFor(logging.INFO)
        for done, settlement in kept:
            state = settlement.state
            headers = done.job.delivery.headers
            if state == "succeeded":
                if info:
                    task_log.info("%s[%s] succeeded in %.3f s", headers["task"], headers["id"], done.run_s)
            elif state in {"failed", "dead_lettered", "rejected"}:
                quiet = isinstance(done.outcome, Failed) and done.outcome.expected
                detail = settlement.traceback or short_repr(settlement.error or (settlement.death or {}).get("detail"))
                level = logging.INFO if quiet else logging.ERROR
                task_log.log(
                    level, "%s[%s] %s: %s", headers.get("task"), headers.get("id"), state.replace("_", "-"), detail
                )
            elif settlement.then == AGAIN or settlement.retry_at is not None:
                task_log.error("%s[%s] runs again: %s", headers.get("task"), headers.get("id"), settlement.error)
            elif info:
                task_log.info(
                    "%s[%s] %s: %s", headers.get("task"), headers.get("id"), state, short_repr(settlement.error)
                )
            if state in _FAILURES:
                self._failed(done, settlement)
            elif settlement.retry_at is not None and settlement.error is not None:
                self._aftermath.retried(done.job.task, done.job.delivery, settlement.error, settlement.retry_at)
            if self._events.enabled:
                self._event(done, settlement)
            if state in _SIGNALS and any(signal.receivers for signal in _SIGNALS[state]):
                self._signal(done, settlement)

    def _failed(self, done: Done, settlement: Settlement) -> None:
        """Hooks that nobody else calls, and mail."""
        task, error = done.job.task, settlement.error
        if error is None or task is UNKNOWN:
            return
        if done.untold:
            self._aftermath.failed(task, done.job.delivery, error, settlement.traceback or str(error))
        if self.mails is not None and task.send_error_emails:
            self.mails.failed(task, done.job.delivery.headers, error, settlement.traceback)

    def _signal(self, done: Done, settlement: Settlement) -> None:
        """Signals of messages whose body did not run, or was refused; the executor sends the others."""
        delivery, name = done.job.delivery, done.job.delivery.headers.get("task")
        told = self._consumer_told
        if isinstance(done.outcome, Unreadable) and done.outcome.reason in {"unknown_task", "refused"}:
            signals.task_unknown.send(
                sender=told, name=name, id=delivery.headers.get("id"), message=delivery, exc=settlement.error
            )
        elif settlement.state in {"revoked", "expired"}:
            request = TaskRequest(delivery, done.job.task, hostname=self._hostname, accept=self._accept)
            signals.task_revoked.send(sender=done.job.task, request=request, **_how_revoked(done.outcome))
        elif not isinstance(done.outcome, Lost):
            signals.task_rejected.send(sender=told, message=delivery, exc=settlement.error)

    def _event(self, done: Done, settlement: Settlement) -> None:
        headers, state, add = done.job.delivery.headers, settlement.state, self._events.add
        if state in {"succeeded", "ignored"}:
            add(
                "task-succeeded",
                headers,
                result=done.outcome.shown if isinstance(done.outcome, Succeeded) else "",
                runtime=done.run_s,
            )
        elif state in {"failed", "dead_lettered"}:
            add("task-failed", headers, exception=short_repr(settlement.error), traceback=settlement.traceback)
        elif state == "retried":
            add("task-retried", headers, exception=short_repr(settlement.error), traceback=settlement.traceback)
        elif state in {"revoked", "expired"}:
            add("task-revoked", headers, **_how_revoked(done.outcome))
        else:
            if state == "rejected":
                add("task-failed", headers, exception=short_repr(settlement.error), traceback=None)
            add("task-rejected", headers, requeue=state == "requeued")


def _not_followed(done: Done, error: Exception) -> Done:
    """The failure of a task whose retry, callback or dead letter cannot be published. One that has failed before keeps its own error."""
    log.error("what follows %s[%s] cannot be published, it has failed: %s", *_named(done), error)
    outcome = done.outcome
    failed = (
        outcome._replace(follow=())
        if isinstance(outcome, Failed)
        else Failed(error, f"{type(error).__name__}: {error}")
    )
    return done._replace(outcome=failed, stored=False)


def _has_ended(done: Done, settlement: Settlement) -> bool:
    """Whether a unique call's key is held until now: no retry and no other start follows."""
    unique = done.job.task._unique
    return (
        unique is not None
        and unique.until == "done"
        and settlement.then in {ACK, DEAD}
        and settlement.state != "retried"
    )


def _may_fail(outcome: Outcome) -> bool:
    """Whether it has ended, and somebody waits for its record; not a second time."""
    return isinstance(outcome, Succeeded) or (
        isinstance(outcome, Failed) and not isinstance(outcome.error, EncodeError)
    )


def _named(done: Done) -> tuple[Any, Any]:
    return done.job.delivery.headers.get("task"), done.job.delivery.headers.get("id")


def _how_revoked(outcome: Outcome) -> dict[str, Any]:
    """As Celery tells it: ended by a signal while it ran, expired, or neither."""
    why, signum = (outcome.why, outcome.signum) if isinstance(outcome, Revoked) else ("", None)
    return {"terminated": why == "terminated", "signum": signum, "expired": why == "expired"}


def _reason(outcome: Outcome) -> str:
    if isinstance(outcome, RetryAsked):
        return class_name(outcome.error) if outcome.error is not None else "retry"
    return "WorkerLostError" if isinstance(outcome, Lost) else ""
