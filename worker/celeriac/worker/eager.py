"""A call that runs where it is made, by the worker's own executor: what a worker would refuse is refused here, too.

Arguments and value go through their serializers, hooks and signals fire, retries run at once, and what is linked runs after it. There is
no message to keep: a task that raises Reject or Ignore just ends, and one
that raises Retry by hand stays in that state. Time limits do not hold, since nobody watches from outside, and
the thread is the caller's own; nor do eta, countdown and expires, since it runs now.
"""

import asyncio
import inspect
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from celeriac import states
from celeriac.app.base import Celeriac
from celeriac.app.context import Request
from celeriac.app.task import Task
from celeriac.broker.codec import content_types, decode, encode
from celeriac.broker.consumer import Delivery
from celeriac.broker.producer import written
from celeriac.exceptions import Retry
from celeriac.policy.outcome import Failed, Ignored, Outcome, Rejected, RetryAsked, Succeeded, Unreadable
from celeriac.policy.settlement import Rules, settle
from celeriac.result import EagerResult
from celeriac.wire.message import TaskMessage
from celeriac.wire.result import ResultMeta
from celeriac.worker.executor import Done, Executor, Job

#: What a call may say that means nothing here.
_OF_SENDING = ("connection", "producer", "require_consumer", "add_to_parent")


def run_here(
    app: Celeriac, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any], *, throw: bool | None, task_id: str | None, **options: Any
) -> EagerResult[Any]:  # fmt: skip
    """The result of the call; see Task.apply. Raises EncodeError, NotRegistered for what is linked and not there, and with throw the task's error."""
    for name in (*_OF_SENDING, "countdown", "eta", "expires"):
        options.pop(name, None)
    message = app.message(
        task.name or "", args, kwargs, task, countdown=None, eta=None, expires=None, task_id=task_id, options=options
    )
    raises = app.conf.task_eager_propagates if throw is None else throw
    here = _Here(app)
    try:
        first, follow = here.run(message, task, raises)
        waiting = deque(follow)
        while waiting:
            message = waiting.popleft()
            _, follow = here.run(message, app.find(message.headers["task"]), raises)
            waiting.extend(follow)
    finally:
        here.executor.leave_thread()
    return first


class _Recording(Executor):
    """Knows whether the last retry was a Retry raised by hand, which has no limit: here nothing would ever end it."""

    by_hand = False

    def _next_try(self, task: Task, request: Request, asked: Retry, rules: Rules) -> Outcome:
        self.by_hand = asked.sig is None
        return super()._next_try(task, request, asked, rules)


class _Here:
    """An executor that keeps what a body returned, as whoever asks for the result would get it."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._hostname = socket.gethostname()
        conf = app.conf
        self._serializer = conf.result_serializer
        self._stores = bool(conf.task_store_eager_result)
        self._ignored = False
        self._value: Any = None
        self._task: Task | None = None
        self.executor = _Recording(
            app, hostname=self._hostname, accept=content_types(conf.accept_content), encode=self._encode,
            store=self._store if self._stores else None, eager=True,
        )  # fmt: skip

    def run(self, message: TaskMessage, task: Task, raises: bool) -> tuple[EagerResult[Any], Sequence[TaskMessage]]:
        """Its result, after as many tries as it asks for; and what follows."""
        while True:
            rules = Rules(
                result_extended=self._app.conf.result_extended,
                serializer=task.serializer or self._app.conf.task_serializer,
            )
            self._ignored, self._task = bool(message.headers["ignore_result"]), task
            job = Job(task, _delivered(message), rules)
            done = self._execute(job)
            outcome = done.outcome
            settlement = settle(
                outcome, message.headers, rules, queue=message.queue, hostname=self._hostname, now=time.time()
            )
            if self._stores and not self._ignored and settlement.store is not None and not done.stored:
                [error] = self._store([(settlement.store, settlement.encoded)])
                if error is not None:
                    raise error
            if isinstance(outcome, RetryAsked) and not self.executor.by_hand:
                message = settlement.publish[0]
                continue
            task_id = str(message.headers["id"])
            if isinstance(outcome, Failed) and (raises or not isinstance(outcome.error, Exception)):
                raise outcome.error
            if isinstance(outcome, Unreadable) and raises:
                raise outcome.error
            meta = self._meta(task_id, done)
            result: EagerResult[Any] = EagerResult(task_id, meta.result, meta.status, meta.traceback, task.name)
            return result, () if isinstance(outcome, RetryAsked) else settlement.publish

    def _execute(self, job: Job) -> Done:
        if not _runs_coroutines(job.task) or not _loop_runs():
            return self.executor.execute(job)
        # A loop runs in this thread: another cannot run in it, so the coroutine's is in a thread beside it.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(copy_context().run, self._execute_and_leave, job).result()

    def _execute_and_leave(self, job: Job) -> Done:
        try:
            return self.executor.execute(job)
        finally:
            self.executor.leave_thread()

    def _meta(self, task_id: str, done: Done) -> ResultMeta:
        match done.outcome:
            case Succeeded():
                return ResultMeta(task_id, states.SUCCESS, self._value)
            case Failed(error, traceback):
                return ResultMeta(task_id, states.FAILURE, error, traceback)
            case Unreadable(error):
                return ResultMeta(task_id, states.FAILURE, error)
            case RetryAsked(error, traceback):
                return ResultMeta(task_id, states.RETRY, error, traceback)
            case Ignored() | Rejected():
                return ResultMeta(task_id, states.IGNORED)
            case _ as other:
                raise AssertionError(f"{other!r} cannot come of an eager call")

    def _store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        return self._app.store_of(self._task).store(records)

    def _encode(self, meta: ResultMeta) -> bytes:
        """As the result store would; of a task whose result is ignored, nothing has to be writable."""
        self._value = meta.result
        if self._ignored:
            return b""
        content_type, encoding, payload = encode(meta.result, self._serializer)
        self._value = decode(payload, content_type, encoding, {content_type})
        return self._app.store_of(self._task).encode(meta) if self._stores else payload


def _delivered(message: TaskMessage) -> Delivery:
    content_type, encoding, body, headers, properties = written(message)
    return Delivery(
        claim=None, queue=message.queue, headers=headers, properties=properties, body=body, content_type=content_type, content_encoding=encoding
    )  # fmt: skip


def _runs_coroutines(task: Task) -> bool:
    return task._is_async or inspect.iscoroutinefunction(task.run)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
