"""Intake: what lies between a claim and the pool. Each delivery runs, waits, or ends here; nothing that was claimed is ever without a place.

What waits for its time or a limit stays in the broker where it can; where it cannot, the worker holds it here.
"""

import heapq
import itertools
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from celeriac import signals, states
from celeriac.app.base import Celeriac
from celeriac.app.task import Task
from celeriac.backends.base import ResultBackend
from celeriac.broker.consumer import Consumer, Delivery, Settled
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable
from celeriac.policy.admission import RUN, Wait, admit
from celeriac.policy.ratelimit import parse_rate
from celeriac.policy.settlement import Rules
from celeriac.policy.timelimit import UNASKED, UNLIMITED, Limits, limits_of
from celeriac.telemetry.events import TaskEvents
from celeriac.telemetry.totals import Totals
from celeriac.wire.result import ResultMeta
from celeriac.worker.executor import Done, Job
from celeriac.worker.limits import LOOK_S, Limit
from celeriac.worker.pool import Pool
from celeriac.worker.settling import UNKNOWN, Settler

#: With early acknowledgement: what will start within this is acknowledged in one batch.
EARLY_S = 0.005
#: Between two looks for throttled messages of types that have no limit here; and how many are taken at once.
STRAYS_S = 10.0
MOST_STRAYS = 100


class _Type(NamedTuple):
    """What admission needs of a task type: looked up once a message, worked out once a type."""

    task: Task
    rules: Rules
    ignoring: Rules  # of a call that wants no result
    early: bool
    track: bool
    limit: Limit | None
    limits: Limits = UNLIMITED  # of calls that ask for none


