"""Hooks and signals of failures that the body could not tell itself: its process is gone, or it hangs beyond its hard limit.

They run in a thread of the worker's main process, one after the other: user code may be slow, and the loop is not to wait for it.
"""

import logging
import queue
import threading
from datetime import UTC, datetime
from typing import NamedTuple

from celeriac import signals, states
from celeriac.app.context import Request, current
from celeriac.app.einfo import ExceptionInfo
from celeriac.app.task import Task
from celeriac.broker.codec import JSON, SIGNED, decode
from celeriac.broker.consumer import Delivery, payload
from celeriac.exceptions import DecodeError, Retry
from celeriac.wire.message import split_body
from celeriac.worker.executor import call_hook

log = logging.getLogger(__name__)

#: Failures that wait to be told; beyond it they are only logged.
MOST = 1000
_READ = frozenset([JSON, SIGNED])
_HOOKS = frozenset(["on_failure", "after_return"])


class _Told(NamedTuple):
    """retry_at: when it is tried again, in seconds since the epoch; None: it has failed."""

    task: Task
    delivery: Delivery
    error: BaseException
    traceback: str
    retry_at: float | None = None


class Aftermath:
    """Tells of failures, and of retries of what was lost, each once."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self._waiting: queue.Queue[_Told | None] = queue.Queue(MOST)
        self._thread: threading.Thread | None = None

    def failed(self, task: Task, delivery: Delivery, error: BaseException, traceback: str) -> None:
        """Tell of this failure soon, if a hook or a receiver wants to know. Never raises, never waits."""
        if task._hooked & _HOOKS or signals.task_failure.receivers or signals.task_postrun.receivers:
            self._tell_soon(_Told(task, delivery, error, traceback))

    def retried(self, task: Task, delivery: Delivery, error: BaseException, at: float) -> None:
        """Tell soon that a lost call is tried again, at that time (seconds since the epoch). Never raises, never waits."""
        if "on_retry" in task._hooked or signals.task_retry.receivers:
            self._tell_soon(_Told(task, delivery, error, str(error), at))

    def _tell_soon(self, told: _Told) -> None:
        delivery = told.delivery
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celeriac-aftermath", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(told)
        except queue.Full:
            log.error(
                "%s[%s]: its hooks are not called, too many wait",
                delivery.headers.get("task"),
                delivery.headers.get("id"),
            )

    def stop(self, within_s: float = 2.0) -> None:
        """End once all is told, or when the time is over."""
        thread = self._thread
        if thread is None:
            return
        try:
            self._waiting.put(None, timeout=within_s)
        except queue.Full:
            pass
        thread.join(within_s)
        if thread.is_alive():
            log.warning(
                "hooks of failed tasks did not end within %g s; %d are not called", within_s, self._waiting.qsize()
            )

    def _run(self) -> None:
        while True:
            found = self._waiting.get()
            if found is None:
                return
            self._tell(*found)

    def _tell(
        self, task: Task, delivery: Delivery, error: BaseException, traceback: str, retry_at: float | None
    ) -> None:
        args, kwargs = _arguments(delivery)
        request = Request(
            task, delivery.headers, args=args, kwargs=kwargs, hostname=self._hostname, properties=delivery.properties
        )
        info = ExceptionInfo(error, traceback)
        token = current.set(request)
        try:
            if retry_at is not None:
                call_hook(task, "on_retry", error, request.id, args, kwargs, info)
                reason = Retry(exc=error, when=datetime.fromtimestamp(retry_at, UTC))
                signals.task_retry.send(sender=task, request=request, reason=reason, einfo=info)
                return
            call_hook(task, "on_failure", error, request.id, args, kwargs, info)
            signals.task_failure.send(
                sender=task,
                task_id=request.id,
                exception=error,
                args=args,
                kwargs=kwargs,
                traceback=error.__traceback__,
                einfo=info,
            )
            call_hook(task, "after_return", states.FAILURE, error, request.id, args, kwargs, info)
            signals.task_postrun.send(
                sender=task, task_id=request.id, task=task, args=args, kwargs=kwargs, retval=error, state=states.FAILURE
            )
        finally:
            current.reset(token)


def _arguments(delivery: Delivery) -> tuple[tuple[object, ...], dict[str, object]]:
    """What the body was called with; nothing where that is neither plain JSON nor signed: nothing is unpickled in the worker."""
    if delivery.content_type not in _READ:
        return (), {}
    try:
        args, kwargs, _ = split_body(
            decode(
                payload(delivery),
                delivery.content_type,
                delivery.content_encoding,
                _READ,
                delivery.headers.get("compression"),
            )
        )
    except (DecodeError, ValueError, TypeError):
        return (), {}
    return tuple(args), dict(kwargs)
