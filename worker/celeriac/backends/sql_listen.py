"""Waiting for a result in PostgreSQL without looking: who stores it notifies a channel named after the task.

Celery's workers do not notify, so whoever waits looks all the same, now and then.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

#: Waiters of this process that may listen at once, each on a connection of its own; others only look.
_LISTENERS = threading.BoundedSemaphore(4)


def channel_of(task_id: str) -> str:
    """The channel's name: PostgreSQL allows 63 bytes, a task's id has up to 155."""
    return "celeriac_" + hashlib.blake2b(task_id.encode(), digest_size=16).hexdigest()


@contextmanager
def heard_on(engine: sa.Engine | None, task_id: str) -> Iterator[Callable[[float], object]]:
    """A function that rests for so many seconds, less when the task's result was stored meanwhile. None: it only sleeps."""
    if engine is None or engine.dialect.driver != "psycopg" or not _LISTENERS.acquire(blocking=False):
        yield time.sleep
        return
    try:
        held = _listening(engine, channel_of(task_id))
        if held is None:
            yield time.sleep
            return
        try:
            yield _Rest(held)
        finally:
            held.close()
    finally:
        _LISTENERS.release()


class _Rest:
    """Rests until the connection is notified, or for so many seconds; only the latter, once the connection is broken."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._broken = False

    def __call__(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        if not self._broken:
            try:
                for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                    return
            except psycopg_error() as error:
                log.debug("no longer told of results, looking for them instead: %s", error)
                self._broken = True
        time.sleep(max(0.0, until - time.monotonic()))


def _listening(engine: sa.Engine, channel: str) -> Any:
    """A psycopg connection outside of the pool that listens; None when there is none to be had."""
    connection: Any = None
    try:
        borrowed = engine.raw_connection()
        connection = borrowed.driver_connection
        borrowed.detach()
        connection.rollback()
        connection.autocommit = True
        connection.execute(f"LISTEN {channel}")
    except (SQLAlchemyError, psycopg_error()) as error:
        log.debug("cannot listen for results, looking for them instead: %s", error)
        if connection is not None:
            connection.close()
        return None
    return connection


def psycopg_error() -> type[Exception]:
    """The driver's base of errors; it is there, since the engine uses it."""
    import psycopg

    return psycopg.Error
