"""Workflows run where they are called: as workers would run them, one call after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac import states
from celeriac.canvas.errbacks import errbacks_within, takes_more
from celeriac.canvas.forms import chain, chord, group
from celeriac.canvas.freeze import frozen
from celeriac.canvas.joining import linked
from celeriac.canvas.signature import Signature, listed, maybe_signature
from celeriac.exceptions import ChordError
from celeriac.result import EagerResult, GroupResult

#: Options that name other calls.
_LINKS = ("link", "link_error")


def run(app: Any, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The EagerResult of the whole, or a GroupResult of them. What follows a failed call fails with its error, and does not run."""
    copy, _ = frozen(app, sig, options.get("task_id"))
    return _run(app, copy, args, kwargs, {name: value for name, value in options.items() if name != "task_id"})


def _run(app: Any, sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    match sig:
        case chain():
            return _chain(app, sig, args, kwargs, options)
        case group():
            return _group(app, sig, args, kwargs, options)
        case chord():
            return _chord(app, sig, args, kwargs, options)
        case _:
            called = sig.clone(args, kwargs)
            task = app.find(sig["task"])
            merged = {**called["options"], **options}
            for name in _LINKS:
                if name in options and name in called["options"]:
                    merged[name] = listed(called["options"][name]) + listed(options[name])
            return task.apply(tuple(called["args"]), called["kwargs"], **merged)


def _group(app: Any, sig: group, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    shared = {**{name: value for name, value in sig["options"].items() if name != "task_id"}, **options}
    results = [_run(app, one, args, kwargs, shared) for one in sig.tasks]
    return GroupResult(sig["options"]["task_id"], results, app=app)


def _chain(app: Any, sig: chain, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    steps = linked(sig.tasks)
    links = {name: listed(sig["options"].get(name)) + listed(options.get(name)) for name in _LINKS}
    if any(links.values()):
        steps = [step.clone() for step in steps]
        for callback in links["link"]:
            steps[-1].link(callback)
        for errback in links["link_error"]:
            for step in steps:
                step.link_error(errback)
        options = {name: value for name, value in options.items() if name not in _LINKS}
    before: Any = None
    for step in steps:
        if before is None:
            result = _run(app, step, args, kwargs, options)
        else:
            error = _error(before)
            result = _failed(step, error) if error is not None else _run(app, step, (_values(before),), {}, {})
            first = result
            while first.parent is not None:
                first = first.parent
            first.parent = before
        before = result
    return before


def _chord(app: Any, sig: chord, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    links = {name: listed(sig["options"].get(name)) + listed(options.get(name)) for name in _LINKS}
    body = sig.body
    if any(links.values()):
        body = body.clone()
        for callback in links["link"]:
            body.link(callback)
        for errback in links["link_error"]:
            body.link_error(errback)
        options = {name: value for name, value in options.items() if name not in _LINKS}
    header = _run(app, sig.header, args, kwargs, options)
    failed = next((one for one in _leaves(header) if one.state in states.PROPAGATE_STATES), None)
    if failed is not None:
        error = ChordError(f"Dependency {failed.id} raised {failed.result!r}")
        error.__cause__ = failed.result
        result = _failed(body, error)
        for errback, owner in errbacks_within(body):
            failed_id = owner["options"].get("task_id") or _leaves(result)[-1].id
            _call_errback(app, errback, {"id": failed_id, "task": owner["task"]}, error)
    else:
        result = _run(app, body, (_values(header),), {}, {})
    first = result
    while first.parent is not None:
        first = first.parent
    first.parent = header
    return result


def _call_errback(app: Any, errback: Any, request: Mapping[str, Any], error: BaseException) -> None:
    """Run an error callback of a body that cannot run. request: what is known of it."""
    sig = maybe_signature(errback, app)
    run(app, sig, (request, error, None) if takes_more(app, sig) else (request["id"],), {}, {})


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
            return EagerResult(sig["options"]["task_id"], error, states.FAILURE)
