"""The doctor's rounds in a cluster: the CRD, its namespaces, and each pool's surroundings, as findings. Reads only."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from celeriac_operator.cluster.budgets import Budgets
from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.permissions import KILLING, READING, lacking
from celeriac_operator.cluster.rivals import AUTOSCALERS, IDLE_MODES
from celeriac_operator.cluster.workloads import PLURALS, path_of, workload_of
from celeriac_operator.errors import ClusterError, Forbidden, NotFound
from celeriac_operator.resources import rights
from celeriac_operator.resources.fitness import Finding, Level, of_condition, of_crd, of_pods, of_secret, secrets_of
from celeriac_operator.resources.manifests import of_replicas
from celeriac_operator.resources.spec import DrainTimeoutPolicy, SpecError, WorkerPoolSpec

POOLS = "/apis/celeriac.dev/v1alpha1"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workerpools.celeriac.dev"


class Patient(NamedTuple):
    """A pool whose spec can be read, for checks that need more than the cluster. url: its broker's, "" when unknown."""

    subject: str
    spec: WorkerPoolSpec
    url: str


class Server(NamedTuple):
    """The API server that answers. minor: of its version 1.MINOR, None when it does not say."""

    version: str
    minor: int | None

    def is_before(self, minor: int) -> bool:
        return self.minor is not None and self.minor < minor


def server_of(client: KubeClient) -> Server:
    """What the API server says of itself. Raises ClusterError."""
    version = str(client.get("/version").get("gitVersion") or "of no known version")
    found = re.match(r"v?1\.(\d+)", version)
    return Server(version, int(found[1]) if found else None)


def definition(client: KubeClient, ours: Mapping[str, Any], server: Server) -> Finding:
    """Whether the kind is installed, with the fields of this version."""
    subject = "CustomResourceDefinition workerpools.celeriac.dev"
    # Rules came with 1.25 (1.23 and 1.24 have them switched off); before, kubectl refuses a schema with fields that the server does not know.
    fix = f"celeriac-operator crd{' --no-rules' if server.is_before(25) else ''} | kubectl apply -f -"
    absent = Finding(Level.ERROR, subject, "it is not installed", fix)
    try:
        found = of_crd(client.get(CRD), ours)
    except NotFound:
        return absent
    except ClusterError as refusal:
        try:
            client.get(POOLS)
        except NotFound:
            return absent
        except ClusterError:
            return Finding(Level.UNKNOWN, subject, f"it could not be read: {refusal}", "run doctor as who may")
        return Finding(Level.OK, subject, "installed; which fields it has may not be seen by this user")
    return found if found.level is Level.OK else found._replace(fix=fix)


def presence(client: KubeClient, namespace: str) -> Finding | None:
    """What is to be said of a namespace itself: an error when there is none, unknown when it may not be asked, else nothing."""
    subject = f"namespace {namespace}"
    try:
        client.get(f"/api/v1/namespaces/{namespace}")
    except NotFound:
        return Finding(
            Level.ERROR,
            subject,
            "there is no such namespace",
            "correct --namespace; `kubectl get namespaces` lists them",
        )
    except ClusterError as error:
        why = "this user may not get namespaces" if isinstance(error, Forbidden) else str(error)
        says = f"it has no WorkerPool, and whether it exists could not be told: {why}"
        return Finding(Level.UNKNOWN, subject, says, "look whether its name is right, or run doctor as who may")
    return None


