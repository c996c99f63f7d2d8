"""What an account may do in a cluster, asked by access reviews, beside what the operator needs; as findings. Reads only."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.workloads import PLURALS
from celeriac_operator.errors import ClusterError, Forbidden, NotFound
from celeriac_operator.resources.fitness import Finding, Level
from celeriac_operator.resources.rights import rule


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

#: What pools with onDrainTimeout: Kill ask for beside that; and what operators with --ha ask for where their Lease is.
KILLING = Need("", "pods", ("delete",), "onDrainTimeout: Kill ends nothing", must=False)
LEADING = Need("coordination.k8s.io", "leases", ("get", "update", "create"), "nobody leads, and nothing is done")

_CHART = "install the chart's Role (rbac.create)"
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


class Denied(NamedTuple):
    """The verbs of a need that are denied."""

    need: Need
    verbs: tuple[str, ...]


def permissions(client: KubeClient, namespace: str, user: str = "") -> Iterator[Finding]:
    """What may be done in a namespace: by whoever asks, or by `user` (system:serviceaccount:NAMESPACE:NAME)."""
    subject = f"permissions of {user or 'this user'} in {namespace}"
    lacking_ = list(lacking(client, subject, namespace, NEEDS, user))
    yield from lacking_ or [Finding(Level.OK, subject, "has all that the operator needs")]


def account(client: KubeClient, namespace: str, name: str) -> Finding:
    """Whether there is such a ServiceAccount. An error when there is none: then nothing need be asked on its behalf."""
    subject = f"ServiceAccount {namespace}/{name}"
    try:
        client.get(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}")
    except NotFound:
        return Finding(
            Level.ERROR, subject, f"there is no ServiceAccount {name} in namespace {namespace}",
            f"correct --service-account: `kubectl get serviceaccounts -n {namespace}` lists them; the chart's has the name of the "
            "operator's Deployment, unless serviceAccount.name says otherwise",
        )  # fmt: skip
    except ClusterError as error:
        why = "this user may not get serviceaccounts" if isinstance(error, Forbidden) else str(error)
        return Finding(Level.OK, subject, f"whether it exists could not be told ({why}); what it may do follows")
    return Finding(Level.OK, subject, "exists")


def leadership(client: KubeClient, namespace: str, name: str) -> Iterator[Finding]:
    """What the service account `name` lacks to lead, where a Deployment runs an operator with --ha under it."""
    user = f"system:serviceaccount:{namespace}:{name}"
    for at, lease in _leases(client, namespace, name):
        yield from lacking(client, f"permissions of {user} in {at}", at, [LEADING], user, lease)


def lacking(
    client: KubeClient, subject: str, namespace: str, needs: Sequence[Need], user: str, name: str = "", fix: str = _CHART,
) -> Iterator[Finding]:  # fmt: skip
    """A finding for each thing that does not work for want of rights, with the rule that gives them. name: of the one object needed."""
    denied = []
    try:
        for need in needs:
            verbs = tuple(verb for verb in need.verbs if not _allowed(client, namespace, need, verb, user, name))
            if verbs:
                denied.append(Denied(need, verbs))
    except ClusterError as error:
        yield Finding(Level.UNKNOWN, subject, f"cannot be asked: {error}", "let this user create subjectaccessreviews")
        return
    if len(needs) > 1 and denied == [Denied(need, need.verbs) for need in needs]:
        says = "has none of the rights that the operator needs there"
        yield Finding(Level.ERROR, subject, says, _granted(fix, namespace, user, denied, name))
        return
    for alike in _alike(denied):
        need, verbs = alike[0]
        what = ", ".join(_shown(one.need, name if verbs != ("create",) else "") for one in alike)
        says = f"may not {', '.join(verbs)} {what}: {need.why}"
        level = Level.ERROR if need.must else Level.WARNING
        yield Finding(level, subject, says, _granted(fix, namespace, user, alike, name))


def _alike(denied: Sequence[Denied]) -> list[list[Denied]]:
    """Those of which the same is denied, with the same consequence, side by side."""
    groups: dict[tuple[object, ...], list[Denied]] = {}
    for one in denied:
        groups.setdefault((one.need.group, one.verbs, one.need.why, one.need.must), []).append(one)
    return list(groups.values())


def _granted(fix: str, namespace: str, user: str, denied: Sequence[Denied], name: str) -> str:
    """What grants it: the chart's way, and a Role's rules for who installs without it."""
    rules = [
        rule(alike[0].need.group, [one.need.resource for one in alike], verbs, [name] if name and verbs != ("create",) else ())
        for alike in _alike(denied)
        for verbs in _by_name(alike[0].verbs, name)
    ]  # fmt: skip
    asked = "" if user else "; if the operator runs as another, ask for that one with --service-account"
    lines = "".join(f"\n- {one}" for one in rules)
    return f"{fix}{asked}; or bind a Role of namespace {namespace} to {user or 'this user'}, with these rules:{lines}"


def _by_name(verbs: tuple[str, ...], name: str) -> list[tuple[str, ...]]:
    """The verbs of one rule each: creating cannot be limited by a name."""
    if not name:
        return [verbs]
    named = tuple(verb for verb in verbs if verb != "create")
    return [part for part in (named, ("create",) if "create" in verbs else ()) if part]


def _shown(need: Need, name: str) -> str:
    """deployments.apps/scale, or `secrets broker`."""
    resource, slash, part = need.resource.partition("/")
    return f"{resource}{f'.{need.group}' if need.group else ''}{slash}{part}{f' {name}' if name else ''}"


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


def _leases(client: KubeClient, namespace: str, account: str) -> list[tuple[str, str]]:
    """(namespace, name) of the Lease of each operator that runs with --ha under an account; none where it may not be seen."""
    try:
        deployments = list(client.items(f"/apis/apps/v1/namespaces/{namespace}/deployments"))
    except ClusterError:
        return []
    pods = [((each.get("spec") or {}).get("template") or {}).get("spec") or {} for each in deployments]
    containers = [
        one for pod in pods if pod.get("serviceAccountName") == account for one in pod.get("containers") or ()
    ]
    found = (_lease(container, namespace) for container in containers)
    return list(dict.fromkeys(lease for lease in found if lease is not None))


def _lease(container: Mapping[str, Any], namespace: str) -> tuple[str, str] | None:
    """The Lease that a container's `celeriac-operator run` asks for, None when it asks for none: see `cli.run`."""
    words = [str(word) for word in (*(container.get("command") or ()), *(container.get("args") or ()))]
    env = {str(entry.get("name")): str(entry.get("value") or "") for entry in container.get("env") or ()}
    if "--ha" not in words and env.get("CELERIAC_OPERATOR_HA", "").lower() not in _TRUE:
        return None
    named = env.get("CELERIAC_OPERATOR_LEASE", "")
    for word, following in pairwise([*words, ""]):
        if word == "--lease":
            named = following
        elif word.startswith("--lease="):
            named = word.removeprefix("--lease=")
    at, slash, name = named.partition("/")
    return (at, name) if slash else (namespace, "celeriac-operator")
