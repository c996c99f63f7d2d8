"""Workflows run where they are called: as workers would run them, one call after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac import states
from celeriac.canvas.freeze import frozen
from celeriac.canvas.signature import Signature, chain, chord, group, linked
from celeriac.exceptions import ChordError
from celeriac.result import EagerResult, GroupResult
from celeriac.wire.result import ResultMeta


def run(app: Any, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The EagerResult of the whole, or a GroupResult of them. What follows a failed call fails with its error, and does not run."""
    copy, _ = frozen(app, sig, options.get("task_id"))
    return _run(app, copy, args, kwargs, {name: value for name, value in options.items() if name != "task_id"})


def _run(app: Any, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    match sig:
        case chain():
            return _chain(app, sig, args, kwargs, options)
        case group():
            results = [_run(app, one, args, kwargs, options) for one in sig.tasks]
            return GroupResult(sig["options"]["task_id"], results, app=app)
        case chord():
            return _chord(app, sig, args, kwargs, options)
        case _:
            called = sig.clone(args, kwargs)
            task = app.find(sig["task"])
            return task.apply(tuple(called["args"]), called["kwargs"], **{**called["options"], **options})


def _chain(app: Any, sig: chain, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    before: Any = None
    for step in linked(sig.tasks):
        if before is None:
            result = _run(app, step, args, kwargs, options)
        else:
            error = _error(before)
            result = _failed(step, error) if error is not None else _run(app, step, (_values(before),), {}, options)
            first = result
            while first.parent is not None:
                first = first.parent
            first.parent = before
        before = result
    return before


def _chord(app: Any, sig: chord, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    header = _run(app, sig.tasks, args, kwargs, options)
    failed = next((one for one in _leaves(header) if one.state in states.PROPAGATE_STATES), None)
    if failed is not None:
        error = ChordError(f"Dependency {failed.id} raised {failed.result!r}")
        error.__cause__ = failed.result
        result = _failed(sig.body, error)
    else:
        result = _run(app, sig.body, (_values(header),), {}, options)
    first = result
    while first.parent is not None:
        first = first.parent
    first.parent = header
    return result


def _values(result: Any) -> Any:
    return [_values(one) for one in result.results] if isinstance(result, GroupResult) else result.result


def _leaves(result: Any) -> list[Any]:
    if isinstance(result, GroupResult):
        return [leaf for one in result.results for leaf in _leaves(one)]
    return [result]


def _error(result: Any) -> BaseException | None:
    for leaf in _leaves(result):
        if leaf.state in states.PROPAGATE_STATES:
            error: BaseException = leaf.result
            return error
    return None


def _failed(sig: Signature, error: BaseException) -> Any:
    """The result of what cannot run any more."""
    match sig:
        case group():
            return GroupResult(sig["options"]["task_id"], [_failed(one, error) for one in sig.tasks])
        case chain():
            return _failed(sig.tasks[-1], error)
        case chord():
            return _failed(sig.body, error)
        case _:
            return EagerResult(sig["options"]["task_id"], ResultMeta(sig["options"]["task_id"], states.FAILURE, error))
