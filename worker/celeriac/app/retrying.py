"""Asking to run again: what `self.retry()` makes of the call that is running. Here are methods of `Task`, as functions of the task."""

import inspect
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celeriac.app.options import listed, moment
from celeriac.exceptions import MaxRetriesExceededError, Retry
from celeriac.policy.retry import backoff_s, exhausted

if TYPE_CHECKING:
    from celeriac.app.task import Task

#: What a retry may change besides its arguments and its time.
RETRY_OPTIONS = frozenset(
    [
        "queue",
        "priority",
        "expires",
        "serializer",
        "compression",
        "headers",
        "time_limit",
        "soft_time_limit",
        "reply_to",
        "routing_key",
        "shadow",
        "ignore_result",
        "link",
        "link_error",
    ]
)
#: What Celery's clients say of the publish itself: a worker publishes a retry together with its acknowledgement, and gives up neither.
_OF_PUBLISHING = frozenset(["retry", "retry_policy", "connection", "producer", "timeout", "add_to_parent"])


def retry(
    task: "Task", /, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, exc: BaseException | None = None, throw: bool = True,
    eta: datetime | None = None, countdown: float | None = None, max_retries: int | None = None, **options: Any,
) -> Retry:  # fmt: skip
    """Ask to run again: the same id, `retries` one higher. `raise self.retry(exc=error)`.

    countdown   seconds, default_retry_delay unless given. max_retries: this task's, for this time. throw=False returns the
                exception instead of raising it; the retry happens all the same.

    options: queue (or routing_key), priority, expires, serializer, compression, headers, time_limit, soft_time_limit, reply_to, shadow,
    ignore_result, link, link_error. args without kwargs, or the other way round: what they leave open stays as it was.

    Raises Retry; or, when the retries are used up, `exc` if given, else MaxRetriesExceededError. TypeError for an unknown option.
    """
    unknown = options.keys() - RETRY_OPTIONS - _OF_PUBLISHING
    if unknown:
        raise TypeError(
            f"{task.name}.retry() does not know {', '.join(sorted(unknown))}; it takes {', '.join(sorted(RETRY_OPTIONS))}"
        )
    request = task.request
    limit = task.max_retries if max_retries is None else max_retries
    if exc is None:
        active = sys.exc_info()[1]
        exc = active if isinstance(active, Exception) else None
    if request.called_directly:
        raise exc if exc is not None else Retry("Task can be retried", None)
    if exhausted(request.retries, limit):
        if exc is not None:
            raise exc
        raise MaxRetriesExceededError(
            f"Can't retry {task.name}[{request.id}] args:{request.args} kwargs:{request.kwargs}",
            task_args=request.args,
            task_kwargs=request.kwargs,
        )
    wait_s = task.default_retry_delay if countdown is None and eta is None else countdown
    now = datetime.now(UTC)
    due = moment(eta if eta is not None else wait_s or 0.0, now) or now
    options = {name: value for name, value in options.items() if name not in _OF_PUBLISHING}
    if options.get("expires") is not None:
        options["expires"] = moment(options["expires"], now)
    key = options.pop("routing_key", None)
    if key and not options.get("queue"):
        options["queue"] = key
    linked = {
        field: listed(options.pop(option))
        for option, field in (("link", "callbacks"), ("link_error", "errbacks"))
        if option in options
    }
    if linked:
        options["embed"] = {**request.embed, **linked}
    if (args is None) != (kwargs is None):
        args, kwargs = again_with(task.run, request.args, request.kwargs, args, kwargs)
    if task._models is not None:
        args, kwargs = task._models.dumped(
            request.args if args is None else args, request.kwargs if kwargs is None else kwargs, task.serializer
        )
    again = (
        tuple(request.args) if args is None else tuple(args),
        dict(request.kwargs) if kwargs is None else dict(kwargs),
        due.timestamp(),
        options,
    )
    asked = Retry(exc=exc, when=eta if eta is not None else wait_s, is_eager=request.is_eager, sig=again)
    request.retry_asked = asked
    if throw:
        raise asked from exc
    return asked


def autoretry(task: "Task", error: BaseException) -> None:
    """Turn an error of `autoretry_for` into a retry; called by the worker. Raises Retry, or the error ittask."""
    if (
        not task.autoretry_for
        or not isinstance(error, task.autoretry_for)
        or isinstance(error, task.dont_autoretry_for)
    ):
        return
    named = dict(task.retry_kwargs)
    if task.retry_backoff:
        dice = random.randrange if task.retry_jitter else None
        named["countdown"] = backoff_s(float(task.retry_backoff), task.request.retries, task.retry_backoff_max, dice)
    task.retry(exc=error, **named)


def again_with(
    body: Callable[..., Any], own_args: Sequence[Any], own_kwargs: Mapping[str, Any], args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:  # fmt: skip
    """The arguments of a next run that is given either args or kwargs: no argument twice, and those not given as they were."""
    try:
        positional = [  # a place that has no name is left as it is
            each.name if each.kind is each.POSITIONAL_OR_KEYWORD else ""
            for each in inspect.signature(body).parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
    except ValueError:  # a builtin that tells nothing of its arguments
        positional = []
    if args is not None:
        given = set(positional[: len(args)])
        return args, {name: value for name, value in own_kwargs.items() if name not in given}
    kwargs = dict(kwargs or {})
    places = {name: place for place, name in enumerate(positional[: len(own_args)])}
    args = [*own_args]
    for name in places.keys() & kwargs.keys():
        args[places[name]] = kwargs.pop(name)
    return args, kwargs


__all__ = ["RETRY_OPTIONS", "again_with", "autoretry", "retry"]
