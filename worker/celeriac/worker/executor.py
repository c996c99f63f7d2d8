"""execute(job) -> Outcome: the body is decoded and run once, and whatever it does is a value. Never raises.

Knows no broker, no store and no metrics; `encode` is given, so that a result that cannot be written is the task's failure.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from datetime import UTC, datetime
from types import CoroutineType, FrameType
from typing import Any, NamedTuple

from celeriac import signals, states
from celeriac.app.base import Celeriac
from celeriac.app.context import Request, current
from celeriac.app.einfo import ExceptionInfo
from celeriac.app.options import moment
from celeriac.app.task import Task
from celeriac.app.workflow import Replaced
from celeriac.broker.codec import decode, encode
from celeriac.broker.consumer import Delivery, payload
from celeriac.canvas.plan import Plan
from celeriac.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    Ignore,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    UntrustedMessage,
)
from celeriac.policy.outcome import Failed, Ignored, Outcome, Rejected, RetryAsked, Revoked, Succeeded, Unreadable
from celeriac.policy.settlement import Rules, settle, success_meta
from celeriac.policy.timelimit import UNLIMITED, Limits
from celeriac.result import ResultBase
from celeriac.wire.chord import ChordStart
from celeriac.wire.message import BOUND_TO, ERRBACK, TaskMessage, short_repr, split_body
from celeriac.wire.result import ResultMeta, exception_from_wire, with_arguments
from celeriac.worker import interrupt
from celeriac.worker.interrupt import Forks, Run, SoftInCoroutine, Steered, in_coroutines, leave_copy
from celeriac.worker.storing import with_call
from celeriac.worker.successors import after_failure, after_success, instead, written

log = logging.getLogger(__name__)

#: What follows from a call that nothing follows: messages, chords.
NOTHING: tuple[tuple[TaskMessage, ...], tuple[ChordStart, ...]] = ((), ())


class Job(NamedTuple):
    """A delivery that was admitted, and its task. early: to be acknowledged before it runs; acked: it was. limits: of this call."""

    task: Task
    delivery: Delivery
    rules: Rules
    early: bool = False
    acked: bool = False
    limits: Limits = UNLIMITED


class Done(NamedTuple):
    """A job that has run. started_at: seconds since the epoch; run_s: seconds the body took; stored: its record is written already.

    untold  its hooks were not called where it ran, since it did not come to its end there.
    """

    job: Job
    outcome: Outcome
    started_at: float
    run_s: float
    stored: bool = False
    untold: bool = False


class Executor:
    """Runs jobs in the calling thread, or, `execute_async`, in the running loop.

    encode   makes a SUCCESS record's bytes. store writes a record at once, for tasks whose hooks may look for it; None: nothing is kept.
    eager    whether calls run where they are made.
    """

    def __init__(
        self, app: Celeriac, *, hostname: str, accept: frozenset[str], encode: Callable[[ResultMeta], bytes] | None,
        store: Callable[[Sequence[tuple[ResultMeta, bytes | None]]], list[Exception | None]] | None = None, eager: bool = False,
    ) -> None:  # fmt: skip
        self._app = app
        self._eager = eager
        self._hostname = hostname
        self._accept = accept
        self._encode = encode
        self._store = store
        self._here = threading.local()
        Forks.apps.add(app)

    # -- the two roads of a job: they differ in how the body is called, and in nothing else

    def execute(self, job: Job, run: Run | None = None) -> Done:
        """Run one job. run: given where it may be interrupted."""
        wall, started = time.time(), time.monotonic()
        try:
            return self._execute(job, run, wall, started)
        except BaseException as error:  # before or after the body: a thread that ended here would take the job with it
            log.exception("%s[%s]: raised outside of its body", job.task.name, job.delivery.headers.get("id"))
            self._internal_error(job, error)
            failed = Failed(_no_exit(error), tracebacks.format_exc())
            return Done(job, failed, wall, time.monotonic() - started)

    def _execute(self, job: Job, run: Run | None, wall: float, started: float) -> Done:
        """The broad `except` here is the one on a task's road: its error is an outcome."""
        request = self._request(job)
        if isinstance(request, Unreadable):
            return Done(job, request, wall, 0.0)
        task = job.task
        token = current.set(request)
        try:
            value, forked, refusal = None, Forks.count, None
            if task._hooked or signals.task_prerun.receivers:
                refusal = _before(task, request)
            try:
                if refusal is not None:
                    raise refusal
                body = task if task._overrides_call else task.run
                value = (
                    body(*request.args, **request.kwargs)
                    if run is None
                    else run.call(body, request.args, request.kwargs)
                )
                if type(value) is CoroutineType:
                    value = self._awaited(value, run)
                outcome = self._returned(job, request, value)
            except BaseException as error:  # noqa: BLE001 - a task's error is an outcome; exit() ends the task, not the worker
                outcome = self._raised(job, request, error)
            if Forks.count != forked:
                leave_copy(0 if isinstance(outcome, Succeeded) else 1)
            if run is not None and run.settled:
                outcome = _too_late(job)
            stored = False
            if (
                task._hooked
                or signals.task_postrun.receivers
                or signals.task_success.receivers
                or signals.task_failure.receivers
                or signals.task_retry.receivers
            ) and (run is None or run.may_tell()):
                stored = self._tell(job, request, outcome, value, run, time.monotonic() - started)
        finally:
            current.reset(token)
        return Done(job, outcome, wall, time.monotonic() - started, stored)

    def _internal_error(self, job: Job, error: BaseException) -> None:
        if signals.task_internal_error.receivers:
            request = self._request(job)
            args, kwargs = ((), {}) if isinstance(request, Unreadable) else (request.args, request.kwargs)
            signals.task_internal_error.send(
                sender=job.task, task_id=job.delivery.headers.get("id"), args=args, kwargs=kwargs, request=request, exception=error,
                traceback=error.__traceback__, einfo=ExceptionInfo(error, tracebacks.format_exc()),
            )  # fmt: skip

    async def execute_async(self, job: Job, run: Run) -> Done:
        """As `execute`, for a task whose body is a coroutine function. Hooks and receivers of signals, which may block, run in a thread."""
        wall, started = time.time(), time.monotonic()
        request = self._request(job)
        if isinstance(request, Unreadable):
            return Done(job, request, wall, 0.0)
        task = job.task
        current.set(request)  # in the context of this asyncio task
        value, refusal = None, None
        if task._hooked or signals.task_prerun.receivers:
            refusal = await asyncio.to_thread(_before, task, request)
        try:
            if refusal is not None:
                raise refusal
            body = task if task._overrides_call else task.run
            run.steered = Steered(body(*request.args, **request.kwargs))
            if run.terminated is not None:
                run.steered.throw(asyncio.CancelledError)
            value = await run.steered
            outcome = self._returned(job, request, value)
        except BaseException as error:  # noqa: BLE001 - as above
            outcome = self._raised(job, request, error)
        if run.settled:
            outcome = _too_late(job)
        elif run.terminated is not None and isinstance(outcome, Failed):
            outcome = Revoked("terminated", None, run.terminated)
        stored = False
        if _listens(task) and run.may_tell():
            run_s = time.monotonic() - started
            stored = await asyncio.to_thread(self._tell, job, request, outcome, value, run, run_s)
        return Done(job, outcome, wall, time.monotonic() - started, stored)

    # -- the steps

    def _request(self, job: Job) -> Request | Unreadable:
        delivery = job.delivery
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
        except ContentDisallowed as error:
            return Unreadable(error, "content_disallowed")
        except UntrustedMessage as error:
            return Unreadable(error, "untrusted")
        except (DecodeError, ValueError, TypeError) as error:
            return Unreadable(error, "malformed")
        if BOUND_TO in embed and embed[BOUND_TO] != [headers["task"], headers["id"]]:
            problem = (
                f"the body was signed for {embed[BOUND_TO]!r:.200}, and the message's headers name another task or id"
            )
            return Unreadable(UntrustedMessage(problem), "untrusted")
        request = Request(
            job.task, headers, args=args, kwargs=kwargs, hostname=self._hostname, properties=delivery.properties, embed=embed,
            delivery_info={  # Delivery.info, without a call
                "exchange": delivery.exchange, "routing_key": delivery.routing_key or delivery.queue, "queue": delivery.queue,
                "priority": delivery.properties.get("priority"), "redelivered": delivery.redelivered,
            },
        )  # fmt: skip
        request.awaits_call = job.task._overrides_call
        if ERRBACK in headers:
            request.args = _of_errback(args)
        if self._eager:
            request.is_eager, request._outer = True, current.get()
            request.delivery_info = {**request.delivery_info, "is_eager": True}
        return request

    def _awaited(self, coroutine: Coroutine[Any, Any, Any], run: Run | None) -> Any:
        """What a coroutine returns, in this thread's own loop, which is kept: what a body keeps in it, say a connection, is there for the next."""
        here = self._here
        runner = getattr(here, "runner", None)
        if runner is None:
            runner = here.runner = asyncio.Runner()
        here.steered = steered = Steered(coroutine)
        try:
            if run is None:
                return runner.run(_steer(steered), context=copy_context())
            run.steered = steered
            return run.call(runner.run, (_steer(steered),), {"context": copy_context()})
        finally:
            here.steered = None
            if (
                not steered.ended
            ):  # the loop was left by something that was raised in it: no later body shall find this one there
                self.leave_thread()

    def tell_coroutine(self, kind: type[BaseException]) -> bool:
        """Raise this inside the coroutine that runs in this thread, where it waits; whether one runs. For a signal's handler."""
        steered = getattr(self._here, "steered", None)
        if steered is not None:
            steered.throw(in_coroutines(kind))
        return steered is not None

    def leave_thread(self) -> None:
        """Close what this thread keeps for its coroutines: before it ends."""
        runner = getattr(self._here, "runner", None)
        if runner is not None:
            del self._here.runner
            runner.close()

    def _returned(self, job: Job, request: Request, value: Any) -> Outcome:
        """The outcome of a body that has returned. Raises what else it asked for, and what it cannot return."""
        if request.retry_asked is not None:
            raise request.retry_asked
        if isinstance(value, ResultBase):  # a handle, as whoever reads the result can make it again
            value = value.as_tuple()  # type: ignore[attr-defined]
        embed, rules, record, part = request.embed, job.rules, None, None
        follow, chords = NOTHING
        if embed.get("callbacks") or embed.get("chain"):
            follow, chords = self._composed(after_success(self._app, request, value))
            for message in follow:
                request.add_child(message.id)
        encoder = self._encode if job.task._own_backend is None or self._eager else self._app.store_of(job.task).encode
        if not rules.ignore_result and encoder is not None:
            meta = success_meta(
                request._headers, states.SUCCESS, value, None, rules, job.delivery.queue, self._hostname, time.time()
            )
            if rules.result_extended:
                meta = with_arguments(meta, request.args, request.kwargs)
            if request.children:
                meta = meta._replace(children=request.children)
            record = encoder(meta)
        if embed.get("chord") and request.group:
            part = self._app.backend.encode_part(str(request.id), states.SUCCESS, value)
        return Succeeded(None, record, follow, short_repr(value) if rules.shown else "", chords, part)

    def _composed(self, plan: Plan) -> tuple[tuple[TaskMessage, ...], tuple[ChordStart, ...]]:
        """What follows, as it crosses from where the body ran. Raises EncodeError for what could not be published."""
        return tuple(map(written, plan.messages)), tuple(plan.chords)

    def _raised(self, job: Job, request: Request, error: BaseException) -> Outcome:
        """The outcome of a body that has raised. Called where the error is handled, so that what follows from it names it."""
        task = job.task
        if isinstance(error, task.autoretry_for) and not isinstance(error, (Retry, Ignore, Reject)):
            try:
                task.autoretry(error)
            except BaseException as instead:  # noqa: BLE001 - Retry, or what stands for it when the retries are used up
                error = instead
        match error:
            case Retry():
                return self._next_try(task, request, error, job.rules)
            case Replaced():
                return self._replaced(task, request, error)
            case Ignore():
                return Ignored()
            case Reject():
                reason = str(error.reason) if error.reason is not None else "rejected by the task"
                if error.requeue or not request.embed.get("errbacks"):
                    return Rejected(reason, error.requeue)
                return Rejected(reason, False, *self._errbacks(task, request, error, reason))
            case _:
                again = request.retry_asked  # with throw=False: the retry happens all the same
                return (
                    self._failed(task, request, error)
                    if again is None
                    else self._next_try(task, request, again, job.rules)
                )

    def _replaced(self, task: Task, request: Request, error: Replaced) -> Outcome:
        try:
            return Ignored(*self._composed(instead(self._app, request, error.sig)))
        except Exception as wrong:  # noqa: BLE001 - what cannot replace it is this one's failure
            return self._failed(task, request, wrong)

    def _next_try(self, task: Task, request: Request, asked: Retry, rules: Rules) -> Outcome:
        try:
            return _retry(asked, request, rules)
        except Exception as error:  # noqa: BLE001 - a next try that cannot be written is this one's failure
            return self._failed(task, request, error)

    def _failed(self, task: Task, request: Request, error: BaseException) -> Outcome:
        if isinstance(error, SoftInCoroutine):
            error = SoftTimeLimitExceeded(*error.args).with_traceback(error.__traceback__)
        text = "".join(tracebacks.format_exception(type(error), error, _own_frames_cut(error)))
        error = _no_exit(error)
        follow = self._errbacks(task, request, error, text) if request.embed.get("errbacks") else NOTHING
        return Failed(error, text, isinstance(error, task.throws), *follow)

    def failed(self, job: Job, error: BaseException, traceback: str, started_at: float, run_s: float) -> Done:
        """A job that has failed without its body's saying so: its time is over, or its process is gone. With its error callbacks."""
        request = self._request(job)
        if isinstance(request, Unreadable):
            return Done(job, Failed(error, traceback), started_at, run_s)
        follow = self._errbacks(job.task, request, error, traceback) if request.embed.get("errbacks") else NOTHING
        return Done(job, Failed(error, traceback, False, *follow), started_at, run_s)

    def _errbacks(
        self, task: Task, request: Request, error: BaseException, traceback: str
    ) -> tuple[tuple[TaskMessage, ...], tuple[ChordStart, ...]]:
        try:
            return self._composed(after_failure(self._app, request, error, traceback))
        except Exception:
            log.exception("%s[%s]: its error callbacks cannot be called; it failed all the same", task.name, request.id)
            return NOTHING

    def repeated(self, job: Job, value: Any) -> Done:
        """A job that has succeeded before, with this value: without a run, and with what follows. Its hooks are not called again."""
        now = time.time()
        job = job._replace(rules=job.rules._replace(ignore_result=True))  # it is stored
        request = self._request(job)
        if isinstance(request, Unreadable):
            return Done(job, request, now, 0.0)
        try:
            return Done(job, self._returned(job, request, value), now, 0.0, stored=True)
        except Exception as error:
            log.exception("%s[%s] has succeeded before; what follows cannot be sent", job.task.name, request.id)
            return Done(job, self._failed(job.task, request, error), now, 0.0)

    # -- hooks and signals after the body

    def _tell(self, job: Job, request: Request, outcome: Outcome, value: Any, run: Run | None, run_s: float) -> bool:
        """Store, then call hooks and receivers, so that they find what they are told. Whether it is stored. What they raise changes nothing."""
        stored = (run is None or not run.settled) and self._store_now(job, outcome)
        task, task_id, args, kwargs = job.task, request.id, request.args, request.kwargs
        status, info = states.SUCCESS, None
        match outcome:
            case Succeeded():
                if signals.task_success.receivers:
                    signals.task_success.send(sender=task, result=value, runtime=run_s)
                call_hook(task, "on_success", value, task_id, args, kwargs)
            case Failed(error, text):
                status, value, info = states.FAILURE, error, ExceptionInfo(error, text)
                call_hook(task, "on_failure", error, task_id, args, kwargs, info)
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
                call_hook(task, "on_retry", error, task_id, args, kwargs, info)
                if signals.task_retry.receivers:
                    signals.task_retry.send(sender=task, request=request, reason=error, einfo=info)
            case Revoked():
                status, value = states.REVOKED, None
            case Rejected(reason, requeue):
                status, value = states.REJECTED, Reject(reason, requeue)
                if (
                    not requeue and signals.task_failure.receivers
                ):  # it never runs again; its hooks are not called, as in Celery
                    info = ExceptionInfo(value, reason)
                    signals.task_failure.send(
                        sender=task,
                        task_id=task_id,
                        exception=value,
                        args=args,
                        kwargs=kwargs,
                        traceback=None,
                        einfo=info,
                    )
            case _:
                status, value = states.IGNORED, None
        call_hook(task, "after_return", status, value, task_id, args, kwargs, info)
        if signals.task_postrun.receivers:
            signals.task_postrun.send(
                sender=task, task_id=task_id, task=task, args=args, kwargs=kwargs, retval=value, state=status
            )
        return stored

    def _store_now(self, job: Job, outcome: Outcome) -> bool:
        """Write what settling would write a moment later; whether it is written. If not, settling tries again."""
        store = self._store if job.task._own_backend is None or self._eager else self._app.store_of(job.task).store
        if store is None:
            return False
        delivery = job.delivery
        try:
            settlement = settle(
                outcome, delivery.headers, job.rules, queue=delivery.queue, hostname=self._hostname, now=time.time()
            )
            if settlement.store is None:
                return False
            meta = settlement.store._replace(reply_to=delivery.reply_to)
            if job.rules.result_extended and settlement.encoded is None:
                meta = with_call(meta, delivery, self._accept)
            [error] = store([(meta, settlement.encoded)])
        except Exception as failed:  # noqa: BLE001 - whatever it is, settling meets it again and says what follows
            error = failed
        if error is not None:
            log.warning(
                "%s[%s]: its hooks run before its result is stored: %s",
                job.task.name,
                delivery.headers.get("id"),
                error,
            )
        return error is None


