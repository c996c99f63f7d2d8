"""Calls that belong to a SQLAlchemy session's transaction: sent after its commit, or written in it (the outbox).

delay_on_commit(session, index, article.id)     sent right after the commit; a crash in between, or a broker that is away, loses it
outbox.delay(session, index, article.id)        a row of the same transaction; a crash loses nothing
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from celeriac.app.base import Celeriac
from celeriac.contrib.outbox import OWN_S, TABLE, Fast, Row, message_for, register, run_all
from celeriac.exceptions import BackendUnavailable, ImproperlyConfigured
from celeriac.result import AsyncResult

#: Of `Session.info`: calls that wait for their transaction's end, by transaction; and the transactions that were committed.
_WAITING = "celeriac.waiting"
_COMMITTED = "celeriac.committed"
#: Databases whose locked rows others pass over.
_SKIPS = frozenset({"postgresql", "mysql", "mariadb", "oracle"})
#: On MySQL a plain TEXT ends at 64 KiB.
_LONG = Text(length=2**32 - 1)


# -- after the commit


def delay_on_commit(session: Any, task: Any, *args: Any, **kwargs: Any) -> None:
    """`task.delay(...)` once the session's transaction is committed; never when it is rolled back."""
    apply_async_on_commit(session, task, args, kwargs)