class Rounds:
    """One visit to a namespace's pools. `patients` gathers those whose brokers may be asked afterwards.

    user     whose rights are asked for beside those of who asks: system:serviceaccount:NAMESPACE:NAME, "" for nobody's.
    doubts   what is said of the namespace when it has no pool, None when it is known to be there.
    """

    def __init__(
        self, client: KubeClient, namespace: str, server: Server, *, user: str = "", default_url: str = "", doubts: Finding | None = None,
    ) -> None:  # fmt: skip
        self._client, self._namespace, self._user, self._default_url = client, namespace, user, default_url
        self._server, self._doubts = server, doubts
        self._budgets = Budgets(client)
        self.patients: list[Patient] = []

    def visit(self) -> Iterator[Finding]:
        """Findings on every pool of the namespace. Raises ClusterError when pools cannot be listed."""
        pools = list(self._client.items(f"{POOLS}/namespaces/{self._namespace}/workerpools"))
        if not pools:
            yield self._doubts or Finding(Level.OK, f"namespace {self._namespace}", "it has no WorkerPool")
        for pool in pools:
            yield from self._pool(pool, pools)

    def _pool(self, pool: Mapping[str, Any], pools: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
        subject = f"WorkerPool {self._namespace}/{pool['metadata']['name']}"
        try:
            spec = WorkerPoolSpec.parse(pool.get("spec") or {})
        except SpecError as error:
            for problem in error.problems:
                yield Finding(Level.ERROR, subject, problem, "correct the spec; until then the pool is left as it is")
            return
        yield _attended(subject, pool)
        if spec.scale_down.on_drain_timeout is DrainTimeoutPolicy.KILL:
            yield from lacking(
                self._client,
                subject,
                self._namespace,
                [KILLING],
                self._user,
                fix="set drain.killPods of the operator's chart",
            )
        yield from self._secrets(subject, spec)
        yield from self._target(subject, pool, spec, pools)

    def _secrets(self, subject: str, spec: WorkerPoolSpec) -> Iterator[Finding]:
        url = self._default_url
        if spec.broker is None and not url:
            yield Finding(
                Level.WARNING, subject, "it names no broker: it has the one that the operator was installed with",
                "nothing, if broker.existingSecret of the operator's chart is set",
            )  # fmt: skip
        for path, name, key in secrets_of(spec):
            try:
                secret: Mapping[str, Any] | None = self._client.get(
                    f"/api/v1/namespaces/{self._namespace}/secrets/{name}"
                )
            except NotFound:
                secret = None
            except ClusterError as error:
                yield Finding(
                    Level.UNKNOWN, subject, f"{path}: the Secret {name} may not be read: {error}",
                    f"{rights.SECRETS_FIX}; or run doctor as who may",
                )  # fmt: skip
                continue
            yield of_secret(subject, path, key, secret)
            if path == "spec.broker.urlFrom" and secret is not None:
                url = _decoded(secret, key)
        if self._user:
            for name in dict.fromkeys(name for _, name, _ in secrets_of(spec)):
                yield from lacking(
                    self._client, f"{subject}: {self._user}", self._namespace, [READING], self._user, name, rights.SECRETS_FIX
                )  # fmt: skip
        self.patients.append(Patient(subject, spec, url))

    def _target(
        self, subject: str, pool: Mapping[str, Any], spec: WorkerPoolSpec, pools: Sequence[Mapping[str, Any]]
    ) -> Iterator[Finding]:  # fmt: skip
        ref = spec.target_ref
        if ref.kind not in PLURALS:
            kinds = ", ".join(PLURALS)
            yield Finding(Level.ERROR, subject, f"spec.targetRef.kind is {ref.kind}", f"a pool scales one of: {kinds}")
            return
        try:
            body = self._client.get(path_of(self._namespace, ref.kind, ref.name))
        except NotFound:
            yield Finding(
                Level.ERROR, subject, f"there is no {ref.kind} {ref.name}", "create it, or correct spec.targetRef.name"
            )
            return
        except ClusterError as error:
            yield Finding(Level.UNKNOWN, subject, f"its {ref.kind} may not be read: {error}", "run doctor as who may")
            return
        yield from of_pods(f"{subject}, {ref.kind} {ref.name}", body)
        owned = of_replicas(f"{subject}, {ref.kind} {ref.name}", body, scale_recorded=not self._server.is_before(22))
        if owned is not None:
            yield owned
        yield from self._rivals(subject, pool, spec, pools)
        said = self._budgets.against(workload_of({"kind": ref.kind, **body}), spec.max_replicas)
        if said:
            yield Finding(Level.WARNING, subject, said, "set maxUnavailable to 1 or 25%")

    def _rivals(
        self, subject: str, pool: Mapping[str, Any], spec: WorkerPoolSpec, pools: Sequence[Mapping[str, Any]]
    ) -> Iterator[Finding]:  # fmt: skip
        ref = spec.target_ref
        others = [
            f"WorkerPool {other['metadata']['name']}"
            for other in pools
            if _age(other) < _age(pool) and _scales(other, "targetRef", ref.kind, ref.name) and _acts(other)
        ]
        for kind, (group, plural) in AUTOSCALERS.items():
            try:
                listed = list(self._client.items(f"{group}/namespaces/{self._namespace}/{plural}"))
            except ClusterError:  # not served, or not to be seen: `permissions` tells
                continue
            others += [
                f"{kind} {item['metadata']['name']}"
                for item in listed
                if _scales(item, "scaleTargetRef", ref.kind, ref.name)
            ]
        if others and spec.mode not in IDLE_MODES:
            yield Finding(
                Level.ERROR, subject, f"{ref.kind} {ref.name} is scaled by {' and '.join(others)} too: the pool keeps its hands off",
                "delete the other, or set mode: DryRun to compare first",
            )  # fmt: skip


def _attended(subject: str, pool: Mapping[str, Any]) -> Finding:
    status = pool.get("status") or {}
    generation = (pool.get("metadata") or {}).get("generation")
    if not status.get("decision") and not status.get("conditions"):
        return Finding(
            Level.ERROR,
            subject,
            "no operator has looked at it",
            "does one run, and serve this namespace (scope of its chart)?",
        )
    if generation is not None and status.get("observedGeneration") not in (None, generation):
        return Finding(
            Level.WARNING, subject, f"its last change (generation {generation}) has not been seen: {status.get('observedGeneration')} was",
            "look again in some seconds; if it stays so, no operator serves it",
        )  # fmt: skip
    for condition in status.get("conditions") or ():
        found = of_condition(subject, condition)
        if found is not None:
            return found
    return Finding(Level.OK, subject, "an operator looks after it")


def _scales(item: Mapping[str, Any], field: str, kind: str, name: str) -> bool:
    ref = (item.get("spec") or {}).get(field) or {}
    return (ref.get("kind") or "Deployment", ref.get("name")) == (kind, name)


def _age(pool: Mapping[str, Any]) -> tuple[str, str]:
    """What orders pools, the oldest first: of two on one target that one acts (see `Rivals.of`)."""
    return (str(pool["metadata"].get("creationTimestamp") or ""), pool["metadata"]["name"])


def _acts(pool: Mapping[str, Any]) -> bool:
    try:
        return WorkerPoolSpec.parse(pool.get("spec") or {}).mode not in IDLE_MODES
    except SpecError:
        return False


def _decoded(secret: Mapping[str, Any], key: str) -> str:
    from base64 import b64decode

    try:
        return b64decode((secret.get("data") or {}).get(key) or "").decode().strip()
    except ValueError:
        return ""
