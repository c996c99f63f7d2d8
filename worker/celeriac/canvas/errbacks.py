"""Error callbacks: which of them belong to a body that cannot run, and how many arguments one of them wants."""

import inspect
from typing import Any

from celeriac.canvas.forms import chain, chord, group
from celeriac.canvas.signature import Signature, listed
from celeriac.exceptions import NotRegistered


def errbacks_within(sig: Signature) -> list[tuple[Any, Signature]]:
    """The error callbacks of what would run first of a signature, and of a chord's body, each once; with what they are linked to."""
    found = [(errback, sig) for errback in listed(sig["options"].get("link_error"))]
    inner: list[Signature] = []
    if isinstance(sig, chain):
        inner = sig.tasks[:1]
    elif isinstance(sig, group):
        inner = sig.tasks
    elif isinstance(sig, chord):
        inner = [sig.body]
    for one in inner:
        known = [errback for errback, _ in found]
        found += [(errback, owner) for errback, owner in errbacks_within(one) if errback not in known]
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
