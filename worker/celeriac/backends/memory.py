"""Results in this process: for tests, and for eager code."""

import threading
import time
from collections.abc import Sequence

from celeriac import states
from celeriac.broker.codec import JSON, decode, encode
from celeriac.exceptions import EncodeError
from celeriac.wire.result import ResultMeta, from_wire


class MemoryBackend:
    """See ResultBackend. Values go through JSON, so that tests meet what production meets."""

    keeps_results = True

    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}
        self._status: dict[str, str] = {}
        self._changed = threading.Condition()

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        with self._changed:
            for meta, encoded in records:
                try:
                    payload = encoded if encoded is not None else self.encode(meta)
                except EncodeError as error:
                    errors.append(error)
                    continue
                errors.append(None)
                if self._status.get(meta.task_id) != states.SUCCESS:
                    self._records[meta.task_id] = payload
                    self._status[meta.task_id] = meta.status
            self._changed.notify_all()
        return errors

    def encode(self, meta: ResultMeta) -> bytes:
        return encode(meta.to_wire(), "json")[2]

    def fetch(self, task_id: str) -> ResultMeta | None:
        encoded = self._records.get(task_id)
        return from_wire(decode(encoded, JSON, "utf-8", {JSON})) if encoded is not None else None

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._status.get(task_id) not in states.READY_STATES:
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return None
                self._changed.wait(left_s)
        return self.fetch(task_id)

    def forget(self, task_id: str) -> None:
        with self._changed:
            self._records.pop(task_id, None)
            self._status.pop(task_id, None)

    def close(self) -> None:
        """Nothing is open."""
