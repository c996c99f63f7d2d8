"""`celeriac-operator doctor`: what it finds, as tables of raw objects and against an API server here."""

import json
from base64 import b64encode
from typing import Any

import pytest
import yaml
from charts import CHARTS, objects, of_kind
from click.testing import CliRunner
from objects import autoscaler, deployment, worker_pool
from servers import RedisServer

from celeriac_operator.cli import cli
from celeriac_operator.cli.crd import definition_text
from celeriac_operator.cluster.checkup import KILLING, LEADING, NEEDS
from celeriac_operator.resources.fitness import Level, of_crd, of_pods, of_secret

FIT = {
    "name": "worker",
    "env": [
        {"name": "CELERIAC_PROFILE", "value": "kubernetes"},
        {"name": "CELERIAC_WORKER_SHUTDOWN_GRACE_S", "value": "40"},
        *({"name": f"CELERIAC_POD_{part}", "valueFrom": {}} for part in ("NAMESPACE", "NAME", "UID")),
    ],
    "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}},
}


def workload(*containers: dict[str, Any], grace_s: int | None = 45) -> dict[str, Any]:
    pod: dict[str, Any] = {"containers": list(containers)}
    if grace_s is not None:
        pod["terminationGracePeriodSeconds"] = grace_s
    return {"spec": {"template": {"spec": pod}}}


def without(name: str) -> dict[str, Any]:
    return {**FIT, "env": [entry for entry in FIT["env"] if not entry["name"].startswith(name)]}


def test_fit_pods_are_one_finding() -> None:
    [finding] = of_pods("Deployment mail", workload({"name": "proxy"}, FIT))
    assert finding.level is Level.OK


@pytest.mark.parametrize(
    ("given", "level", "said"),
    [
        (workload(), Level.ERROR, "has no container"),
        (workload(FIT, grace_s=40), Level.ERROR, "take up to 40 s to end and the kubelet kills them after 40 s"),
        (workload(without("CELERIAC_WORKER_SHUTDOWN"), grace_s=None), Level.OK, ""),
        (workload(without("CELERIAC_WORKER_SHUTDOWN"), grace_s=20), Level.ERROR, "take up to 25 s"),
        (workload(without("CELERIAC_WORKER_SHUTDOWN"), grace_s=600), Level.WARNING, "give up after 25 s all the same"),
        (workload({**FIT, "readinessProbe": {"exec": {}}}), Level.WARNING, "no readiness probe on /readyz"),
        (workload(without("CELERIAC_POD")), Level.WARNING, "CELERIAC_POD_NAME"),
        (workload(without("CELERIAC_PROFILE")), Level.WARNING, "acknowledged before they run"),
        (workload({**without("CELERIAC_P"), "envFrom": [{}]}), Level.OK, ""),
    ],
)
def test_pods_are_looked_at(given: dict[str, Any], level: Level, said: str) -> None:
    [finding] = of_pods("Deployment mail", given)
    assert finding.level is level
    assert said in finding.says
    assert bool(finding.fix) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("secret", "level", "said"),
    [
        (None, Level.ERROR, "does not exist"),
        ({"data": {"uri": "x"}}, Level.ERROR, "names the key 'url', the Secret has: uri"),
        ({}, Level.ERROR, "the Secret has: none"),
        ({"data": {"url": "cGFzc3dvcmQ="}}, Level.OK, "has the key 'url'"),
    ],
)
def test_secrets_are_looked_at_by_their_keys_alone(secret: Any, level: Level, said: str) -> None:
    finding = of_secret("WorkerPool shop/mail", "spec.broker.urlFrom", "url", secret)
    assert (finding.level, said in finding.says) == (level, True)
    assert "password" not in str(finding)


def test_a_crd_that_lacks_fields_is_told_from_one_without_rules() -> None:
    ours = yaml.safe_load(definition_text())
    assert of_crd(ours, ours).level is Level.OK
    older = yaml.safe_load(definition_text())
    del older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["headroom"]
    finding = of_crd(older, ours)
    assert (finding.level, finding.says) == (Level.ERROR, "it lacks fields of this version: spec.headroom")