class Intake:
    """Admits deliveries and hands them to the settler as jobs. Called by the loop; other threads may ask the questions and give_back_waiting."""

    def __init__(
        self, *, app: Celeriac, consumer: Consumer, backend: ResultBackend, pool: Pool, settler: Settler, totals: Totals,
        events: TaskEvents, hostname: str, queues: Sequence[str],
    ) -> None:  # fmt: skip
        self._app, self._consumer, self._backend, self._pool, self._settler = app, consumer, backend, pool, settler
        self._totals, self._events = totals, events
        self._hostname = hostname
        self.queues = list(queues)
        self._max_starts: int = app.conf.task_max_deliveries
        self._types = self._know_types()
        self._limits = {name: entry.limit for name, entry in self._types.items() if entry.limit is not None}
        #: Admitted, to be acknowledged before they run, and not yet: only what is about to start is.
        self._reserved: deque[Job] = deque()
        #: (due time, number, delivery) of what is not due, on brokers that keep nothing back.
        self._held: list[tuple[float, int, Delivery]] = []
        #: Claimed, and without a place since the broker or the store went away: admitted again. With whether their limit let them through.
        self._unplaced: list[tuple[list[Delivery], bool]] = []
        self._numbers = itertools.count()
        self._strays_at = 0.0
        self.revoked: dict[str, float] = {}

    def received(self, deliveries: Sequence[Delivery]) -> None:
        """Count and admit what was just claimed."""
        self._count_received(deliveries)
        self._admit(deliveries)

    def release(self, now: float) -> bool:
        """Let go on what waited and may now; whether anything moved. now: monotonic seconds."""
        moved = self._admit_unplaced()
        moved |= self._start_reserved()
        if now >= self._strays_at:
            self._strays_at = now + STRAYS_S
            self._admit_strays()
        moved |= self._release_held(time.time())
        return self._release_limited(now) or moved

    def look_at(self, now: float) -> float:
        """When `release` may have something to do again, in monotonic seconds; a due time, or a limit's next token."""
        looks = [self._limits[name].look_at for name in self._limits] if self._free() > 0 else []
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
        throttle: list[tuple[Delivery, Limit]] = []
        types, revoked, max_starts = self._types, self.revoked, self._max_starts
        for delivery in left:
            headers = delivery.headers
            name = headers.get("task")
            entry = types.get(name) if isinstance(name, str) and isinstance(headers.get("id"), str) else None
            verdict = admit(
                headers,
                known=entry is not None,
                revoked=bool(revoked) and entry is not None and headers["id"] in revoked,
                max_starts=max_starts,
                now=now,
            )
            if verdict is RUN and entry is not None:
                if entry.limit is not None and not limited and not self._may_start(entry.limit):
                    throttle.append((delivery, entry.limit))
                else:
                    rules = entry.ignoring if headers.get("ignore_result") else entry.rules
                    asked = headers.get("timelimit")
                    limits = entry.limits if asked in UNASKED else limits_of(asked, entry.limits)
                    jobs.append(Job(entry.task, delivery, rules, entry.early, False, limits))
            elif isinstance(verdict, Wait):
                park.append((delivery, verdict.due_at))
            else:
                job = Job(entry.task if entry else UNKNOWN, delivery, entry.rules if entry else _NO_RULES)
                ended.append(Done(job, verdict.outcome, now, 0.0))  # type: ignore[union-attr]
        if ended:
            self._settler.ended(ended)
        if park:
            left[:] = [delivery for delivery, _ in park + throttle] + [job.delivery for job in jobs]
            self._keep_until_due(park)
        if throttle:
            left[:] = [delivery for delivery, _ in throttle] + [job.delivery for job in jobs]
            self._keep_throttled(throttle)
        left[:] = [job.delivery for job in jobs]
        if jobs:
            self._start(jobs, left)

    def _start(self, jobs: list[Job], left: list[Delivery]) -> None:
        redelivered = next((job for job in jobs if job.delivery.starts), None)
        if redelivered is not None and len(jobs) > 1:
            # It may be what killed its worker: let nothing else go down with it.
            self._consumer.give_back([job.delivery for job in jobs if job is not redelivered])
            jobs = [redelivered]
            left[:] = [redelivered.delivery]
        started = [
            self._started_meta(job)
            for job in jobs
            if self._types[job.delivery.headers["task"]].track and not job.rules.ignore_result
        ]
        try:
            if started:
                self._backend.store([(meta, None) for meta in started])
        except BackendUnavailable:
            self._consumer.give_back(left)
            left.clear()
            raise
        left.clear()
        if self._events.enabled:
            for job in jobs:
                self._events.add("task-started", job.delivery.headers)
        late = [job for job in jobs if not job.early]
        if late:
            self._settler.submit(late)
        if len(late) < len(jobs):
            self._reserved.extend(job for job in jobs if job.early)
            self._start_reserved()

    def _start_reserved(self) -> bool:
        """Acknowledge and submit what is about to start, in one batch: free slots, and what will start within EARLY_S.

        So a crash loses, beside what runs, at most what was to start within EARLY_S; everything else goes back.
        """
        if not self._reserved:
            return False
        slots, run_s = self._pool.slots, self._totals.recent_run_s
        room = slots if run_s is None else max(slots, int(slots * EARLY_S / max(run_s, 1e-6)))
        jobs = _first(self._reserved, max(0, room - self._settler.outstanding))
        if not jobs:
            return False
        try:
            self._consumer.settle([Settled(job.delivery) for job in jobs])
        except BaseException:
            self._reserved.extendleft(reversed(jobs))
            raise
        self._settler.submit([job._replace(acked=True) for job in jobs])
        return True

    def _started_meta(self, job: Job) -> ResultMeta:
        return ResultMeta(job.delivery.headers["id"], states.STARTED, {"pid": os.getpid(), "hostname": self._hostname})

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
                signals.task_received.send(sender=self._hostname, request=delivery)

    # -- wait

    def _keep_until_due(self, park: Sequence[tuple[Delivery, float]]) -> None:
        if self._consumer.keeps_delayed:
            self._consumer.park(park)
        else:
            for delivery, due_at in park:
                heapq.heappush(self._held, (due_at, next(self._numbers), delivery))

    def _release_held(self, now: float) -> bool:
        due = []
        while self._held and self._held[0][0] <= now:
            due.append(heapq.heappop(self._held)[2])
        if due:
            self._admit(due)
        return bool(due)

    def _may_start(self, limit: Limit) -> bool:
        """Whether a message of this type may start at once: nothing waits before it, and there is a token."""
        if limit.waiting:
            return False
        return limit.take(1, time.monotonic(), self._consumer.take if self._consumer.keeps_throttled else None) == 1

    def _keep_throttled(self, throttle: Sequence[tuple[Delivery, Limit]]) -> None:
        for delivery, limit in throttle:
            limit.waiting = True
            self._totals.throttled(delivery.queue, limit.task)
            if not self._consumer.keeps_throttled:
                limit.held.append(delivery)
        if self._consumer.keeps_throttled:
            self._consumer.throttle([delivery for delivery, _ in throttle])

    def _release_limited(self, now: float) -> bool:
        """Start throttled messages whose limits have tokens, as far as slots are free."""
        moved = False
        for limit in self._limits.values():
            free = self._free()
            if free <= 0:
                return moved
            if now < limit.look_at:
                continue
            if not limit.waiting:
                limit.waiting = self._anything_throttled(limit)
                if not limit.waiting:
                    limit.look_at = now + LOOK_S
                    continue
            tokens = limit.take(free, now, self._consumer.take if self._consumer.keeps_throttled else None)
            if not tokens:
                continue
            found, left = self._throttled(limit, tokens)
            limit.give(tokens - len(found))
            limit.waiting = left > 0
            if found:
                self._admit(found, limited=True)
                moved = True
        return moved

    def _anything_throttled(self, limit: Limit) -> bool:
        """Whether messages of this type wait, ours or other workers'."""
        if not self._consumer.keeps_throttled:
            return bool(limit.held)
        return any(self._consumer.count_throttled(queue, limit.task) for queue in self.queues)

    def _admit_strays(self) -> None:
        """Throttled messages of types that have no limit here any more: nobody else would look for them."""
        for queue in self.queues:
            for task in self._consumer.throttled_tasks(queue):
                if task not in self._limits:
                    found, _ = self._consumer.claim_throttled(queue, task, MOST_STRAYS)
                    self._admit(found, limited=True)

    def _throttled(self, limit: Limit, tokens: int) -> tuple[list[Delivery], int]:
        if not self._consumer.keeps_throttled:
            found = [limit.held.popleft() for _ in range(min(tokens, len(limit.held)))]
            return found, len(limit.held)
        found, left = [], 0
        for queue in self.queues:
            more, remains = (
                self._consumer.claim_throttled(queue, limit.task, tokens - len(found))
                if len(found) < tokens
                else ([], 1)
            )
            found += more
            left += remains
        return found, left

    # -- give back

    def give_back_waiting(self) -> int:
        """Return claimed jobs that have not started; how many. What the broker does not take stays here, and runs here."""
        jobs = _first(self._reserved, len(self._reserved)) + self._settler.take_back()
        late = [job for job in jobs if not job.acked]
        early = [job for job in jobs if job.acked]
        try:
            if late:
                self._consumer.give_back([job.delivery for job in late])
                late = []
            while early:  # acknowledged on admission, never started: publish it again
                delivery = early[0].delivery
                self._app.producer.publish_raw(
                    delivery.queue, delivery.body, delivery.headers,
                    content_type=delivery.content_type, content_encoding=delivery.content_encoding, properties=delivery.properties,
                )  # fmt: skip
                del early[0]
        finally:
            self._reserved.extendleft(reversed([job for job in late if job.early]))
            kept = [job for job in late if not job.early] + early
            if kept:
                self._settler.submit(kept)
        return len(jobs)

    def give_back_unstarted(self) -> bool:
        """Everything that this worker keeps and does not run."""
        held = [delivery for _, _, delivery in self._held]
        self._held.clear()
        for limit in self._limits.values():
            held += limit.held
            limit.held.clear()
        unplaced, self._unplaced = self._unplaced, []
        held += [delivery for deliveries, _ in unplaced for delivery in deliveries]
        if held:
            try:
                self._consumer.give_back(held)
            except BrokerUnavailable:
                self._unplaced = [(held, True)]
                raise
        return bool(self.give_back_waiting() or held)

    def forget(self) -> None:
        """Drop what the broker delivers again by itself, since its connection is gone; keep what was acknowledged before."""
        self._settler.submit([job for job in self._settler.take_back() if job.acked])  # nobody delivers these again
        self._reserved.clear()
        self._held.clear()
        self._unplaced.clear()
        for limit in self._limits.values():
            limit.held.clear()

    # -- types

    def _know_types(self) -> dict[str, _Type]:
        conf = self._app.conf
        found: dict[str, _Type] = {}
        usual = limits_of((conf.task_time_limit, conf.task_soft_time_limit), UNLIMITED)
        for name, task in self._app.tasks.items():
            rules = Rules(
                ignore_result=bool(task.ignore_result) or not self._backend.keeps_results,
                store_errors=bool(task.store_errors_even_if_ignored) and self._backend.keeps_results,
                result_extended=conf.result_extended,
                serializer=task.serializer or conf.task_serializer,
            )
            per_s = None if conf.worker_disable_rate_limits else parse_rate(task.rate_limit)
            limit = Limit(name, per_s, task.rate_limit_scope or "worker") if per_s else None
            ignoring = rules._replace(ignore_result=True)
            limits = limits_of((task.time_limit, task.soft_time_limit), usual)
            found[name] = _Type(task, rules, ignoring, not task.acks_late, bool(task.track_started), limit, limits)
        return found

    def set_rate_limit(self, task: str, rate: Any, scope: str | None = None) -> None:
        """Change a type's limit from now on; 0 or None lifts it. Raises KeyError, ValueError."""
        entry = self._types[task]
        per_s = parse_rate(rate)
        old = entry.limit
        limit = (
            Limit(task, per_s, scope or (old.scope if old else entry.task.rate_limit_scope or "worker"))
            if per_s
            else None
        )
        if limit is None and old is not None:
            limit = Limit(task, 1e9, "worker")  # what was throttled still has to come out
        if limit is not None and old is not None:
            limit.held = old.held
        self._types[task] = entry._replace(limit=limit)
        if limit is not None:
            self._limits = {**self._limits, task: limit}

    def set_time_limits(self, task: str, hard: float | None, soft: float | None) -> None:
        """Limit the seconds that calls of a type may run, for those that start from now on and ask for nothing else. Raises KeyError."""
        self._types[task] = self._types[task]._replace(limits=limits_of((hard, soft), UNLIMITED))

    def limits(self) -> dict[str, Limit]:
        """The limits in force, by task."""
        return {name: limit for name, limit in self._limits.items() if limit.per_s < 1e9}

    # -- questions of other threads

    def unstarted(self) -> list[Job]:
        """Jobs that are claimed and not started."""
        return [*self._pool.unstarted(), *self._reserved.copy()]

    def reserved(self) -> int:
        """Claimed and not started."""
        return self._pool.waiting() + len(self._reserved)

    def held(self) -> int:
        """Kept by this worker for their time or a limit."""
        return (
            len(self._held)
            + sum(len(limit.held) for limit in self._limits.values())
            + sum(len(deliveries) for deliveries, _ in self._unplaced)
        )

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


_NO_RULES = Rules()
