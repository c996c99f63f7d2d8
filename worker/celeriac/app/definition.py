"""What a task's options come to: checked when it is registered, and worked out into what each call and each run asks of it."""

import inspect
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celeriac.app.derived import OwnStore, explicit, let_settings_decide
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy import errormail, throttle
from celeriac.policy.calling import URGENCIES, check_priority, type_terms
from celeriac.policy.unique import unique_of
from celeriac.wire.message import CONCURRENCY_KEY, RATE_KEY

if TYPE_CHECKING:
    from celeriac.app.task import Task

#: Whether the worker must call these is looked up once a type, never once a task.
_HOOKS = ("before_start", "on_success", "on_retry", "on_failure", "after_return")


def prepare(kind: type["Task"], base: type["Task"]) -> None:
    """Check its options, and work out of them what each call needs. base: the class all tasks have. Raises ImproperlyConfigured."""
    let_settings_decide(kind, base)
    declared = inspect.getattr_static(kind, "backend")
    if not isinstance(declared, OwnStore):
        kind._own_backend, kind.backend = declared, OwnStore()
        kind.app.check_store(kind)
    _normalize(kind)
    _check(kind)
    kind._hooked = frozenset(hook for hook in _HOOKS if getattr(kind, hook) is not getattr(base, hook))
    kind._overrides_call = kind.__call__ is not base.__call__
    kind._overrides_execute = kind.execute is not base.execute
    kind._shadows = kind.shadow_name is not base.shadow_name
    body = kind.__call__ if kind._overrides_call else getattr(kind, "run", None)
    kind._is_async = inspect.iscoroutinefunction(body)
    keys = {RATE_KEY: kind.rate_limit_key, CONCURRENCY_KEY: kind.concurrency_key}
    kind._keys = {header: spec for header, spec in keys.items() if spec is not None}
    if (kind.typing or kind._keys or kind._unique) and hasattr(kind, "run"):
        _read_signature(kind)


def _normalize(kind: type["Task"]) -> None:
    """Options that can be said in several ways are in one from here on."""
    for name in ("default_retry_delay", "retry_backoff_max", "time_limit", "soft_time_limit"):
        value = getattr(kind, name)
        if isinstance(value, timedelta):
            setattr(kind, name, value.total_seconds())
    if kind.acks_on_failure_or_timeout is not None:
        for name in ("acks_on_failure", "acks_on_timeout"):
            if explicit(kind, name) is None:
                setattr(kind, name, kind.acks_on_failure_or_timeout)
    # One class or a list will do; `except` wants a tuple.
    for name in ("autoretry_for", "dont_autoretry_for", "throws"):
        kinds = getattr(kind, name) or ()
        setattr(kind, name, (kinds,) if isinstance(kinds, type) else tuple(kinds))


def _check(kind: type["Task"]) -> None:
    """Options mean something. Raises ImproperlyConfigured, NotSupported for `immediate`."""
    try:
        whitelist = explicit(kind, "error_whitelist")
        if whitelist is not None:
            kind.error_whitelist = errormail.listed(whitelist)
        throttle.check({name: explicit(kind, name) for name in throttle.OPTIONS})
        kind._unique = unique_of(kind)
    except ValueError as error:
        raise ImproperlyConfigured(f"task {kind.name}: {error}") from None
    name = kind.name or ""
    try:
        type_terms(name, kind)
        if kind.priority is not None:
            check_priority(name, kind.priority)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(str(error)) from None
    if kind.urgency is not None and kind.urgency not in URGENCIES:
        raise ImproperlyConfigured(
            f"task {name}: urgency {kind.urgency!r} is none of {', '.join(map(repr, URGENCIES))}"
        )
    if kind.urgency is not None and kind.priority is not None:
        raise ImproperlyConfigured(f"task {name}: set priority (the broker's own number) or urgency (a word), not both")


def _read_signature(kind: type["Task"]) -> None:
    try:
        signature = inspect.signature(kind.run)
    except ValueError:  # some builtins tell nothing of their arguments: then they are not checked
        return
    if not isinstance(inspect.getattr_static(kind, "run"), staticmethod):  # without `self`
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    if kind.typing:
        kind._signature = signature
        kind._fitting = _fitting(signature)
    kind._key_signature = signature


def _fitting(signature: inspect.Signature) -> range:
    """How many arguments a call may have that names none: what `bind` would accept, known beforehand."""
    least = most = 0
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty:
            return range(0)
        if each.kind is each.VAR_POSITIONAL:
            most = sys.maxsize - 1
        elif each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            most += 1
            least += each.default is each.empty
    return range(least, most + 1)


def registers_itself(kind: type["Task"]) -> bool:
    """Whether a class is a task by itself: it has a body, is not abstract, and is made without arguments."""
    if vars(kind).get("abstract") or not callable(getattr(kind, "run", None)):
        return False
    if kind.__init__ is object.__init__:
        return True
    wanted = list(inspect.signature(kind.__init__).parameters.values())[1:]
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(each.default is not inspect.Parameter.empty or each.kind in optional for each in wanted)


def task_class(
    base: type["Task"], function: Callable[..., Any], name: str, *, bind: bool, options: Mapping[str, Any],
    body: Callable[..., Any] | None = None,
) -> type["Task"]:  # fmt: skip
    """The class of a decorated function: made once a task type. body: what runs in its place."""
    body = body or function
    run = body if bind else staticmethod(body)
    return type(
        function.__name__,
        (base,),
        {
            "name": name, "run": run, "abstract": False, "__name__": function.__name__,
            "__module__": function.__module__, "__doc__": function.__doc__,
            "__wrapped__": staticmethod(function), "__qualname__": getattr(function, "__qualname__", function.__name__), **options,
        },
    )  # fmt: skip


__all__ = ["prepare", "registers_itself", "task_class"]
