"""The replicas of pools that are gone and asked for it (`onDelete: RestoreReplicas`), written back."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from celeriac_operator import clock
from celeriac_operator.errors import ClusterError
from celeriac_operator.loop.members import Changes, Cluster, PoolState, subject_of
from celeriac_operator.metrics import OperatorMetrics
from celeriac_operator.resources.records import PoolRecord
from celeriac_operator.resources.spec import Mode, OnDelete, WorkerPoolSpec
from celeriac_operator.resources.status import first_target

log = logging.getLogger("celeriac_operator.loop")

#: Seconds for which the replicas of a deleted pool are tried to be written back.
RESTORE_FOR_S = 600.0


class Restores:
    """Those that are still to be written back. progress: called after each, which may have been slow."""

    def __init__(
        self, cluster: Cluster, *, metrics: OperatorMetrics, changes: Changes, progress: Callable[[], None]
    ) -> None:
        self._cluster, self._metrics, self._changes, self._progress = cluster, metrics, changes, progress
        self._waiting: list[_Restore] = []

    @property
    def pending(self) -> bool:
        """Whether something is to be tried again."""
        return bool(self._waiting)

    def gone(self, record: PoolRecord, state: PoolState) -> None:
        """This pool is gone: take in what its end asks for."""
        restore = _restore_of(record, state)
        if restore is not None:
            self._waiting.append(restore)

    def attempt(self, records: Sequence[PoolRecord], now: float) -> None:
        """Write back the replicas of pools that are gone and asked for it; what fails is tried again for a while.

        Upwards only: nobody is left to drain the pods that a lower number would end. records: the pools that there are.
        """
        taken = {(record.namespace, str((record.spec.get("targetRef") or {}).get("name"))) for record in records}
        waiting: list[_Restore] = []
        for restore in self._waiting:
            record, spec = restore.record, restore.spec
            subject = f"{subject_of(record)}: restoring its replicas"
            if (record.namespace, spec.target_ref.name) in taken:
                continue  # another pool has the target by now, be it this one made anew
            try:
                target = self._cluster.target(record, spec)
                if target.foreign_unread:
                    raise ClusterError(target.foreign_unread)
                if target.error or target.foreign_manager:
                    pass
                elif target.replicas > restore.replicas:
                    log.warning(
                        "%s: %d replicas stay, not %d as before: without its pool their workers cannot be drained; scale it by hand",
                        subject, target.replicas, restore.replicas,
                    )  # fmt: skip
                elif target.replicas < restore.replicas:
                    if not self._cluster.may_act():
                        continue  # the leader does it
                    self._cluster.scale(record, spec, restore.replicas, target.resource_version)
                    log.info("%s: %d -> %d replicas, for it is gone", subject, target.replicas, restore.replicas)
            except ClusterError as error:
                self._metrics.error(type(error).__name__)
                self._changes.failed(subject, str(error))
                if now - restore.gone_at < RESTORE_FOR_S:
                    waiting.append(restore)
            else:
                self._changes.forget(subject)
            self._progress()
        self._waiting = waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class _Restore:
    """Replicas to write back for a pool that is gone."""

    record: PoolRecord
    spec: WorkerPoolSpec
    replicas: int
    gone_at: float


def _restore_of(record: PoolRecord, state: PoolState) -> _Restore | None:
    """What the end of this pool asks for: nothing, unless its spec says so and the pool was ever acted for."""
    if state.parsed is None:
        return None
    spec = state.parsed[1]
    status = state.status if state.status is not None else record.status
    replicas = status.get("originalReplicas")
    if spec.on_delete is not OnDelete.RESTORE_REPLICAS or spec.mode is Mode.DRY_RUN or not isinstance(replicas, int):
        return None
    if first := first_target(status):
        spec = replace(spec, target_ref=replace(spec.target_ref, kind=first[0], name=first[1]))
    return _Restore(record=record, spec=spec, replicas=replicas, gone_at=clock.now())
