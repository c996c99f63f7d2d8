"""When a status is worth writing: at once what a person would notice, the rest twice a minute at the most, if it has moved."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Seconds between two writes that nobody would notice.
QUIET_WRITE_S = 30.0

#: Counts in which one more or less is news.
_PODS = frozenset({"readyReplicas", "startingReplicas", "drainingReplicas", "desiredReplicas"})
#: Fields that say in words, or with a time, what others say; and those whose changes are noticed at once.
_RETOLD = frozenset({"summary", "time", "limitedBy", "conditions", "history"})
#: Messages, seconds or slots by which a figure of steady traffic goes up and down.
_NOISE = 3.0
#: Guards that take turns while traffic goes up and down and the number stays: who of them has the last word is no news.
_IN_TURN = frozenset({"none", "work", "min", "stabilization", "startup", "deadband"})


def noticeable(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a person would notice: replicas, a condition, what limits, a change of scale, a new generation seen.

    Not the number wanted nor the pods that are ready: under load that comes and goes they change at every tick.
    """
    return _face(before) != _face(after)


def worth_writing(before: Mapping[str, Any], after: Mapping[str, Any], *, written_s_ago: float, settled: bool) -> bool:
    """Whether to write `after` over `before`: at once when a person would notice, else twice a minute at the most.

    settled   `after` is what was seen half a minute ago too. Figures of steady traffic go up and down, and are written when
              they have moved beyond that, or when they have come to rest.
    """
    if noticeable(before, after):
        return True
    return written_s_ago >= QUIET_WRITE_S and (moved(before, after) or (settled and dict(before) != dict(after)))


def same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two statuses say the same, but for when."""
    return _without_time(before) == _without_time(after)


def gist_of(status: Mapping[str, Any]) -> int:
    """A number that two statuses share when they say the same, but for when: a status as a whole is ten kilobytes."""
    return hash(repr(_without_time(status)))


def moved(before: Any, after: Any) -> bool:
    """Whether two statuses differ by more than the noise of steady traffic: in a word, in a count of pods, or in a figure by a
    quarter and by three.

    Sentences and times are left out, which repeat the figures, and what `noticeable` sees.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = (before.keys() | after.keys()) - _RETOLD
        return any(
            before.get(name) != after.get(name) if name in _PODS else moved(before.get(name), after.get(name))
            for name in names
        )
    if isinstance(before, Sequence) and isinstance(after, Sequence) and not isinstance(before, str):
        return len(before) != len(after) or any(map(moved, before, after))
    if before is None and after is None:
        return False
    old, new = figure(before), figure(after)
    if old is None or new is None:
        return bool(before != after)
    return abs(new - old) > max(_NOISE, 0.25 * max(abs(old), abs(new)))


def _face(status: Mapping[str, Any]) -> tuple[object, ...]:
    counts = [status.get(name) for name in ("observedGeneration", "state", "replicas")]
    conditions = {(c.get("type"), c.get("status"), c.get("reason")) for c in entries(status, "conditions")}
    changes = [(entry.get("time"), entry.get("from"), entry.get("to")) for entry in entries(status, "history")]
    return (counts, told_of(str((status.get("decision") or {}).get("limitedBy"))), conditions, changes)


def told_of(limited_by: str) -> str:
    """What limits, as a person is told of it."""
    return "none" if limited_by in _IN_TURN else limited_by


def figure(value: object) -> float | None:
    """A count, or a number that is kept as text: "0.25", "45s"; what is not there is nothing."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value.removesuffix("s")) if isinstance(value, str) else float(value)
    except ValueError:
        return None


def _without_time(status: Mapping[str, Any]) -> dict[str, Any]:
    decision = status.get("decision")
    rest = (
        {name: value for name, value in decision.items() if name != "time"} if isinstance(decision, Mapping) else None
    )
    return {**status, "decision": rest}


def entries(status: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects of one of its lists, empty where there is none."""
    value = status.get(name)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, (list, tuple)) else []
