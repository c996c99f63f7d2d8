"""Waiting for a result in a coroutine."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from celeriac import states
from celeriac.backends.base import ResultBackend
from celeriac.backends.watching import watcher_of
from celeriac.wire.result import ResultMeta


async def ready(backend: ResultBackend, task_id: str, timeout_s: float | None) -> ResultMeta | None:
    """The record once it is ready; None when timeout_s is over. Raises BackendUnavailable, DecodeError.

    Cancelling it ends the watch: nothing is left behind.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[ResultMeta] = loop.create_future()

    def settle(told: ResultMeta | Exception) -> None:
        if found.done():
            return
        if isinstance(told, Exception):
            found.set_exception(told)
        else:
            found.set_result(told)

    def tell(told: ResultMeta | Exception) -> None:
        if isinstance(told, ResultMeta) and told.status not in states.READY_STATES:
            return
        try:
            loop.call_soon_threadsafe(settle, told)
        except RuntimeError:  # the loop was closed meanwhile, and nobody waits any more
            cancel()

    cancel = watcher_of(backend).watch(task_id, tell)
    try:
        async with asyncio.timeout(timeout_s):
            return await found
    except TimeoutError:
        if found.done() and not found.cancelled():
            raise  # the store's own
        return None
    finally:
        cancel()


async def together(waits: Iterable[Coroutine[Any, Any, Any]], timeout_s: float | None) -> list[Any] | None:
    """What all of these return, in order; None when timeout_s is over. Raises the first error that there is, and ends the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return list(await asyncio.gather(*tasks))
    except TimeoutError:
        if not limit.expired():
            raise
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
