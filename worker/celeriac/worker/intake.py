"""Intake: what lies between a claim and the pool. Each delivery runs, waits, or ends here; nothing that was claimed is ever without a place.

What waits for its time or a limit stays in the broker where it can; where it cannot, the worker holds it here.
"""

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from celeriac import signals, states
from celeriac.app.base import Celeriac
from celeriac.app.task import Task
from celeriac.backends.base import ResultBackend
from celeriac.broker.codec import content_types
from celeriac.broker.consumer import Consumer, Delivery
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable
from celeriac.policy.admission import RUN, Wait, admit, claim_size
from celeriac.policy.outcome import Revoked, Unreadable
from celeriac.policy.ratelimit import parse_rate
from celeriac.policy.settlement import Rules
from celeriac.policy.throttle import Throttle, throttle_of
from celeriac.policy.timelimit import UNASKED, UNLIMITED, limits_of
from celeriac.policy.timelimit import Limits as TimeLimits
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Totals
from celeriac.wire.result import ResultMeta
from celeriac.worker.executor import Done, Executor, Job
from celeriac.worker.limits import Bounded, BrokerLimits, HeldLimits, Limits, Places
from celeriac.worker.pool import Pool
from celeriac.worker.rates import SetRate, SetRates
from celeriac.worker.request import TaskRequest, handed_over
from celeriac.worker.revokes import Revokes
from celeriac.worker.settling import UNKNOWN, Settler
from celeriac.worker.storing import store_each

#: With early acknowledgement: what will start within this is acknowledged in one batch.
EARLY_S = 0.005


class _Type(NamedTuple):
    """What admission needs of a task type: looked up once a message, worked out once a type."""

    task: Task
    rules: Rules
    ignoring: Rules  # of a call that wants no result
    early: bool
    track: bool
    throttle: Throttle | None
    limits: TimeLimits = UNLIMITED  # of calls that ask for none


