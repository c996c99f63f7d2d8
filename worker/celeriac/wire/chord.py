"""A chord's bookkeeping as values: what a result store keeps while the members of its header end, and what comes out.

A chord's members share a group id. The store counts each member once, by its id and index, whatever happens to its message; whoever
ends the last one claims the body. Source: the keys and records of celery/backends/redis.py of 5.7.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from celeriac import states

GROUP_PREFIX = "celery-taskset-meta-"
#: What stands for the claim once the body is on its queue.
DONE = "done"
#: Seconds for which a finished chord is remembered, so that late copies of its members do not begin it anew. Celery's least.
DONE_S = 300


class ChordStart(NamedTuple):
    """A chord that is about to begin. size: members of its header.

    structure  the header's result, ((group id, parent), [members]), where a member is a group itself; None: all are single tasks.
    """

    group_id: str
    size: int
    structure: Any = None


class ChordPart(NamedTuple):
    """How one member has ended. place: its index in the header. payload: `part_record`, encoded."""

    group_id: str
    task_id: str
    place: int | None
    payload: bytes


class Joined(NamedTuple):
    """A chord whose last member has ended; its body is to be sent by who ended that one. task_id: the member that holds the claim.

    parts      the records in the header's order. structure: as it was opened with.
    """

    group_id: str
    task_id: str
    parts: Sequence[Any]
    structure: Any = None

    @property
    def token(self) -> str:
        """What stands in the store for the claim."""
        return claim_token(self.task_id)


def claim_token(task_id: str) -> str:
    """The claim of one member. It is that member's own, so that its message, delivered again, finds the claim it had."""
    return f"celeriac:{task_id}"


def part_record(task_id: str, state: str, result: Any) -> list[Any]:
    """A member's end as Celery writes it. result: the value, or {exc_type, exc_message, exc_module}."""
    return [1, task_id, state, result]


def group_record(members: Any) -> dict[str, Any]:
    """What is stored of a group: its result as a tuple."""
    return {"result": members}


class Dependency(NamedTuple):
    """The member that keeps a chord's body from running, and its error as it was stored."""

    task_id: str
    error: Any


def collected(joined: Joined) -> list[Any] | Dependency:
    """The values in the header's order, with a list where the header has a group; or the first member that did not end well."""
    values: dict[str, list[Any]] = {}
    for _, task_id, state, result in joined.parts:
        if state in states.PROPAGATE_STATES:
            return Dependency(task_id, result)
        values.setdefault(task_id, []).append(result)
    if joined.structure is None:
        return [part[3] for part in joined.parts]
    return _assembled(joined.structure, values)


def _assembled(group: Any, values: Mapping[str, list[Any]]) -> list[Any]:
    """The members' values, in a group's structure. A member that the structure does not know comes last."""
    left = {task_id: list(found) for task_id, found in values.items()}
    shaped = _shaped(group, left)
    return shaped + [value for found in left.values() for value in found]


def _shaped(group: Any, left: dict[str, list[Any]]) -> list[Any]:
    _, members = group
    shaped = []
    for member in members:
        if member[1] is not None:
            shaped.append(_shaped(member, left))
            continue
        found = left.get(member[0][0])
        if found:
            shaped.append(found.pop(0))
            if not found:
                del left[member[0][0]]
    return shaped
