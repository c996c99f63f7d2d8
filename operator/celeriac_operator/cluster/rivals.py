"""Who else scales a pool's target: an older WorkerPool, a HorizontalPodAutoscaler, a KEDA ScaledObject.

Two controllers on one workload undo each other for ever, so the loop keeps its hands off and names the other. Reading
HPAs and ScaledObjects is optional: without the permission, or without KEDA, only WorkerPools are compared. A list that
failed is no answer: until there is a first one, nobody knows, and nothing is to be written.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.index import ClusterIndex, Pool, TargetKey
from celeriac_operator.errors import ClusterError, Forbidden, NotFound, Unreachable
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
#: Seconds until the next try when a list failed: while nothing is known, and when what was known before is kept.
FIRST_RETRY_S = 3.0
RETRY_S = 15.0
#: Seconds between two lists of a namespace to which new pools keep coming: an answer counts for those that were there when it was asked for.
NEW_POOL_S = 1.0
#: Seconds that other threads wait for the first answer, from when it was asked for.
FIRST_ANSWER_S = 10.0


@dataclass(slots=True)
class _Seen:
    """The autoscalers of one kind in one namespace: target -> "Kind/name", None before the first answer.

    error      why there was none, at the last try. until: monotonic s, when to ask again.
    asking     held by the thread that asks, since asked_at. of: when the answer that is there was asked for.
    """

    names: Mapping[TargetKey, str] | None = None
    error: str = ""
    until: float = 0.0
    asked_at: float = float("-inf")
    of: float = float("-inf")
    asking: threading.Lock = field(default_factory=threading.Lock)


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

        One with a wrong spec does not act, but it will once it is corrected: then it has its target back. Raises
        Unreachable while it is not known: no list of this namespace's autoscalers has come since the pool is there. (The two may
        have been made by one `kubectl apply`.)
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
        unread: list[str] = []
        since = self._index.met_at(pool.record.uid)
        for kind in AUTOSCALERS:
            seen = self._look(kind, namespace, since)
            known = seen.names or {}
            # One that scales the WorkerPool itself would set its override.
            if rival := known.get(pool.target) or known.get((KIND, namespace, name)):
                return rival
            if seen.names is None or seen.of < since:
                unread.append(f"whether a {kind} scales it too is not known: {seen.error or 'no answer yet'}")
        if unread:
            raise Unreachable("; ".join(unread), what="GET autoscalers")
        return ""

    def _look(self, kind: str, namespace: str, since: float) -> _Seen:
        """What is known of that kind, asked for anew when it is old, or older than `since` (monotonic s).

        One thread asks; others wait only where nothing that counts is known.
        """
        with self._lock:
            seen = self._seen.setdefault((kind, namespace), _Seen())
        if not _due(seen, since):
            return seen
        known = seen.names is not None and seen.of >= since
        wait_s = 0.0 if known else max(0.0, seen.asked_at + FIRST_ANSWER_S - time.monotonic())
        if not seen.asking.acquire(timeout=wait_s):
            return seen
        try:
            if _due(seen, since):  # nobody answered it meanwhile
                seen.asked_at = time.monotonic()
                self._ask(seen, kind, namespace)
        finally:
            seen.asking.release()
        return seen

    def _ask(self, seen: _Seen, kind: str, namespace: str) -> None:
        group, plural = AUTOSCALERS[kind]
        fresh_s = FRESH_S
        try:
            self._client.get(
                group
            )  # open to all: where it is not served, a list would be Forbidden instead of NotFound
            found = _targets(kind, namespace, self._client.items(f"{group}/namespaces/{namespace}/{plural}"))
        except NotFound:  # no KEDA in this cluster
            found, fresh_s = {}, ABSENT_S
        except Forbidden as error:
            found, fresh_s = {}, ABSENT_S
            self._tell_once(kind, f"conflicts with a {kind} will not be noticed: {error}")
        except ClusterError as error:
            if str(error) != seen.error:
                log.warning("the list of %s in namespace %s failed: %s", plural, namespace, error)
            seen.error = str(error)
            seen.until = time.monotonic() + (FIRST_RETRY_S if seen.names is None else RETRY_S)
            return
        # What is not served, or not allowed, is no matter of time. Before the names: others read them without the lock.
        seen.of = seen.asked_at if fresh_s == FRESH_S else float("inf")
        seen.names, seen.error, seen.until = found, "", time.monotonic() + fresh_s

    def _tell_once(self, kind: str, message: str) -> None:
        with self._lock:
            if kind in self._told:
                return
            self._told.add(kind)
        log.warning(message)


def _due(seen: _Seen, since: float) -> bool:
    now = time.monotonic()
    return now >= seen.until or (seen.names is not None and seen.of < since and now >= seen.asked_at + NEW_POOL_S)


def _targets(kind: str, namespace: str, items: Any) -> dict[TargetKey, str]:
    found: dict[TargetKey, str] = {}
    for item in items:
        target = (item.get("spec") or {}).get("scaleTargetRef") or {}
        key = (str(target.get("kind") or "Deployment"), namespace, str(target.get("name") or ""))
        found[key] = f"{kind}/{item['metadata']['name']}"
    return found