def apply_async_on_commit(
    session: Any, task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """`task.apply_async(...)` once the session's transaction is committed. session: a Session or an AsyncSession.

    Raises TypeError now when the arguments do not fit; what sending raises comes out of `commit()`, which has happened then.
    """
    task.check_arguments(args, kwargs or {})
    after_commit(session, lambda: task.apply_async(args, kwargs, **options))


def after_commit(session: Any, act: Callable[[], Any]) -> None:
    """Call it once what the session does now is committed: with its savepoint, if it is in one, and all around it."""
    session = getattr(session, "sync_session", session)
    if not session.in_transaction():
        session.begin()
    if _WAITING not in session.info:
        session.info[_WAITING], session.info[_COMMITTED] = {}, set()
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_transaction_end", _ended)
    session.info[_WAITING].setdefault(_transaction(session), []).append(act)


def _transaction(session: Session) -> Any:
    return session.get_nested_transaction() or session.get_transaction()


def _committed(session: Session) -> None:
    session.info[_COMMITTED].add(_transaction(session))


def _ended(session: Session, transaction: Any) -> None:
    """Savepoints hand what waits on to what is around them; the outermost transaction lets it happen."""
    waiting, committed = session.info[_WAITING], session.info[_COMMITTED]
    acts = waiting.pop(transaction, [])
    if transaction not in committed:
        return  # rolled back, or never committed
    committed.discard(transaction)
    if transaction.parent is not None:
        waiting.setdefault(transaction.parent, []).extend(acts)
        return
    run_all(acts)


# -- the outbox


class Outbox:
    """A table of messages in your own database.

    metadata   gets the table, so that `metadata.create_all` or Alembic makes it. engine: for the relay, and for what is published right after
               a commit; None: only writes. table: its name. fast: publish right after the commit, without waiting for the relay.
    """

    def __init__(
        self, app: Celeriac, metadata: MetaData, engine: Engine | None = None, *, table: str = TABLE, fast: bool = True
    ) -> None:  # fmt: skip
        self.table = table_in(metadata, table)
        self._insert = insert(self.table)
        self._app = app
        self._engine: Engine | None = getattr(engine, "sync_engine", engine)
        if self._engine is not None and self._engine.dialect.name in {"mysql", "mariadb"}:
            # Else what is locked includes the gap in which others write.
            self._engine = self._engine.execution_options(isolation_level="READ COMMITTED")
        self._fast = Fast(app) if fast and engine is not None else None
        if self._engine is not None:
            register(app, self)

    def delay(self, session: Any, task: Any, *args: Any, **kwargs: Any) -> AsyncResult:
        """Write a call into the session's transaction; its handle."""
        return self.apply_async(session, task, args, kwargs)

    def apply_async(
        self, session: Any, task: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult:
        """As `delay`, with the options of Task.apply_async. session: a Session, a Connection, or their async kin's `sync_…`."""
        message, text = message_for(self._app, task, tuple(args), dict(kwargs or {}), options)
        session = getattr(session, "sync_session", session)
        now = time.time()
        values = {
            "task_id": message.id, "message": text, "made_at": now, "tries": 0, "trouble": "",
            "free_at": now + OWN_S if self._fast is not None and isinstance(session, Session) else now,
        }  # fmt: skip
        done = session.execute(self._insert, values)
        if self._fast is not None and isinstance(session, Session):
            place = int(done.inserted_primary_key[0])
            after_commit(session, lambda: self._publish(place, message))
        return self._app.AsyncResult(message.id)

    def _publish(self, place: int, message: Any) -> None:
        try:
            if self._fast is not None and self._fast.publish(message):
                self.delete([place])
        except BackendUnavailable:
            return  # it is published; the relay will publish it once more, with the same id

    # -- Rows

    def take(self, most: int, taken_s: float) -> list[Row]:
        """See contrib/outbox.py: Rows."""
        table, now, mark = self.table, time.time(), uuid.uuid4().hex
        columns = select(table.c.place, table.c.message, table.c.tries).order_by(table.c.place)
        free = select(table.c.place).where(table.c.free_at <= now).order_by(table.c.place).limit(most)
        taken = {"free_at": now + taken_s, "taken_by": mark}
        with self._connection() as connection:
            if connection.dialect.name in _SKIPS:
                locked = connection.execute(
                    columns.where(table.c.free_at <= now).limit(most).with_for_update(skip_locked=True)
                ).all()
                if locked:
                    connection.execute(
                        update(table).where(table.c.place.in_([row.place for row in locked])).values(taken)
                    )
                return [Row(*row) for row in locked]
            # One statement takes them: nothing comes in between.
            if not connection.execute(update(table).where(table.c.place.in_(free)).values(taken)).rowcount:
                return []
            return [Row(*row) for row in connection.execute(columns.where(table.c.taken_by == mark))]

    def delete(self, places: Iterable[int]) -> None:
        """See contrib/outbox.py: Rows."""
        numbers = list(places)
        if numbers:
            with self._connection() as connection:
                connection.execute(delete(self.table).where(self.table.c.place.in_(numbers)))

    def put_off(self, places: Iterable[int], for_s: float, trouble: str = "") -> None:
        """See contrib/outbox.py: Rows."""
        numbers = list(places)
        if numbers:
            tries = self.table.c.tries + (1 if trouble else 0)
            values = {"free_at": time.time() + for_s, "tries": tries, "trouble": trouble}
            with self._connection() as connection:
                connection.execute(update(self.table).where(self.table.c.place.in_(numbers)).values(values))

    def waiting(self) -> tuple[int, float | None]:
        """See contrib/outbox.py: Rows."""
        with self._connection() as connection:
            count, oldest = connection.execute(select(func.count(), func.min(self.table.c.made_at))).one()
            return int(count), None if oldest is None else time.time() - oldest

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if self._engine is None:
            raise ImproperlyConfigured("this outbox has no engine: Outbox(app, metadata, engine)")
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise BackendUnavailable(f"the outbox's database did not do what was asked: {error}") from error


def table_in(metadata: MetaData, name: str = TABLE) -> Table:
    """The outbox's table, in your metadata."""
    return Table(
        name, metadata,
        Column("place", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("task_id", String(255), nullable=False),
        Column("message", Text().with_variant(_LONG, "mysql", "mariadb"), nullable=False),
        Column("made_at", Double, nullable=False),
        Column("free_at", Double, nullable=False, index=True),
        Column("taken_by", String(32)),
        Column("tries", Integer, nullable=False),
        Column("trouble", String(500), nullable=False),
    )  # fmt: skip


__all__ = ["Outbox", "after_commit", "apply_async_on_commit", "delay_on_commit", "table_in"]
