"""Which of two operators acts: a coordination.k8s.io Lease, renewed in a thread, guarded by this process's own clock.

    t0          the request that renews is sent
    t0 + 7 s    the holder stops acting unless it renewed again: it asks nobody
    t0 + 10 s   at the earliest, another may take over, counted from when it last saw the Lease change

so that there are three seconds in which nobody acts, and never two who do. Clocks of two machines are never compared.
Every write carries a resourceVersion besides: an operator that was frozen between guard and write gets a Conflict.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from celeriac_operator.clock import passed_s
from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.errors import ClusterError, Conflict, NotFound

log = logging.getLogger("celeriac_operator.lease")

#: Seconds a Lease is respected by others; seconds its holder believes in it; seconds between two tries.
DURATION_S = 10.0
DEADLINE_S = 7.0
RETRY_S = 2.0


class Lease:
    """One Lease object and our standing in it. `held` may be asked from any thread.

    client     should give up within a second or two: a renewal that hangs past the deadline has lost the Lease.
    identity   unique per process: a restarted operator is another holder.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = passed_s,
    ) -> None:
        self._client = client
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._held_until = float("-inf")
        self._term = 0
        self._seen: tuple[object, ...] = ()
        self._seen_at = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it is still tried for."""
        return self._thread.is_alive()

    def held(self) -> bool:
        """Whether this process may act now."""
        return self._clock() < self._held_until

    @property
    def term(self) -> int:
        """The Lease's count of changes of holder when it became ours: while it stays the same, nobody has held it in between."""
        return self._term

    def start(self) -> None:
        """Begin to try, every two seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stop acting, and give the Lease up so that the other need not wait for it to expire."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.held():
            self._held_until = float("-inf")
            try:
                lease = self._client.get(f"{self._leases}/{self._name}")
                if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                    self._write(lease, holder="", duration_s=1.0)
            except ClusterError as error:
                log.info("the Lease was not given up, it will expire: %s", error)

    def attempt(self) -> bool:
        """Take or renew the Lease once; whether it is ours now. Raises ClusterError when the API does not answer."""
        sent_at = self._clock()  # before anything is sent: the guard must not outlast what others can see
        try:
            lease = self._client.get(f"{self._leases}/{self._name}")
        except NotFound:
            lease = {}
        spec = lease.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        standing = (holder, spec.get("renewTime"), spec.get("leaseTransitions"))
        if standing != self._seen:
            self._seen, self._seen_at = standing, sent_at
        respected_s = float(spec.get("leaseDurationSeconds") or DURATION_S)
        if holder not in ("", self._identity):
            # It is another's by now, as after somebody has deleted it: no reason to act until the deadline.
            self._held_until = float("-inf")
            if sent_at < self._seen_at + respected_s:
                return False
        try:
            written = self._write(lease, holder=self._identity, duration_s=DURATION_S)
        except Conflict:
            return False  # the other was quicker
        self._term = int(written["spec"]["leaseTransitions"])  # before it is held: who acts must know as of when
        self._held_until = sent_at + DEADLINE_S
        return True

    def _renew(self) -> None:
        held = False
        while True:
            try:
                ours = self.attempt()
            except ClusterError as error:
                ours = self.held()  # until the deadline it still is
                log.warning("the Lease could not be renewed: %s", error)
            except Exception:  # what is not expected must not end the thread: nobody would lead any more
                ours = self.held()
                log.exception("the Lease could not be renewed: this is a bug in the operator, please report it")
            if ours != held:
                held = ours
                log.info(
                    "this replica %s (Lease %s/%s)",
                    "acts" if held else "stands by",
                    self._namespace,
                    self._name,
                )
            if self._stop.wait(RETRY_S):
                return

    def _write(self, lease: Mapping[str, Any], *, holder: str, duration_s: float) -> dict[str, Any]:
        before = lease.get("spec") or {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        # Giving up is no change of holder; taking over is, and so is taking up again what was given up.
        changes = bool(holder) and holder != (before.get("holderIdentity") or "")
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": int(duration_s),
            "acquireTime": now if changes else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (1 if changes else 0),
        }
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace, **(lease.get("metadata") or {})},
            "spec": spec,
        }
        if lease:
            return self._client.put(f"{self._leases}/{self._name}", body)
        return self._client.post(self._leases, body)