def test_the_permissions_asked_for_are_the_charts_role() -> None:
    values = {
        "drain": {"annotatePods": True, "killPods": True}, "secrets": {"allowed": ["broker"]}, "ha": {"enabled": True}
    }  # fmt: skip
    roles = of_kind("Role", objects(CHARTS / "celeriac-operator", values))
    granted = {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if resource != "secrets"
    }
    needs = (*NEEDS, KILLING, LEADING)
    assert {(need.group, need.resource, verb) for need in needs for verb in need.verbs} == granted


# -- against an API server


@pytest.fixture
def kubeconfig(api, tmp_path):
    file = tmp_path / "kubeconfig"
    context = {"name": "here", "context": {"cluster": "one", "user": "me", "namespace": "shop"}}
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "here", "contexts": [context],
                "clusters": [{"name": "one", "cluster": {"server": api.url}}], "users": [{"name": "me", "user": {"token": "sesame"}}],
            }
        )
    )  # fmt: skip
    return str(file)


def doctor(kubeconfig: str, *options: str) -> tuple[int, list[dict[str, str]]]:
    done = CliRunner().invoke(cli, ["doctor", "--kubeconfig", kubeconfig, "--json", *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


def fit_installation(api, url: str, **spec: Any) -> None:
    api.put("customresourcedefinitions", yaml.safe_load(definition_text()), namespace="")
    api.put("secrets", {"metadata": {"name": "broker"}, "data": {"url": b64encode(url.encode()).decode()}})
    made = deployment("mails")
    made["spec"]["template"]["spec"] |= {"containers": [FIT]}
    api.put("deployments", made)
    broker = {"urlFrom": {"secretKeyRef": {"name": "broker", "key": "url"}}}
    pool = worker_pool(broker=broker, **spec)
    pool["status"] = {"conditions": [{"type": "Ready", "status": "True"}], "decision": {"summary": "1 replica"}}
    api.put("workerpools", pool)


def test_a_fit_installation_is_told_so(api, kubeconfig, redis_server: RedisServer) -> None:
    fit_installation(api, redis_server.url)

    code, found = doctor(kubeconfig)

    assert [finding for finding in found if finding["level"] != "ok"] == []
    assert code == 0
    assert any("its broker answers: mails 0 ready, 0 dead" in finding["says"] for finding in found)


def test_what_is_wrong_is_found_with_what_to_do(api, kubeconfig) -> None:
    fit_installation(api, "redis://:hunter2@127.0.0.1:1/0")
    api.put("workerpools", worker_pool("broken", minReplicas=3, maxReplicas=2))
    api.put(
        "workerpools",
        worker_pool("lost", target="nothing", broker={"urlFrom": {"secretKeyRef": {"name": "gone", "key": "url"}}}),
    )
    api.put("horizontalpodautoscalers", autoscaler("old", target="mails"))
    budget = {"metadata": {"name": "tight"}, "spec": {"maxUnavailable": 0, "selector": {}}}
    api.put("poddisruptionbudgets", budget)
    api.denied |= {("update", "deployments"), ("list", "scaledobjects")}

    code, found = doctor(kubeconfig)

    said = {
        (finding["level"], finding["subject"].removeprefix("WorkerPool shop/"), finding["says"]) for finding in found
    }
    assert code == 1
    expected = [
        ("error", "broken", "spec.minReplicas is 3, above maxReplicas 2"),
        ("error", "lost", "there is no Deployment nothing"),
        ("error", "lost", "spec.broker.urlFrom names a Secret that does not exist"),
        ("error", "lost", "no operator has looked at it"),
        ("error", "mails", "scaled by HorizontalPodAutoscaler old too"),
        ("warning", "mails", "PodDisruptionBudget tight (maxUnavailable 0 of 10 replicas) allows no eviction"),
        ("unknown", "mails", "its broker cannot be reached from here"),
        ("error", "permissions of this user in shop", "may not update deployments/scale.apps: nothing is scaled"),
        ("warning", "permissions of this user in shop", "may not list scaledobjects.keda.sh"),
    ]
    for level, subject, words in expected:
        assert any((level, subject) == one[:2] and words in one[2] for one in said), (level, subject, words)
    assert "hunter2" not in json.dumps(found)
    assert all(finding["fix"] for finding in found if finding["level"] != "ok")


def test_workers_that_heed_no_commands_are_found_with_what_to_set(api, kubeconfig, redis_server: RedisServer) -> None:
    fit_installation(api, redis_server.url)
    pool = api.get("workerpools", "mails")
    message = "2 pods demand signed commands (a, b), and the operator has no key"
    pool["status"]["conditions"].append(
        {"type": "CommandsNotHeeded", "status": "True", "reason": "SigningKeyMissing", "message": message}
    )
    api.put("workerpools", pool)

    code, found = doctor(kubeconfig)

    [wrong] = [finding for finding in found if finding["level"] != "ok"]
    assert (code, wrong["level"]) == (1, "error")
    assert wrong["says"] == f"its workers are not drained: SigningKeyMissing: {message}"
    assert "signing.secretName" in wrong["fix"]


def test_without_the_kind_it_says_how_to_install_it(api, kubeconfig) -> None:
    code, found = doctor(kubeconfig, "--no-broker")
    assert code == 1
    assert {finding["fix"] for finding in found if "not installed" in finding["says"]} == {
        "celeriac-operator crd | kubectl apply -f -"
    }


def test_a_cluster_that_does_not_answer_is_one_finding(tmp_path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],"
        " clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {token: a}}]}"
    )
    code, found = doctor(str(file))
    assert (code, len(found)) == (2, 1)


def test_the_lease_is_asked_for_in_the_operators_own_namespace(api, kubeconfig, redis_server: RedisServer) -> None:
    fit_installation(api, redis_server.url)
    api.denied.add(("update", "leases"))

    code, found = doctor(kubeconfig, "--service-account", "system/celeriac-operator")

    [warned] = [finding for finding in found if finding["level"] != "ok"]
    assert (code, warned["level"]) == (0, "warning")
    assert warned["subject"] == "permissions of system:serviceaccount:system:celeriac-operator in system"
    assert "may not update leases.coordination.k8s.io celeriac-operator: with ha.enabled" in warned["says"]


def test_each_secret_that_a_pool_names_is_asked_for_on_behalf_of_the_operators_account(
    api, kubeconfig, redis_server: RedisServer
) -> None:
    fit_installation(api, redis_server.url)
    user, account = "system:serviceaccount:system:celeriac-operator", "system/celeriac-operator"

    assert doctor(kubeconfig, "--no-broker", "--service-account", account)[0] == 0
    api.denied.add(("get", "secrets"))
    code, found = doctor(kubeconfig, "--no-broker", "--service-account", account)

    assert code == 1
    [error] = [finding for finding in found if finding["level"] == "error"]
    assert error["subject"] == f"WorkerPool shop/mails: {user}"
    assert error["says"] == "may not get secrets broker: its pool is not served"
    assert "secrets.allowed" in error["fix"]


@pytest.mark.parametrize(("policy", "warned"), [("Requeue", 0), ("Kill", 1)])
def test_the_right_to_delete_pods_is_missed_by_pools_that_use_it(
    api, kubeconfig, redis_server: RedisServer, policy: str, warned: int
) -> None:
    fit_installation(api, redis_server.url, scaleDown={"onDrainTimeout": policy})
    api.denied.add(("delete", "pods"))

    _, found = doctor(kubeconfig)

    said = [(finding["level"], finding["subject"]) for finding in found if "may not delete pods" in finding["says"]]
    assert said == [("warning", "WorkerPool shop/mails")] * warned


def test_of_two_pools_on_one_target_the_younger_keeps_its_hands_off(api, kubeconfig) -> None:
    for name, stamp in (("new", "2026-11-22T11:00:00Z"), ("old", "2026-11-22T10:00:00Z")):
        pool = worker_pool(name)
        pool["metadata"]["creationTimestamp"] = stamp
        api.put("workerpools", pool)
    api.put("deployments", deployment("mails"))

    _, found = doctor(kubeconfig, "--no-broker")

    said = [(finding["subject"], finding["says"]) for finding in found if "keeps its hands off" in finding["says"]]
    assert said == [
        ("WorkerPool shop/new", "Deployment mails is scaled by WorkerPool old too: the pool keeps its hands off")
    ]


def test_it_reads_as_lines_for_people(api, kubeconfig) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--kubeconfig", kubeconfig, "--no-broker"])
    assert "ok       Kubernetes API: " in done.output
    assert "to do: celeriac-operator crd | kubectl apply -f -" in done.output
    assert "1 error" in done.output
