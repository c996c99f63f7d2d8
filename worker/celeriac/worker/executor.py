"""execute(job) -> Outcome: the body is decoded and run once, and whatever it does is a value. Never raises.

Knows no broker, no store and no metrics; `encode` is given, so that a result that cannot be written is the task's failure.
"""

import logging
import time
import traceback as tracebacks
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from celeriac import signals, states
from celeriac.app.base import Celeriac
from celeriac.app.context import Request, current
from celeriac.app.task import Task, moment
from celeriac.broker.codec import decode, encode
from celeriac.broker.consumer import Delivery, payload
from celeriac.exceptions import ContentDisallowed, DecodeError, EncodeError, Ignore, NotSupported, Reject, Retry
from celeriac.policy.outcome import Failed, Ignored, Outcome, Rejected, RetryAsked, Succeeded, Unreadable
from celeriac.policy.settlement import Rules, success_meta
from celeriac.policy.timelimit import UNLIMITED, Limits
from celeriac.wire.message import TaskMessage, split_body
from celeriac.wire.result import ResultMeta
from celeriac.worker.successors import after_failure, after_success

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A delivery that was admitted, and its task. early: to be acknowledged before it runs; acked: it was. limits: of this call."""

    task: Task
    delivery: Delivery
    rules: Rules
    early: bool = False
    acked: bool = False
    limits: Limits = UNLIMITED


class Done(NamedTuple):
    """A job that has run. started_at: seconds since the epoch; run_s: seconds the body took."""

    job: Job
    outcome: Outcome
    started_at: float
    run_s: float


class ExceptionInfo:
    """What hooks get as `einfo`: the exception and its traceback as text."""

    __slots__ = ("exception", "traceback", "type")

    def __init__(self, exception: BaseException, traceback: str) -> None:
        self.type = type(exception)
        self.exception = exception
        self.traceback = traceback

    def __str__(self) -> str:
        return self.traceback


class Executor:
    """Runs jobs in the calling thread."""

    def __init__(
        self, app: Celeriac, *, hostname: str, accept: frozenset[str], encode: Callable[[ResultMeta], bytes] | None
    ) -> None:
        self._app = app
        self._hostname = hostname
        self._accept = accept
        self._encode = encode

    def execute(self, job: Job) -> Done:
        """Run one job. The broad `except` here is the only one on a task's road: a task's error is an outcome."""
        task, delivery, rules, *_ = job
        wall, started = time.time(), time.monotonic()
        headers = delivery.headers
        try:
            body = decode(
                payload(delivery),
                delivery.content_type,
                delivery.content_encoding,
                self._accept,
                headers.get("compression"),
            )
            args, kwargs, embed = split_body(body)
            if embed.get("chord"):
                raise NotSupported("chords are not supported yet: run this task's group on a Celery worker")
        except ContentDisallowed as error:
            return Done(job, Unreadable(error, "content_disallowed"), wall, 0.0)
        except NotSupported as error:
            return Done(job, Unreadable(error, "unsupported"), wall, 0.0)
        except (DecodeError, ValueError, TypeError) as error:
            return Done(job, Unreadable(error, "malformed"), wall, 0.0)
        request = Request(
            task, headers, args=args, kwargs=kwargs, hostname=self._hostname, properties=delivery.properties, embed=embed,
            delivery_info={
                "exchange": "", "routing_key": delivery.queue, "priority": delivery.properties.get("priority"), "redelivered": delivery.redelivered
            },
        )  # fmt: skip
        request.awaits_call = task._overrides_call
        token = current.set(request)
        try:
            outcome = self._run(task, request, rules, delivery.queue)
        finally:
            current.reset(token)
        return Done(job, outcome, wall, time.monotonic() - started)

    def _run(self, task: Task, request: Request, rules: Rules, queue: str) -> Outcome:
        args, kwargs = request.args, request.kwargs
        if task._hooked:
            _hook(task, "before_start", request.id, args, kwargs)
        if signals.task_prerun.receivers:
            signals.task_prerun.send(sender=task, task_id=request.id, task=task, args=args, kwargs=kwargs)
        try:
            try:
                value = task(*args, **kwargs) if task._overrides_call else task.run(*args, **kwargs)
            except task.autoretry_for as error:
                if isinstance(error, (Retry, Ignore, Reject)):
                    raise
                task.autoretry(error)
                raise
            if request.retry_asked is not None:
                raise request.retry_asked
            outcome: Outcome = self._succeeded(task, request, value, rules, queue)
        except Retry as asked:
            outcome = self._next_try(task, request, asked, rules)
        except Ignore:
            outcome = Ignored()
        except Reject as error:
            outcome = Rejected(str(error.reason) if error.reason is not None else "rejected by the task", error.requeue)
        except BaseException as error:  # noqa: BLE001 - a task's error is an outcome; exit() ends the task, not the worker
            again = request.retry_asked  # with throw=False: the retry happens all the same
            outcome = (
                self._failed(task, request, error) if again is None else self._next_try(task, request, again, rules)
            )
        if (
            task._hooked
            or signals.task_postrun.receivers
            or signals.task_failure.receivers
            or signals.task_retry.receivers
        ):
            self._tell(task, request, outcome)
        return outcome

    def _next_try(self, task: Task, request: Request, asked: Retry, rules: Rules) -> Outcome:
        try:
            return _retry(asked, request, rules)
        except Exception as error:  # noqa: BLE001 - a next try that cannot be written is this one's failure
            return self._failed(task, request, error)

    def _succeeded(self, task: Task, request: Request, value: Any, rules: Rules, queue: str) -> Outcome:
        record = None
        if not rules.ignore_result and self._encode is not None:
            record = self._encode(
                success_meta(request._headers, states.SUCCESS, value, None, rules, queue, self._hostname, time.time())
            )
        embed = request.embed
        follow: tuple[TaskMessage, ...] = ()
        if embed.get("callbacks") or embed.get("chain"):
            follow = after_success(self._app, request, value)
            _check_writable(follow)
        if signals.task_success.receivers:
            signals.task_success.send(sender=task, result=value)
        return Succeeded(None, record, follow)

    def _failed(self, task: Task, request: Request, error: BaseException) -> Outcome:
        text = "".join(tracebacks.format_exception(type(error), error, _own_frames_cut(error)))
        if isinstance(error, SystemExit):
            error = RuntimeError(f"the task called exit({error.code!r})")
        follow: tuple[TaskMessage, ...] = ()
        if request.embed.get("errbacks"):
            try:
                follow = after_failure(self._app, request)
                _check_writable(follow)
            except Exception:
                log.exception(
                    "%s[%s]: its error callbacks cannot be called; it failed all the same", task.name, request.id
                )
        return Failed(error, text, isinstance(error, task.throws), follow)

    def _tell(self, task: Task, request: Request, outcome: Outcome) -> None:
        """Hooks and signals after the body. What they raise is logged and changes nothing."""
        task_id, args, kwargs = request.id, request.args, request.kwargs
        status, value, info = states.SUCCESS, None, None
        match outcome:
            case Succeeded():
                _hook(task, "on_success", None, task_id, args, kwargs)
            case Failed(error, text):
                status, value, info = states.FAILURE, error, ExceptionInfo(error, text)
                _hook(task, "on_failure", error, task_id, args, kwargs, info)
                if signals.task_failure.receivers:
                    signals.task_failure.send(
                        sender=task,
                        task_id=task_id,
                        exception=error,
                        args=args,
                        kwargs=kwargs,
                        traceback=error.__traceback__,
                        einfo=info,
                    )
            case RetryAsked(error, text):
                status, value = states.RETRY, error
                info = ExceptionInfo(error, text) if error is not None else None
                _hook(task, "on_retry", error, task_id, args, kwargs, info)
                if signals.task_retry.receivers:
                    signals.task_retry.send(sender=task, request=request, reason=error, einfo=info)
            case _:
                status = states.IGNORED
        _hook(task, "after_return", status, value, task_id, args, kwargs, info)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=value, state=status
            )


def _hook(task: Task, name: str, *args: Any) -> None:
    if name in task._hooked:
        try:
            getattr(task, name)(*args)
        except (Exception, SystemExit):
            log.exception("%s.%s raised; the task's outcome stands", task.name, name)


def _retry(asked: Retry, request: Request, rules: Rules) -> RetryAsked:
    """The next try. Raises EncodeError when it could not be published, TypeError or OverflowError for a time that is none."""
    error = asked.exc
    # As Celery: where the retry was asked for, with what led to it above (its __context__).
    text = "".join(tracebacks.format_exception(type(asked), asked, _own_frames_cut(asked)))
    args, kwargs, options = request.args, request.kwargs, {}
    if asked.sig is not None:
        args, kwargs, due_at, options = asked.sig
    else:  # raised by hand, without Task.retry
        due_at = (moment(asked.when or 0.0, datetime.now(UTC)) or datetime.now(UTC)).timestamp()
    kept = {"embed": request.embed, "priority": request.delivery_info.get("priority"), "reply_to": request.reply_to}
    int(options.get("priority") or 0)  # ValueError here is the task's failure
    encode((args, kwargs, request.embed), options.get("serializer") or rules.serializer)
    encode(options.get("headers"), "json")
    return RetryAsked(error, text, due_at, args, kwargs, {**kept, **options})


def _check_writable(messages: Iterable[TaskMessage]) -> None:
    """Raise EncodeError for a message that could not be published: here it is its task's failure, later it would be the worker's."""
    for message in messages:
        encode(message.body, message.serializer)


def _own_frames_cut(error: BaseException) -> Any:
    """The traceback from the task's own first frame on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames or error.__traceback__


__all__ = ["Done", "EncodeError", "ExceptionInfo", "Executor", "Job"]
