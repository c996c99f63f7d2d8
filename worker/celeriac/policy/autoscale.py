"""How many slots a worker has between its bounds (--autoscale): more while all are busy, fewer when some were not needed. Pure."""

from typing import NamedTuple

#: All slots are busy for this long: one step up.
BUSY_S = 0.5
#: Slots that nobody needed for this long go.
IDLE_S = 30.0


class Seen(NamedTuple):
    """What was seen so far. full_since: all slots are busy since (monotonic seconds), None: they are not.

    peak   the most that were busy at once since `peak_from`.
    """

    full_since: float | None = None
    peak: int = 0
    peak_from: float | None = None


def slots_wanted(seen: Seen, *, slots: int, busy: int, least: int, most: int, now: float) -> tuple[int, Seen]:
    """(slots from now on, what to remember). busy: bodies that run now. now: monotonic seconds.

    Up by half, at least by one, each time all have been busy for BUSY_S; down to what was needed at most within IDLE_S.
    """
    peak_from = now if seen.peak_from is None else seen.peak_from
    peak = max(seen.peak, busy)
    if not least <= slots <= most:
        return min(most, max(least, slots)), Seen(None, busy, now)
    if busy >= slots:
        since = now if seen.full_since is None else seen.full_since
        if slots < most and now - since >= BUSY_S:
            return min(most, max(slots + 1, slots * 3 // 2)), Seen(now, busy, now)
        return slots, Seen(since, peak, now)
    if now - peak_from >= IDLE_S:
        return max(least, min(slots, peak)), Seen(None, busy, now)
    return slots, Seen(None, peak, peak_from)
