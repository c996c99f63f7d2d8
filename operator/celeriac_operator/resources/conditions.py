"""Conditions as Kubernetes keeps them: a list by type, in which a transition has a time."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

#: A condition as decided: True, False or None for unknown; a reason in CamelCase; a sentence.
Found = tuple[bool | None, str, str]

#: The API's own limit is 32768; a person reads less.
_LONGEST_MESSAGE = 1024

_STATUS = {True: "True", False: "False", None: "Unknown"}


def merged(
    previous: Iterable[Mapping[str, Any]], found: Mapping[str, Found], *, generation: int, now: float
) -> list[dict[str, Any]]:
    """The conditions of `found`, each with the time since when its status is what it is.

    Conditions of `previous` that were not found this time are kept as they were: somebody else may have set them.
    """
    before = {str(condition.get("type")): condition for condition in previous}
    conditions = {kind: dict(condition) for kind, condition in before.items()}
    for kind, (truth, reason, message) in found.items():
        was = before.get(kind, {})
        status = _STATUS[truth]
        unchanged = was.get("status") == status and bool(was.get("lastTransitionTime"))
        conditions[kind] = {
            "type": kind,
            "status": status,
            "reason": reason,
            # Never empty: an API server of 1.20 took "" in a custom resource's status for null, and refused the whole.
            "message": (message or _words(reason))[:_LONGEST_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": was["lastTransitionTime"] if unchanged else moment(now),
        }
    return list(conditions.values())


@cache  # of the few reasons there are: every pool has a dozen of them
def _words(reason: str) -> str:
    """NotStalled -> "not stalled"."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", reason).lower()


def moment(at: float) -> str:
    """Epoch seconds as Kubernetes writes a time: 2026-01-01T10:00:05Z."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
