"""The CRD and WorkerPoolSpec are two writings of one contract: the same fields, defaults, limits and rules."""

import copy
import dataclasses
import json
import types
import typing
from enum import StrEnum
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import pytest
import yaml

from celeriac_operator.resources import labels
from celeriac_operator.resources import spec as spec_module
from celeriac_operator.resources.spec import Mode, SecretKeyRef, SpecError, WorkerPoolSpec
from celeriac_operator.resources.states import State

CRD = yaml.safe_load(
    (Path(__file__).parents[2] / "charts/celeriac-operator/files/crds/workerpools.celeriac.dev.yaml").read_text()
)
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]["properties"]
LEAST = {"targetRef": {"name": "mails"}, "queues": [{"name": "mails"}]}


def test_the_names_are_those_that_the_operator_uses() -> None:
    names = CRD["spec"]["names"]

    assert CRD["spec"]["group"] == labels.GROUP
    assert CRD["metadata"]["name"] == f"{labels.PLURAL}.{labels.GROUP}"
    assert (names["kind"], names["plural"], names["shortNames"]) == (labels.KIND, labels.PLURAL, ["wp"])
    assert names["categories"] == ["all"]
    assert VERSION["name"] == labels.VERSION
    assert VERSION["subresources"]["scale"] == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }


def test_every_field_of_the_class_is_in_the_schema_and_the_other_way_round() -> None:
    assert fields_of_class(WorkerPoolSpec) == fields_of_schema(SCHEMA["spec"])


def test_the_defaults_of_the_schema_and_of_the_class_are_the_same() -> None:
    filled = defaulted(LEAST, SCHEMA["spec"])

    assert filled != LEAST
    assert WorkerPoolSpec.parse(filled) == WorkerPoolSpec.parse(LEAST)


def test_the_defaults_within_lists_are_the_same() -> None:
    sparse = {
        **LEAST,
        "queues": [{"name": "mails", "objective": {}}],
        "schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 1}],
    }

    assert WorkerPoolSpec.parse(defaulted(sparse, SCHEMA["spec"])) == WorkerPoolSpec.parse(sparse)