def _no_exit(error: BaseException) -> BaseException:
    """The error to be told: whoever asks for a result is not to be ended by it."""
    return RuntimeError(f"the task called exit({error.code!r})") if isinstance(error, SystemExit) else error


def _listens(task: Task) -> bool:
    """Whether a hook or a receiver wants to know how this task has ended."""
    return bool(
        task._hooked
        or signals.task_postrun.receivers
        or signals.task_success.receivers
        or signals.task_failure.receivers
        or signals.task_retry.receivers
    )


def _before(task: Task, request: Request) -> BaseException | None:
    """Signals and the hook before the body. What before_start raises is the task's, as in Celery: it is returned, and the body does not run."""
    if signals.task_prerun.receivers:
        signals.task_prerun.send(sender=task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs)
    if "before_start" in task._hooked:
        try:
            task.before_start(str(request.id), request.args, request.kwargs)
        except BaseException as error:  # noqa: BLE001 - an outcome, as what a body raises
            return error
    return None


def _too_late(job: Job) -> Failed:
    """What hooks are told of a body that has ended after its hard limit, whatever it says itself."""
    error = TimeLimitExceeded(job.limits.hard)
    return Failed(error, f"{error!r}: the body came back after it was settled\n")


async def _steer(steered: Steered) -> Any:
    return await steered


