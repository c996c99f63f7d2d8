"""`run(options)`: the operator from start to end, read from top to bottom.

main thread   starts everything, waits for SIGTERM or SIGINT, ends everything in the reverse order
http          /livez /readyz /metrics, from the first moment: a start that waits for the API server can be seen
lease         only with --ha: who acts
loop          one thread for the roster of pools, one or two for each broker
watches       kopf; feeds the index
sweep         compares the index with the cluster
"""

import gc
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from celeriac.broker.transport.small_reads import read_little
from celeriac.exceptions import ImproperlyConfigured
from celeriac.telemetry.endpoint import Endpoint
from celeriac.telemetry.exposition import Family
from celeriac_operator import celery_exporter
from celeriac_operator.cluster.access import load_access, own_namespace
from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.index import ClusterIndex
from celeriac_operator.cluster.kube import KubeCluster
from celeriac_operator.cluster.lease import Lease
from celeriac_operator.cluster.sweep import Sweep
from celeriac_operator.errors import ClusterError, SetupError
from celeriac_operator.fleet.signature import KeyFiles, Signature, signing
from celeriac_operator.handlers import Watches, require_crd
from celeriac_operator.loop import OperatorLoop
from celeriac_operator.metrics import OperatorMetrics

log = logging.getLogger("celeriac_operator")

#: Seconds between two tries to read the cluster at start.
START_RETRY_S = 5.0
#: Seconds to connect and to wait, for the Lease alone: a renewal must not hang past its deadline of 7 s.
LEASE_TIMEOUT_S = (1.0, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `celeriac-operator run` was told.

    namespaces      those to serve; empty for all of them.
    http_port       0: no HTTP.
    lease           (namespace, name) with HA, None without.
    broker_url      for pools that name no broker; may hold a password.
    key             of commands to workers that demand a signature.
    celery_exporter_names   /metrics has celery-exporter's names, too.
    """

    namespaces: tuple[str, ...]
    kubeconfig: str | None = None
    context: str | None = None
    http_host: str = "0.0.0.0"  # a pod's probes and scrapes come from outside it
    http_port: int = 8080
    lease: tuple[str, str] | None = None
    annotate_pods: bool = True
    broker_url: str | None = field(default=None, repr=False)
    key: KeyFiles | None = None
    celery_exporter_names: bool = False
    version: str = ""


def run(options: Options) -> int:
    """Serve until told to stop; 0 after a clean end. Raises SetupError when it cannot start as it was told to."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    read_little()
    signature = _signature(options.key)
    access = load_access(kubeconfig=options.kubeconfig, context=options.context)
    client = KubeClient(access)
    index = ClusterIndex()
    also = celery_exporter.families if options.celery_exporter_names else None
    metrics = OperatorMetrics(version=options.version, also=also)
    lease = None
    if options.lease:
        connect_s, read_s = LEASE_TIMEOUT_S
        lease = Lease(
            KubeClient(access, connect_timeout_s=connect_s, read_timeout_s=read_s),
            namespace=options.lease[0],
            name=options.lease[1],
            identity=f"{_instance()}_{uuid.uuid4().hex[:8]}",
        )
    cluster = KubeCluster(client, index, instance=_instance(), lease=lease, annotate_pods=options.annotate_pods)
    if signature is not None and signature.until is not None:
        metrics.signs_until(signature.until)
    loop = OperatorLoop(cluster, metrics=metrics, default_broker_url=options.broker_url, signature=signature)
    sweep = Sweep(client, index, namespaces=options.namespaces, poke=loop.poke)
    watches = Watches(client, index, namespaces=options.namespaces, poke=loop.poke)

    state = _State(loop=loop, index=index, sweep=sweep, watches=watches, metrics=metrics, lease=lease)
    http = _endpoint(options, state)
    if http:
        http.start()
    try:
        where = ", ".join(options.namespaces) or "all namespaces"
        log.info("celeriac-operator %s at %s serves %s", options.version, client.server, where)
        if not fill(client, sweep, stop):
            return 0
        # What has been read stays: the garbage collector need not go through a hundred thousand objects again and again.
        gc.collect()
        gc.freeze()
        state.filled = True
        if lease:
            lease.start()
        loop.start()
        watches.start()
        sweep.start()
        state.serving = True
        stop.wait()
        state.serving = False
        log.info("stopping")
    finally:
        # The loop first: nothing is decided any more once the Lease is given up.
        loop.stop()
        if lease:
            lease.stop()
        watches.stop()
        sweep.stop()
        if http:
            http.stop()
        client.close()
    log.info("stopped")
    return 0


def _signature(key: KeyFiles | None) -> Signature | None:
    """What commands are signed with; None without a key. Raises SetupError."""
    if key is None:
        return None
    signature = signing(key, called=("--signing-key", "--signing-certificate", "--signing-digest"))
    lack = signature.lack()
    if lack is not None:
        log.error("the operator %s; workers that demand signed commands are not drained until then", lack.says)
    else:
        log.info("commands to workers that demand it are signed as %s", signature.name)
    return signature


def fill(client: KubeClient, sweep: Sweep, stop: threading.Event) -> bool:
    """Wait until the cluster can be read, and read it; False when told to stop meanwhile. Says why it waits."""
    told = ""
    while not stop.is_set():
        try:
            require_crd(client)
            sweep.fill()
        except ClusterError as error:
            if str(error) != told:
                told = str(error)
                log.error("waiting for the cluster: %s", told)
            stop.wait(START_RETRY_S)
        else:
            return True
    return False


@dataclass(slots=True, kw_only=True)
class _State:
    """What the probes and the metrics page ask."""

    loop: OperatorLoop
    index: ClusterIndex
    sweep: Sweep
    watches: Watches
    metrics: OperatorMetrics
    lease: Lease | None = None
    filled: bool = False
    serving: bool = False

    def livez(self) -> tuple[bool, str]:
        # Waiting for an API server is not a fault of this process: a restart would not help.
        if not self.serving:
            return True, "waiting for the cluster"
        threads = {"lease": self.lease, "watches": self.watches, "sweep": self.sweep}
        ended = [name for name, thread in threads.items() if thread is not None and not thread.alive]
        return (False, f"the thread of {', '.join(ended)} has ended") if ended else self.loop.livez()

    def readyz(self) -> tuple[bool, str]:
        if not self.filled:
            return False, "the cluster has not been read yet"
        if not self.watches.running:
            return False, "the watches are down and begin again"
        return self.loop.readyz()

    def families(self) -> Iterator[Family]:
        """What a scrape gets."""
        # A quiet cluster sends no events: a comparison that found nothing missing says as much.
        age_s = min(self.index.last_event_age_s(), self.sweep.age_s())
        self.metrics.index_known(time.time() - age_s, missed=self.sweep.missed)
        return self.metrics.families()


def _endpoint(options: Options, state: _State) -> Endpoint | None:
    """/livez /readyz /metrics, not started yet; None without a port."""
    if not options.http_port:
        return None
    try:
        return Endpoint(
            options.http_host, options.http_port, livez=state.livez, readyz=state.readyz, metrics=state.families
        )
    except ImproperlyConfigured as error:
        raise SetupError(
            f"port {options.http_port} on {options.http_host} cannot be served: {error.__cause__};"
            " choose another with --http-port"
        ) from error


def own_namespaces() -> tuple[str, ...]:
    """The namespace of the pod this process runs in; none outside a cluster."""
    namespace = os.environ.get("CELERIAC_POD_NAMESPACE") or own_namespace()
    return (namespace,) if namespace else ()


def _instance() -> str:
    return os.environ.get("CELERIAC_POD_NAME") or os.uname().nodename
