"""Attributes of tasks that the settings decide where neither class nor decorator does: looked up when they are read, so that what is set
after a task was defined counts for it, too."""

from collections.abc import Callable
from inspect import getattr_static
from typing import Any


class Derived:
    """An attribute that is what the settings say now; None where its class has no app. A value set on the class or the object stands above it.

    read   of the settings, what the attribute is.
    """

    __slots__ = ("_name", "_read")

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    def __get__(self, task: Any, kind: Any) -> Any:
        app = kind.app
        if app is None:
            return None
        conf = app.conf
        own = kind.__dict__.get(self._name, self)
        if own is not self:  # an annotation: the settings were read only just now
            return own
        return self._read(conf)


class OwnStore:
    """`task.backend`: the store where the task's results are, the app's unless its class says another one by a URL, or a store, of this name."""

    __slots__ = ()

    def __get__(self, task: Any, kind: Any = None) -> Any:
        return None if task is None else task.app.store_of(task)


def derived(read: Callable[[Any], Any]) -> Any:
    """What a class attribute is set to, to be what the settings say."""
    return Derived(read)


def explicit(kind: type, name: str) -> Any:
    """The attribute as a class or a decorator has set it; None where the settings decide."""
    value = next((vars(each)[name] for each in kind.__mro__ if name in vars(each)), None)
    return None if isinstance(value, Derived) else value


def let_settings_decide(kind: type, base: type) -> None:
    """Make a None that a class was given, in the place of one of base's derived attributes, mean: as the settings say."""
    for name, attribute in vars(base).items():
        if isinstance(attribute, Derived) and getattr_static(kind, name) is None:
            setattr(kind, name, attribute)
