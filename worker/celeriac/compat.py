"""The one global: the current app, and what Celery hangs on it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celeriac import result
from celeriac.app import base
from celeriac.app import task as tasks
from celeriac.app.base import Celeriac
from celeriac.app.context import current
from celeriac.app.periodic import PeriodicTask
from celeriac.app.task import Task
from celeriac.app.typed import TaskDecorator
from celeriac.canvas.signature import default_app
from celeriac.exceptions import ImproperlyConfigured

Celery = Celeriac

_current: Celeriac | None = None
#: The thread in which asking for it is an error: a test's.
_trapped: int | None = None
#: Definitions of @shared_task, made again on every app.
_shared: list[Callable[[Celeriac], Task]] = []
#: Task classes that were defined when there was no app yet: they are the next one's.
_homeless: list[type[Task]] = []


def _made(app: Celeriac) -> None:
    global _current  # noqa: PLW0603 - this file is where the global lives
    _current = app
    while _homeless:
        app.adopt(_homeless.pop(0))
    for define in _shared:
        define(app)


def _defined(kind: type[Task]) -> None:
    if _current is None:
        _homeless.append(kind)
    else:
        _current.adopt(kind)


base.created.append(_made)
tasks.defined.append(_defined)


class Current:
    """Stands for what is current whenever it is used, as in Celery: `current_app.conf`, `current_task.request.id`. Called, it is that itself."""

    __slots__ = ("_get_current_object",)

    def __init__(self, find: Callable[[], Any]) -> None:
        object.__setattr__(self, "_get_current_object", find)

    def __call__(self) -> Any:
        """The thing itself; None where there is none."""
        return self._get_current_object()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # so that isinstance(current_app, Celery) holds
        return type(self._get_current_object())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == (other() if type(other) is Current else other))

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())


def _find_app() -> Celeriac:
    if _trapped == threading.get_ident():
        raise RuntimeError(
            "the current app is used where a test's app was meant: pass the app, or take the fixture depends_on_current_app"
        )
    return _current if _current is not None else Celeriac()


@contextmanager
def used(app: Celeriac, *, trap: bool = False) -> Iterator[None]:
    """Within it this app is the current one, with all shared tasks. trap: whoever asks for it in this thread gets an error."""
    global _current, _trapped
    before = _current, _trapped
    try:
        for define in _shared:
            define(app)
        _current, _trapped = app, threading.get_ident() if trap else None
        yield
    finally:
        _current, _trapped = before


def _find_task() -> Task | None:
    request = current.get()
    return request._task if request is not None else None


#: The app made last, or made current last; without one, an app of the environment's settings.
current_app: Any = Current(_find_app)
#: The task that is running here.
current_task: Any = Current(_find_task)

result.apps.append(_find_app)
default_app.append(_find_app)


class SharedTask:
    """What @shared_task gives: whatever it is asked, the current app's own task of that name answers."""

    __slots__ = ("_on",)

    def __init__(self, on: Callable[[Celeriac], Task]) -> None:
        object.__setattr__(self, "_on", on)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body here and now."""
        return self._on(_find_app())(*args, **kwargs)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # so that isinstance(add, Task) holds
        return type(self._on(_find_app()))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._on(_find_app()), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._on(_find_app()), name, value)

    def __repr__(self) -> str:
        return repr(self._on(_find_app()))


def _shared_task(*args: Any, **options: Any) -> Any:
    def define(function: Callable[..., Any]) -> SharedTask:
        if type(function) is SharedTask:
            raise ImproperlyConfigured(f"@task or @shared_task is applied twice to {function!r}: remove one of them")

        def on(app: Celeriac) -> Task:
            task: Task = app.task(**options)(function) if options else app.task(function)
            return task

        if _current is not None:
            on(_current)  # what cannot work is told here, and now
        _shared.append(on)
        return SharedTask(on)

    if args and not (len(args) == 1 and callable(args[0]) and not options):
        raise TypeError("@shared_task takes named options only, for example @shared_task(name='add')")
    return define(args[0]) if args else define


#: @task for libraries that have no app of their own: the task exists on every app, and calls go to the current one's broker.
#: No app is made for it: the first one made has it, or else one that is made when the task is first used.
shared_task: TaskDecorator = _shared_task


def periodic_task(*args: Any, **options: Any) -> Any:
    """The guide's @periodic_task(run_every=…): a task that beat sends by itself. Options are those of @task, and PeriodicTask's."""
    if args or "run_every" not in options:
        raise TypeError("give @periodic_task(run_every=…) the schedule: seconds, a timedelta, crontab() or solar()")
    return shared_task(**{"base": PeriodicTask, **options})
