"""The service: waits for what is due, claims it, sends it, confirms it. One thread; in a process of its own or beside a worker.

A crash between claim and confirmation is repaired by whoever looks next: the task is sent (again) with the same id, which follows from the
entry and its due moment alone.
"""

import logging
import math
import os
import select
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import NamedTuple

from celeriac import signals
from celeriac.app.base import Celeriac
from celeriac.beat import ticker
from celeriac.beat.entries import Entry, entries_of, now_valued, workflow
from celeriac.beat.store import FileStore, SharedStore, Store
from celeriac.exceptions import BackendUnavailable, BrokerUnavailable

log = logging.getLogger("celeriac.beat")

#: A beat must send what it claimed within so many seconds, else another does. Longer than a publish may take.
CLAIM_S = 15.0
#: Longest sleep, unless `beat_max_loop_interval` says otherwise; Celery's.
MOST_S = 300.0
#: Pauses while broker or store are away.
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
#: Until what another store's outage has stopped (a chord's, a result queue's) is tried again.
_STORE_PAUSE_S = 5.0
#: Late runs of one entry (catch_up="all") sent before the others are looked at again.
_AT_ONCE = 100
#: What task ids are derived under.
_NAMESPACE = uuid.UUID("5b0c5b0e-6f2f-5d5e-9b8f-0f6f2d1c7a11")


class Counts(NamedTuple):
    """What a beat has done since it started."""

    sent: int = 0
    #: Claimed by a beat that did not confirm them in time, and sent here.
    taken_over: int = 0
    left_out: int = 0
    failed: int = 0


