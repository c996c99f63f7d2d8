"""The transactional outbox: a message is a row that the caller's own transaction writes; a relay publishes what was committed.

A call made inside a transaction is sent when, and only when, the transaction is committed; a crash at any moment loses none. Each message
is published at least once, with the same task id. Who committed publishes at once (`Fast`); what it could not is the relay's (`celeriac outbox`),
and any number of relays may run. The databases' side is `Rows`: see contrib/sqlalchemy.py and contrib/django.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from celeriac.app.base import Celeriac
from celeriac.broker.stored import from_text, to_text
from celeriac.exceptions import (
    BrokerUnavailable,
    CeleriacError,
    ImproperlyConfigured,
    NotSupported,
    OperationalError,
)
from celeriac.wire.message import USUAL, Patience, TaskMessage

log = logging.getLogger(__name__)

TABLE = "celeriac_outbox"
#: For so long a row belongs to who wrote it, and then to the relay that took it; after that it is anybody's.
OWN_S = 5.0
TAKEN_S = 60.0
#: Seconds that an attempt to publish right after the commit may take, and for which none is made after one that failed.
_FAST_S = 1.0
_REST_S = 30.0
#: A message that the broker refuses is tried again after this, and after twice as long each time.
_FIRST_S, _MOST_S = 5.0, 3600.0
#: Between two counts of what waits.
_COUNT_S = 15.0


class Row(NamedTuple):
    """A message that waits. place: its row's number, in the order of writing. tries: how often the broker has refused it."""

    place: int
    message: str
    tries: int = 0


class Rows(Protocol):
    """The table, on connections of its own. Each raises BackendUnavailable."""

    def take(self, most: int, taken_s: float) -> list[Row]:
        """Up to so many rows that are nobody's, which nobody else gets for so many seconds; the oldest first."""

    def delete(self, places: Iterable[int]) -> None:
        """These are published."""

    def put_off(self, places: Iterable[int], for_s: float, trouble: str = "") -> None:
        """Leave them alone for so long. trouble: what the broker said of them."""

    def waiting(self) -> tuple[int, float | None]:
        """(rows, seconds since the oldest was written)."""


class Relay:
    """Publishes what waits. One a process; as many processes as you like.

    moved_at   by time.monotonic: when it last took, published or waited. started: whether it has read its table.
    healthy    whether database and broker answered when last asked. published, refused: messages so far.
    waiting    what Rows.waiting said when `run` last asked, every 15 s; None: not yet.
    """

    def __init__(self, app: Celeriac, rows: Rows, *, batch: int = 500, poll_s: float = 1.0) -> None:
        self._app, self._rows = app, rows
        self._batch, self._poll_s = batch, poll_s
        self._count_at = 0.0
        self.moved_at = time.monotonic()
        self.started = self.healthy = False
        self.published = self.refused = 0
        self.waiting: tuple[int, float | None] | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set. What the database or the broker does not do now is tried again."""
        while not stop.is_set():
            self.moved_at = time.monotonic()
            try:
                published = self.once()
                if self.moved_at >= self._count_at:
                    self.waiting = self._rows.waiting()
                    self._count_at = self.moved_at + _COUNT_S
                self.healthy = True
            except OperationalError as error:
                log.error("the outbox waits: %s", error)
                self.healthy = False
                published = 0
            if not published:
                stop.wait(self._poll_s)

    def once(self) -> int:
        """Publish one batch; how many messages. Raises BackendUnavailable, BrokerUnavailable: what was taken is anybody's again."""
        rows = self._rows.take(self._batch, TAKEN_S)
        self.started = True
        if not rows:
            return 0
        try:
            messages = [from_text(row.message) for row in rows]
            self._app.publish_many(messages)
        except CeleriacError as error:
            return self._after_trouble(rows, error)
        self._rows.delete(row.place for row in rows)
        self.published += len(rows)
        return len(rows)

    def _after_trouble(self, rows: Sequence[Row], error: CeleriacError) -> int:
        """Some may be published, the others are not: without a broker they wait; with one, each goes on its own."""
        published: frozenset[int] = getattr(error, "published", frozenset())
        self._rows.delete(row.place for place, row in enumerate(rows) if place in published)
        self.published += len(published)
        left = [row for place, row in enumerate(rows) if place not in published]
        if isinstance(error, BrokerUnavailable):
            self._rows.put_off((row.place for row in left), 0.0)
            raise error
        sent = len(published)
        for row in left:
            self.moved_at = time.monotonic()
            try:
                self._app.publish_many([from_text(row.message)])
            except BrokerUnavailable:
                self._rows.put_off([row.place], 0.0)
                raise
            except CeleriacError as refusal:
                wait_s = min(_MOST_S, _FIRST_S * 2.0 ** min(row.tries, 20))
                log.error(
                    "message %d of the outbox is refused, it is tried again in %g s: %s", row.place, wait_s, refusal
                )
                self._rows.put_off([row.place], wait_s, str(refusal)[:500])
                self.refused += 1
            else:
                self._rows.delete([row.place])
                self.published += 1
                sent += 1
        return sent


