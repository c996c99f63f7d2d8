"""The charts rendered by Helm's own engine, as lists of objects, and what a test may ask of them.

Helm's SDK renders for the one Kubernetes version it was built with; the charts' value `kubeVersion` says another.
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
OPERATOR = CHARTS / "celeriac-operator"
WORKER = CHARTS / "celeriac-worker"
CRD_FILE = OPERATOR / "files/crds/workerpools.celeriac.dev.yaml"
DASHBOARDS = tuple(sorted(OPERATOR.glob("dashboards/*.json")))
RULES = OPERATOR / "rules/celeriac.yaml"

#: The least that each chart needs.
NEEDED: Mapping[Path, Mapping[str, Any]] = {
    OPERATOR: {},
    WORKER: {"image": {"repository": "shop", "tag": "1.0"}, "app": "shop", "broker": {"existingSecret": "redis"}},
}

Object = dict[str, Any]


def rendered(
    chart: Path, values: Mapping[str, Any] | None = None, *, name: str = "rel", namespace: str = "apps"
) -> str:
    """Everything that the chart renders with its needed values and these, as one text."""
    with Chart.load(chart) as loaded:
        texts = loaded.render(merged(NEEDED[chart], values or {}), name=name, namespace=namespace)
    return "\n---\n".join(f"# {path}\n{text}" for path, text in sorted(texts.items()) if not path.endswith(".txt"))


def notes(chart: Path, values: Mapping[str, Any] | None = None) -> str:
    """What `helm install` says at its end."""
    with Chart.load(chart) as loaded:
        texts = loaded.render(merged(NEEDED[chart], values or {}), name="rel", namespace="apps")
    return next(text for path, text in texts.items() if path.endswith("NOTES.txt"))


def objects(chart: Path, values: Mapping[str, Any] | None = None, **names: str) -> list[Object]:
    """The objects that the chart renders."""
    return [document for document in yaml.safe_load_all(rendered(chart, values, **names)) if document]


def of_kind(kind: str, found: list[Object]) -> list[Object]:
    return [item for item in found if item["kind"] == kind]


def the(kind: str, found: list[Object]) -> Object:
    """The one object of that kind."""
    (item,) = of_kind(kind, found)
    return item


def pod_specs(found: list[Object]) -> Iterator[Object]:
    """The pod specification of every workload."""
    for item in found:
        if item["kind"] in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
            yield item["spec"]["template"]["spec"]


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """`low` with `high` laid over it, maps merged, as Helm merges values."""
    result = deepcopy(dict(low))
    for name, value in high.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """(panel's title, expression) of every query of every dashboard."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], target["expr"]


def filled_in(expression: str, *, variables: Mapping[str, str], rate_interval: str) -> str:
    """A dashboard's expression as Grafana would send it."""
    expression = expression.replace("$__rate_interval", rate_interval)
    for name, value in variables.items():
        expression = expression.replace(f"${name}", value)
    return expression
