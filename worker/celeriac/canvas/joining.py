"""What follows what: the steps that chains and `|` become. What comes after a group waits for all of it, as the body of a chord."""

from collections.abc import Iterable, Iterator
from typing import Any

from celeriac.canvas.forms import chain, chord, chunks, group
from celeriac.canvas.signature import Signature, signatures


def joined(first: Signature, then: Any) -> Any:
    """`first | then`: this, then that; NotImplemented for what is no signature."""
    if not isinstance(then, Signature):
        return NotImplemented
    if isinstance(first, group):  # also of one: who writes group(…) | body wants a list
        return chord(first, then, app=first._app)
    if isinstance(first, chord) and first.body is not None and not isinstance(then, group):
        made = first.clone()
        made["kwargs"]["body"] = made["kwargs"]["body"] | then
        return made
    app = first._app if first._app is not None else then._app
    made_of = [*first.unchain_tasks()] if isinstance(first, chain) else [first.clone()]
    steps = linked([*made_of, then])
    if len(steps) == 1:
        return steps[0]
    made = chain(steps, app=app)
    if isinstance(first, chain) and isinstance(made, chain):
        made["options"] = {k: v for k, v in first["options"].items() if k not in {"link", "link_error"}}
    return made


def linked(tasks: Iterable[Any], app: Any = None) -> list[Signature]:
    """The steps of a chain: chains within it spliced, groups that something follows made headers of chords.

    As in Celery a group of one is that one, and an empty group between others is left out.
    """
    steps: list[Signature] = []
    for step in _spliced(signatures(tasks, app)):
        if isinstance(step, group) and len(step.tasks) == 1:
            step = _with_options(step)
            for inner in _spliced([step]):
                _add(steps, inner)
        elif steps and isinstance(step, group) and not step.tasks:
            continue
        else:
            _add(steps, step)
    return steps


def _with_options(one: group) -> Signature:
    """The only member of a group, with the group's options under its own."""
    [member] = one.tasks
    if not one["options"]:
        return member
    return member.clone().set(**{**{k: v for k, v in one["options"].items() if k != "task_id"}, **member["options"]})


def _spliced(tasks: Iterable[Signature]) -> Iterator[Signature]:
    for task in tasks:
        if isinstance(task, chain):
            yield from _spliced(task.unchain_tasks() if task["options"] else task.tasks)
        elif isinstance(task, chunks):
            yield task.group()
        else:
            yield task


def _add(steps: list[Signature], step: Signature) -> None:
    """Put a step at the end. What ends in a group waits for all of its members, so it becomes, or gets, a chord."""
    last = steps[-1] if steps else None
    if isinstance(last, group):
        steps[-1] = chord(last, step, app=last._app) if last.tasks else step
    elif isinstance(last, chord) and last.body is not None and ends_in_group(last.body):
        made = last.clone()
        made["kwargs"]["body"] = _one(linked([last.body, step]), last._app)
        steps[-1] = made
    else:
        steps.append(step)


def ends_in_group(step: Signature) -> bool:
    """Whether its value is that of a group: several."""
    match step:
        case group():
            return True
        case chain():
            return bool(step.tasks) and ends_in_group(step.tasks[-1])
        case chord():
            return step.body is not None and ends_in_group(step.body)
        case _:
            return False


def _one(steps: list[Signature], app: Any) -> Signature:
    return steps[0] if len(steps) == 1 else chain(steps, app=app)