def call_hook(task: Any, name: str, *args: Any) -> None:
    """Call a hook of a task, if it has one of its own. What it raises is logged."""
    if name in task._hooked:
        try:
            getattr(task, name)(*args)
        except BaseException:  # exit() in a hook is no reason to end the worker, either
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


def _of_errback(args: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments of an error callback that wants all: the failed call's request, its exception, its traceback."""
    described, error, *rest = args
    headers = {name: value for name, value in described.items() if name not in {"args", "kwargs", "hostname"}}
    request = Request(
        None,
        headers,
        args=described.get("args") or (),
        kwargs=described.get("kwargs"),
        hostname=described.get("hostname"),
    )
    return (request, exception_from_wire(error, sys.modules), *rest)


def _own_frames_cut(error: BaseException) -> Any:
    """The traceback from the task's own first frame on."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_NOT_THE_TASKS):
        frames = frames.tb_next
    return frames or error.__traceback__


def body_frames(frames: Sequence[FrameType]) -> list[FrameType]:
    """The task's own, of frames with the outermost first: those below the last one of ours that calls bodies."""
    ours = [place for place, frame in enumerate(frames) if frame.f_code.co_filename == interrupt.__file__]
    return list(frames[ours[-1] + 1 :] if ours else frames)


#: Files whose frames stand above a body's: ours, and the event loop's.
_NOT_THE_TASKS = (__file__, interrupt.__file__, os.path.dirname(asyncio.__file__) + os.sep)

__all__ = ["Done", "EncodeError", "ExceptionInfo", "Executor", "Job", "call_hook"]