class Intake:
    """Admits deliveries and hands them to the settler as jobs. Called by the loop; other threads may ask the questions and give_back_waiting."""

    def __init__(
        self, *, app: Celeriac, consumer: Consumer, backend: ResultBackend, pool: Pool, settler: Settler, totals: Totals,
        events: TaskEvents, hostname: str, queues: Sequence[str], places: Places, consumer_told: Any,
    ) -> None:  # fmt: skip
        self._app, self._consumer, self._backend, self._pool, self._settler = app, consumer, backend, pool, settler
        self._totals, self._events = totals, events
        self._hostname = hostname
        self._consumer_told = consumer_told
        self._accept = content_types(app.conf.accept_content)
        self.queues = list(queues)
        self._max_starts: int = app.conf.task_max_deliveries
        self._types = self._know_types()
        #: What settles calls that come again and have succeeded, without a run; None: they run again.
        self._repeats = (
            Executor(app, hostname=hostname, accept=self._accept, encode=None)
            if app.conf.worker_deduplicate_successful_tasks
            else None
        )
        #: Whether any type looks at its calls itself, before they run.
        self._executes = any(entry.task._overrides_execute for entry in self._types.values())
        #: Held by whoever changes a type's limits: the control thread and the keeper do.
        self._changing = threading.Lock()
        self._throttles = {name: entry.throttle for name, entry in self._types.items() if entry.throttle is not None}
        self._places = places
        self._bounds: Limits = (
            BrokerLimits(self._throttles, consumer.throttled, places)
            if consumer.throttled is not None
            else HeldLimits(self._throttles, places)
        )
        self._multiplier: int | None = app.conf.worker_prefetch_multiplier
        self._revokes = Revokes(app.coordination, app.conf.task_revoke_expires)
        #: Whether something was revoked since the loop last looked at what has not started.
        self._newly_revoked = False
        self._set_rates = SetRates(app.coordination)
        #: Admitted, to be acknowledged or told of before they run, and not yet: only what is about to start is.
        self._reserved: deque[Job] = deque()
        #: Jobs that were admitted so far: each takes a slot, now or soon.
        self.admitted = 0
        #: (due time, number, delivery) of what is not due, on brokers that keep nothing back.
        self._held: list[tuple[float, int, Delivery]] = []
        #: Claimed, and with no place since the broker or the store went away: admitted again. With whether their limits let them through.
        self._unplaced: list[tuple[list[Delivery], bool]] = []
        self._numbers = itertools.count()

    def received(self, deliveries: Sequence[Delivery]) -> None:
        """Count and admit what was just claimed."""
        self._count_received(deliveries)
        self._admit(deliveries)

    def release(self, now: float) -> bool:
        """Let go on what waited and may now; whether anything moved. now: monotonic seconds."""
        moved = self._admit_unplaced()
        moved |= self._start_reserved()
        moved |= self._release_held(time.time())
        return self._release_limited(now) or moved

    def look_at(self, now: float) -> float:
        """When `release` may have something to do again, in monotonic seconds; a due time, or a limit's next token."""
        looks = [self._bounds.look_at()] if self._free() > 0 else []
        if self._held:
            looks.append(now + max(0.0, self._held[0][0] - time.time()))
        return max(now, min(looks, default=float("inf")))

    # -- admit

    def _admit(self, deliveries: Sequence[Delivery], *, limited: bool = False) -> None:
        """Each delivery runs, waits, or ends here. limited: their limit has let them through already."""
        left = list(deliveries)  # those that have no place yet
        try:
            self._place(left, limited)
        except (BrokerUnavailable, BackendUnavailable):
            if left:
                self._unplaced.append((left, limited))
            raise

    def _admit_unplaced(self) -> bool:
        """Admit again what had no place when the broker or the store went away: nobody else would, while we renew its lease."""
        unplaced, self._unplaced = self._unplaced, []
        for place, (deliveries, limited) in enumerate(unplaced, 1):
            try:
                self._admit(deliveries, limited=limited)
            except (BrokerUnavailable, BackendUnavailable):
                self._unplaced += unplaced[place:]
                raise
        return bool(unplaced)

    def _place(self, left: list[Delivery], limited: bool) -> None:
        """Find a place for each of `left`, and take it out of there as soon as it has one."""
        now = time.time()
        ended: list[Done] = []
        jobs: list[Job] = []
        park: list[tuple[Delivery, float]] = []
        bounded: list[Bounded] = []
        types, revoked, max_starts, shown = self._types, self._revokes, self._max_starts, self._events.enabled
        for delivery in left:
            headers = delivery.headers
            name = headers.get("task")
            entry = types.get(name) if isinstance(name, str) and isinstance(headers.get("id"), str) else None
            verdict = admit(
                headers,
                known=entry is not None,
                revoked=revoked.any and entry is not None and revoked.names(headers, now),
                max_starts=max_starts,
                now=now,
            )
            if verdict is RUN and entry is not None:
                if entry.throttle is not None and not limited:
                    bounded.append((delivery, entry.throttle))
                else:
                    rules = entry.ignoring if headers.get("ignore_result") else entry.rules
                    if shown:
                        rules = rules._replace(shown=True)
                    asked = headers.get("timelimit")
                    limits = entry.limits if asked in UNASKED else limits_of(asked, entry.limits)
                    jobs.append(Job(entry.task, delivery, rules, entry.early, False, limits))
            elif isinstance(verdict, Wait):
                park.append((delivery, verdict.due_at))
            else:
                job = Job(entry.task if entry else UNKNOWN, delivery, entry.rules if entry else _NO_RULES)
                outcome = verdict.outcome  # type: ignore[union-attr]
                gone = isinstance(outcome, Unreadable) and outcome.reason == "too_many_starts"
                ended.append(Done(job, outcome, now, 0.0, untold=gone))
        if ended:
            self._settler.ended(ended)
        if park:
            left[:] = [delivery for delivery, _ in [*park, *bounded]] + [job.delivery for job in jobs]
            self._keep_until_due(park)
        left[:] = [delivery for delivery, _ in bounded] + [job.delivery for job in jobs]
        if self._repeats is not None:
            over = self._ran_before(left)
            if over:
                self._settler.ended(over)
                claims = {done.job.delivery.claim for done in over}
                bounded = [entry for entry in bounded if entry[0].claim not in claims]
                jobs = [job for job in jobs if job.delivery.claim not in claims]
                left[:] = [delivery for delivery in left if delivery.claim not in claims]
        redelivered = next((delivery for delivery in left if delivery.starts), None)
        if redelivered is not None and len(left) > 1:
            # It may be what killed its worker: let nothing else go down with it. Before any token of theirs is spent.
            self.give_back([delivery for delivery in left if delivery is not redelivered])
            bounded = [entry for entry in bounded if entry[0] is redelivered]
            jobs = [job for job in jobs if job.delivery is redelivered]
            left[:] = [redelivered]
        if bounded:
            jobs += self._within_bounds(bounded)
        if self._executes:
            jobs = self._handed_over(jobs)
        left[:] = [job.delivery for job in jobs]
        if jobs:
            try:
                self._start(jobs, left)
            except (BrokerUnavailable, BackendUnavailable):
                if left:  # their tokens and places are taken: not a second time
                    self._unplaced.append((left.copy(), True))
                    left.clear()
                raise

    def _ran_before(self, deliveries: Sequence[Delivery]) -> list[Done]:
        """Those that came again though they have succeeded, as if they just had: what follows them may not have been sent."""
        found = []
        for delivery in deliveries:
            entry = self._types[delivery.headers["task"]]
            if self._repeats is None or entry.early or not (delivery.starts or delivery.redelivered):
                continue
            if delivery.headers.get("ignore_result") or entry.rules.ignore_result:
                continue
            record = self._app.store_of(entry.task).fetch(delivery.headers["id"])
            if record is not None and record.status == states.SUCCESS:
                found.append(self._repeats.repeated(Job(entry.task, delivery, entry.rules), record.result))
        return found

    def _handed_over(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that run: a task may look at its calls itself (`Task.execute`), and end them here."""
        running: list[Job] = []
        for job in jobs:
            if job.task._overrides_execute:
                request = TaskRequest(job.delivery, job.task, hostname=self._hostname, accept=self._accept)
                outcome = handed_over(request, self._pool, self._consumer_told)
                if outcome is not None:
                    self._settler.ended([Done(job, outcome, time.time(), 0.0, untold=True)])
                    continue
            running.append(job)
        return running

    def _within_bounds(self, bounded: Sequence[Bounded]) -> list[Job]:
        """Those that may start now; the others wait from now on, in the broker or here."""
        starting, waiting = self._bounds.admit(bounded, time.monotonic())
        for delivery, throttle in waiting:
            self._totals.throttled(delivery.queue, throttle.task)
        return [self._job(delivery) for delivery in starting]

    def _job(self, delivery: Delivery) -> Job:
        headers = delivery.headers
        entry = self._types[headers["task"]]
        rules = entry.ignoring if headers.get("ignore_result") else entry.rules
        if self._events.enabled:
            rules = rules._replace(shown=True)
        return Job(entry.task, delivery, rules, entry.early, False, limits_of(headers.get("timelimit"), entry.limits))

    def _start(self, jobs: list[Job], left: list[Delivery]) -> None:
        """Submit these, or reserve them: what is acknowledged or told of when it starts, and may wait for long until then."""
        ahead = self._multiplier is not None
        later = [job for job in jobs if job.early or (ahead and self._is_told(job))]
        now = [job for job in jobs if not (job.early or (ahead and self._is_told(job)))]
        try:
            self._store_started(now)
        except BackendUnavailable:
            self.give_back(left)
            left.clear()
            raise
        left.clear()
        self.admitted += len(jobs)
        self._tell_started(now)
        if now:
            self._settler.submit(now)
        if later:
            self._reserved.extend(later)
            self._start_reserved()

    def _start_reserved(self) -> bool:
        """Submit what is about to start, in one batch, told and, with early acknowledgement, acknowledged: free slots, and what will
        start within EARLY_S.

        So a crash loses, beside what runs, at most what was to start within EARLY_S; everything else goes back.
        """
        if not self._reserved:
            return False
        slots, run_s = self._pool.slots, self._totals.recent_run_s
        room = slots if run_s is None else max(slots, int(slots * EARLY_S / max(run_s, 1e-6)))
        jobs = _first(self._reserved, max(0, room - self._settler.outstanding))
        if not jobs:
            return False
        early = [job.delivery for job in jobs if job.early]
        try:
            full = room == slots and self._settler.outstanding + len(jobs) >= slots
            if early and full and not self._consumer.leased:
                self._consumer.rest()  # an acknowledgement must bring nothing new behind what takes long
            gone = self._consumer.acknowledge(early) if early else []
        except BaseException:
            self._reserved.extendleft(reversed(jobs))
            raise
        if gone:
            jobs = _without(jobs, gone)
            self._end_places(gone)
        try:
            self._store_started(jobs)
        finally:  # nobody delivers again what is acknowledged: it runs, whether or not its STARTED is stored
            self._tell_started(jobs)
            self._settler.submit([job._replace(acked=job.early) for job in jobs])
        return True

    def _is_told(self, job: Job) -> bool:
        """Whether anybody is told when it starts."""
        return self._events.enabled or self._is_tracked(job)

    def _is_tracked(self, job: Job) -> bool:
        return self._types[job.delivery.headers["task"]].track and not job.rules.ignore_result

    def _store_started(self, jobs: Sequence[Job]) -> None:
        """STARTED, for those that track it; by this process's pid, though a child may run the body. Raises BackendUnavailable."""
        meta, types = {"pid": os.getpid(), "hostname": self._hostname}, self._types
        answers = self._backend.answers or self._app.has_own_stores
        tracked = [j for j in jobs if not j.rules.ignore_result and types[j.delivery.headers["task"]].track]
        if not tracked:
            return
        started = [
            ResultMeta(
                job.delivery.headers["id"], states.STARTED, meta, reply_to=job.delivery.reply_to if answers else ""
            )
            for job in tracked
        ]
        if self._app.has_own_stores:
            store_each(self._app, [(job.task, record, None) for job, record in zip(tracked, started, strict=True)])
        else:
            self._backend.store([(record, None) for record in started])

    def _tell_started(self, jobs: Sequence[Job]) -> None:
        if self._events.enabled:
            for job in jobs:
                self._events.add("task-started", job.delivery.headers)

    def _count_received(self, deliveries: Sequence[Delivery]) -> None:
        by_queue: dict[str, int] = {}
        for delivery in deliveries:
            by_queue[delivery.queue] = by_queue.get(delivery.queue, 0) + 1
        for queue, count in by_queue.items():
            self._totals.received(queue, count)
        if self._events.enabled:
            for delivery in deliveries:
                self._events.received(delivery.headers)
        if signals.task_received.receivers:
            for delivery in deliveries:
                request = TaskRequest(delivery, None, hostname=self._hostname, accept=self._accept)
                signals.task_received.send(sender=self._consumer_told, request=request)

    # -- wait

    def _keep_until_due(self, park: Sequence[tuple[Delivery, float]]) -> None:
        if self._consumer.keeps_delayed:
            self._consumer.park(park)
        if not self._consumer.keeps_delayed:
            for delivery, due_at in park:
                heapq.heappush(self._held, (due_at, next(self._numbers), delivery))

    def _release_held(self, now: float) -> bool:
        due = []
        while self._held and self._held[0][0] <= now:
            due.append(heapq.heappop(self._held)[2])
        if due:
            self._admit(due)
        return bool(due)

    def _release_limited(self, now: float) -> bool:
        """Start throttled messages that may go on, as far as there is room for them."""
        if now < self._bounds.look_at():
            return False
        found = self._bounds.release(self._room(), now, self.queues)
        if found:
            self._admit(found, limited=True)
        return bool(found)

    def _room(self) -> int:
        """Idle slots, and what may be claimed ahead of them; there is some of that for limited calls even when others have taken it."""
        slots = self._pool.slots
        ahead = claim_size(free=0, slots=slots, run_s=self._totals.recent_run_s, multiplier=self._multiplier)
        return max(self._free() + ahead, min(slots, ahead))

    # -- give back

    def give_back_waiting(self) -> int:
        """Return claimed jobs that have not started; how many. What the broker does not take stays here, and runs here."""
        jobs = _first(self._reserved, len(self._reserved)) + self._settler.take_back()
        late = [job for job in jobs if not job.acked]
        early = [job for job in jobs if job.acked]
        try:
            if late:
                self.give_back([job.delivery for job in late])
                late = []
            while early:  # acknowledged on admission, never started: publish it again
                delivery = early[0].delivery
                self._app.producer.publish_raw(
                    delivery.queue, delivery.body, delivery.headers,
                    content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
                )  # fmt: skip
                self._end_places([delivery])
                del early[0]
        finally:
            self._reserved.extendleft(reversed([job for job in late if job.early]))
            kept = [job for job in late if not job.early] + early
            if kept:
                self._settler.submit(kept)
        return len(jobs)

    def give_back_unstarted(self) -> bool:
        """Everything that this worker keeps and does not run."""
        held = [delivery for _, _, delivery in self._held] + self._bounds.let_go()
        self._held.clear()
        if held:
            self._unplaced.append((held, False))
        moved = bool(self._unplaced)
        while self._unplaced:
            self.give_back(self._unplaced[-1][0])
            self._unplaced.pop()
        return self.give_back_waiting() > 0 or moved

    def forget(self) -> None:
        """Drop what the broker delivers again by itself, since its connection is gone; keep what was acknowledged before."""
        taken = self._settler.take_back()
        self._settler.submit([job for job in taken if job.acked])  # nobody delivers these again
        self._end_places([job.delivery for job in [*taken, *self._reserved] if not job.acked])
        self._end_places([delivery for deliveries, _ in self._unplaced for delivery in deliveries])
        self._reserved.clear()
        self._held.clear()
        self._unplaced.clear()
        self._bounds.let_go()

    def drop(self, lost: Sequence[Delivery]) -> None:
        """Start none of these any more: their leases were over, and another worker has them. The keeper calls it."""
        claims = {delivery.claim for delivery in lost}
        if not any(job.delivery.claim in claims for job in self.unstarted()):
            return
        reserved, submitted = _first(self._reserved, len(self._reserved)), self._settler.take_back()
        self._reserved.extendleft(reversed(_without(reserved, lost)))
        self._settler.submit(_without(submitted, lost))
        self._end_places([job.delivery for job in [*submitted, *reserved] if job.delivery.claim in claims])

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return messages that will not start, or not end, here; with the places that they hold among those that run."""
        self._consumer.give_back(deliveries)
        self._end_places(deliveries)

    def _end_places(self, deliveries: Sequence[Delivery]) -> None:
        if self._places.used:
            self._places.release(deliveries)

    # -- beside the loop

    def keep(self, now: float) -> None:
        """Renew the places of running calls, and read what others have revoked; the keeper calls it. Raises BackendUnavailable."""
        self._places.renew(now)
        if self._revokes.look(now):
            self._newly_revoked = True
        for task, rate in self._set_rates.look(now).items():
            if task in self._types:
                self._set(task, rate)

    # -- types

    def learn_types(self) -> None:
        """Know tasks that were registered since, too. What was set for the others from outside stays."""
        self._types = {**self._know_types(), **self._types}
        self._executes = any(entry.task._overrides_execute for entry in self._types.values())
        self._throttles = {name: entry.throttle for name, entry in self._types.items() if entry.throttle is not None}

    def _know_types(self) -> dict[str, _Type]:
        conf = self._app.conf
        found: dict[str, _Type] = {}
        usual = limits_of((conf.task_time_limit, conf.task_soft_time_limit), UNLIMITED)
        for name, task in self._app.tasks.items():
            rules = Rules(
                ignore_result=bool(task.ignore_result) or not self._app.store_of(task).keeps_results,
                store_errors=bool(task.store_errors_even_if_ignored) and self._app.store_of(task).keeps_results,
                result_extended=conf.result_extended,
                serializer=task.serializer or conf.task_serializer,
                again_when_lost=bool(task.acks_late and task.reject_on_worker_lost),
                max_starts=conf.task_max_deliveries,
                dies_when_failed=bool(task.acks_late and not task.acks_on_failure),
                again_when_late=bool(task.acks_late and not task.acks_on_timeout),
                retry_lost_s=task.default_retry_delay if task.retry_on_worker_lost else None,
                max_retries=task.max_retries,
            )
            throttle = throttle_of(name, task, rates=not conf.worker_disable_rate_limits)
            ignoring = rules._replace(ignore_result=True)
            limits = limits_of((task.time_limit, task.soft_time_limit), usual)
            found[name] = _Type(task, rules, ignoring, not task.acks_late, bool(task.track_started), throttle, limits)
        return found

    def set_rate_limit(self, task: str, rate: Any, scope: str | None = None, by: str = "") -> None:
        """Change a type's limit from now on; 0 or None lifts it, "declared" is what the code says. Raises KeyError, ValueError.

        by: who set it; told in heartbeats.
        """
        if task not in self._types:
            raise KeyError(task)
        self._set(task, None if rate == "declared" else SetRate(parse_rate(rate), scope, by))

    def _set(self, task: str, rate: SetRate | None) -> None:
        with self._changing:
            self._change_rate(task, rate)

    def _change_rate(self, task: str, rate: SetRate | None) -> None:
        entry = self._types[task]
        if rate is None:
            self._set_rates.by_task.pop(task, None)
            throttle = throttle_of(task, entry.task, rates=not self._app.conf.worker_disable_rate_limits)
        else:
            self._set_rates.by_task[task] = rate
            throttle = throttle_of(task, _Bounds(entry.task, rate.per_s, rate.scope))
        if throttle == entry.throttle:
            return
        self._types[task] = entry._replace(throttle=throttle)
        self._throttles = {name: entry.throttle for name, entry in self._types.items() if entry.throttle is not None}
        self._bounds.change(self._throttles, task)

    def set_time_limits(self, task: str, hard: float | None, soft: float | None) -> None:
        """Limit the seconds that calls of a type may run, for those that start from now on and ask for nothing else; None or 0: no limit.

        Raises KeyError, ValueError. Any thread.
        """
        for seconds in (hard, soft):
            if isinstance(seconds, bool) or not isinstance(seconds, int | float | None) or not (seconds or 0) >= 0:
                raise ValueError(f"a time limit is a number of seconds, or none; {seconds!r} was given")
        with self._changing:
            self._types[task] = self._types[task]._replace(limits=limits_of((hard, soft), UNLIMITED))

    def set_rates(self) -> dict[str, SetRate]:
        """Rates that were set while this worker ran, by task."""
        return self._set_rates.by_task.copy()

    def limits(self) -> dict[str, Throttle]:
        """The rates in force, by task."""
        return {name: throttle for name, throttle in self._throttles.items() if throttle.per_s}

    # -- revokes

    def revoke(self, ids: Iterable[str]) -> None:
        """Run none of these from now on, here and, where there is a coordination store, anywhere. Never raises."""
        self._revokes.revoke(ids)
        self._newly_revoked = True

    def hear_revoked(self, ids: Iterable[str]) -> None:
        """Run none of these here: another worker has told."""
        self._revokes.hear(ids)
        self._newly_revoked = True

    def revoke_stamps(self, stamps: Mapping[str, Any]) -> None:
        """Run nothing here that carries one of these values under one of these names."""
        self._revokes.revoke_stamps(stamps)
        self._newly_revoked = True

    def end_revoked(self) -> None:
        """End what was claimed, is revoked since, and has not started. The loop calls it in each of its rounds."""
        if not self._newly_revoked:
            return
        self._newly_revoked = False
        now, names = time.time(), self._revokes.names
        if not any(names(job.delivery.headers, now) for job in self.unstarted()):
            return
        reserved, submitted = _first(self._reserved, len(self._reserved)), self._settler.take_back()
        revoked = [job for job in [*submitted, *reserved] if names(job.delivery.headers, now)]
        self._reserved.extendleft(job for job in reversed(reserved) if not names(job.delivery.headers, now))
        self._settler.submit([job for job in submitted if not names(job.delivery.headers, now)])
        self._settler.ended([Done(job, Revoked("revoked"), now, 0.0) for job in revoked])

    @property
    def revoked(self) -> dict[str, float]:
        """Revoked ids, with the seconds since the epoch until which they are."""
        return self._revokes.ids.copy()

    # -- questions of other threads

    def unstarted(self) -> list[Job]:
        """Jobs that are claimed and not started."""
        return [*self._pool.unstarted(), *self._reserved.copy()]

    def reserved(self) -> int:
        """Claimed and not started."""
        return self._pool.waiting() + len(self._reserved)

    def held(self) -> int:
        """Kept by this worker for their time or a limit."""
        return len(self._held) + self._bounds.held() + sum(len(deliveries) for deliveries, _ in self._unplaced)

    def scheduled(self) -> list[tuple[float, Delivery]]:
        """(due time in seconds since the epoch, delivery) of what this worker keeps for its time."""
        return [(due_at, delivery) for due_at, _, delivery in list(self._held)]

    def _free(self) -> int:
        return self._pool.slots - self._settler.outstanding - len(self._reserved)


def _first(jobs: deque[Job], count: int) -> list[Job]:
    """Up to `count` from the left; another thread may take them at the same time."""
    taken: list[Job] = []
    while len(taken) < count:
        try:
            taken.append(jobs.popleft())
        except IndexError:
            break
    return taken


def _without(jobs: Sequence[Job], gone: Sequence[Delivery]) -> list[Job]:
    claims = {delivery.claim for delivery in gone}
    return [job for job in jobs if job.delivery.claim not in claims]


class _Bounds(NamedTuple):
    """A task's bounds, with another rate."""

    task: Task
    rate_limit: float | None
    scope: str | None

    @property
    def rate_limit_scope(self) -> str | None:
        return self.scope or self.task.rate_limit_scope

    @property
    def rate_limit_key(self) -> Any:
        return self.task.rate_limit_key

    @property
    def max_concurrency(self) -> int | None:
        return self.task.max_concurrency

    @property
    def concurrency_key(self) -> Any:
        return self.task.concurrency_key


_NO_RULES = Rules()
