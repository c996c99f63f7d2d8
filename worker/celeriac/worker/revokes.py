"""What was revoked, as this worker knows it: what it heard, and what the coordination store holds. Any thread may call it."""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from celeriac.broker.coordination import MOST_REVOKED, Coordination
from celeriac.exceptions import BackendUnavailable

log = logging.getLogger(__name__)

#: Between two looks for revokes that this worker has not heard: it may be deaf, without remote control or for a while.
LOOK_S = 10.0


class Revokes:
    """Task ids until when they are revoked, and stamps. store: None where there is none; then others' revokes are only heard."""

    def __init__(self, store: Coordination | None, ttl_s: float) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        #: id -> seconds since the epoch until which it is revoked.
        self.ids: dict[str, float] = {}
        #: Stamp's name -> its revoked values, as text: 42 is revoked by "42", as a command line says it.
        self.stamps: dict[str, set[str]] = {}
        #: Whether anything is revoked: messages are looked at only then.
        self.any = False

    def names(self, headers: Mapping[str, Any], now: float) -> bool:
        """Whether the message with these headers is revoked. now: seconds since the epoch."""
        if self.ids.get(headers.get("id", ""), 0.0) > now:
            return True
        stamps = headers.get("stamps") if self.stamps else None
        if not isinstance(stamps, Mapping):
            return False
        return any(value in values for name, values in list(self.stamps.items()) for value in _values(stamps.get(name)))

    def revoke(self, ids: Iterable[str]) -> None:
        """Revoke these here and, where there is a store, for all workers, those included that start later.

        A store that is away is logged: the ids are revoked here all the same.
        """
        wanted = list(ids)
        self.hear(wanted)
        if self._store is None or not wanted:
            return
        try:
            self._store.revoke(wanted)
        except BackendUnavailable as error:
            log.warning("%s; the revoke holds in this worker only", error)

    def hear(self, ids: Iterable[str]) -> None:
        """These were revoked elsewhere."""
        until = time.time() + self._ttl_s
        self._add(dict.fromkeys(ids, until))

    def revoke_stamps(self, stamps: Mapping[str, Any]) -> None:
        """Revoke whatever carries one of these values under one of these names, in this worker."""
        with self._lock:
            for name, value in stamps.items():
                self.stamps.setdefault(name, set()).update(_values(value))
            self.any = bool(self.ids or self.stamps)

    def look(self, now: float) -> bool:
        """Read what others have revoked since the last look, at most every LOOK_S; whether there was any. now: monotonic seconds.

        Raises BackendUnavailable.
        """
        if self._store is None or now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        found = self._store.newly_revoked()
        self._add(found)
        return bool(found)

    def _add(self, ids: Mapping[str, float]) -> None:
        if not ids:
            return
        now = time.time()
        with self._lock:
            for task_id, until in ids.items():
                self.ids.pop(task_id, None)  # in the order of their revokes: the oldest go first
                self.ids[task_id] = until
            while self.ids and (len(self.ids) > MOST_REVOKED or next(iter(self.ids.values())) < now):
                del self.ids[next(iter(self.ids))]
            self.any = bool(self.ids or self.stamps)


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(one) for one in value] if isinstance(value, list | tuple | set | frozenset) else [str(value)]