ACCEPTED: dict[str, dict[str, Any]] = {
    "the least": {},
    "a broker": {"broker": {"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}, "keyPrefix": "a"}},
    "a broker with tls": {
        "broker": {
            "urlFrom": {"secretKeyRef": {"name": "r", "key": "u"}},
            "tls": {"caFrom": {"secretKeyRef": {"name": "ca", "key": "ca.crt"}}},
        }
    },
    "a broker with its management API": {
        "broker": {
            "urlFrom": {"secretKeyRef": {"name": "r", "key": "u"}},
            "managementUrlFrom": {"secretKeyRef": {"name": "r", "key": "m"}},
        }
    },
    "a drain that ends tasks": {"scaleDown": {"onDrainTimeout": "Kill"}},
    "a drain that requeues tasks": {"scaleDown": {"onDrainTimeout": "Requeue"}},
    "replicas restored on deletion": {"onDelete": "RestoreReplicas"},
    "durations of several units": {"interval": "1m30s", "scaleDown": {"idleTimeout": "500ms", "drainTimeout": "1.5h"}},
    "drains as a number": {"scaleDown": {"maxConcurrentDrains": 3}},
    "drains as a percentage": {"scaleDown": {"maxConcurrentDrains": "100%"}},
    "a latency objective": {"objective": {"type": "Latency", "seconds": 10, "percentile": 99}},
    "a backlog objective": {"objective": {"type": "Backlog", "target": 20}},
    "a utilization objective": {"objective": {"type": "Utilization", "target": 100}},
    "a queue with its own objective": {"queues": [{"name": "a", "weight": 4, "objective": {"seconds": 5}}]},
    "the override at the maximum": {"replicas": 10},
    "a schedule": {
        "schedules": [
            {
                "start": "0 8 * * 1-5",
                "end": "0 18 * * 1-5",
                "timezone": "Europe/Berlin",
                "minReplicas": 6,
                "maxReplicas": 9,
            }
        ]
    },
    "a fallback with replicas": {"fallback": {"after": "2m", "behavior": "AtLeast", "replicas": 5}},
    "rates in every unit": {
        "rateLimits": [{"task": "a", "rate": "10/s"}, {"task": "b", "rate": "0.5/m"}, {"task": "c", "rate": "7"}]
    },
    "a schedule's maximum at the minimum": {
        "minReplicas": 5,
        "schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "maxReplicas": 5}],
    },
    "a step limit": {"scaleUp": {"maxPods": 4, "maxPercent": 100, "perSeconds": 15}},
    "an eta horizon": {"eta": {"enabled": False, "horizon": "10m"}},
}

REFUSED: dict[str, dict[str, Any]] = {
    "no target": {"targetRef": None},
    "a target without a name": {"targetRef": {"kind": "Deployment"}},
    "no queues": {"queues": []},
    "a queue twice": {"queues": [{"name": "a"}, {"name": "a"}]},
    "a queue without a name": {"queues": [{"weight": 1}]},
    "a weight of zero": {"queues": [{"name": "a", "weight": 0}]},
    "min above max": {"minReplicas": 11},
    "an override above max": {"replicas": 11},
    "a negative minimum": {"minReplicas": -1},
    "a maximum of zero": {"maxReplicas": 0},
    "a float for an integer": {"maxReplicas": 1.5},
    "a boolean for an integer": {"maxReplicas": True},
    "a text for an integer": {"objective": {"seconds": "60s"}},
    "a number for headroom": {"headroom": 1.5},
    "too much headroom": {"headroom": "11"},
    "a number for a duration": {"interval": 5},
    "a duration without a unit": {"interval": "5"},
    "too short an interval": {"interval": "500ms"},
    "too long an interval": {"interval": "6m"},
    "auto where it has no meaning": {"interval": "auto"},
    "too long a cold start": {"coldStart": "2h"},
    "too long an idle time-out": {"scaleDown": {"idleTimeout": "25h"}},
    "too long a drain": {"scaleDown": {"drainTimeout": "169h"}},
    "a percentage of zero": {"scaleDown": {"maxConcurrentDrains": "0%"}},
    "drains of zero": {"scaleDown": {"maxConcurrentDrains": 0}},
    "an unknown mode": {"mode": "Dry"},
    "an unknown selection": {"scaleDown": {"selection": "Busy"}},
    "a latency percentile that is not offered": {"objective": {"type": "Latency", "percentile": 80}},
    "a backlog objective without a target": {"objective": {"type": "Backlog"}},
    "a utilization above 100": {"objective": {"type": "Utilization", "target": 101}},
    "a queue's latency percentile": {"queues": [{"name": "a", "objective": {"type": "Latency", "percentile": 80}}]},
    "a queue's backlog without a target": {"queues": [{"name": "a", "objective": {"type": "Backlog"}}]},
    "a fallback without replicas": {"fallback": {"behavior": "Replicas"}},
    "a fallback at once": {"fallback": {"after": "10ms"}},
    "a schedule without limits": {"schedules": [{"start": "0 8 * * *", "end": "0 9 * * *"}]},
    "a schedule with crossed limits": {
        "schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "minReplicas": 5, "maxReplicas": 4}]
    },
    "a schedule's maximum below the minimum": {
        "minReplicas": 5,
        "schedules": [{"start": "0 8 * * *", "end": "0 9 * * *", "maxReplicas": 4}],
    },
    "a drain time-out policy that is none": {"scaleDown": {"onDrainTimeout": "Retry"}},
    "a deletion policy that is none": {"onDelete": "Restore"},
    "a rate of zero": {"rateLimits": [{"task": "a", "rate": "0"}]},
    "a rate of zero with digits": {"rateLimits": [{"task": "a", "rate": "0.00/s"}]},
    "a schedule without an end": {"schedules": [{"start": "0 8 * * *", "minReplicas": 5}]},
    "a broker without a Secret": {"broker": {"urlFrom": {}}},
    "a broker without a url": {"broker": {"keyPrefix": "a"}},
    "a rate without a number": {"rateLimits": [{"task": "a", "rate": "fast"}]},
    "a rate limit twice": {"rateLimits": [{"task": "a", "rate": "1/s"}, {"task": "a", "rate": "2/s"}]},
}


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_the_schema_accepts_the_class_accepts(fields: dict[str, Any]) -> None:
    raw = {**LEAST, **fields}

    assert problems_by_schema(raw) == []
    WorkerPoolSpec.parse(raw)


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_schema_refuses_the_class_refuses(fields: dict[str, Any]) -> None:
    raw = {name: value for name, value in {**LEAST, **fields}.items() if value is not None}

    assert problems_by_schema(raw) != []
    with pytest.raises(SpecError):
        WorkerPoolSpec.parse(raw)


def test_the_target_cannot_be_changed() -> None:
    old = defaulted(LEAST, SCHEMA["spec"])
    new = defaulted({**LEAST, "targetRef": {"name": "other"}}, SCHEMA["spec"])

    assert broken_rules(old, old) == []
    assert broken_rules(new, old) == ["targetRef is immutable"]


def test_all_rules_stand_on_spec_where_the_chart_takes_them_out() -> None:
    found = [path for path, node in nodes(VERSION["schema"]["openAPIV3Schema"]) if "x-kubernetes-validations" in node]

    assert found == ["properties.spec"]


def test_every_string_and_list_of_the_spec_is_bounded() -> None:
    """CEL's cost is estimated from these bounds; without them the API server refuses the rules."""
    unbounded = [
        path
        for path, node in nodes(SCHEMA["spec"])
        if (node.get("type") == "string" and "maxLength" not in node and "enum" not in node)
        or (node.get("type") == "array" and "maxItems" not in node)
    ]

    assert [path for path in unbounded if "anyOf" not in path] == []


@pytest.mark.parametrize("part", ["spec", "status"])
def test_kubectl_explain_has_a_sentence_for_every_field(part: str) -> None:
    fields = [(path, node) for path, node in nodes(SCHEMA[part], part) if not path.endswith(".items")]
    silent = [path for path, node in fields if not node.get("description", "").strip().endswith(".")]

    assert len(fields) > 50
    assert silent == []


def test_kubectl_explain_tells_every_default() -> None:
    """The sentence must: `kubectl explain` does not show what the schema has as `default`."""
    given = [(path, node) for path, node in nodes(SCHEMA["spec"]) if not isinstance(node.get("default", {}), dict)]
    untold = [path for path, node in given if not node["description"].endswith(f" Default {shown(node['default'])}.")]

    assert len(given) > 20
    assert untold == []


def test_a_schema_has_no_key_that_kubernetes_does_not_know() -> None:
    """Such as the rest of a sentence with a comma in it, unquoted."""
    known = {
        *("type", "format", "description", "default", "enum", "pattern", "properties", "required", "items", "anyOf"),
        *("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum"),
    }
    keys = {key for _, node in nodes(VERSION["schema"]["openAPIV3Schema"]) for key in node}

    assert {key for key in keys if not key.startswith("x-kubernetes-")} - known == set()


def test_each_secret_says_for_itself_what_it_holds() -> None:
    """They share one schema in the file, and with it a description, unless each has its own."""
    told = [node["description"] for _, node in nodes(SCHEMA["spec"]) if "secretKeyRef" in node.get("properties", {})]

    assert len(told) == len(set(told)) == 5


def test_the_crd_fits_into_the_annotation_that_kubectl_apply_writes() -> None:
    assert len(json.dumps(CRD)) < 200_000, "Kubernetes refuses annotations of more than 262,144 bytes"


def test_an_int_or_string_has_the_one_shape_that_a_structural_schema_allows() -> None:
    for _, node in nodes(SCHEMA["spec"]):
        if node.get("x-kubernetes-int-or-string"):
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}]
            assert "type" not in node


