"""Ids: a copy of a signature in which every call has its own, and the handles of these calls.

Who sends a workflow holds handles of tasks that run much later, so ids are given out before anything is sent. A signature that was
frozen before keeps its ids.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from celeriac.canvas.forms import chain, chord, chunks, group
from celeriac.canvas.joining import linked
from celeriac.canvas.signature import Signature, maybe_signature
from celeriac.ids import new_id
from celeriac.policy.workflow import unrun
from celeriac.result import GroupResult


def frozen(app: Any, sig: Mapping[str, Any], own_id: str | None = None) -> tuple[Signature, Any]:
    """(the copy, its handle). own_id: for the call whose value is the whole's: itself, a chain's last step, a chord's body.

    Raises ValueError for a chord without a body.
    """
    match maybe_signature(sig, app):
        case Signature(subtask_type=None) as one:
            return _frozen_one(app, one, own_id)
        case chunks() as several:
            return frozen(app, several.group(), own_id)
        case chain() as steps:
            return _frozen_chain(app, steps, own_id)
        case group() as members:
            return _frozen_group(app, members, own_id)
        case chord() as both:
            return _frozen_chord(app, both, own_id)
        case Signature() as one:  # map, starmap
            return _frozen_one(app, one, own_id)
        case other:
            raise TypeError(f"{other!r:.200} is no signature: pass task.s(…) or task.si(…)")


def _frozen_one(app: Any, sig: Signature, own_id: str | None) -> tuple[Signature, Any]:
    options = sig["options"]
    task_id = own_id or options.get("task_id") or new_id()
    copy = _copy(sig)
    copy["options"] = {**options, "task_id": task_id}
    return copy, _handle(app, sig["task"], task_id)


def _handle(app: Any, name: str, task_id: str) -> Any:
    task = app.tasks.get(name)
    return app.AsyncResult(task_id) if task is None else task.AsyncResult(task_id)


def _copy(sig: Signature) -> Signature:
    copy = dict.__new__(sig.__class__)
    dict.update(copy, sig)
    if sig._app is not None:
        copy._app = sig._app
    return copy


def _frozen_chain(app: Any, sig: chain, own_id: str | None) -> tuple[Signature, Any]:
    steps = linked(sig.tasks, app)
    if not steps:
        raise ValueError("an empty chain has no value: give it a task")
    own_id = own_id or sig["options"].get("task_id")
    made, previous = [], None
    for place, step in enumerate(steps):
        copy, result = frozen(app, step, own_id if place == len(steps) - 1 else None)
        first = _first(result)
        if previous is not None:
            first.parent = previous
        previous = result
        made.append(copy)
    whole = _copy(sig)
    whole["kwargs"] = {"tasks": made}
    whole["options"] = {**sig["options"], "task_id": made[-1].id}
    return whole, previous


def _first(result: Any) -> Any:
    """The handle that a step begins with: a chord's is its header, and a chain's its first step."""
    while result.parent is not None:
        result = result.parent
    return result


def _frozen_group(app: Any, sig: group, own_id: str | None) -> tuple[Signature, GroupResult]:
    members, results = [], []
    for member in flat(sig):
        copy, result = frozen(app, member)
        members.append(copy)
        results.append(result)
    group_id = own_id or sig["options"].get("task_id") or new_id()
    copy = _copy(sig)
    copy["kwargs"] = {"tasks": members}
    copy["options"] = {**sig["options"], "task_id": group_id}
    return copy, GroupResult(group_id, results, app=app)


def flat(sig: group) -> Iterator[Signature]:
    """The members; those of a group that is a member itself among them, with that one's options under their own."""
    for member in sig.tasks:
        if member["subtask_type"] is None:
            yield member
        elif isinstance(member, chain) and not member.tasks:
            continue  # as Celery does
        elif isinstance(member, chunks):
            yield from flat(member.group())  # type: ignore[arg-type]
        elif isinstance(member, group):
            shared = {name: value for name, value in member["options"].items() if name != "task_id"}
            for inner in flat(member):
                yield inner.clone().set(**{**shared, **inner["options"]}) if shared else inner
        else:
            yield member


def _frozen_chord(app: Any, sig: chord, own_id: str | None) -> tuple[Signature, Any]:
    if sig.body is None:
        raise ValueError(f"{sig!r} has no body: chord(header, body), or chord(header)(body)")
    if (
        own_id is None and not unrun(sig.body).ids
    ):  # frozen by Celery, its own id is the header's, and the body has the value's
        own_id = sig["options"].get("task_id")
    body, result = frozen(app, sig.body, own_id)
    header, header_result = _frozen_group(app, sig.header, None)
    _first(result).parent = header_result
    copy = _copy(sig)
    copy["kwargs"] = {**sig["kwargs"], "header": header, "body": body}
    copy["options"] = {name: value for name, value in sig["options"].items() if name != "task_id"}
    return copy, result
