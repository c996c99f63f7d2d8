"""Periodic tasks as users define them: the entry that add_periodic_task makes, the guide's PeriodicTask, and whose clock counts."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from celeriac.app.task import Task
from celeriac.exceptions import ImproperlyConfigured
from celeriac.schedules import maybe_schedule

log = logging.getLogger("celeriac.beat")


def entry(
    app: Any, schedule: Any, sig: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str | None, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """Name and `beat_schedule` entry of a task or signature: args are put before the signature's, kwargs and options above them."""
    own = {field: options[field] for field in ("relative", "catch_up") if field in options}
    options = {field: value for field, value in options.items() if field not in own}
    try:
        plan = maybe_schedule(schedule, bool(own.get("relative")))
    except (TypeError, ValueError) as error:
        raise type(error)(f"add_periodic_task({schedule!r}, {sig!r}): {error}") from None
    if isinstance(sig, Mapping) and isinstance(sig.get("task"), str):  # a signature, or one as a dict
        task = sig["task"]
        if not sig.get("immutable"):
            args, kwargs = (*args, *(sig.get("args") or ())), {**(sig.get("kwargs") or {}), **kwargs}
        else:
            args, kwargs = tuple(sig.get("args") or ()), dict(sig.get("kwargs") or {})
        options = {**(sig.get("options") or {}), **options}
    elif isinstance(getattr(sig, "name", None), str):
        task, args, kwargs = sig.name, tuple(args), dict(kwargs)
    else:
        raise TypeError(
            f"add_periodic_task({schedule!r}, {sig!r}): give a task or a signature, such as add.s(2, 3), not {type(sig).__name__}"
        )
    known = app.tasks.get(task)
    if known is not None:
        known.check_arguments(args, kwargs)
    key = name or _called(task, args, kwargs)
    if name is None and key in app.conf.beat_schedule:
        log.warning("periodic task %s was added before without a name, and is replaced; name one of the two to have both", key)  # fmt: skip
    made = {
        "task": task,
        "schedule": plan,
        "args": tuple(args),
        "kwargs": dict(kwargs),
        "options": dict(options),
        **own,
    }
    return key, made


def _called(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    return f"{task}({', '.join(parts)})"


class PeriodicTask(Task):
    """The guide's periodic task: a class with `run_every` (seconds, timedelta, crontab …) and `run`, that beat sends by itself.

    relative  rounds the runs of an interval; options are those of apply_async; catch_up: see docs/beat.md. Results are not kept.
    """

    abstract = True
    ignore_result = True
    run_every: Any = None
    relative = False
    catch_up = "latest"
    options: Mapping[str, Any] | None = None

    @classmethod
    def bind(cls, app: Any) -> None:
        """See Task; the entry of the class's name is put on the schedule."""
        super().bind(app)
        if cls.run_every is None:
            raise ImproperlyConfigured(
                f"periodic task {cls.name} has no run_every: give seconds, a timedelta, crontab() or solar()"
            )
        try:
            plan = maybe_schedule(cls.run_every, cls.relative)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"periodic task {cls.name}: run_every: {error}") from None
        made = {
            "task": cls.name,
            "schedule": plan,
            "relative": cls.relative,
            "options": dict(cls.options or {}),
            "catch_up": cls.catch_up,
        }
        app.add_entry(cls.name, made)

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app.main or '__main__'} (periodic)>"


def zone(name: Any, *, utc: bool) -> tzinfo:
    """The time zone of a name (Europe/Berlin), or of a tzinfo. Raises ImproperlyConfigured."""
    if isinstance(name, tzinfo):
        return name
    if not name:
        here = datetime.now(UTC).astimezone().tzinfo
        return UTC if utc or here is None else _local(here)
    if str(name).upper() == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # only for who asks

    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ImproperlyConfigured(
            f"setting timezone={name!r} is not known here: give a name such as Europe/Berlin (in small images install tzdata)"
        ) from error


def _local(here: tzinfo) -> tzinfo:
    """This machine's zone with its rules, where they can be found; else its offset of now."""
    import os
    from pathlib import Path
    from zoneinfo import ZoneInfo

    if os.environ.get("TZ"):
        return zone(os.environ["TZ"].lstrip(":"), utc=False)
    rules = Path("/etc/localtime")
    if rules.is_file():
        with rules.open("rb") as file:
            return ZoneInfo.from_file(file, key=here.tzname(None))
    return here


__all__ = ["PeriodicTask", "entry", "zone"]
