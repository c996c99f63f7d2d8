"""The entries of a schedule: what is sent, when, and how. Made from `beat_schedule` and what the app was told, checked once at start."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celeriac.app.base import Celeriac
from celeriac.beat.ticker import CATCH_UP
from celeriac.broker.codec import encode
from celeriac.canvas.freeze import frozen
from celeriac.canvas.plan import Plan, compose
from celeriac.canvas.signature import Signature
from celeriac.exceptions import CeleriacError, ImproperlyConfigured
from celeriac.schedules import BaseSchedule, crontab, maybe_schedule

log = logging.getLogger("celeriac.beat")

#: Celery's task that deletes expired results, and the stores that do not do so by themselves.
CLEANUP = "celery.backend_cleanup"
_KEEPS_EXPIRED = ("db+", "sqla+", "database")
#: Signatures of several calls: not tasks, but what beat sends as a whole.
_WORKFLOWS = {"celery.chain": "chain", "celery.group": "group", "celery.chord": "chord"}
_FIELDS = frozenset({"task", "schedule", "args", "kwargs", "options", "relative", "catch_up"})


class Entry(NamedTuple):
    """One entry: a task with arguments and options of apply_async, its schedule, and what becomes of missed runs."""

    name: str
    task: str
    schedule: BaseSchedule
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    catch_up: str = "latest"


class BeatLazyFunc:
    """An argument that is worked out when the task is sent: `BeatLazyFunc(datetime.now)`. On the wire is what the call gave."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func, self._args, self._kwargs = func, args, kwargs

    def __call__(self) -> Any:
        return self._func(*self._args, **self._kwargs)


def now_valued(value: Any) -> Any:
    """The value of an argument; of a lazy one what it gives now."""
    return value() if isinstance(value, BeatLazyFunc) else value


def entries_of(app: Celeriac) -> dict[str, Entry]:
    """All entries of an app, by name. Raises ImproperlyConfigured naming the entry, the field and what would do."""
    found = {str(name): entry_of(app, str(name), given) for name, given in app.conf.beat_schedule.items()}
    if CLEANUP not in found and app.conf.result_expires and _keeps_expired(app.conf.result_backend):
        found[CLEANUP] = Entry(CLEANUP, CLEANUP, crontab(0, 4, app=app), options={"expires": 12 * 3600})
    return found


def _keeps_expired(url: str | None) -> bool:
    return url is not None and url.startswith(_KEEPS_EXPIRED)


def entry_of(app: Celeriac, name: str, given: Any) -> Entry:
    """One entry of `beat_schedule`, checked: its fields, and that its message can be made."""
    if not isinstance(given, Mapping):
        raise _bad(name, f"{given!r} must be a dict with task and schedule")
    unknown = given.keys() - _FIELDS
    if unknown:
        raise _bad(
            name, f"unknown key(s) {', '.join(sorted(map(str, unknown)))}; it takes {', '.join(sorted(_FIELDS))}"
        )
    task = given.get("task")
    if not isinstance(task, str) or not task:
        raise _bad(name, f"task is {task!r}; give the name of a task")
    try:
        schedule = maybe_schedule(given.get("schedule"), bool(given.get("relative")), app)
    except (TypeError, ValueError, OverflowError) as error:
        raise _bad(name, f"schedule: {error}") from None
    args, kwargs, options = given.get("args") or (), given.get("kwargs") or {}, given.get("options") or {}
    if not isinstance(args, list | tuple):
        raise _bad(name, f"args is {args!r}; give a list or tuple")
    for field, value in (("kwargs", kwargs), ("options", options)):
        if not isinstance(value, Mapping):
            raise _bad(name, f"{field} is {value!r}; give a dict")
    catch_up = given.get("catch_up") or "latest"
    if catch_up not in CATCH_UP:
        raise _bad(name, f"catch_up is {catch_up!r}; choose one of {', '.join(CATCH_UP)}")
    if "task_id" in options:
        raise _bad(name, "options must not set task_id: each run has an id of its own")
    entry = Entry(name, task, schedule, tuple(args), dict(kwargs), dict(options), catch_up)
    _check_message(app, entry)
    return entry


def workflow(app: Celeriac, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    """The chain, group or chord that an entry is, with these arguments; None for an entry that is one task."""
    kind = _WORKFLOWS.get(entry.task)
    if kind is None:
        return None
    given = {"task": entry.task, "args": tuple(args), "kwargs": dict(kwargs), "options": {}, "subtask_type": kind}
    return Signature.from_dict(given, app)


def _check_message(app: Celeriac, entry: Entry) -> None:
    """Make the message once, without lazy arguments' values, so that what cannot be sent is known at start."""
    try:
        sig = workflow(app, entry, entry.args, entry.kwargs)
        if sig is not None:
            compose(app, frozen(app, sig)[0], Plan([], []), options=entry.options)
            return
    except (TypeError, ValueError, KeyError, CeleriacError) as error:
        raise _bad(entry.name, f"{entry.task}: {error}") from error
    task = app.tasks.get(entry.task)
    if task is None:
        log.debug("beat entry %s: task %s is not registered here; it is sent by name", entry.name, entry.task)
    options = dict(entry.options)
    own = {name: options.pop(name, None) for name in ("countdown", "eta", "expires")}
    try:
        if task is not None:
            task.check_arguments(entry.args, entry.kwargs)
        message = app.message(entry.task, entry.args, entry.kwargs, task, **own, task_id="check", options=options)
        args, kwargs, _ = message.body
        encode(
            [value for value in (*args, *kwargs.values()) if not isinstance(value, BeatLazyFunc)], message.serializer
        )
    except (TypeError, ValueError, CeleriacError) as error:
        raise _bad(entry.name, str(error)) from error


def _bad(name: str, why: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"beat_schedule, entry {name!r}: {why}")
