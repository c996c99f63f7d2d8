"""Which run of an entry is due, what is sent for it and what is left out. Pure: time comes in.

A tick is one run of one entry at its due moment, by which it is named: whoever sends it, and however often, it is the same task id.
"""

from datetime import datetime, tzinfo
from typing import NamedTuple, Protocol

#: What becomes of runs that were missed: the last one is sent late, all of them are, none is.
CATCH_UP = ("latest", "all", "skip")
#: With catch_up="skip" a run is missed when it is this many seconds late: a busy machine or a beat that takes over is not a miss.
SKIP_AFTER_S = 30.0


class Plan(Protocol):
    """What is asked of an entry's schedule; see celeriac.schedules.BaseSchedule."""

    def next_after(self, moment: datetime, zone: tzinfo) -> datetime: ...
    def latest(self, last: datetime, now: datetime, zone: tzinfo) -> datetime | None: ...


class Due(NamedTuple):
    """What is to be done for an entry: its last run becomes `moment`; `send` says whether a task is sent for it, or it is left out."""

    moment: datetime
    send: bool


def due(plan: Plan, last: datetime, now: datetime, zone: tzinfo, catch_up: str, deadline_s: float | None) -> Due | None:
    """What is due at `now` when the last run was at `last`; None: nothing yet.

    deadline_s   runs missed longer ago are left out; None: however late.
    """
    if catch_up == "all":
        first = plan.next_after(last, zone)
        if first > now:
            return None
        if deadline_s is None or _late_s(first, now) <= deadline_s:
            return Due(first, send=True)
    latest = plan.latest(last, now, zone)
    if latest is None:
        return None
    late_s = _late_s(latest, now)
    if catch_up == "skip":
        return Due(latest, send=late_s <= (SKIP_AFTER_S if deadline_s is None else deadline_s))
    if deadline_s is not None and late_s > deadline_s:
        return Due(latest, send=False)
    if catch_up == "all":  # those within the deadline, from the first
        return Due(_first_within(plan, last, now, zone, deadline_s), send=True)
    return Due(latest, send=True)


def _late_s(moment: datetime, now: datetime) -> float:
    return (now - moment).total_seconds()


def _first_within(plan: Plan, last: datetime, now: datetime, zone: tzinfo, deadline_s: float | None) -> datetime:
    moment = plan.next_after(last, zone)
    while deadline_s is not None and _late_s(moment, now) > deadline_s:
        moment = plan.next_after(moment, zone)
    return moment


def tick_id(entry: str, moment: datetime) -> str:
    """What names one tick: the entry and its due moment, in UTC."""
    return f"{moment.isoformat()} {entry}"


def read_tick_id(text: str) -> tuple[str, datetime]:
    """Entry and due moment of a tick. Raises ValueError."""
    moment, _, entry = text.partition(" ")
    return entry, datetime.fromisoformat(moment)


__all__ = ["CATCH_UP", "SKIP_AFTER_S", "Due", "Plan", "due", "read_tick_id", "tick_id"]
