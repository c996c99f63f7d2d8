"""Who else scales a pool's target: an older WorkerPool, a HorizontalPodAutoscaler, a KEDA ScaledObject.

Two controllers on one workload undo each other for ever, so the loop keeps its hands off and names the other. Reading
HPAs and ScaledObjects is optional: without the permission, or without KEDA, only WorkerPools are compared.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.index import ClusterIndex, Pool, TargetKey
from celeriac_operator.errors import ClusterError, Forbidden, NotFound
from celeriac_operator.resources.labels import KIND

log = logging.getLogger("celeriac_operator.cluster")

#: Kind -> its API path and plural. Both name their target in spec.scaleTargetRef; every version serves autoscaling/v1.
AUTOSCALERS: Mapping[str, tuple[str, str]] = {
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v1", "horizontalpodautoscalers"),
    "ScaledObject": ("/apis/keda.sh/v1alpha1", "scaledobjects"),
}

#: Modes of a WorkerPool that write nothing: such a pool is nobody's rival.
IDLE_MODES = ("DryRun", "Paused")

#: Seconds a namespace's autoscalers are believed; and after a refusal, or where the API does not exist.
FRESH_S = 60.0
ABSENT_S = 600.0


@dataclass(slots=True)
class _Seen:
    """The autoscalers of one kind in one namespace: target -> "Kind/name"."""

    names: dict[TargetKey, str] = field(default_factory=dict)
    until: float = 0.0


class Rivals:
    """Answers from memory; lists a namespace's autoscalers again once a minute."""

    def __init__(self, client: KubeClient, index: ClusterIndex) -> None:
        self._client = client
        self._index = index
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], _Seen] = {}
        self._told: set[str] = set()

    def of(self, pool: Pool) -> str:
        """The other scaler as "Kind/name", or "". Of two WorkerPools that act, the older one keeps the target.

        One with a wrong spec does not act, but it will once it is corrected: then it has its target back.
        """
        acting = (
            other
            for other in self._index.pools_of(pool.target)
            if other.valid and other.record.spec.get("mode") not in IDLE_MODES
        )
        oldest = next(acting, pool)
        if oldest.record.uid != pool.record.uid:
            return f"{KIND}/{oldest.record.name}"
        namespace, name = pool.record.key
        for kind in AUTOSCALERS:
            names = self._names(kind, namespace)
            # One that scales the WorkerPool itself would set its override.
            if rival := names.get(pool.target) or names.get((KIND, namespace, name)):
                return rival
        return ""

    def _names(self, kind: str, namespace: str) -> Mapping[TargetKey, str]:
        now = time.monotonic()
        with self._lock:
            seen = self._seen.setdefault((kind, namespace), _Seen())
            if now < seen.until:
                return seen.names
            seen.until = now + FRESH_S  # other threads answer from what there is while this one asks
        group, plural = AUTOSCALERS[kind]
        try:
            self._client.get(
                group
            )  # open to all: where it is not served, a list would be Forbidden instead of NotFound
            found = _targets(kind, namespace, self._client.items(f"{group}/namespaces/{namespace}/{plural}"))
        except NotFound:  # no KEDA in this cluster
            found, seen.until = {}, now + ABSENT_S
        except Forbidden as error:
            found, seen.until = {}, now + ABSENT_S
            self._tell_once(kind, f"conflicts with a {kind} will not be noticed: {error}")
        except ClusterError as error:
            log.info("%s", error)
            return seen.names
        seen.names = found
        return found

    def _tell_once(self, kind: str, message: str) -> None:
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        log.warning(message)


def _targets(kind: str, namespace: str, items: Any) -> dict[TargetKey, str]:
    found: dict[TargetKey, str] = {}
    for item in items:
        target = (item.get("spec") or {}).get("scaleTargetRef") or {}
        key = (str(target.get("kind") or "Deployment"), namespace, str(target.get("name") or ""))
        found[key] = f"{kind}/{item['metadata']['name']}"
    return found
