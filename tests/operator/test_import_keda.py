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
ROLLOUT = {"name": "r", "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"}
SENTINEL = {
    "type": "redis-sentinel",
    "metadata": {"listName": "a", "addresses": "s1:26379,s2:26379", "sentinelMaster": "main"},
}
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
        ({"advanced": {"restoreToOriginalReplicaCount": True}}, "first kubectl patch scaledobject mailer -n shop --type merge -p"),
        ({"scaleTargetRef": ROLLOUT}, "is argoproj.io/v1alpha1 Rollout; a pool scales a Deployment"),
        ({"minReplicaCount": 200, "triggers": []}, "spec.minReplicas is 200, above maxReplicas 100"),
        ({"minReplicaCount": 200}, "spec.minReplicas is 200, above maxReplicas 100"),
        ({"triggers": [{"type": "rabbitmq", "metadata": {"queueName": "a", "host": "http://h:15672/vh"}}]}, "protocol http is the management API"),
        ({"triggers": [SENTINEL]}, "Sentinel at s1:26379, s2:26379: a pool cannot name the master main"),
        ({"triggers": [{"type": "redis-cluster", "metadata": {"listName": "a", "addresses": "n1:6379,n2:6379"}}]}, "redis://:PASSWORD@n1:6379/0"),
        ({"triggers": [{"type": "redis", "metadata": {"listName": "a", "host": "h", "port": "6380", "enableTLS": "true"}}]}, "rediss://:PASSWORD@h:6380/0"),
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


RABBIT_AUTH = {
    "kind": "TriggerAuthentication",
    "metadata": {"name": "rabbit-auth"},
    "spec": {"secretTargetRef": [{"parameter": "host", "name": "rabbit", "key": "host"}]},
}


