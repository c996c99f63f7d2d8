"""What a raw workload says, and writes to its scale."""

from typing import Any

import pytest
from objects import deployment, replica_set, stateful_set

from celeriac_operator.cluster.workloads import (
    path_of,
    replaces_pods,
    replicas_manager,
    selector_text,
    workload_of,
    write_scale,
)
from celeriac_operator.errors import Conflict, NotFound


def _stored(body, **metadata):
    body["metadata"] |= {"namespace": "shop", "uid": "u1", "resourceVersion": "7", **metadata}
    return body


def test_a_deployment_tells_its_replicas_and_its_pods_grace():
    workload = workload_of(_stored(deployment(replicas=3, ready=2), generation=4))

    assert (workload.kind, workload.name, workload.uid, workload.resource_version) == ("Deployment", "mails", "u1", "7")
    assert (workload.replicas, workload.ready_replicas, workload.grace_s) == (3, 2, 45.0)
    assert (workload.generation, workload.observed_generation) == (4, 1)


def test_absent_replicas_mean_one_and_absent_grace_thirty_seconds():
    body = _stored(stateful_set())
    del body["spec"]["replicas"]

    workload = workload_of(body)

    assert (workload.replicas, workload.grace_s) == (1, 30.0)


def test_zero_replicas_and_zero_grace_are_not_absent():
    body = _stored(deployment(replicas=0))
    body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 0

    workload = workload_of(body)

    assert (workload.replicas, workload.grace_s) == (0, 0.0)


def test_a_replica_set_knows_its_deployment():
    owner = {"kind": "Deployment", "metadata": {"name": "mails", "uid": "d1"}}

    assert workload_of(_stored(replica_set("mails-1", owner=owner))).owner == "d1"


@pytest.mark.parametrize(
    ("kind", "spec", "status", "replacing"),
    [
        pytest.param("Deployment", {}, {"replicas": 3, "updatedReplicas": 3}, False, id="all pods are new"),
        pytest.param("Deployment", {}, {"replicas": 4, "updatedReplicas": 1}, True, id="old pods live"),
        pytest.param("Deployment", {}, {}, False, id="no pods at all"),
        pytest.param(
            "StatefulSet",
            {},
            {"replicas": 3, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            True,
            id="a StatefulSet's older pods live",
        ),
        pytest.param(
            "StatefulSet",
            {},
            {"replicas": 3, "updatedReplicas": 0, "currentRevision": "a", "updateRevision": "a"},
            False,
            id="a StatefulSet without an update counts no updated pods",
        ),
        pytest.param(
            "StatefulSet",
            {"updateStrategy": {"type": "OnDelete"}},
            {"replicas": 3, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            False,
            id="OnDelete keeps old pods on purpose",
        ),
        pytest.param(
            "StatefulSet",
            {"updateStrategy": {"rollingUpdate": {"partition": 2}}},
            {"replicas": 3, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
            False,
            id="a partition keeps old pods on purpose",
        ),
        pytest.param("ReplicaSet", {}, {"replicas": 3}, False, id="a ReplicaSet replaces nothing"),
    ],
)
def test_a_rolling_update_is_seen_in_the_status(kind, spec, status, replacing):
    assert replaces_pods(kind, spec, status) is replacing


def test_a_stateful_sets_first_ordinal_is_read():
    body = _stored(stateful_set())
    plain = workload_of(body)
    body["spec"]["ordinals"] = {"start": 10}

    shifted = workload_of(body)

    assert (plain.first_ordinal, shifted.first_ordinal) == (0, 10)


@pytest.mark.parametrize(
    ("body", "policy", "ordered"),
    [
        pytest.param(stateful_set(), None, True, id="a StatefulSet that says nothing"),
        pytest.param(stateful_set(), "OrderedReady", True, id="a StatefulSet that says so"),
        pytest.param(stateful_set(), "Parallel", False, id="a StatefulSet that says otherwise"),
        pytest.param(deployment(), None, False, id="a Deployment"),
    ],
)
def test_a_stateful_set_does_one_pod_at_a_time_unless_it_says_otherwise(body, policy, ordered):
    stored = _stored(body)
    if policy is not None:
        stored["spec"]["podManagementPolicy"] = policy

    assert workload_of(stored).ordered is ordered


def _entry(manager, at, *fields):
    return {"manager": manager, "time": at, "fieldsV1": {"f:spec": {f"f:{name}": {} for name in fields}}}


@pytest.mark.parametrize(
    ("entries", "manager"),
    [
        pytest.param([], "", id="nothing recorded"),
        pytest.param([_entry("kubectl", "2026-11-22T10:00:00Z", "template")], "", id="another field"),
        pytest.param([_entry("argocd", "2026-11-22T10:00:00Z", "replicas", "template")], "argocd", id="one writer"),
        pytest.param(
            [_entry("argocd", "2026-11-22T11:00:00Z", "replicas"), _entry("helm", "2026-11-22T10:00:00Z", "replicas")],
            "argocd",
            id="the latest of two",
        ),
        pytest.param([{"manager": "x", "fieldsV1": {"f:metadata": {}}}], "", id="no spec at all"),
    ],
)
def test_the_last_writer_of_replicas_is_read_from_managed_fields(entries, manager):
    assert replicas_manager(entries)[0] == manager


def test_a_quota_that_refuses_pods_is_told():
    body = _stored(deployment())
    failure = {"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: small'}
    body["status"]["conditions"] = [failure]

    assert "exceeded quota: small" in workload_of(body).quota_exceeded


def test_the_scale_is_written_with_the_version_that_was_read(api, client):
    api.put("deployments", deployment(replicas=2))
    workload = _read(client)

    version = write_scale(client, workload, replicas=5, resource_version=workload.resource_version)

    stored = api.get("deployments", "mails")
    assert stored["spec"]["replicas"] == 5
    assert stored["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 45
    assert version == stored["metadata"]["resourceVersion"]
    ((path, body),) = api.sent("PUT")
    assert path.endswith("/deployments/mails/scale")
    assert body["metadata"]["resourceVersion"] == workload.resource_version


def test_a_workload_that_changed_since_is_not_written(api, client):
    api.put("deployments", deployment(replicas=2))
    workload = _read(client)
    api.put("deployments", deployment(replicas=3))

    with pytest.raises(Conflict, match="the object has been modified"):
        write_scale(client, workload, replicas=5, resource_version=workload.resource_version)

    assert api.get("deployments", "mails")["spec"]["replicas"] == 3


def test_a_workload_that_is_gone_is_not_found(client):
    with pytest.raises(NotFound, match='deployments "mails" not found'):
        write_scale(client, workload_of(_stored(deployment())), replicas=5, resource_version="7")


def _read(client):
    return workload_of({**client.get(path_of("shop", "Deployment", "mails")), "kind": "Deployment"})


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({}, ""),
        ({"matchLabels": {"b": "2", "a": "1"}}, "a=1,b=2"),
        (
            {
                "matchLabels": {"a": "1"},
                "matchExpressions": [
                    {"key": "tier", "operator": "In", "values": ["y", "x"]},
                    {"key": "old", "operator": "NotIn", "values": ["yes"]},
                    {"key": "app", "operator": "Exists"},
                    {"key": "gone", "operator": "DoesNotExist"},
                ],
            },
            "a=1,tier in (x,y),old notin (yes),app,!gone",
        ),
    ],
    ids=["none", "labels", "expressions"],
)
def test_a_selector_is_told_as_kubectl_takes_it(selector: dict[str, Any], text: str) -> None:
    assert selector_text(selector) == text