def test_every_state_is_told_where_it_is_shown() -> None:
    [column] = [column for column in VERSION["additionalPrinterColumns"] if column["name"] == "State"]
    page = (Path(__file__).parents[2] / "docs/operator.md").read_text()
    table = page[page.index("\n## State\n") : page.index("\n## Conditions\n")]

    assert column["description"] == SCHEMA["status"]["properties"]["state"]["description"]
    assert [state for state in State if state not in column["description"].split(", ")] == []
    assert [word for word in (*State, *Mode) if word is not Mode.ACTIVE and f"`{word}`" not in table] == []


@pytest.mark.parametrize("column", VERSION["additionalPrinterColumns"], ids=lambda column: column["name"])
def test_every_printer_column_points_at_a_field_of_the_schema(column: dict[str, Any]) -> None:
    node: dict[str, Any] = {"properties": SCHEMA}
    path = column["jsonPath"].removeprefix(".").split(".")
    if path[0] == "metadata":
        return

    for name in path:
        assert name in node["properties"], f"{column['jsonPath']}: no {name}"
        node = node["properties"][name]

    assert node["type"] == column["type"]


# ── the API server's part: defaults, schema, rules ──


def defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """`value` with the schema's defaults filled in, as the API server does it: from the outside in."""
    value = copy.deepcopy(value)
    if schema.get("type") == "object" and isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                value[name] = defaulted(value[name], part)
    if schema.get("type") == "array" and isinstance(value, list):
        return [defaulted(item, schema["items"]) for item in value]
    return value


