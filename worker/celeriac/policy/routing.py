"""Which queue a call goes to."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

Router = Callable[..., Any]


def route(
    name: str,
    routes: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Routing options ({queue, exchange, routing_key, priority}) that `routes` gives the task, or an empty mapping.

    routes   a mapping of task names or globs to options or a queue's name, a function
             `(name, args, kwargs, options) -> options | None`, or a sequence of these; the first answer wins.
    """
    for router in routes if isinstance(routes, list | tuple) and not _is_pair(routes) else (routes,):
        answer = _ask(router, name, args, kwargs or {}, options or {})
        if answer:
            return {"queue": answer} if isinstance(answer, str) else answer
    return {}


def _is_pair(router: Any) -> bool:
    return isinstance(router, list | tuple) and len(router) == 2 and isinstance(router[0], str)


def _ask(router: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    if router is None:
        return None
    if callable(router):
        return router(name, args, kwargs, options)
    if _is_pair(router):
        return router[1] if fnmatchcase(name, router[0]) else None
    if name in router:
        return router[name]
    for pattern, answer in router.items():
        if fnmatchcase(name, pattern) if isinstance(pattern, str) else pattern.match(name):
            return answer
    return None
