"""Wrong values are refused with a sentence that names them, and every value has a comment."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_pages import comments, leaves
from charts import CRD_FILE, NEEDED, OPERATOR, WORKER, merged, notes, objects
from helm_python import HelmError

REFUSED: Mapping[str, tuple[Path, Mapping[str, Any], str]] = {
    "a misspelt name": (OPERATOR, {"replica": 2}, "'replica'"),
    "a misspelt name inside": (WORKER, {"broker": {"existingSecrets": "x"}}, "existingSecrets"),
    "an unknown scope": (OPERATOR, {"scope": "global"}, "/scope"),
    "a text for a number": (WORKER, {"terminationGracePeriodSeconds": "60"}, "/terminationGracePeriodSeconds"),
    "a grace too short to stop in": (WORKER, {"terminationGracePeriodSeconds": 5}, "/terminationGracePeriodSeconds"),
    "the broker's URL in values": (WORKER, {"broker": {"url": "redis://:secret@redis/0"}}, "'url'"),
    "a URL for the Secret's name": (WORKER, {"broker": {"existingSecret": "redis://redis/0"}}, "existingSecret"),
    "a password in a variable": (
        WORKER,
        {"extraEnv": [{"name": "CELERIAC_BROKER_URL", "value": "redis://user:pass@redis/0"}]},
        "/extraEnv/0/value",
    ),
    "a password in an argument": (WORKER, {"extraArgs": ["-b", "amqp://u:p@rabbit//"]}, "/extraArgs/1"),
    "a digest that is too weak": (OPERATOR, {"signing": {"digest": "md5"}}, "/signing/digest"),
    "a key in values": (OPERATOR, {"signing": {"secretName": "-----BEGIN PRIVATE KEY-----"}}, "/signing/secretName"),
    "two operators without a Lease": (OPERATOR, {"replicas": 2}, "needs ha.enabled=true"),
    "replicas beside a pool": (WORKER, {"replicas": 3}, "the WorkerPool's operator owns the number"),
    "no image": (WORKER, {"image": {"repository": ""}}, "image.repository is empty"),
    "no tag": (WORKER, {"image": {"tag": ""}}, "image.tag is empty"),
    "no app": (WORKER, {"app": ""}, "app is empty"),
    "no broker": (WORKER, {"broker": {"existingSecret": ""}}, "broker.existingSecret is empty"),
    "an unknown field of beat": (WORKER, {"beat": {"schedule": {}}}, "'schedule'"),
    "half a beat": (WORKER, {"beat": {"replicas": 0.5}}, "/beat/replicas"),
    "beat of no app": (WORKER, {"app": "", "command": ["x"], "beat": {"enabled": True}}, "app is empty: beat needs"),
    "no queue": (WORKER, {"worker": {"queues": []}}, "/worker/queues"),
    "a field that a pool does not have": (WORKER, {"pool": {"maxReplica": 3}}, "maxReplica"),
    "a field that a part of a pool does not have": (WORKER, {"pool": {"scaleDown": {"idle": "5s"}}}, "'idle'"),
    "an objective that there is not": (WORKER, {"pool": {"objective": {"type": "Depth"}}}, "/pool/objective/type"),
    "a mode in lower case": (WORKER, {"pool": {"mode": "dryrun"}}, "'Active', 'DryRun', 'Paused'"),
    "seconds without their unit": (WORKER, {"pool": {"scaleToZero": {"after": "300"}}}, "/pool/scaleToZero/after"),
    "a rate a day": (WORKER, {"pool": {"rateLimits": [{"task": "a", "rate": "9/d"}]}}, "/pool/rateLimits/0/rate"),
    "drains of more than all": (WORKER, {"pool": {"scaleDown": {"maxConcurrentDrains": "150%"}}}, "maxConcurrentDrains"),
    "a pool of processes that there is not": (WORKER, {"worker": {"executionPool": "gevent"}}, "'prefork'"),
    "a pull policy in lower case": (OPERATOR, {"image": {"pullPolicy": "always"}}, "'IfNotPresent'"),
    "a registry with a scheme": (OPERATOR, {"image": {"registry": "https://registry.example"}}, "/image/registry"),
    "a strategy that there is not": (WORKER, {"deployment": {"strategy": {"type": "Rolling"}}}, "'RollingUpdate'"),
    "a strategy's field in its wrong place": (WORKER, {"beat": {"strategy": {"maxSurge": 1}}}, "'maxSurge'"),
    "an amount of memory that is none": (OPERATOR, {"resources": {"limits": {"memory": "256 MB"}}}, "/resources/limits/memory"),
    "resources in their wrong place": (OPERATOR, {"resources": {"memory": "256Mi"}}, "'memory'"),
    "a budget of half a pod": (WORKER, {"podDisruptionBudget": {"maxUnavailable": "1"}}, "/podDisruptionBudget/maxUnavailable"),
    "a label's value that is no text": (OPERATOR, {"commonLabels": {"version": 2}}, "/commonLabels/version"),
    "a name in upper case": (WORKER, {"fullnameOverride": "Shop"}, "/fullnameOverride"),
    "a level that there is not": (OPERATOR, {"logLevel": "warn"}, "/logLevel"),
    "a test that is nearly off": (OPERATOR, {"tests": {"enabled": "no"}}, "/tests/enabled"),
    "an effect that there is not": (OPERATOR, {"tolerations": [{"key": "k", "effect": "NoSchedul"}]}, "/tolerations/0/effect"),
    "an override of what is no alert": (
        OPERATOR,
        {"prometheusRule": {"overrides": {"X": {}}}},
        "/prometheusRule/overrides",
    ),
    "an alert that does not exist": (
        OPERATOR,
        {"prometheusRule": {"enabled": True, "disabled": ["CeleriacPoolAtMin"]}},
        "names the alert CeleriacPoolAtMin, which does not exist; there are: CeleriacBrokerUnreachable",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("chart", "values", "said"), REFUSED.values(), ids=REFUSED)
def test_is_refused(chart: Path, values: Mapping[str, Any], said: str) -> None:
    with pytest.raises(HelmError) as refused:
        objects(chart, values)

    assert said in str(refused.value)


ACCEPTED: Mapping[str, tuple[Path, Mapping[str, Any]]] = {
    "processors as numbers and as text": (WORKER, {"resources": {"requests": {"cpu": 0.5}, "limits": {"cpu": "1500m", "memory": "1.5Gi"}}}),
    "amounts of a device": (WORKER, {"resources": {"limits": {"nvidia.com/gpu": 1}}}),
    "the other strategy": (WORKER, {"deployment": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}),
    "drains as a number": (WORKER, {"pool": {"scaleDown": {"maxConcurrentDrains": 3}}}),
    "replicas put back at the end": (WORKER, {"pool": {"onDelete": "RestoreReplicas"}}),
    "another key of the broker's Secret": (
        WORKER, {"pool": {"broker": {"managementUrlFrom": {"secretKeyRef": {"name": "rabbit", "key": "http"}}}}}
    ),
    "a budget in pods": (WORKER, {"podDisruptionBudget": {"maxUnavailable": 2}}),
    "a registry with a port": (OPERATOR, {"image": {"registry": "registry.example:5000"}}),
    "labels with a prefix": (OPERATOR, {"commonLabels": {"example.com/team": "shop"}}),
}  # fmt: skip


@pytest.mark.parametrize(("chart", "values"), ACCEPTED.values(), ids=ACCEPTED)
def test_is_accepted(chart: Path, values: Mapping[str, Any]) -> None:
    assert objects(chart, values)


@pytest.mark.parametrize("chart", [OPERATOR, WORKER], ids=lambda chart: chart.name)
def test_every_value_has_a_comment_of_its_own(chart: Path) -> None:
    text = (chart / "values.yaml").read_text()
    said = comments(text)

    bare = [".".join(path) for path, _ in leaves(yaml.safe_load(text), said) if path not in said]

    assert bare == []


@pytest.mark.parametrize("chart", [OPERATOR, WORKER], ids=lambda chart: chart.name)
def test_the_schema_knows_every_value_and_no_other(chart: Path) -> None:
    values = yaml.safe_load((chart / "values.yaml").read_text())
    schema = json.loads((chart / "values.schema.json").read_text())

    known = set(_closed_paths(schema))
    given = {path for path in _paths(values) if path.rpartition(".")[0] in {p.rpartition(".")[0] for p in known}}

    assert given - known == set()
    assert {path for path in known - given if not path.startswith(("pool.", "global"))} <= {
        f"{probe}.initialDelaySeconds" for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    } | {path for path in known if ".overrides" in path or "resources." in path}


def _closed_paths(schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, below in schema.get("properties", {}).items():
        yield prefix + name
        if below.get("additionalProperties") is False:
            yield from _closed_paths(below, f"{prefix}{name}.")


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")


def test_the_worker_charts_pool_has_the_fields_of_the_crd() -> None:
    schema = json.loads((WORKER / "values.schema.json").read_text())
    crd = yaml.safe_load(CRD_FILE.read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    fields = set(schema["properties"]["pool"]["properties"]) - {"enabled", "name", "annotations"}

    assert fields == set(spec["properties"])


def test_the_notes_say_what_is_still_to_do() -> None:
    without = notes(OPERATOR)
    with_secret = notes(OPERATOR, {"secrets": {"allowed": ["redis"]}})
    worker = notes(WORKER)

    assert "It may read NO Secret yet" in without
    assert "It may read these Secrets there: redis." in with_secret
    assert "A first install starts one worker" in worker
    assert merged(NEEDED[WORKER], {})["broker"]["existingSecret"] in worker