def problems_by_schema(raw: dict[str, Any]) -> list[str]:
    filled = defaulted(raw, SCHEMA["spec"])
    problems = [error.message for error in jsonschema.Draft202012Validator(SCHEMA["spec"]).iter_errors(filled)]
    problems += duplicates(filled)
    # The API server applies the rules to what the schema let through.
    return problems or broken_rules(filled, None)


def duplicates(filled: dict[str, Any]) -> list[str]:
    """What x-kubernetes-list-type: map refuses."""
    found = []
    for name, part in SCHEMA["spec"]["properties"].items():
        if part.get("x-kubernetes-list-type") == "map":
            keys = [tuple(item.get(key) for key in part["x-kubernetes-list-map-keys"]) for item in filled.get(name, [])]
            found += [f"{name}: duplicate {key}" for key in keys if keys.count(key) > 1]
    return found


def broken_rules(filled: dict[str, Any], old: dict[str, Any] | None) -> list[str]:
    """Messages of the CEL rules that do not hold. Transition rules are applied to updates only."""
    broken = []
    for rule in SCHEMA["spec"]["x-kubernetes-validations"]:
        if "oldSelf" in rule["rule"] and old is None:
            continue
        environment = celpy.Environment()
        program = environment.program(environment.compile(rule["rule"]))
        names = {"self": celpy.json_to_cel(filled), "oldSelf": celpy.json_to_cel(old or {})}
        if not program.evaluate(names):
            broken.append(rule["message"])
    return broken


# ── walks ──


def nodes(schema: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every schema below this one with its path, this one included."""
    found = [(path, schema)]
    for name, part in schema.get("properties", {}).items():
        found += nodes(part, f"{path}.properties.{name}".removeprefix("."))
    if "items" in schema:
        found += nodes(schema["items"], f"{path}.items")
    return found


def shown(default: object) -> str:
    """As YAML writes it."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def fields_of_schema(schema: dict[str, Any], path: str = "") -> set[str]:
    if schema.get("type") == "array":
        return fields_of_schema(schema["items"], f"{path}[]")
    if "properties" not in schema:
        return {path}
    parts = (fields_of_schema(part, f"{path}.{name}") for name, part in schema["properties"].items())
    return set().union(*parts)


def fields_of_class(kind: Any, path: str = "") -> set[str]:
    """The same paths, from the class: snake case turned to camel case, units taken off the names."""
    if kind is SecretKeyRef:
        return {f"{path}.secretKeyRef.name", f"{path}.secretKeyRef.key"}
    if typing.get_origin(kind) is tuple:
        return fields_of_class(typing.get_args(kind)[0], f"{path}[]")
    if isinstance(kind, types.UnionType):
        return fields_of_class(next(part for part in typing.get_args(kind) if part is not type(None)), path)
    if not dataclasses.is_dataclass(kind):
        assert kind in (str, int, float, bool) or issubclass(kind, StrEnum), kind
        return {path}
    hints = typing.get_type_hints(kind, vars(spec_module))
    parts = (fields_of_class(hints[field.name], f"{path}.{camel(field.name)}") for field in dataclasses.fields(kind))
    return set().union(*parts)


def camel(name: str) -> str:
    first, *rest = name.removesuffix("_per_s").removesuffix("_s").split("_")
    return first + "".join(part.capitalize() for part in rest)
