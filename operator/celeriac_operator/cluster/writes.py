"""Who wrote spec.replicas last: this operator, another replica of it, or somebody else."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from celeriac_operator.cluster.workloads import Workload
from celeriac_operator.resources.labels import FIELD_MANAGER

#: Seconds a foreign write to spec.replicas is reported, so that a person sees it; then its number counts as agreed.
CONTESTED_S = 300.0
#: Seconds by which two machines' clocks may differ when a writer is named by its time.
SKEW_S = 5.0


@dataclass(slots=True)
class _Written:
    """Our last write to a workload's scale. at: epoch s. contested_at: monotonic s, when another's was first seen."""

    replicas: int
    generation: int
    at: float
    contested_at: float | None = None


class Writes:
    """Our writes to the scales of workloads, by uid. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: dict[str, _Written] = {}
        self._unanswered: dict[str, int] = {}

    def sending(self, workload: Workload, replicas: int) -> None:
        """To be called before a write: one that is not answered may have been applied all the same."""
        with self._lock:
            self._unanswered[workload.uid] = replicas

    def refused(self, workload: Workload) -> None:
        """The API server said no: nothing was applied."""
        with self._lock:
            self._unanswered.pop(workload.uid, None)

    def done(self, workload: Workload, replicas: int) -> None:
        """The write was applied. `workload` is as it was before."""
        with self._lock:
            self._take(workload.uid, replicas, max(workload.generation, self._generation(workload.uid)) + 1)

    def generation(self, uid: str) -> int:
        """The workload's generation after our last write to it, 0 when there was none."""
        with self._lock:
            return self._generation(uid)

    def ours(self, workload: Workload) -> bool:
        """Whether the number that is there is known to be from an operator such as this one."""
        with self._lock:
            written = self._written.get(workload.uid)
            known = (written.replicas if written else None, self._unanswered.get(workload.uid))
        return workload.replicas in known or workload.replicas_manager == FIELD_MANAGER

    def contested_by(self, workload: Workload) -> str:
        """Who wrote spec.replicas after us, "" when nobody did.

        `managedFields` names the writer where the API server records writes to `/scale` (1.22 and later); a time before
        our own write shows that it did not. A later one by our name is ours: of another replica that led, or not answered.
        """
        uid = workload.uid
        with self._lock:
            written = self._written.get(uid)
            if written is None:
                return ""
            if written.replicas == workload.replicas:
                written.contested_at = None
                return ""
            recorded = (workload.replicas_written_at or 0.0) > written.at - SKEW_S
            manager = workload.replicas_manager if recorded else ""
            if manager == FIELD_MANAGER or workload.replicas == self._unanswered.get(uid):
                self._take(uid, workload.replicas, max(workload.generation, written.generation))
                return ""
            now = time.monotonic()
            if written.contested_at is None:
                written.contested_at = now
            if now - written.contested_at > CONTESTED_S:
                del self._written[uid]
                return ""
        return manager or "an unknown field manager"

    def forget(self) -> None:
        """Let go of everything: another replica leads, and may write."""
        with self._lock:
            self._written.clear()
            self._unanswered.clear()

    def keep(self, exists: Callable[[str], bool]) -> None:
        """Let go of workloads that are gone."""
        with self._lock:
            for uid in [uid for uid in {*self._written, *self._unanswered} if not exists(uid)]:
                self._written.pop(uid, None)
                self._unanswered.pop(uid, None)

    # -- within the lock

    def _generation(self, uid: str) -> int:
        written = self._written.get(uid)
        return written.generation if written else 0

    def _take(self, uid: str, replicas: int, generation: int) -> None:
        self._written[uid] = _Written(replicas=replicas, generation=generation, at=time.time())
        self._unanswered.pop(uid, None)
