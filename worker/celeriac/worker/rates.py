"""Rates that somebody set while workers run: the operator's, kept in the coordination store for all, or told by remote control."""

from collections.abc import Mapping
from typing import NamedTuple

from celeriac.broker.coordination import Coordination

#: Between two looks for rates that this worker has not heard.
LOOK_S = 10.0


class SetRate(NamedTuple):
    """A rate that beats what the code declares. by: who set it; empty: a person, by remote control."""

    per_s: float | None
    scope: str | None
    by: str = ""


class SetRates:
    """What was set, by task. store: None where there is none; then it is only told."""

    def __init__(self, store: Coordination | None) -> None:
        self._store = store
        self._looked_at = float("-inf")
        self._stored: Mapping[str, tuple[float, str]] = {}
        self.by_task: dict[str, SetRate] = {}

    def look(self, now: float) -> dict[str, SetRate | None]:
        """What has changed in the store since the last look: the rate, or None where it was lifted. At most every LOOK_S.

        now: monotonic seconds. Raises BackendUnavailable.
        """
        if self._store is None or now - self._looked_at < LOOK_S:
            return {}
        self._looked_at = now
        before, self._stored = self._stored, self._store.rates()
        changed: dict[str, SetRate | None] = dict.fromkeys(before.keys() - self._stored.keys())
        for task, (per_s, by) in self._stored.items():
            if before.get(task) != (per_s, by):
                changed[task] = SetRate(per_s, "cluster", by)
        return changed
