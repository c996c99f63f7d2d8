"""What will not run any more when a call has failed: the ids that wait for it, and the chords that count them. Signatures as plain mappings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Place(NamedTuple):
    """A call that counts in a chord. body: what the chord sends when it is complete."""

    group_id: str
    task_id: str
    place: int | None
    body: Any


class Unrun(NamedTuple):
    """ids: of all calls that will not run; the last one stands for the whole. places: those of them that an open chord waits for."""

    ids: list[str]
    places: list[Place]


def unrun_after(rest: Sequence[Mapping[str, Any]]) -> Unrun:
    """What a chain leaves behind whose call has failed. rest: its steps, the next one last."""
    ids: list[str] = []
    places: list[Place] = []
    for step in reversed(rest):
        left = unrun(step)
        ids += left.ids
        places += left.places
    return Unrun(ids, places)


def unrun(sig: Mapping[str, Any]) -> Unrun:
    """What a signature leaves behind that is never sent, with what was to follow it."""
    options = sig.get("options") or {}
    ids = list(_ids(sig))
    places = []
    if options.get("group_id") and options.get("chord"):
        first = options.get("group_index")
        for offset, task_id in enumerate(_last_ids(sig)):
            places.append(
                Place(options["group_id"], task_id, None if first is None else first + offset, options["chord"])
            )
    else:  # as Celery's clients write it: on the last calls themselves
        places += [
            Place(own["group_id"], own["task_id"], own.get("group_index"), own["chord"])
            for own in (leaf.get("options") or {} for leaf in _last(sig))
            if own.get("group_id") and own.get("chord") and own.get("task_id")
        ]
    after = options.get("chain")
    if after:
        more = unrun_after(after)
        ids += more.ids
        places += more.places
    return Unrun(ids, places)


def _inner(sig: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The signatures right within one, in the order in which they would run."""
    kwargs = sig.get("kwargs") or {}
    match sig.get("subtask_type"):
        case "chain" | "group":
            return list(kwargs.get("tasks") or ())
        case "chord":
            header = kwargs.get("header") or ()
            members = [header] if isinstance(header, Mapping) else list(header)
            return [*members, kwargs["body"]] if kwargs.get("body") else members
        case _:
            return []


def _ids(sig: Mapping[str, Any]) -> Iterator[str]:
    if sig.get("subtask_type") in {"chain", "group", "chord"}:
        for one in _inner(sig):
            yield from _ids(one)
    else:
        task_id = (sig.get("options") or {}).get("task_id")
        if task_id:
            yield task_id


def _last(sig: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The calls whose values are the signature's."""
    inner = _inner(sig)
    match sig.get("subtask_type"):
        case "chain" | "chord":
            return _last(inner[-1]) if inner else []
        case "group":
            return [leaf for one in inner for leaf in _last(one)]
        case _:
            return [sig]


def _last_ids(sig: Mapping[str, Any]) -> list[str]:
    return [leaf["options"]["task_id"] for leaf in _last(sig) if (leaf.get("options") or {}).get("task_id")]
