"""What a PodDisruptionBudget gets in the way of: a target's pods that no node drain could ever evict.

A budget limits evictions, not a scale-in. One that allows none at all holds up a node drain for ever, and Kubernetes tells
only whoever drains the node. Reading budgets is optional: without the permission nothing is said.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celeriac_operator.cluster.client import KubeClient
from celeriac_operator.cluster.workloads import Workload
from celeriac_operator.errors import ClusterError, Forbidden, NotFound

log = logging.getLogger("celeriac_operator.cluster")

#: Seconds a namespace's budgets are believed; and after a refusal, or where the API does not exist.
FRESH_S = 60.0
ABSENT_S = 600.0
#: Workloads whose answer is kept; forgetting one costs a comparison.
REMEMBERED = 10_000

#: policy/v1 came with 1.21, policy/v1beta1 went with 1.25.
VERSIONS = ("/apis/policy/v1", "/apis/policy/v1beta1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A PodDisruptionBudget as written. least and most: pods, "50%", or None; selector: the raw label selector."""

    name: str
    selector: Mapping[str, Any]
    least: int | str | None = None
    most: int | str | None = None


@dataclass(slots=True)
class _Seen:
    budgets: Sequence[Budget] = field(default_factory=tuple)
    until: float = 0.0


class Budgets:
    """Answers from memory; lists a namespace's budgets again once a minute."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._answers: dict[str, tuple[tuple[int, Mapping[str, str], Sequence[Budget]], str]] = {}
        self._told = False

    def against(self, workload: Workload, most: int) -> str:
        """The sentence about a budget that never lets one of the workload's pods be evicted, or "".

        most: the replicas that its pool may have. One that blocks fewer pods alone, as minAvailable 1 does with a single one,
        would come and go with every scale.
        """
        budgets = self._of(workload.namespace)
        replicas = max(workload.replicas, most)
        asked = (replicas, workload.pod_labels, budgets)
        known = self._answers.get(workload.uid)
        if known is None or known[0] != asked:  # a thousand budgets and a thousand pools are a million comparisons
            found = (blocks(each, replicas) for each in budgets if selects(each.selector, workload.pod_labels))
            known = (asked, next(filter(None, found), ""))
            if len(self._answers) > REMEMBERED:
                self._answers.clear()
            self._answers[workload.uid] = known
        return known[1]

    def _of(self, namespace: str) -> Sequence[Budget]:
        now = time.monotonic()
        with self._lock:
            seen = self._seen.setdefault(namespace, _Seen())
            if now < seen.until:
                return seen.budgets
            seen.until = now + FRESH_S  # other threads answer from what there is while this one asks
        try:
            seen.budgets = self._listed(namespace)
        except Forbidden as error:
            seen.until = now + ABSENT_S
            if not self._told:
                self._told = True
                log.info("PodDisruptionBudgets will not be looked at: %s", error)
        except ClusterError as error:
            log.info("%s", error)
        return seen.budgets

    def _listed(self, namespace: str) -> Sequence[Budget]:
        for version in VERSIONS:
            try:
                self._client.get(version)  # open to all: where it is not served, a list would be Forbidden
                path = f"{version}/namespaces/{namespace}/poddisruptionbudgets"
                return budgets_of(version, self._client.items(path))
            except NotFound:
                continue
        return ()


def budgets_of(version: str, items: Iterable[Mapping[str, Any]]) -> Sequence[Budget]:
    """The budgets of a list that may select a pod. No selector selects none; an empty one all, before policy/v1 none."""
    found = [_budget(item) for item in items if (item.get("spec") or {}).get("selector") is not None]
    return [budget for budget in found if version == VERSIONS[0] or any(budget.selector.values())]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches, as policy/v1 reads it: an empty one selects every pod."""
    wanted = selector.get("matchLabels") or {}
    if any(labels.get(name) != value for name, value in wanted.items()):
        return False
    return all(_meets(each, labels) for each in selector.get("matchExpressions") or ())


def blocks(budget: Budget, replicas: int) -> str:
    """Why the budget lets none of so many pods be evicted, or "" when it lets some, or there is none to evict."""
    if replicas == 0:
        return ""
    if budget.most is not None:
        allowed, said = _pods(budget.most, replicas), f"maxUnavailable {budget.most}"
    elif budget.least is not None:
        allowed, said = replicas - _pods(budget.least, replicas), f"minAvailable {budget.least}"
    else:
        return ""
    if allowed > 0:
        return ""
    return (
        f"PodDisruptionBudget {budget.name} ({said} of {replicas} replicas) allows no eviction: a node drain waits for ever;"
        " set maxUnavailable to 1 or 25%, the operator's own scale-in needs no budget"
    )


def _pods(value: int | str, replicas: int) -> int:
    """Of a percentage the disruption controller takes the pods rounded up."""
    if isinstance(value, int):
        return value
    percent = value.removesuffix("%")
    return -(-replicas * int(percent) // 100) if percent.isdecimal() else 0


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = str(expression.get("key")), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False


def _budget(item: Mapping[str, Any]) -> Budget:
    spec = item.get("spec") or {}
    return Budget(
        name=item["metadata"]["name"],
        selector=spec["selector"],
        least=spec.get("minAvailable"),
        most=spec.get("maxUnavailable"),
    )
