"""The doctor's rounds in a cluster: permissions, the CRD, and each pool's surroundings, as findings. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from celeriac_operator.cluster.budgets import Budgets
from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.rivals import AUTOSCALERS, IDLE_MODES
from celeriac_operator.cluster.workloads import PLURALS, path_of, workload_of
from celeriac_operator.errors import ClusterError, Forbidden, NotFound
from celeriac_operator.resources.fitness import Finding, Level, of_condition, of_crd, of_pods, of_secret, secrets_of
from celeriac_operator.resources.spec import DrainTimeoutPolicy, SpecError, WorkerPoolSpec

POOLS = "/apis/celeriac.dev/v1alpha1"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/workerpools.celeriac.dev"


class Need(NamedTuple):
    """A permission. why: what does not work without it; must: whether the operator can do nothing without it."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    why: str
    must: bool = True


#: What the operator asks of a namespace: the chart's Role (a house test holds the two together).
NEEDS: Sequence[Need] = (
    Need("celeriac.dev", "workerpools", ("get", "list", "watch"), "pools are not seen"),
    Need("celeriac.dev", "workerpools/status", ("patch",), "decisions are not told"),
    *(Need("apps", plural, ("get", "list", "watch"), "targets are not seen") for plural in PLURALS.values()),
    *(Need("apps", f"{plural}/scale", ("update",), "nothing is scaled") for plural in PLURALS.values()),
    Need("", "pods", ("get", "list", "watch"), "pods are not seen"),
    Need("", "pods", ("patch",), "pods get no deletion cost", must=False),
    Need("", "events", ("create", "patch"), "nothing is told by events"),
    Need("autoscaling", "horizontalpodautoscalers", ("list",), "another autoscaler on a target is not noticed", must=False),
    Need("keda.sh", "scaledobjects", ("list",), "KEDA on a target is not noticed", must=False),
    Need("policy", "poddisruptionbudgets", ("list",), "a budget that blocks node drains is not noticed", must=False),
)  # fmt: skip

#: What is asked for each Secret that a pool names: the charts grant them by name.
READING = Need("", "secrets", ("get",), "its pool is not served")

#: What pools with onDrainTimeout: Kill ask for beside that; and what two operators ask for in their own namespace.
KILLING = Need("", "pods", ("delete",), "onDrainTimeout: Kill ends nothing", must=False)
LEADING = Need(
    "coordination.k8s.io", "leases", ("get", "update", "create"), "with ha.enabled nobody leads, and nothing is done", must=False
)  # fmt: skip


class Patient(NamedTuple):
    """A pool whose spec can be read, for checks that need more than the cluster. url: its broker's, "" when unknown."""

    subject: str
    spec: WorkerPoolSpec
    url: str


def permissions(client: KubeClient, namespace: str, user: str = "") -> Iterator[Finding]:
    """What may be done in a namespace: by whoever asks, or by `user` (system:serviceaccount:NAMESPACE:NAME)."""
    subject = f"permissions of {user or 'this user'} in {namespace}"
    lacking = list(_lacking(client, subject, namespace, NEEDS, user))
    yield from lacking or [Finding(Level.OK, subject, "has all that the operator needs")]


def leadership(client: KubeClient, namespace: str, name: str) -> Iterator[Finding]:
    """What the service account `name` lacks to lead one of two operators. The chart grants the Lease of its own name alone."""
    user = f"system:serviceaccount:{namespace}:{name}"
    yield from _lacking(client, f"permissions of {user} in {namespace}", namespace, [LEADING], user, name)


def _lacking(
    client: KubeClient, subject: str, namespace: str, needs: Sequence[Need], user: str, name: str = "",
    fix: str = "install the chart's Role (rbac.create), or grant it",
) -> Iterator[Finding]:  # fmt: skip
    """A finding for each verb that is denied. name: of the one object that is needed."""
    for need in needs:
        for verb in need.verbs:
            try:
                allowed = _allowed(client, namespace, need, verb, user, name)
            except ClusterError as error:
                yield Finding(
                    Level.UNKNOWN, subject, f"cannot be asked: {error}", "let this user create subjectaccessreviews"
                )
                return
            if not allowed:
                what = f"{verb} {need.resource}{f'.{need.group}' if need.group else ''}{f' {name}' if name and verb != 'create' else ''}"
                level = Level.ERROR if need.must else Level.WARNING
                yield Finding(level, subject, f"may not {what}: {need.why}", fix)


def _allowed(client: KubeClient, namespace: str, need: Need, verb: str, user: str, name: str = "") -> bool:
    resource, _, subresource = need.resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": need.group, "resource": resource}
    if subresource:
        attributes["subresource"] = subresource
    if name and verb != "create":  # which no name limits
        attributes["name"] = name
    kind = "SubjectAccessReview" if user else "SelfSubjectAccessReview"
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {"resourceAttributes": attributes}}
    if user:
        body["spec"]["user"] = user  # type: ignore[index]
    answer = client.post(f"/apis/authorization.k8s.io/v1/{kind.lower()}s", body)
    return bool((answer.get("status") or {}).get("allowed"))


def definition(client: KubeClient, ours: Mapping[str, Any]) -> Finding:
    """Whether the kind is installed, with the fields of this version."""
    subject = "CustomResourceDefinition workerpools.celeriac.dev"
    try:
        return of_crd(client.get(CRD), ours)
    except NotFound:
        return Finding(Level.ERROR, subject, "it is not installed", "celeriac-operator crd | kubectl apply -f -")
    except Forbidden:
        try:
            client.get(POOLS)
        except ClusterError:
            return Finding(Level.ERROR, subject, "it is not installed", "celeriac-operator crd | kubectl apply -f -")
        return Finding(Level.OK, subject, "installed; which fields it has may not be seen by this user")


class Rounds:
    """One visit to a namespace's pools. `patients` gathers those whose brokers may be asked afterwards."""

    def __init__(self, client: KubeClient, namespace: str, *, user: str = "", default_url: str = "") -> None:
        self._client, self._namespace, self._user, self._default_url = client, namespace, user, default_url
        self._budgets = Budgets(client)
        self.patients: list[Patient] = []

    def visit(self) -> Iterator[Finding]:
        """Findings on every pool of the namespace. Raises ClusterError when pools cannot be listed."""
        pools = list(self._client.items(f"{POOLS}/namespaces/{self._namespace}/workerpools"))
        if not pools:
            yield Finding(Level.OK, f"namespace {self._namespace}", "it has no WorkerPool")
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
            yield from _lacking(self._client, subject, self._namespace, [KILLING], self._user)
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
                    "name it in secrets.allowed of the operator's chart; or run doctor as who may",
                )  # fmt: skip
                continue
            yield of_secret(subject, path, key, secret)
            if path == "spec.broker.urlFrom" and secret is not None:
                url = _decoded(secret, key)
        if self._user:
            for name in dict.fromkeys(name for _, name, _ in secrets_of(spec)):
                yield from _lacking(
                    self._client, f"{subject}: {self._user}", self._namespace, [READING], self._user, name,
                    "name it in secrets.allowed of the operator's chart, or set operator.serviceAccount of the worker's",
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
