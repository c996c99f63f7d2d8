"""Kubernetes events on a WorkerPool, gathered: what repeats is counted on one event and does not fill the namespace."""

import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.errors import ClusterError, NotFound
from celeriac_operator.resources.labels import API_VERSION, FIELD_MANAGER, KIND
from celeriac_operator.resources.records import PoolRecord

log = logging.getLogger("celeriac_operator.cluster")

#: Seconds in which a pool's reason is written once, unless its message changes.
QUIET_S = 300.0
#: Bytes the API allows a message.
MESSAGE_BYTES = 1024
#: (pool, reason) pairs remembered; forgetting one costs an event more.
REMEMBERED = 4096


@dataclass(slots=True)
class _Posted:
    name: str
    message: str
    count: int
    first_at: str
    at: float


class EventRecorder:
    """Posts events to core/v1. Best effort, as events are everywhere: a failure is logged and not raised."""

    def __init__(self, client: KubeClient, *, instance: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._instance = instance
        self._clock = clock
        self._lock = threading.Lock()
        self._posted: OrderedDict[tuple[str, str], _Posted] = OrderedDict()

    def post(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        """kind: Normal or Warning. reason: CamelCase. The same message within five minutes is passed over."""
        message = message.encode()[:MESSAGE_BYTES].decode(errors="ignore")
        with self._lock:
            before = self._posted.get((pool.uid, reason))
            repeats = before is not None and before.message == message
            if before and repeats and self._clock() - before.at < QUIET_S:
                return
        try:
            if not (before and repeats and self._count_up(pool, before)):
                self._create(pool, kind, reason, message)
        except ClusterError as error:
            log.warning(
                "the event %s on WorkerPool %s/%s was not written: %s", reason, pool.namespace, pool.name, error
            )

    def _count_up(self, pool: PoolRecord, posted: _Posted) -> bool:
        """Whether the event was still there; the API server forgets events after an hour."""
        posted.count += 1
        posted.at = self._clock()
        body = {"count": posted.count, "lastTimestamp": _now()}
        try:
            self._client.patch(f"/api/v1/namespaces/{pool.namespace}/events/{posted.name}", body)
        except NotFound:
            return False
        return True

    def _create(self, pool: PoolRecord, kind: str, reason: str, message: str) -> None:
        now = _now()
        posted = _Posted(
            name=f"{pool.name[:220]}.{uuid.uuid4().hex[:16]}", message=message, count=1, first_at=now, at=self._clock()
        )
        with self._lock:  # before the request: an event that cannot be written is not tried again at every tick
            self._posted[pool.uid, reason] = posted
            self._posted.move_to_end((pool.uid, reason))
            while len(self._posted) > REMEMBERED:
                self._posted.popitem(last=False)
        body: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": posted.name, "namespace": pool.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": pool.namespace,
                "name": pool.name,
                "uid": pool.uid,
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }
        self._client.post(f"/api/v1/namespaces/{pool.namespace}/events", body)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
