"""The tables of results in SQL: Celery's own two, and our two for chords; and the one statement that writes many records.

Source: celery/backends/database/models.py of 5.7: the same names, columns, indexes and sequences, so that either library may have made them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

from celeriac import states
from celeriac.exceptions import ImproperlyConfigured

#: Celery's names; `database_table_names` and `database_table_schemas` say others for `task` and `group`.
TASKS, GROUPS = "celery_taskmeta", "celery_tasksetmeta"
CHORDS, PARTS = "celeriac_chord", "celeriac_chord_part"

#: What a record consists of, in the order of `Row`.
COLUMNS = (
    "task_id", "status", "result", "date_done", "traceback", "children",
    "name", "args", "kwargs", "worker", "retries", "queue",
)  # fmt: skip
#: The columns that tables of older Celery need not have.
YOUNGER = frozenset(COLUMNS[5:])
Row = tuple[Any, ...]

#: MySQL's BLOB and TEXT end at 64 KiB.
_BYTES = sa.LargeBinary().with_variant(LONGBLOB, "mysql", "mariadb")
_TEXT = sa.Text().with_variant(LONGTEXT, "mysql", "mariadb")
_MYSQL: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


class Tables(NamedTuple):
    """The tables of one store."""

    metadata: sa.MetaData
    tasks: sa.Table
    groups: sa.Table
    chords: sa.Table
    parts: sa.Table


def make_tables(names: Mapping[str, str], schemas: Mapping[str, str]) -> Tables:
    """The tables under the names and in the schemas that the settings give for `task` and `group`."""
    metadata = sa.MetaData()
    tasks_in, groups_in = schemas.get("task"), schemas.get("group")
    tasks = sa.Table(
        names.get("task") or TASKS, metadata,
        sa.Column("id", sa.Integer, sa.Sequence("task_id_sequence", schema=tasks_in), primary_key=True, autoincrement=True),
        sa.Column("task_id", sa.String(155), unique=True),
        sa.Column("status", sa.String(50)),
        sa.Column("result", _BYTES),
        sa.Column("date_done", sa.DateTime, index=True),
        sa.Column("traceback", _TEXT),
        sa.Column("children", _BYTES),
        sa.Column("name", sa.String(155)),
        sa.Column("args", _BYTES),
        sa.Column("kwargs", _BYTES),
        sa.Column("worker", sa.String(155)),
        sa.Column("retries", sa.Integer),
        sa.Column("queue", sa.String(155)),
        sa.Column("stamps", _BYTES),
        schema=tasks_in, sqlite_autoincrement=True, implicit_returning=False, **_MYSQL,
    )  # fmt: skip
    groups = sa.Table(
        names.get("group") or GROUPS, metadata,
        sa.Column("id", sa.Integer, sa.Sequence("taskset_id_sequence", schema=groups_in), primary_key=True, autoincrement=True),
        sa.Column("taskset_id", sa.String(155), unique=True),
        sa.Column("result", _BYTES),
        sa.Column("date_done", sa.DateTime, index=True),
        schema=groups_in, sqlite_autoincrement=True, implicit_returning=False, **_MYSQL,
    )  # fmt: skip
    chords = sa.Table(
        CHORDS, metadata,
        sa.Column("group_id", sa.String(155), primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("structure", _BYTES),
        sa.Column("holder", sa.String(155)),
        sa.Column("done_at", sa.DateTime),
        sa.Column("begun_at", sa.DateTime, nullable=False, index=True),
        schema=groups_in, **_MYSQL,
    )  # fmt: skip
    parts = sa.Table(
        PARTS, metadata,
        sa.Column("group_id", sa.String(155), primary_key=True),
        sa.Column("task_id", sa.String(155), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("arrived", sa.Integer, nullable=False),
        sa.Column("payload", _BYTES, nullable=False),
        schema=groups_in, **_MYSQL,
    )  # fmt: skip
    return Tables(metadata, tasks, groups, chords, parts)


def upsert(dialect: sa.Dialect, table: sa.Table, present: Collection[str], *, numbered: bool) -> tuple[str, str, str]:
    """(head, one row, tail) of the statement that writes records and leaves a stored SUCCESS alone; rows are repeated between commas.

    present   columns that the table has. numbered: its ids come from the sequence, not from the table.
    Written here as text: SQLAlchemy compiles a statement of many rows anew each time.
    """
    mark = "?" if dialect.paramstyle == "qmark" else "%s"
    quote = dialect.identifier_preparer
    name = quote.format_table(table)
    columns = [column for column in COLUMNS if column in present]
    quoted = [quote.quote(column) for column in columns]
    row = [mark] * len(columns)
    if numbered:
        quoted.insert(0, "id")
        row.insert(0, _next_id(dialect, table))
    head = f"INSERT INTO {name} ({', '.join(quoted)}) VALUES "
    # status last: MySQL assigns in this order, and what follows would see the new one.
    changing = [quote.quote(column) for column in columns if column not in {"task_id", "status"}] + ["status"]
    if dialect.name in {"mysql", "mariadb"}:
        kept = f"{name}.status = '{states.SUCCESS}'"
        tail = " ON DUPLICATE KEY UPDATE " + ", ".join(
            f"{column} = IF({kept}, {name}.{column}, VALUES({column}))" for column in changing
        )
    elif dialect.name in {"postgresql", "sqlite"}:
        sets = ", ".join(f"{column} = excluded.{column}" for column in changing)
        short = quote.quote(table.name)
        tail = f" ON CONFLICT (task_id) DO UPDATE SET {sets} WHERE coalesce({short}.status, '') <> '{states.SUCCESS}'"
    else:
        raise ImproperlyConfigured(
            f"results in SQL are kept in SQLite, PostgreSQL, MySQL or MariaDB; there is no {dialect.name} yet"
        )
    return head, f"({', '.join(row)})", tail


def _next_id(dialect: sa.Dialect, table: sa.Table) -> str:
    sequence = table.c.id.default
    assert isinstance(sequence, sa.Sequence)
    name = dialect.identifier_preparer.format_sequence(sequence)
    return f"nextval('{name}')" if dialect.name == "postgresql" else f"nextval({name})"


def last_of_each(rows: Sequence[Row]) -> list[Row]:
    """One row for each task, as storing them in this order would leave it: a statement cannot write a row twice. In the order of ids."""
    kept: dict[str, Row] = {}
    for row in rows:
        before = kept.get(row[0])
        if before is None or before[1] != states.SUCCESS:
            kept[row[0]] = row
    # Always in the same order: two writers that take locks crosswise would each wait for the other.
    return [kept[task_id] for task_id in sorted(kept)]
