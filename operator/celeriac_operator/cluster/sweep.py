"""Keeps the index true where watches cannot: at start, after a gap in a watch, and when a watch has gone silent.

A watch that must start over (410 Gone) never tells of what was deleted in between, and a dead connection behind a load
balancer tells nothing at all. So the operator lists everything once before it decides anything, and then compares names
and versions (metadata alone) every two minutes.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from celeriac_operator.cluster.client import METADATA_ONLY, KubeClient
from celeriac_operator.cluster.index import WATCHED, ClusterIndex, PoolKey, list_paths
from celeriac_operator.errors import ClusterError, NotFound

log = logging.getLogger("celeriac_operator.cluster")

#: Seconds between two comparisons; the first comes soon, since what is deleted between our list and kopf's is not seen.
INTERVAL_S = 120.0
FIRST_S = 10.0


class Sweep:
    """Fills the index, then compares it with the cluster.

    namespaces   those served; empty for all.
    poke         told the namespace and name of each pool that a comparison concerns.
    """

    def __init__(
        self,
        client: KubeClient,
        index: ClusterIndex,
        *,
        namespaces: Sequence[str] = (),
        poke: Callable[[str, str], None] = lambda _namespace, _name: None,
        first_s: float = FIRST_S,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._client = client
        self._index = index
        self._namespaces = tuple(namespaces)
        self._poke = poke
        self._first_s = first_s
        self._interval_s = interval_s
        self._behind: dict[str, str] = {}  # uid -> the version the index did not have at the last comparison
        self._missed = 0
        self._compared_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it still compares."""
        return self._thread.is_alive()

    @property
    def missed(self) -> int:
        """Changes found that no watch had told of, so far. Growing: a watch is silent."""
        return self._missed

    def age_s(self) -> float:
        """Seconds since the index was last known to be true."""
        return time.monotonic() - self._compared_at

    def fill(self) -> None:
        """Put everything that is watched into the index. Raises ClusterError; may then be called again."""
        for kind in WATCHED:
            for path in list_paths(kind, self._namespaces):
                for body in self._client.items(path):
                    self._index.put(kind, body)
        self._compared_at = time.monotonic()

    def compare(self) -> frozenset[PoolKey]:
        """Bring the index up to date; the pools that this concerns. Raises ClusterError.

        Gone at once: what the index had before the list began and the list has not. Behind: what had the same newer
        version at the last comparison too (one alone is a watch event on its way); such an object is read anew.
        """
        held = self._index.versions()
        listed: dict[str, tuple[str, str, str]] = {}  # uid -> (kind, path of the object, version)
        for kind in WATCHED:
            for path in list_paths(kind, self._namespaces):
                for item in self._client.items(path, accept=METADATA_ONLY):
                    metadata = item["metadata"]
                    group, plural = WATCHED[kind]
                    own = f"{group}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
                    listed[metadata["uid"]] = (kind, own, metadata["resourceVersion"])
        concerned: set[PoolKey] = set()
        for uid in held.keys() - listed.keys():
            concerned |= self._index.drop(uid)
        now = self._index.versions()
        behind = {uid: version for uid, (_, _, version) in listed.items() if now.get(uid, ("", "", ""))[2] != version}
        missed = [uid for uid, version in behind.items() if self._behind.get(uid) == version]
        for uid in missed:
            kind, own, _ = listed[uid]
            try:
                concerned |= self._index.put(kind, self._client.get(own), since=now)
            except NotFound:
                concerned |= self._index.drop(uid)
        self._behind = {uid: version for uid, version in behind.items() if uid not in missed}
        self._missed += len(missed)
        self._compared_at = time.monotonic()
        if missed:
            log.warning(
                "%d changes were not told by any watch and have been read again: is a watch silent?", len(missed)
            )
        return frozenset(concerned)

    def start(self) -> None:
        """Begin to compare, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = self._first_s
        while not self._stop.wait(wait_s):
            wait_s = self._interval_s
            try:
                for namespace, name in self.compare():
                    self._poke(namespace, name)
            except ClusterError as error:
                log.warning("the index was not compared with the cluster: %s", error)
            except (
                Exception
            ):  # what is not expected must not end the thread: a silent watch would never be noticed again
                log.exception("the index was not compared with the cluster: this is a bug, please report it")
