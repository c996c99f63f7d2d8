"""Celery's task events: gathered by the loop, sent in batches by the control thread. Off unless asked for: then it costs one check."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any


class TaskEvents:
    """Task events of one worker. `enabled` may change at any time (enable_events, disable_events)."""

    #: Events kept while nobody takes them; older ones are dropped: they are hearsay.
    MOST = 10_000

    def __init__(self, hostname: str, pid: int, clock: Callable[[], int], *, enabled: bool) -> None:
        self.enabled = enabled
        self._hostname = hostname
        self._pid = pid
        self._clock = clock
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []

    def add(self, kind: str, headers: Mapping[str, Any], **fields: Any) -> None:
        """Note an event of the task that the headers describe."""
        if not self.enabled:
            return
        event = {
            "type": kind, "uuid": headers.get("id"), "hostname": self._hostname, "timestamp": time.time(),
            "utcoffset": time.timezone / 3600, "pid": self._pid, "clock": self._clock(), **fields,
        }  # fmt: skip
        with self._lock:
            self._events.append(event)
            if len(self._events) > self.MOST:
                del self._events[: self.MOST // 10]

    def received(self, headers: Mapping[str, Any]) -> None:
        """task-received, with everything a monitor shows of a task."""
        self.add(
            "task-received", headers, name=headers.get("task"), args=headers.get("argsrepr"), kwargs=headers.get("kwargsrepr"),
            root_id=headers.get("root_id"), parent_id=headers.get("parent_id"), retries=headers.get("retries") or 0,
            eta=headers.get("eta"), expires=headers.get("expires"),
        )  # fmt: skip

    def take(self) -> list[dict[str, Any]]:
        """What has gathered since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events
