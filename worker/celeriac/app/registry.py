"""The registry of an app: how functions and classes become its tasks, and when."""

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app.annotations import annotate, put_back
from celeriac.app.builtins import define_builtins
from celeriac.app.definition import task_class
from celeriac.app.models import models_into
from celeriac.app.modules import imported
from celeriac.app.task import Task
from celeriac.exceptions import DuplicateTaskNameWarning, ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.app.base import Celeriac


class Registry:
    """Names to tasks, of one app.

    tasks     those that are registered. adopted: classes that are tasks, and will be.
    built_in  whether what every app has is among them.
    """

    def __init__(self, app: "Celeriac") -> None:
        self._app = app
        self.tasks: dict[str, Task] = {}
        self.adopted: list[type[Task]] = []
        self.built_in = False
        #: Tasks that this app has made itself, and that have an `__init__`.
        self._made: list[Task] = []
        #: Task class -> the annotations it has, and what its attributes were without them.
        self._annotated: dict[type[Task], tuple[Any, dict[str, Any]]] = {}

    def define(self, function: Callable[..., Any], options: Mapping[str, Any]) -> Task:
        """The task of a decorated function; the one that has its name already, if there is one."""
        app = self._app
        inner: Any = function
        while inner is not None and not isinstance(inner, Task):
            inner = getattr(inner, "__wrapped__", None)
        if inner is not None:
            raise ImproperlyConfigured(f"{inner.name} is a task already: apply @task once, as the outermost decorator")
        options = dict(options)
        base = options.pop("base", None) or app.Task
        bind = options.pop("bind", False)
        name = options.pop("name", None) or app.gen_task_name(function.__name__, function.__module__)
        known = self.tasks.get(name)
        if known is not None:
            _warn_of_two(name, type(known).__module__, function.__module__)
            return known
        body = models_into(app, function, name, bind, options)
        return self.register(task_class(base, function, name, bind=bind, options=options, body=body))

    def register(self, task: Task | type[Task], **options: Any) -> Task:
        """See Celeriac.register_task."""
        app = self._app
        kind = task if isinstance(task, type) else type(task)
        if not issubclass(kind, Task):
            raise ImproperlyConfigured(f"{task!r} is no task: derive its class from celeriac.Task")
        if not callable(getattr(kind, "run", None)):
            raise ImproperlyConfigured(f"task {kind.__module__}.{kind.__name__} has no `run`: that is its body")
        for option, value in options.items():
            setattr(kind, option, value)
        if kind.name is None:
            kind.name = app.gen_task_name(kind.__name__, kind.__module__)
        with app._lock:
            known = self.tasks.get(kind.name)
            if known is None:
                kind.bind(app)
                # else with the first look at the settings, see Celeriac.conf: that one may import the module we are in
                if not app._sources:
                    self.annotate(kind)
                if isinstance(task, type):
                    known = task()
                    if kind.__init__ is not object.__init__:
                        self._made.append(known)
                else:
                    known = task
                self.tasks[kind.name] = known
            elif type(known) is not kind:
                _warn_of_two(kind.name, type(known).__module__, kind.__module__)
            return known

    def finalize(self) -> None:
        """Register what was adopted, and what is built in."""
        app = self._app
        with app._lock:
            while self.adopted:
                kind = self.adopted.pop(0)  # first: its __init__ may look at the registry
                if vars(kind).get("app") in {None, app}:  # not registered on another app by hand
                    try:
                        self.register(kind)
                    except BaseException:
                        self.adopted.insert(0, kind)  # it raises again, for whoever looks next
                        raise
            if not self.built_in:
                self.built_in = True
                define_builtins(app)

    def begin_process(self) -> None:
        """See Celeriac.begin_process."""
        for task in self._made:
            task.__init__()  # type: ignore[misc]  # the same object: everybody's name of it stays

    def misplaced_decorators(self) -> list[str]:
        """See Celeriac.misplaced_decorators."""
        found = []
        for name, task in self._app.tasks.items():
            function = getattr(task, "__wrapped__", None)
            module = sys.modules.get(getattr(function, "__module__", ""))
            bound = getattr(module, getattr(function, "__name__", ""), None)
            inner = bound
            while inner is not None and inner is not function and not isinstance(inner, Task):
                inner = getattr(inner, "__wrapped__", None)
            if inner is task and bound is not task:
                found.append(
                    f"task {name}: another decorator stands above @task, so workers run the body without it; put @task at the top"
                )
        return found

    def annotate(self, kind: type[Task]) -> None:
        """Have the annotations that are set now, and no others, hold for a task. Raises ImproperlyConfigured."""
        annotations = self._app._settings.task_annotations
        before, replaced = self._annotated.get(kind, (None, {}))
        if annotations is before:
            return
        put_back(kind, replaced)
        self._annotated.pop(kind, None)
        replaced = annotate(kind, annotations, imported)
        try:
            kind.prepare()
        except ImproperlyConfigured:
            put_back(kind, replaced)
            raise
        self._annotated[kind] = (annotations, replaced)


def _warn_of_two(name: str, first: str, second: str) -> None:
    """Two tasks of one name: the first one stays, and somebody should know. The same module twice is the same task; so are our own two pings."""
    ours = first.startswith("celeriac.") and second.startswith("celeriac.")
    if first != second and "__main__" not in {first, second} and not ours:
        warnings.warn(
            f"task {name} is defined in {first} and in {second}: that of {first} stays. Give one of them another name=, or import the"
            " module under one path only",
            DuplicateTaskNameWarning, stacklevel=4,
        )  # fmt: skip