class Service:
    """A beat of an app. run() until stop(); turn() is one look. Raises ImproperlyConfigured for entries that cannot work."""

    def __init__(
        self, app: Celeriac, *, max_interval_s: float | None = None, filename: str | None = None, claim_s: float | None = None
    ) -> None:  # fmt: skip
        conf = app.conf
        self.app = app
        self.entries: Mapping[str, Entry] = entries_of(app)
        self.zone: tzinfo = app.timezone
        self.max_interval_s = float(max_interval_s or conf.beat_max_loop_interval or MOST_S)
        self._deadline_s: float | None = conf.beat_cron_starting_deadline
        self._claim_s = claim_s or max(CLAIM_S, 3.0 * conf.task_publish_timeout)
        self.store = _store(app, filename, self._claim_s)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._stopping = False
        self._lasts: dict[str, datetime] = {}
        self._next: dict[str, datetime] = {}
        self._clock = (datetime.now(UTC), time.monotonic())
        self._looked_at = 0.0
        #: Sent, but the store could not be told: not to be sent again.
        self._unconfirmed: set[str] = set()
        self._pause_s = _PAUSE_S
        self._complaint = ""
        self.counts = Counts()
        self.late_s = 0.0
        self.turned_at = time.monotonic()
        self.started = False

    # -- life

    def run(self, *, embedded: bool = False) -> None:
        """Send what is due until stop(). embedded: beside a worker."""
        signals.beat_init.send(sender=self)
        if embedded:
            signals.beat_embedded_init.send(sender=self)
        if not self.store.shared:
            log.warning(
                "beat keeps its state in the file %s: run one only. With a Redis as broker, result store or coordination_url there may be several",
                self.store.where,
            )
        ear = select.poll()  # not select(): a worker around it may have more than 1,024 descriptors
        ear.register(self._reader, select.POLLIN)
        log.info("beat ready: %d entries, state in %s, time zone %s", len(self.entries), self.store.where, self.zone)
        try:
            while not self._stopping:
                pause_s = self._guarded_turn()
                self.turned_at = time.monotonic()
                if not self._stopping and pause_s > 0:
                    ear.poll(math.ceil(pause_s * 1000))
        finally:
            self.store.close()
            log.info("beat ended: %d sent, %d taken over, %d left out, %d failed", *self.counts)

    def stop(self) -> None:
        """End run() after what is being sent. Safe in a signal handler: takes no lock."""
        self._stopping = True
        os.write(self._writer, b".")

    def _guarded_turn(self) -> float:
        """turn(); while the broker or the store is away, the pause until the next try, and one line in the log."""
        try:
            pause_s = self.turn()
        except (BackendUnavailable, BrokerUnavailable) as error:
            if str(error) != self._complaint:
                log.error("%s; what is due waits", error)
                self._complaint = str(error)
            self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 2)
            return self._pause_s / 2
        if self._complaint:
            log.warning("beat goes on: broker and store are there again")
            self._complaint, self._pause_s = "", _PAUSE_S
        return pause_s

    @property
    def most_s(self) -> float:
        """The longest sleep: claims of others are looked at so often."""
        return min(self.max_interval_s, self._claim_s)

    @property
    def healthy(self) -> bool:
        """Whether broker and store answered last time."""
        return not self._complaint

    # -- one look

    def turn(self) -> float:
        """Send what is due now; seconds until the next look. Raises BackendUnavailable, BrokerUnavailable."""
        if not self.started:
            self._begin()
        if time.monotonic() - self._looked_at >= self.most_s:
            self._take_over()
        for name in [name for name, moment in self._next.items() if moment <= self._now()]:
            self._run_entry(self.entries[name])
        now = self._now()
        soonest = min(self._next.values(), default=now + timedelta(seconds=self.max_interval_s))
        return min(self.most_s, max(0.0, (soonest - now).total_seconds()))

    def _begin(self) -> None:
        gone = self.store.forget_others(self.entries)
        if gone:
            log.info("entries that are no more are forgotten: %s", ", ".join(sorted(gone)))
        now, lasts = self.store.lasts(self.entries)
        self._set_clock((now, lasts))
        for name, last in lasts.items():
            self._ran(name, last)
        self.started = True

    def _set_clock(self, answer: tuple[datetime, object]) -> None:
        self._clock = (answer[0], time.monotonic())

    def _now(self) -> datetime:
        """By the store's clock: beats on machines whose clocks differ agree."""
        at, then = self._clock
        return at + timedelta(seconds=time.monotonic() - then)

    def _ran(self, name: str, last: datetime) -> None:
        self._lasts[name] = last
        self._next[name] = self._following(self.entries[name], last)

    def _following(self, entry: Entry, last: datetime) -> datetime:
        try:
            return entry.schedule.next_after(last, self.zone)
        except Exception:
            log.exception("beat entry %s: its next run after %s cannot be worked out; looked at again later", entry.name, last)  # fmt: skip
            return self._now() + timedelta(seconds=self.max_interval_s)

    def _run_entry(self, entry: Entry) -> None:
        for _ in range(_AT_ONCE):
            self.turned_at = time.monotonic()
            now, last = self._now(), self._lasts[entry.name]
            try:
                due = ticker.due(entry.schedule, last, now, self.zone, entry.catch_up, self._deadline_s)
            except Exception:
                log.exception("beat entry %s: what is due cannot be worked out; looked at again later", entry.name)
                self._next[entry.name] = now + timedelta(seconds=self.max_interval_s)
                return
            if due is None:
                self._next[entry.name] = self._following(entry, last)
                return
            faster = self.store.claim(entry.name, last, due.moment, send=due.send)
            self._ran(entry.name, faster or due.moment)
            if faster is None and due.send:
                if self._send(entry, due.moment):
                    self.counts = self.counts._replace(sent=self.counts.sent + 1)
            elif faster is None:
                self._leave_out(entry, due.moment)
            if self._stopping or self._next[entry.name] > now:
                return

    def _take_over(self) -> None:
        """Ticks that were claimed and not confirmed, here or by a beat that is gone."""
        now, ticks = self.store.overdue(self.entries)
        self._set_clock((now, None))
        newest: dict[str, datetime] = {}
        for tick in ticks:
            name, moment = ticker.read_tick_id(tick)
            newest[name] = max(moment, newest.get(name, moment))
        for tick in ticks:
            if tick in self._unconfirmed:
                self._confirm(tick)
                continue
            name, moment = ticker.read_tick_id(tick)
            entry = self.entries[name]
            late = (now - moment).total_seconds() > ticker.SKIP_AFTER_S + self._claim_s
            if (entry.catch_up == "skip" and late) or (entry.catch_up == "latest" and moment < newest[name]):
                self.store.confirm(tick)
                self._leave_out(entry, moment)
                continue
            if self._send(entry, moment):
                self.counts = self.counts._replace(taken_over=self.counts.taken_over + 1)
        self._looked_at = time.monotonic()

    def _leave_out(self, entry: Entry, moment: datetime) -> None:
        log.info("beat entry %s: its run of %s was missed, and is left out", entry.name, moment)
        self.counts = self.counts._replace(left_out=self.counts.left_out + 1)

    # -- sending

    def _send(self, entry: Entry, moment: datetime) -> bool:
        """Publish a claimed tick and confirm it; whether it could be. It is put off while a store that it needs is away.

        With the broker away it is put off, too, and BrokerUnavailable raised.
        """
        tick = ticker.tick_id(entry.name, moment)
        sent = False
        try:
            task_id = self._publish(entry, tick)
        except BrokerUnavailable:
            self._looked_at = 0.0  # look for it at the next turn
            self.store.put_off(tick, 0.0)
            raise
        except BackendUnavailable as error:  # what this entry needs besides the broker: the others go on
            self.store.put_off(tick, _STORE_PAUSE_S)
            log.error("beat entry %s: the task %s of %s waits: %s", entry.name, entry.task, moment, error)
            return False
        except Exception:  # its own fault, today and tomorrow: a lazy argument, a message that the broker refuses
            log.exception("beat entry %s: the task %s of %s cannot be sent", entry.name, entry.task, moment)
            self.counts = self.counts._replace(failed=self.counts.failed + 1)
        else:
            sent = True
            self.late_s = (self._now() - moment).total_seconds()
            log.info("beat entry %s: sent %s[%s]", entry.name, entry.task, task_id)
        self._unconfirmed.add(tick)
        self._confirm(tick)
        return sent

    def _confirm(self, tick: str) -> None:
        self.store.confirm(tick)
        self._unconfirmed.discard(tick)

    def _publish(self, entry: Entry, tick: str) -> str:
        task_id = str(uuid.uuid5(_NAMESPACE, f"{self.app.main or ''} {tick}"))
        args = tuple(now_valued(value) for value in entry.args)
        kwargs = {name: now_valued(value) for name, value in entry.kwargs.items()}
        headers = {**(entry.options.get("headers") or {}), "periodic_task_name": entry.name, "celery_beat_task": True}
        options = {**entry.options, "task_id": task_id, "headers": headers}
        sig = workflow(self.app, entry, args, kwargs)
        task = self.app.tasks.get(entry.task)
        if sig is not None:
            sig.apply_async(**options)
        elif task is not None:
            task.apply_async(args, kwargs, **options)
        else:
            self.app.send_task(entry.task, args, kwargs, **options)
        return task_id


def _store(app: Celeriac, filename: str | None, claim_s: float) -> Store:
    if app.coordination is not None:
        if filename:
            log.warning("-s %s is not used: beat keeps its state in %s", filename, app.coordination.url)
        return SharedStore(app.coordination, app.main or "", claim_s=claim_s)
    return FileStore(Path(filename or app.conf.beat_schedule_filename), claim_s=claim_s)


__all__ = ["CLAIM_S", "Counts", "Service"]
