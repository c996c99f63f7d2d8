"""Results in SQL: SQLite, PostgreSQL, MySQL and MariaDB, in Celery's own tables, by SQLAlchemy.

A batch of records is one statement in one transaction. Who waits looks again and again, less and less often; on PostgreSQL the
transaction that stores also tells. What the tables keep expires by `cleanup`, which `celery.backend_cleanup` calls.
"""

import logging
import marshal
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import NullPool, QueuePool

from celeriac import states
from celeriac.backends.payload import Payloads
from celeriac.backends.sql_listen import channel_of, heard_on
from celeriac.backends.sql_options import SqlOptions
from celeriac.backends.sql_tables import COLUMNS, YOUNGER, Row, last_of_each, make_tables, upsert
from celeriac.config.secret import redacted
from celeriac.exceptions import BackendUnavailable, EncodeError, ImproperlyConfigured
from celeriac.wire.chord import DONE_S, ChordPart, ChordStart, Joined, claim_token, part_record
from celeriac.wire.result import ResultMeta

log = logging.getLogger(__name__)

#: Records in one statement: 12 values each, and PostgreSQL counts 65,535 of them at most, SQLite 32,766.
AT_ONCE = 1000
#: Ids in one query, rows in one deletion.
SOME = 500
#: Seconds from the first look for a result to the second; each wait after it is twice as long, up to the caller's interval.
FIRST_WAIT_S = 0.02
#: The least to which a server's limit of a statement (max_allowed_packet) is usually set: nothing below is too large.
LARGE_BYTES = 1024 * 1024
#: Times a transaction is tried that met another one, or a connection that was closed meanwhile.
TRIES = 4
#: Stands for a member without a place.
NO_PLACE = -1
#: Stands for the place in the row that says of a member that it was added to its chord.
ADDED = -2
#: Serialization failure and deadlock in PostgreSQL; deadlock and lock wait time-out in MySQL.
_MET_ANOTHER = frozenset(["40001", "40P01", 1213, 1205])

T = TypeVar("T")


class _Ready(NamedTuple):
    """An engine whose tables stand. statement: see sql_tables.upsert. present: columns of the results' table."""

    engine: sa.Engine
    statement: tuple[str, str, str]
    present: frozenset[str]


