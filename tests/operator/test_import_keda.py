"""KEDA's ScaledObjects become WorkerPools: what is carried over, and what is said of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from celeriac_operator.cli import cli
from celeriac_operator.resources.keda import NothingToImport, imported
from celeriac_operator.resources.spec import WorkerPoolSpec


def scaled(**spec: Any) -> dict[str, Any]:
    annotations = spec.pop("annotations", {})
    usual: dict[str, Any] = {
        "scaleTargetRef": {"name": "mailer"},
        "triggers": [
            {"type": "rabbitmq", "metadata": {"queueName": "mail", "hostFromEnv": "BROKER_URL", "value": "20"}}
        ],
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "mailer", "namespace": "shop", "annotations": annotations},
        "spec": {**usual, **spec},
    }


def behaving(**behavior: Any) -> dict[str, Any]:
    return {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior}}}


SHORT_AND_LONG = [
    {"type": "Pods", "value": 4, "periodSeconds": 60},
    {"type": "Percent", "value": 100, "periodSeconds": 15},
]
FALLBACK = {"failureThreshold": 3, "replicas": 6}

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "mailer"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {"name": "proxy"},
                    {
                        "name": "worker",
                        "env": [
                            {"name": "BROKER_URL", "valueFrom": {"secretKeyRef": {"name": "rabbit", "key": "amqp"}}}
                        ],
                    },
                ]
            }
        }
    },
}


def spec_of(*documents: Any) -> dict[str, Any]:
    [one] = imported(documents)
    WorkerPoolSpec.parse(one.pool["spec"])  # or it is no spec
    return dict(one.pool["spec"])


def notes_of(*documents: Any) -> str:
    [one] = imported(documents)
    return "\n".join(one.notes)


def test_a_small_object_becomes_a_small_pool_beside_keda() -> None:
    [one] = imported([scaled()])
    assert one.pool["metadata"] == {"name": "mailer", "namespace": "shop"}
    assert one.pool["spec"] == {
        "targetRef": {"name": "mailer"},
        "broker": {"urlFrom": {"secretKeyRef": {"name": "mailer-broker", "key": "url"}}},
        "queues": [{"name": "mail"}],
        "minReplicas": 0,
        "maxReplicas": 100,
        "objective": {"seconds": 60},
        "scaleToZero": {"after": "300s"},
        "mode": "DryRun",
    }
    notes = "\n".join(one.notes)
    assert "make a Secret with the URL that $BROKER_URL has" in notes
    assert "target: 20 / slots of a pod" in notes


@pytest.mark.parametrize(
    ("given", "field", "ours"),
    [
        ({"minReplicaCount": 2}, "minReplicas", 2),
        ({"maxReplicaCount": 30}, "maxReplicas", 30),
        ({"minReplicaCount": 5, "idleReplicaCount": 0}, "minReplicas", 0),
        ({"cooldownPeriod": 45}, "scaleToZero", {"after": "45s"}),
        ({"minReplicaCount": 1, "cooldownPeriod": 45}, "scaleToZero", None),
        ({"fallback": {"failureThreshold": 4, "replicas": 6}}, "fallback", {"after": "120s", "behavior": "Replicas", "replicas": 6}),
        ({"pollingInterval": 10, "fallback": {**FALLBACK, "behavior": "currentReplicas"}}, "fallback", {"after": "30s", "behavior": "Hold"}),
        ({"fallback": {**FALLBACK, "behavior": "currentReplicasIfHigher"}}, "fallback", {"after": "90s", "behavior": "AtLeast", "replicas": 6}),
        ({"advanced": {"restoreToOriginalReplicaCount": True}}, "onDelete", "RestoreReplicas"),
        ({"annotations": {"autoscaling.keda.sh/paused": "true"}}, "mode", "Paused"),
        ({"annotations": {"autoscaling.keda.sh/paused-replicas": "4"}}, "replicas", 4),
        ({"scaleTargetRef": {"name": "db", "kind": "StatefulSet"}}, "targetRef", {"name": "db", "kind": "StatefulSet"}),
        (behaving(scaleUp={"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}), "scaleUp", {"maxPods": 4, "perSeconds": 60}),
        (behaving(scaleUp={"policies": SHORT_AND_LONG}), "scaleUp", {"maxPods": 4, "maxPercent": 100, "perSeconds": 60}),
        (behaving(scaleUp={"policies": SHORT_AND_LONG[::-1]}), "scaleUp", {"maxPods": 4, "maxPercent": 100, "perSeconds": 60}),
        (behaving(scaleDown={"stabilizationWindowSeconds": 60}), "scaleDown", {"idleTimeout": "60s"}),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_field_with_a_counterpart_is_carried_over(given: dict[str, Any], field: str, ours: Any) -> None:
    assert spec_of(scaled(**given)).get(field) == ours


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pollingInterval": 15}, "the pool looks every 5 s"),
        ({"minReplicaCount": 5, "idleReplicaCount": 0}, "may be fewer than 5"),
        ({"fallback": {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfLower"}}, "no counterpart that lowers"),
        ({"advanced": {"scalingModifiers": {"formula": "a + b"}}}, "the formula is not carried over"),
        ({"triggers": [{"type": "cpu", "metadata": {"value": "80"}}]}, "triggers[0] (cpu): a pool scales from the work that waits"),
        ({"triggers": [{"type": "rabbitmq", "metadata": {"queueName": "^a.*", "useRegex": "true"}}]}, "list the queues that '^a.*' means"),
        ({"triggers": [{"type": "rabbitmq", "metadata": {"queueName": "a", "mode": "MessageRate", "protocol": "http"}}]}, "broker.managementUrlFrom"),
        ({"triggers": [{"type": "redis", "metadata": {"listName": "a", "activationListLength": "5"}}]}, "one message is reason enough"),
        (behaving(scaleUp={"policies": SHORT_AND_LONG}), "the longest, perSeconds 60"),
        (behaving(scaleUp={"selectPolicy": "Min"}), "takes what allows more"),
        ({"triggers": []}, "to be mended by hand: spec.queues"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_what_has_no_counterpart_is_said(given: dict[str, Any], said: str) -> None:
    assert said in notes_of(scaled(**given))


def paused(what: str) -> dict[str, Any]:
    return {"annotations": {f"autoscaling.keda.sh/{what}": "true"}}


NEVER_IN, NEVER_OUT = ({direction: {"selectPolicy": "Disabled"}} for direction in ("scaleDown", "scaleUp"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "Active"),
        (paused("paused-scale-in"), "ScaleUpOnly"),
        (paused("paused-scale-out"), "ScaleDownOnly"),
        (behaving(**NEVER_IN), "ScaleUpOnly"),
        (behaving(**NEVER_OUT), "ScaleDownOnly"),
        (behaving(scaleDown={"selectPolicy": "Max"}), "Active"),
    ],
)
def test_a_pool_acts_only_when_asked_to_and_then_only_the_way_that_keda_does(
    given: dict[str, Any], wanted: str
) -> None:
    [beside], [acting] = imported([scaled(**given)]), imported([scaled(**given)], mode="Active")
    assert (beside.pool["spec"]["mode"], acting.pool["spec"]["mode"]) == ("DryRun", wanted)
    assert f"then set mode: {wanted}" in "\n".join(beside.notes)
    assert ("NOT Active" in "\n".join(beside.notes)) is (wanted != "Active")


@pytest.mark.parametrize("given", [paused("paused"), behaving(**NEVER_IN, **NEVER_OUT)], ids=["paused", "both ways"])
def test_what_scales_no_way_is_paused_and_nothing_is_said_of_a_dry_run(given: dict[str, Any]) -> None:
    assert spec_of(scaled(**given))["mode"] == "Paused"
    assert "DryRun" not in notes_of(scaled(**given))


def test_redis_lists_of_all_priority_steps_are_one_queue() -> None:
    lists = ["mail", "mail\x06\x163", "mail\x06\x169", "other"]
    triggers = [
        {"type": "redis", "metadata": {"listName": name, "address": "redis.shop:6379", "databaseIndex": "2"}}
        for name in lists
    ]
    made = scaled(triggers=triggers)
    assert spec_of(made)["queues"] == [{"name": "mail"}, {"name": "other"}]
    assert "redis://:PASSWORD@redis.shop:6379/2" in notes_of(made)
    assert "more than one broker" not in notes_of(made)


def test_a_cron_trigger_is_a_schedule() -> None:
    cron = {"timezone": "Europe/Berlin", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "desiredReplicas": "6"}
    rabbit = {"type": "rabbitmq", "metadata": {"queueName": "mail"}}
    assert spec_of(scaled(triggers=[rabbit, {"type": "cron", "metadata": cron}]))["schedules"] == [
        {"start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "timezone": "Europe/Berlin", "minReplicas": 6}
    ]


def test_the_brokers_url_is_found_where_the_workload_has_it() -> None:
    target = {"name": "mailer", "envSourceContainerName": "worker"}
    broker = spec_of({"kind": "List", "items": [scaled(scaleTargetRef=target), DEPLOYMENT]})["broker"]
    assert broker == {"urlFrom": {"secretKeyRef": {"name": "rabbit", "key": "amqp"}}}


def test_the_brokers_url_is_found_in_the_trigger_authentication() -> None:
    trigger = {"type": "rabbitmq", "metadata": {"queueName": "mail"}, "authenticationRef": {"name": "rabbit-auth"}}
    authentication = {
        "kind": "TriggerAuthentication",
        "metadata": {"name": "rabbit-auth"},
        "spec": {"secretTargetRef": [{"parameter": "host", "name": "rabbit", "key": "host"}]},
    }
    broker = spec_of(scaled(triggers=[trigger]), authentication)["broker"]
    assert broker == {"urlFrom": {"secretKeyRef": {"name": "rabbit", "key": "host"}}}


@pytest.mark.parametrize(
    "documents",
    [[], [None, "text"], [DEPLOYMENT], [{"kind": "ScaledJob"}]],
    ids=["nothing", "no objects", "no scaler", "jobs"],
)
def test_manifests_without_a_scaled_object_are_refused(documents: list[Any]) -> None:
    with pytest.raises(NothingToImport, match="there is no ScaledObject here"):
        imported(documents)


@pytest.mark.parametrize(
    "broken", [{"kind": "ScaledObject"}, {"kind": "ScaledObject", "spec": {"triggers": "all", "scaleTargetRef": 3}}]
)
def test_a_broken_object_is_made_as_far_as_it_goes_and_its_faults_are_said(broken: dict[str, Any]) -> None:
    assert "to be mended by hand" in notes_of(broken)


def test_the_command_prints_a_manifest_with_what_is_to_be_known_above_it(tmp_path: Path) -> None:
    file = tmp_path / "keda.yaml"
    file.write_text(yaml.safe_dump_all([scaled(), scaled(minReplicaCount=3)]))

    done = CliRunner().invoke(cli, ["import", "keda", str(file)])

    assert done.exit_code == 0, done.output
    assert [pool["spec"]["minReplicas"] for pool in yaml.safe_load_all(done.output)] == [0, 3]
    assert "# - mode DryRun changes nothing beside KEDA" in done.output
    acting = CliRunner().invoke(cli, ["import", "keda", "--active", "--json", str(file)])
    assert [one["pool"]["spec"]["mode"] for one in json.loads(acting.output)] == ["Active", "Active"]


def test_the_command_says_what_is_wrong_with_its_input(tmp_path: Path) -> None:
    file = tmp_path / "keda.yaml"
    file.write_text("a: [")
    done = CliRunner().invoke(cli, ["import", "keda", str(file)])
    assert done.exit_code == 1
    assert "is not YAML" in done.output