class Fast:
    """Publishing right after the commit, by who committed. What fails stays for the relay, and is no error of the caller's."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._rests_until = 0.0

    def publish(self, message: TaskMessage) -> bool:
        """Whether it is published. After a failure nothing is tried for a while: a caller must not wait for a broker that is away."""
        now = time.monotonic()
        if now < self._rests_until:
            return False
        hasty = (message.terms or USUAL)._replace(timeout_s=_FAST_S, patience=Patience(0))
        try:
            self._app.publish_many([message._replace(terms=hasty)])
        except BrokerUnavailable as error:
            self._rests_until = now + _REST_S
            log.warning("the broker is away, the outbox keeps what is committed: %s", error)
            return False
        except CeleriacError as error:
            log.error("%s is left to the relay: %s", message.id, error)
            return False
        return True


def run_all(acts: Iterable[Callable[[], object]]) -> None:
    """Call each, whatever becomes of the others; then raise what the first of those that failed has raised."""
    first: Exception | None = None
    for act in acts:
        try:
            act()
        except Exception as error:
            log.exception("a call that waited for its commit failed")
            first = first or error
    if first is not None:
        raise first


#: The outbox of each app that has one, for `celeriac outbox`.
_OUTBOXES: dict[int, Rows] = {}


def register(app: Celeriac, rows: Rows) -> None:
    """Make it the outbox that `celeriac outbox` relays for the app. Raises ImproperlyConfigured when it has another one."""
    known = _OUTBOXES.setdefault(id(app), rows)
    if known is not rows:
        raise ImproperlyConfigured(f"{app!r} has an outbox already: one table is enough for all its tasks")


def outbox_of(app: Celeriac) -> Rows:
    """What was registered for it. Raises ImproperlyConfigured when nothing was."""
    try:
        return _OUTBOXES[id(app)]
    except KeyError:
        raise ImproperlyConfigured(
            f"{app!r} has no outbox: make one with celeriac.contrib.sqlalchemy.Outbox(app, metadata, engine) in a module that the app"
            " imports, or add 'celeriac.contrib.django' to INSTALLED_APPS"
        ) from None


def message_for(
    app: Celeriac, task: object, args: Sequence[object], kwargs: dict[str, object], options: dict[str, object]
) -> tuple[TaskMessage, str]:
    """The message of a call, and the text of it that a row holds. Raises what apply_async raises but for the broker's errors, and NotSupported
    for what only a broker that is there can say."""
    from celeriac.app.task import Task

    if not isinstance(task, Task):
        raise TypeError(f"the outbox takes tasks, not {task!r}")
    for option in ("connection", "producer", "require_consumer"):
        if options.pop(option, None):
            raise NotSupported(
                f"task {task.name}: {option} means nothing to a message that is published later, by another process"
            )
    if task.require_consumer:
        raise NotSupported(
            f"task {task.name} has require_consumer, which says nothing of the time when the outbox is published"
        )
    if task._unique is not None:
        raise NotSupported(
            f"task {task.name} has unique_for: its key is taken when it is published, so send it with apply_async_on_commit"
        )
    task.check_arguments(args, kwargs)
    named = {name: options.pop(name, None) for name in ("countdown", "eta", "expires", "task_id")}
    message = app.message(task.name or "", args, kwargs, task, options=options, **named)  # type: ignore[arg-type]
    return message, to_text(message)


__all__ = ["Fast", "Relay", "Row", "Rows", "message_for", "outbox_of", "register", "run_all"]
