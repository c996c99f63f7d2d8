"""Error callbacks: which of them belong to a body that cannot run, and how many arguments one of them wants."""

import inspect
from collections.abc import Sequence
from typing import Any

from celeriac.canvas.forms import chain, chord, group
from celeriac.canvas.signature import Signature, listed
from celeriac.exceptions import NotRegistered


def errbacks_within(sig: Signature, around: Sequence[Any] = ()) -> list[tuple[Any, Signature]]:
    """The error callbacks of a signature that cannot run, each with the call that it is told of. around: those of what it stands in.

    Those of a call itself, of what would run first of a chain, and of a chord's body. Each is told once of a call; of a group, as with
    Celery, once of each member.
    """
    own: list[Any] = []
    for errback in (*listed(sig["options"].get("link_error")), *around):
        if errback not in own:
            own.append(errback)
    if isinstance(sig, group):
        return [told for member in sig.tasks for told in errbacks_within(member, own)]
    if isinstance(sig, chord):
        return errbacks_within(sig.body, own)
    found = [(errback, sig) for errback in own]
    if isinstance(sig, chain) and sig.tasks:
        found += [(errback, first) for errback, first in errbacks_within(sig.tasks[0]) if errback not in own]
    return found


def takes_more(app: Any, sig: Signature) -> bool:
    """Whether an error callback wants (request, exception, traceback) and not the failed call's id: more than one argument is left."""
    if sig["immutable"] or sig["subtask_type"] is not None:
        return False
    try:
        task = app.find(sig["task"])
        parameters = list(inspect.signature(task.run).parameters.values())
    except (NotRegistered, ValueError, AttributeError):  # not of this worker, or a builtin that does not tell
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    places = [
        p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} and p.name not in sig["kwargs"]
    ]
    return len(places) - len(sig["args"]) > 1