class SqlBackend:
    """See ResultBackend. url: as SQLAlchemy has it, with Celery's `db+` or `sqla+` before it."""

    keeps_results = True
    keeps_chords = True
    answers = False

    def __init__(
        self, url: str, *, options: SqlOptions, expires_s: float | None, serializer: str, accept: Collection[str], compression: str | None = None
    ) -> None:  # fmt: skip
        self._url = url.removeprefix("db+").removeprefix("sqla+")
        self._options = options
        self._expires_s = expires_s or None
        self._payloads = Payloads(serializer, accept, compression)
        self._tables = make_tables(options.table_names, options.table_schemas)
        self._made: sa.Engine | None = None
        self._ready: _Ready | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        try:
            self._dialect = sa.make_url(self._url).get_backend_name()
        except ArgumentError as error:
            raise ImproperlyConfigured(f"result_backend {redacted(url)!r} is no URL of a database: {error}") from None

    # -- records

    def expect(self) -> str:
        return ""

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        errors: list[Exception | None] = [None] * len(records)
        rows: list[Row] = []
        places: dict[str, list[int]] = {}
        for place, (meta, encoded) in enumerate(records):
            try:
                rows.append(marshal.loads(encoded) if encoded is not None else self._row(meta))
            except EncodeError as error:
                errors[place] = error
                continue
            places.setdefault(meta.task_id, []).append(place)
        rows = last_of_each(rows)
        for start in range(0, len(rows), AT_ONCE):
            for task_id, refusal in self._write(rows[start : start + AT_ONCE]).items():
                for place in places[task_id]:
                    errors[place] = errors[place] or refusal
        return errors

    def encode(self, meta: ResultMeta) -> bytes:
        return marshal.dumps(self._row(meta))

    def _row(self, meta: ResultMeta) -> Row:
        """The columns' values in plain types; the time still as text."""
        extra, write = meta.extra, self._payloads.encode
        return (
            str(meta.task_id), str(meta.status), write(meta.result), meta.date_done,
            None if meta.traceback is None else str(meta.traceback).replace("\0", "\ufffd"),  # PostgreSQL's text has no NUL
            write(meta.children) if meta.children else None,
            _short(extra.get("name")),
            write(extra["args"]) if extra.get("args") is not None else None,
            write(extra["kwargs"]) if extra.get("kwargs") is not None else None,
            _short(extra.get("worker")), extra.get("retries"), _short(extra.get("queue")),
        )  # fmt: skip

    def _write(self, rows: Sequence[Row]) -> dict[str, Exception]:
        """Write them in one go; one by one when that fails for what may be the fault of one. Who was refused, and why."""
        try:
            with self._errors():
                return self._write_at_once(rows)
        except BackendUnavailable as error:
            if not _may_be_of_one(error, rows):
                raise
        self._check()  # raises when it is an outage after all
        refused: dict[str, Exception] = {}
        for row in rows:
            try:
                with self._errors():
                    self._write_at_once([row])
            except BackendUnavailable as error:
                if not _may_be_of_one(error, [row]):
                    raise
                self._check()
                refused[row[0]] = EncodeError(
                    f"the database does not take the record of {row[0][:200]} ({len(row[2])} bytes of result), and takes others: {error};"
                    " return less, or where the data is kept"
                )
        return refused

    def _write_at_once(self, rows: Sequence[Row]) -> dict[str, Exception]:
        ready = self._open()
        head, one, tail = ready.statement
        chosen = [place for place, column in enumerate(COLUMNS) if column in ready.present]
        values = tuple(_bound(row[place], place) for row in rows for place in chosen)
        told = [channel_of(row[0]) for row in rows if row[1] in states.READY_STATES] if self._tells else []

        def write(connection: sa.Connection) -> None:
            connection.exec_driver_sql(head + ", ".join([one] * len(rows)) + tail, values)
            if told:
                connection.exec_driver_sql("SELECT pg_notify(name, '') FROM unnest(%s::text[]) AS told(name)", (told,))

        self._transact(write)
        return {}

    def fetch(self, task_id: str) -> ResultMeta | None:
        return self.fetch_many([task_id]).get(task_id)

    def fetch_many(self, task_ids: Sequence[str]) -> Mapping[str, ResultMeta]:
        found: dict[str, ResultMeta] = {}
        for start in range(0, len(task_ids), SOME):
            some = task_ids[start : start + SOME]
            with self._errors():
                ready = self._open()
                tasks = self._tables.tasks
                columns = [tasks.c[name] for name in (*COLUMNS, "stamps") if name in ready.present]
                query = sa.select(*columns).where(tasks.c.task_id.in_(some))
                rows = self._transact(partial(_all, query))
            found |= {row["task_id"]: self._meta(row) for row in rows}
        return found

    def _meta(self, row: Mapping[Any, Any]) -> ResultMeta:
        read = self._payloads.decode
        extra: dict[str, Any] = {
            name: read(row[name]) if name in {"args", "kwargs"} else row[name]
            for name in COLUMNS[6:]
            if row.get(name) is not None
        }
        if row.get("stamps") is not None:
            stamps = read(row["stamps"])
            extra |= {"stamped_headers": stamps.get("stamped_headers"), **(stamps.get("stamps") or {})}
        done, result, children = row["date_done"], row["result"], row.get("children")
        return ResultMeta(
            task_id=row["task_id"],
            status=row["status"] or states.PENDING,
            result=None if result is None else read(result),
            traceback=row["traceback"],
            date_done=None if done is None else done.replace(tzinfo=UTC).isoformat(),
            children=() if children is None else read(children),
            extra=extra,
        )

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        """See ResultBackend. The first contact has to work; an outage after it is waited out."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reached, pause_s = False, FIRST_WAIT_S
        with heard_on(self._engine() if self._tells else None, task_id) as rest:
            while True:
                try:
                    found = self.fetch(task_id)  # in a transaction of its own: it sees what was committed up to now
                    reached = True
                    if found is not None and found.status in states.READY_STATES:
                        return found
                except BackendUnavailable as error:
                    if not reached or (deadline is not None and time.monotonic() >= deadline):
                        raise
                    log.warning("%s; still waiting for the result of %s", error, task_id)
                left_s = pause_s if deadline is None else deadline - time.monotonic()
                if left_s <= 0:
                    return None
                rest(min(pause_s, left_s))
                pause_s = min(pause_s * 2, max(interval_s, FIRST_WAIT_S))

    def forget(self, task_id: str) -> None:
        tasks = self._tables.tasks
        self._run(sa.delete(tasks).where(tasks.c.task_id == task_id))

    def cleanup(self) -> int:
        """See ResultBackend. A batch of rows a transaction, so that nobody waits for it. Records that are not ready have no age and stay."""
        chords, parts = self._tables.chords, self._tables.parts
        now = _now()
        ended = chords.c.done_at < now - timedelta(seconds=DONE_S)
        count = 0
        if self._expires_s is not None:
            old = now - timedelta(seconds=self._expires_s)
            ended |= chords.c.begun_at < old
            for table in (self._tables.tasks, self._tables.groups):
                count += self._delete(table, table.c.id, table.c.date_done < old)
        with self._errors():
            self._open()
            query = sa.select(chords.c.group_id).where(ended).limit(SOME)
            while gone := self._transact(lambda connection: connection.execute(query).scalars().all()):
                self._run(sa.delete(parts).where(parts.c.group_id.in_(gone)))
                self._run(sa.delete(chords).where(chords.c.group_id.in_(gone)))
        return count

    def _delete(self, table: sa.Table, key: sa.Column[Any], where: sa.ColumnElement[bool]) -> int:
        count = 0
        with self._errors():
            self._open()
            query = sa.select(key).where(where).limit(SOME)
            while ids := self._transact(lambda connection: connection.execute(query).scalars().all()):
                count += len(ids)
                self._run(sa.delete(table).where(key.in_(ids)))
        return count

    # -- groups

    def save_group(self, group_id: str, members: Any) -> None:
        groups = self._tables.groups
        values = {"result": self._payloads.encode(members), "date_done": _now()}

        def write(connection: sa.Connection) -> None:
            if not connection.execute(sa.update(groups).where(groups.c.taskset_id == group_id), values).rowcount:
                connection.execute(sa.insert(groups).inline(), [{"taskset_id": group_id, **values}])

        with self._errors():
            self._open()
            try:
                self._transact(write, locks=True)
            except IntegrityError:  # another one has saved it in between
                self._transact(write, locks=True)

    def fetch_group(self, group_id: str) -> Any:
        groups = self._tables.groups
        query = sa.select(groups.c.result).where(groups.c.taskset_id == group_id)
        with self._errors():
            self._open()
            payload = self._transact(lambda connection: connection.execute(query).scalar())
        return None if payload is None else self._payloads.decode(payload)

    def forget_group(self, group_id: str) -> None:
        groups = self._tables.groups
        self._run(sa.delete(groups).where(groups.c.taskset_id == group_id))

    # -- chords

    def open_chords(self, starts: Sequence[ChordStart]) -> None:
        chords = self._tables.chords
        rows = {
            start.group_id: {
                "group_id": start.group_id,
                "size": start.size,
                "structure": None if start.structure is None else self._payloads.encode(start.structure),
                "begun_at": _now(),
            }
            for start in reversed(starts)  # the first of two stands
        }

        def write(connection: sa.Connection) -> None:
            for some in _parts_of(sorted(rows), SOME):
                known = connection.execute(sa.select(chords.c.group_id).where(chords.c.group_id.in_(some))).scalars()
                new = sorted(set(some) - set(known))
                if new:
                    connection.execute(sa.insert(chords), [rows[group_id] for group_id in new])

        with self._errors():
            self._open()
            try:
                self._transact(write, locks=True)
            except IntegrityError:  # another one has opened some of them in between
                self._transact(write, locks=True)

    def widen_chord(self, group_id: str, task_id: str) -> None:
        chords, parts = self._tables.chords, self._tables.parts

        def widen(connection: sa.Connection) -> None:
            is_open = (chords.c.group_id == group_id) & chords.c.done_at.is_(None)
            mark = {"group_id": group_id, "task_id": task_id, "place": ADDED}
            known = sa.select(parts.c.task_id).where(*(parts.c[name] == value for name, value in mark.items()))
            if connection.execute(sa.select(chords.c.group_id).where(is_open).with_for_update()).first() is None:
                return
            if connection.execute(known).first() is None:
                connection.execute(sa.insert(parts), [{**mark, "arrived": 0, "payload": b""}])
                connection.execute(sa.update(chords).where(is_open).values(size=chords.c.size + 1))

        with self._errors():
            self._open()
            self._transact(widen, locks=True)

    def encode_part(self, task_id: str, state: str, result: Any) -> bytes:
        return self._payloads.encode(part_record(task_id, state, result))

    def join_chords(self, parts: Sequence[ChordPart]) -> list[Joined]:
        by_group: dict[str, list[ChordPart]] = {}
        for part in parts:
            by_group.setdefault(part.group_id, []).append(part)
        chords = self._tables.chords
        names = (chords.c.group_id, chords.c.size, chords.c.structure, chords.c.holder)

        def join(connection: sa.Connection) -> list[Joined]:
            complete = []
            for some in _parts_of(sorted(by_group), SOME):
                # Whoever else ends members of these waits here. All take them in one order, so nobody waits for ever.
                open_ones = sa.select(*names).where(chords.c.group_id.in_(some), chords.c.done_at.is_(None))
                for chord in connection.execute(open_ones.order_by(chords.c.group_id).with_for_update()).all():
                    joined = self._join(connection, chord, by_group[chord.group_id])
                    if joined is not None:
                        complete.append(joined)
            return complete

        with self._errors():
            self._open()
            return self._transact(join, locks=True)

    def _join(self, connection: sa.Connection, chord: Any, mine: Sequence[ChordPart]) -> Joined | None:
        """Count these members of one chord, whose row is locked; the chord, when it is complete and its body is for one of them to send."""
        parts, chords = self._tables.parts, self._tables.chords
        of_chord = (parts.c.group_id == chord.group_id) & (parts.c.place != ADDED)
        query = sa.select(parts.c.task_id, parts.c.place).where(of_chord)
        counted = {tuple(row) for row in connection.execute(query)}
        new: dict[tuple[str, int], dict[str, Any]] = {}
        for part in mine:
            place = NO_PLACE if part.place is None else part.place
            if (part.task_id, place) not in counted and (part.task_id, place) not in new:
                new[part.task_id, place] = {
                    "group_id": chord.group_id, "task_id": part.task_id, "place": place,
                    "arrived": len(counted) + len(new), "payload": part.payload,
                }  # fmt: skip
        if new:
            connection.execute(sa.insert(parts), list(new.values()))
        if len(counted) + len(new) != chord.size:
            return None
        tokens = {claim_token(part.task_id): part.task_id for part in reversed(mine)}
        holder = tokens.get(chord.holder) if chord.holder is not None else mine[0].task_id
        if holder is None:
            return None
        if chord.holder is None:
            claimed = sa.update(chords).where(chords.c.group_id == chord.group_id)
            connection.execute(claimed.values(holder=claim_token(holder)))
        rows = connection.execute(sa.select(parts.c.place, parts.c.arrived, parts.c.payload).where(of_chord)).all()
        rows = sorted(rows, key=lambda row: (row.place if row.place != NO_PLACE else float("inf"), row.arrived))
        structure = None if chord.structure is None else self._payloads.decode(chord.structure)
        return Joined(chord.group_id, holder, [self._payloads.decode(row.payload) for row in rows], structure)

    def close_chords(self, joined: Sequence[Joined]) -> None:
        chords, parts = self._tables.chords, self._tables.parts

        def close(connection: sa.Connection) -> None:
            for one in sorted(joined, key=lambda one: one.group_id):
                mine = (chords.c.group_id == one.group_id) & (chords.c.holder == one.token)
                if connection.execute(sa.update(chords).where(mine).values(done_at=_now(), structure=None)).rowcount:
                    connection.execute(sa.delete(parts).where(parts.c.group_id == one.group_id))

        with self._errors():
            self._open()
            self._transact(close, locks=True)

    # -- the connection

    def close(self) -> None:
        with self._lock:
            if self._made is not None:
                self._made.dispose(close=self._pid == os.getpid())
            self._made = self._ready = None

    @property
    def _tells(self) -> bool:
        return self._dialect == "postgresql"

    def _run(self, statement: Any) -> int:
        """Run one statement by itself; how many rows it met."""
        with self._errors():
            self._open()
            return self._transact(lambda connection: connection.execute(statement).rowcount, locks=True)

    def _check(self) -> None:
        with self._errors():
            self._transact(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    def _transact(self, work: Callable[[sa.Connection], T], *, locks: bool = False) -> T:
        """What `work` gives, in a transaction of its own, begun anew when it met another one or its connection was stale.

        locks: it reads before it writes. SQLite, which cannot lock later what it has only read, locks at once.
        """
        engine = self._engine()
        for left in reversed(range(TRIES)):
            try:
                with engine.begin() as connection:
                    if locks and self._dialect == "sqlite":
                        connection.exec_driver_sql("BEGIN IMMEDIATE")
                    return work(connection)
            except DBAPIError as error:
                stale = error.connection_invalidated and left == TRIES - 1
                if not left or not (stale or _code(error) in _MET_ANOTHER):
                    raise
                if not stale:
                    time.sleep(random.uniform(0, 0.02 * (TRIES - left)))
        raise AssertionError("the last try returns or raises")

    def _engine(self) -> sa.Engine:
        if self._made is None or self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    if self._made is not None:
                        self._made.dispose(close=False)  # its connections are those of the process we came from
                    self._made = self._ready = None
                    self._pid = os.getpid()
                if self._made is None:
                    self._made = self._create_engine()
        return self._made

    def _open(self) -> _Ready:
        """The engine, with its tables made or found. Raises SQLAlchemyError, ImproperlyConfigured."""
        engine = self._engine()
        if self._ready is None:
            with self._lock:
                if self._ready is None:
                    self._ready = self._prepare(engine)
        return self._ready

    def _create_engine(self) -> sa.Engine:
        given: dict[str, Any] = {"pool_pre_ping": True, "pool_recycle": 3600, **self._options.engine_options}
        if self._dialect in {"mysql", "mariadb"}:
            # Under REPEATABLE READ, their default, a transaction never sees what was stored after its first look.
            given.setdefault("isolation_level", "READ COMMITTED")
        if self._dialect == "sqlite":
            given.setdefault("connect_args", {}).setdefault("timeout", 20)
            if sa.make_url(self._url).database in {
                None,
                "",
                ":memory:",
            }:  # one connection is one database: all use it in turn
                given |= {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_recycle": -1}
                given["connect_args"].setdefault("check_same_thread", False)
        if self._options.short_lived_sessions:
            given = {
                name: value for name, value in given.items() if not name.startswith("pool") and name != "max_overflow"
            }
            given["poolclass"] = NullPool
        try:
            engine = sa.create_engine(self._url, hide_parameters=True, **given)
        except (ImportError, NoSuchModuleError) as error:
            raise ImproperlyConfigured(
                f"result_backend {redacted(self._url)!r}: {error}. Install a driver and name it: db+postgresql+psycopg://, db+mysql+pymysql://"
            ) from error
        except (ArgumentError, TypeError) as error:
            raise ImproperlyConfigured(f"result_backend {redacted(self._url)!r} cannot be used: {error}") from error
        if self._dialect in {"mysql", "mariadb"}:
            sa.event.listen(engine, "connect", _strict)
        return engine

    def _prepare(self, engine: sa.Engine) -> _Ready:
        tables = self._tables
        if self._options.create_tables:
            self._create_tables(engine)
        look = sa.inspect(engine)
        found: dict[str, Mapping[str, Any]] = {}
        for table in (tables.tasks, tables.groups):
            if not look.has_table(table.name, schema=table.schema):
                raise ImproperlyConfigured(
                    f"the database {redacted(self._url)} has no table {table.fullname}, and database_create_tables_at_setup is off: create it first"
                )
        for column in look.get_columns(tables.tasks.name, schema=tables.tasks.schema):
            found[column["name"]] = dict(column)
        if self._options.create_tables:
            for name in sorted(YOUNGER - found.keys()):  # made by an older Celery, which had fewer
                self._add_column(engine, name)
                found[name] = {}
        # MariaDB and PostgreSQL number by a sequence, but for tables that were made without.
        number: Mapping[str, Any] = found.get("id", {})
        own = bool(number.get("autoincrement") is True or number.get("default") or number.get("identity"))
        numbered = bool(engine.dialect.supports_sequences) and not own
        present = frozenset(found)
        statement = upsert(engine.dialect, tables.tasks, present, numbered=numbered)
        if not numbered:
            tables.tasks.c.id.default = tables.groups.c.id.default = None
        return _Ready(engine, statement, present)

    def _create_tables(self, engine: sa.Engine) -> None:
        for left in reversed(range(10)):
            try:
                self._tables.metadata.create_all(engine)
            except DBAPIError as error:
                if not left or error.connection_invalidated:
                    raise
                time.sleep(random.uniform(0.01, 0.1))
            else:
                return

    def _add_column(self, engine: sa.Engine, name: str) -> None:
        table, quote = self._tables.tasks, engine.dialect.identifier_preparer
        kind = table.c[name].type.compile(engine.dialect)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {quote.quote(name)} {kind}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, PoolTimeout) as error:
            told = getattr(error, "orig", None) or error
            why = redacted(" ".join(str(told).split())) or type(told).__name__
            raise BackendUnavailable(
                f"cannot use the result backend at {redacted(self._url)}: {type(told).__name__}: {why[:500]}"
            ) from error


def _all(query: sa.Select[Any], connection: sa.Connection) -> Sequence[Mapping[Any, Any]]:
    return connection.execute(query).mappings().all()


def _short(value: Any) -> str | None:
    """Text for a column of 155 characters."""
    return None if value is None else str(value)[:155]


def _bound(value: Any, place: int) -> Any:
    """A row's value as the driver takes it: the time in UTC, without saying so, as Celery's column has it."""
    if place != 3 or value is None:
        return value
    return datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _parts_of(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _code(error: DBAPIError) -> Any:
    """PostgreSQL's SQLSTATE, MySQL's number."""
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    if state is not None:
        return state
    return error.orig.args[0] if error.orig is not None and error.orig.args else None


def _may_be_of_one(error: BackendUnavailable, rows: Sequence[Row]) -> bool:
    """Whether the fault may be one record's: the server says so, or has closed the connection over something large."""
    cause = error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    if isinstance(cause, sa.exc.DataError | IntegrityError):
        return True
    return sum(len(row[2]) + len(row[4] or "") for row in rows) > LARGE_BYTES


def _strict(connection: Any, _: Any) -> None:
    """No value is cut silently, whatever the server's default."""
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")