def worker(*words: str, container: str = "worker", **variables: Any) -> dict[str, Any]:
    """A Deployment whose second container runs these words. variables: text, or {name, key} of a Secret."""
    env = [
        {"name": name, "value": value}
        if isinstance(value, str)
        else {"name": name, "valueFrom": {"secretKeyRef": value}}
        for name, value in variables.items()
    ]
    containers = [{"name": "proxy", "args": ["-c", "9"]}, {"name": container, "args": list(words), "env": env}]
    return {
        "kind": "Deployment",
        "metadata": {"name": "mailer"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }


def rabbit(**metadata: str) -> dict[str, Any]:
    return {
        "type": "rabbitmq",
        "metadata": {"queueName": "mail", **metadata},
        "authenticationRef": {"name": "rabbit-auth"},
    }


def test_the_management_api_is_not_taken_for_the_broker() -> None:
    made = scaled(triggers=[rabbit(protocol="http")])

    assert spec_of(made, RABBIT_AUTH)["broker"] == {
        "urlFrom": {"secretKeyRef": {"name": "mailer-broker", "key": "url"}},
        "managementUrlFrom": {"secretKeyRef": {"name": "rabbit", "key": "host"}},
    }
    assert spec_of(made, RABBIT_AUTH, worker("celery", "worker", CELERY_BROKER_URL={"name": "celery", "key": "url"}))[
        "broker"
    ] == {
        "urlFrom": {"secretKeyRef": {"name": "celery", "key": "url"}},
        "managementUrlFrom": {"secretKeyRef": {"name": "rabbit", "key": "host"}},
    }


def test_the_brokers_url_is_found_where_the_workers_read_it() -> None:
    trigger = {"type": "redis", "metadata": {"listName": "mail", "addressFromEnv": "REDIS_ADDR"}}
    own = {"name": "celery", "key": "url"}

    known = [
        scaled(triggers=[trigger]),
        worker("celery", "worker", REDIS_ADDR="redis.shop:6379", CELERY_BROKER_URL=own),
    ]
    unknown = [scaled(triggers=[trigger]), worker("celery", "worker", REDIS_ADDR="redis.shop:6379")]

    assert spec_of(*known)["broker"] == {"urlFrom": {"secretKeyRef": own}}
    assert "make a Secret" not in notes_of(*known)
    assert "redis://:PASSWORD@redis.shop:6379/0" in notes_of(*unknown)


@pytest.mark.parametrize(
    ("words", "slots"),
    [
        (["celery", "worker", "-c", "8"], 8),
        (["celery", "-A", "shop", "worker", "-c8"], 8),
        (["celery", "worker", "--concurrency", "8"], 8),
        (["celery", "worker", "--concurrency=8"], 8),
        (["sh", "-c", "exec celery -A shop worker -c 8"], 8),
        (["celery", "worker"], None),
        (["celery", "worker", "-c", "$(N)"], None),
        (["sh", "-c", "celery 'worker -c"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_workers_slots_are_those_of_the_pool_and_of_the_ratio(words: list[str], slots: int | None) -> None:
    documents = scaled(), worker(*words)

    assert spec_of(*documents).get("concurrency") == slots
    assert ("target: 2} (20 / 8 slots is 2.5" in notes_of(*documents)) is (slots == 8)


@pytest.mark.parametrize(
    ("words", "stock"),
    [
        (["celery", "-A", "shop", "worker"], True),
        (["sh", "-c", "exec /opt/venv/bin/celery -A shop worker -c 8"], True),
        (["python", "-m", "celery", "worker"], True),
        (["celeriac", "-A", "shop.celery", "worker"], False),
        (["celeriac", "worker", "-Q", "celery"], False),
        (["celery", "beat"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_that_workers_of_celerys_own_know_no_drain_is_said(words: list[str], stock: bool) -> None:
    assert ("which know no drain" in notes_of(scaled(), worker(*words))) is stock


def test_a_target_is_a_whole_number_from_one() -> None:
    few = {"type": "redis", "metadata": {"listName": "mail", "listLength": "5"}}

    said = notes_of(scaled(triggers=[few]), worker("celery", "worker", "-c", "8"))

    assert "objective: {type: Backlog, target: 1} (5 / 8 slots is 0.625; a target is a whole number from 1 on)" in said


def test_a_pattern_is_no_queue_but_means_some_of_the_workers() -> None:
    made = scaled(triggers=[rabbit(queueName="^tenant-.*$", useRegex="true")])

    [alone] = imported([made])
    assert alone.pool["spec"]["queues"] == []
    assert spec_of(made, worker("celery", "worker", "-Q", "tenant-a,mail,tenant-b"))["queues"] == [
        {"name": "tenant-a"},
        {"name": "tenant-b"},
    ]


def test_a_workload_of_another_namespace_is_not_read() -> None:
    other = worker("celery", "worker", "-c", "8")
    other["metadata"]["namespace"] = "elsewhere"

    assert "concurrency" not in spec_of(scaled(), other)


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


_ODD = {"scaleUp": {"policies": [{"type": ["Pods"], "value": 1}]}, "scaleDown": {"selectPolicy": ["Min"]}}


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": "ScaledObject"},
        {"kind": "ScaledObject", "spec": {"triggers": "all", "scaleTargetRef": 3}},
        {"kind": "ScaledObject", "spec": {"advanced": {"horizontalPodAutoscalerConfig": {"behavior": _ODD}}}},
    ],
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


def test_the_command_sums_up_what_cannot_be_applied_and_what_is_left_out(tmp_path: Path) -> None:
    job = {"kind": "ScaledJob", "metadata": {"name": "batch", "namespace": "shop"}}
    file = tmp_path / "keda.yaml"
    file.write_text(yaml.safe_dump_all([scaled(), scaled(triggers=[]), job]))

    done = CliRunner().invoke(cli, ["import", "keda", str(file)])

    assert done.exit_code == 1
    assert len(list(yaml.safe_load_all(done.stdout))) == 2
    assert done.stdout.count("# ScaledObject shop/mailer:\n") == 2
    assert done.stderr == (
        "left out: ScaledJob shop/batch: a ScaledJob starts a Job a message, which a pool of workers does not\n"
        "Error: 1 of 2 pools cannot be applied as they stand; mend by hand:\n"
        "  ScaledObject shop/mailer: spec.queues has 0 entries, may have 1 to 64\n"
    )


def test_no_name_breaks_out_of_a_comment(tmp_path: Path) -> None:
    file = tmp_path / "keda.yaml"
    file.write_text(yaml.safe_dump(scaled(triggers=[rabbit(queueName="a\nkind: Secret", useRegex="true"), rabbit()])))

    done = CliRunner().invoke(cli, ["import", "keda", str(file)])

    assert [one["kind"] for one in yaml.safe_load_all(done.stdout)] == ["WorkerPool"]
    assert "\nkind: Secret" not in done.stdout


@pytest.mark.parametrize("content", [b"a: [", b"a: \xff\xfe\xfa", b"2026-13-01"])
def test_the_command_says_which_file_is_no_yaml(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keda.yaml"
    file.write_bytes(content)

    done = CliRunner().invoke(cli, ["import", "keda", str(file)])

    assert done.exit_code == 1
    assert f"Error: {file} is not YAML" in done.output
