"""Which queue a call goes to: task_routes, prepared once, and asked for each call."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from typing import Any, NamedTuple

_GLOB = frozenset("*?[")


class Patterns(NamedTuple):
    """Names, and globs and regular expressions in their order; the exact name stands above them."""

    names: Mapping[str, Any]
    patterns: tuple[tuple[re.Pattern[str], Any], ...]

    def answer(self, name: str) -> Any:
        """What the first of them says of the task, None when none does."""
        if name in self.names:
            return self.names[name]
        for pattern, answer in self.patterns:
            if pattern.match(name):
                return answer
        return None


class Asked(NamedTuple):
    """A function `(name, args, kwargs, options, task=None)`; takes: how many of these it takes, 3 to 5."""

    function: Callable[..., Any]
    takes: int


Router = Patterns | Asked


def prepared(routes: Any, load: Callable[[str], Any]) -> tuple[Router, ...]:
    """task_routes as `route` wants it.

    routes  a mapping of task names, globs or regular expressions to options or a queue; a function; a class, or an object, with
            `route_for_task(name, args, kwargs)`; the dotted path of one of these; or a list of all that, and of (pattern, answer) pairs.
    load    gives what a dotted path names.

    Raises ValueError naming what is none of these.
    """
    if routes is None:
        return ()
    several = routes if isinstance(routes, list | tuple) and not _is_pair(routes) else [routes]
    found: list[Router] = []
    pairs: list[Any] = []  # neighbours are one table
    for each in several:
        if _is_pair(each):
            pairs.append(each)
            continue
        if pairs:
            found.append(_patterns(pairs))
            pairs = []
        if each is not None:
            found.append(_router(each, load))
    return (*found, _patterns(pairs)) if pairs else tuple(found)


def _router(router: Any, load: Callable[[str], Any]) -> Router:
    if isinstance(router, str):
        loaded = load(router)
        return _router(loaded, load) if not isinstance(loaded, str) else _wrong(router)
    if isinstance(router, Mapping):
        return _patterns(router.items())
    if isinstance(router, list | tuple) and all(_is_pair(each) for each in router):
        return _patterns(router)
    if isinstance(router, type):
        router = router()
    function = getattr(router, "route_for_task", router)
    return Asked(function, _taken(function)) if callable(function) else _wrong(router)


def _wrong(router: Any) -> Any:
    raise ValueError(
        f"{router!r} is no router: use a mapping of task names to queues, (pattern, queue) pairs, a function"
        " (name, args, kwargs, options, task=None), a class with route_for_task, or the dotted path of one of these"
    )


def _patterns(pairs: Any) -> Patterns:
    names: dict[str, Any] = {}
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for pattern, answer in pairs:
        if not isinstance(answer, str | Mapping) and not hasattr(answer, "name"):
            raise ValueError(f"the answer for {pattern!r} is a queue's name or a mapping of options, not {answer!r}")
        if isinstance(pattern, re.Pattern):
            patterns.append((pattern, answer))
        elif isinstance(pattern, str) and not _GLOB.isdisjoint(pattern):
            patterns.append((re.compile(translate(pattern)), answer))
        else:
            names.setdefault(pattern, answer)
    return Patterns(names, tuple(patterns))


def _is_pair(router: Any) -> bool:
    if not isinstance(router, list | tuple) or len(router) != 2:
        return False
    pattern, answer = router
    if isinstance(pattern, re.Pattern) or not isinstance(pattern, str):
        return isinstance(pattern, re.Pattern)
    # Two dotted paths are two routers; a pattern and a queue's name are a pair.
    both_are_paths = isinstance(answer, str) and "." in answer and _GLOB.isdisjoint(pattern)
    return not both_are_paths and not callable(answer)


def _taken(function: Callable[..., Any]) -> int:
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin that tells nothing of its arguments
        return 4
    for count in (5, 4, 3):
        try:
            signature.bind(*("name", (), {}, {})[: min(count, 4)], **({"task": None} if count == 5 else {}))
        except TypeError:
            continue
        return count
    return 4


def route(
    name: str, routers: Sequence[Router], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None, task: Any = None,
) -> Mapping[str, Any]:  # fmt: skip
    """The options that the first router with an answer gives the call ({queue, exchange, routing_key, priority, …}), or an empty mapping."""
    for router in routers:
        if isinstance(router, Patterns):
            answer = router.answer(name)
        elif router.takes == 5:
            answer = router.function(name, args, kwargs or {}, options or {}, task=task)
        else:
            answer = router.function(*(name, args, kwargs or {}, options or {})[: router.takes])
        if answer:
            return answer if isinstance(answer, Mapping) else {"queue": answer}
    return {}
