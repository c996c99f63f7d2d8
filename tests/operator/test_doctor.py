"""`celeriac-operator doctor`: what it finds, as tables of raw objects and against an API server here."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHARTS, objects, of_kind
from click.testing import CliRunner
from objects import autoscaler, deployment, worker_pool
from servers import RedisServer

from celeriac_operator.cli import cli
from celeriac_operator.cli.crd import definition_text
from celeriac_operator.cluster.permissions import KILLING, LEADING, NEEDS
from celeriac_operator.resources.fitness import Level, of_crd, of_pods, of_secret
from celeriac_operator.resources.labels import HANDOVER
from celeriac_operator.resources.manifests import LAST_APPLIED, of_replicas

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


def with_profile(name: str) -> dict[str, Any]:
    bare = without("CELERIAC_PROFILE")
    return {**bare, "env": [{"name": "CELERIAC_PROFILE", "value": name}, *bare["env"]]}


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
        (
            workload(without("CELERIAC_PROFILE")),
            Level.WARNING,
            "unless the image does, tasks are acknowledged before they run",
        ),
        (
            workload(with_profile("celery")),
            Level.WARNING,
            "its workers do not run with the profile kubernetes, tasks are acknowledged",
        ),
        (workload({**without("CELERIAC_P"), "envFrom": [{}]}), Level.OK, ""),
    ],
)
def test_pods_are_looked_at(given: dict[str, Any], level: Level, said: str) -> None:
    [finding] = of_pods("Deployment mail", given)
    assert finding.level is level
    assert said in finding.says
    assert bool(finding.fix) is (level is not Level.OK)


def owner(manager: str, operation: str = "Update", *fields: str) -> dict[str, Any]:
    spec = {name: {} for name in fields or ("f:replicas", "f:template")}
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": spec}}


APPLIED = {"metadata": {}, "spec": {"replicas": 3}}
#: Owners that say nothing of what comes: who wrote once, the operator itself, and whom replicas were handed to.
HARMLESS = [
    owner("kubectl-create"), owner("kubectl-edit"), owner("OpenAPI-Generator"), owner("kube-controller-manager"),
    owner("celeriac-operator"), owner("handover", "Apply"), owner("argocd-controller", "Apply", "f:template"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "recorded", "said"),
    [
        ({}, True, ""),
        ({"managedFields": HARMLESS}, True, ""),
        ({"managedFields": [owner("flux", "Apply")]}, False, "flux owns it by server-side apply"),
        ({"managedFields": [owner("helm", "Apply")]}, False, "helm owns it by server-side apply"),
        ({"managedFields": [owner("argocd-controller", "Apply")]}, True, "argocd-controller (Argo CD) owns it"),
        (
            {"managedFields": [owner("helm")]},
            True,
            "helm wrote it last, and sets it back the next time if its manifest",
        ),
        ({"managedFields": [owner("Terraform")]}, True, "Terraform wrote it last"),
        ({"managedFields": [owner("helm")]}, False, ""),
        ({"managedFields": [owner("helm")], "labels": {"helm.sh/chart": "celeriac-worker-0.1.0"}}, True, ""),
        ({"managedFields": [owner("helm")], "labels": {"helm.sh/chart": "shop-0.1.0"}}, True, "helm wrote it last"),
        ({"managedFields": [owner("kubectl-client-side-apply")]}, True, ""),
        (
            {"annotations": {LAST_APPLIED: json.dumps(APPLIED)}},
            False,
            "kubectl apply applied a manifest with replicas: 3",
        ),
        ({"annotations": {LAST_APPLIED: json.dumps({"spec": {}})}}, True, ""),
        ({"annotations": {LAST_APPLIED: "not json"}}, True, ""),
        (
            {"annotations": {LAST_APPLIED: json.dumps(APPLIED)}, "managedFields": [owner("argocd-controller")]},
            True,
            "argocd-controller (Argo CD) applied a manifest with replicas: 3",
        ),
    ],
)
def test_whose_manifest_sets_replicas_back_is_told_where_it_can_be_known(
    metadata: dict[str, Any], recorded: bool, said: str
) -> None:
    found = of_replicas("Deployment mails", {"metadata": metadata, "spec": {"replicas": 1}}, scale_recorded=recorded)

    assert (found is not None) is bool(said)
    if found is not None:
        assert said in found.says
        assert found.says.count(" sets it back") == found.says.count(" next ") == 1


def test_the_owner_that_replicas_are_handed_to_is_the_one_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs/from-a-deployment.md").read_text()
    assert f"--field-manager={HANDOVER} " in page


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
    """Of a cluster with the namespace `shop`, and the operator's account in the namespace `system`."""
    api.put("namespaces", {"metadata": {"name": "shop"}}, namespace="")
    api.put("serviceaccounts", {"metadata": {"name": "celeriac-operator"}}, namespace="system")
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
        ("error", "permissions of this user in shop", "may not update deployments.apps/scale: nothing is scaled"),
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


@pytest.mark.parametrize(
    ("version", "command"),
    [
        ("v1.20.2", "celeriac-operator crd --no-rules | kubectl apply -f -"),
        ("v1.24.9+k3s1", "celeriac-operator crd --no-rules | kubectl apply -f -"),
        ("v1.25.0", "celeriac-operator crd | kubectl apply -f -"),
        ("v1.33.1-gke.200", "celeriac-operator crd | kubectl apply -f -"),
        ("", "celeriac-operator crd | kubectl apply -f -"),
    ],
)
def test_the_kind_is_installed_as_the_clusters_version_takes_it(api, kubeconfig, version: str, command: str) -> None:
    api.version = version
    assert {finding["fix"] for finding in doctor(kubeconfig)[1] if "not installed" in finding["says"]} == {command}

    older = yaml.safe_load(definition_text())
    del older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["headroom"]
    api.put("customresourcedefinitions", older, namespace="")
    code, found = doctor(kubeconfig)

    assert code == 1
    assert {finding["fix"] for finding in found if "lacks fields" in finding["says"]} == {command}


def test_a_cluster_that_does_not_answer_is_one_finding(tmp_path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],"
        " clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {token: a}}]}"
    )
    code, found = doctor(str(file))
    assert (code, len(found)) == (2, 1)


@pytest.mark.parametrize(
    ("container", "lease"),
    [
        pytest.param({"args": ["run"]}, "", id="one replica"),
        pytest.param({"args": ["run", "--ha"]}, "celeriac-operator", id="--ha"),
        pytest.param({"args": ["run", "--ha", "--lease=system/ours"]}, "ours", id="--lease=…"),
        pytest.param({"args": ["run", "--ha", "--lease", "system/ours"]}, "ours", id="--lease …"),
        pytest.param(
            {"env": [{"name": "CELERIAC_OPERATOR_HA", "value": "true"}]}, "celeriac-operator", id="environment"
        ),
        pytest.param({"env": [{"name": "CELERIAC_OPERATOR_HA", "value": "false"}]}, "", id="switched off"),
    ],
)
def test_the_lease_is_missed_by_an_operator_that_asks_for_one(
    api, kubeconfig, redis_server: RedisServer, container: dict[str, Any], lease: str
) -> None:
    fit_installation(api, redis_server.url)
    made = deployment("operator")
    made["spec"]["template"]["spec"] = {"serviceAccountName": "celeriac-operator", "containers": [container]}
    api.put("deployments", made, namespace="system")
    other = deployment("other")
    other["spec"]["template"]["spec"] = {"serviceAccountName": "other", "containers": [{"args": ["--ha"]}]}
    api.put("deployments", other, namespace="system")
    api.denied |= {("create", "leases"), ("update", "leases")}

    code, found = doctor(kubeconfig, "--service-account", "system/celeriac-operator")

    wrong = [finding for finding in found if finding["level"] != "ok"]
    assert (code, len(wrong)) == ((1, 1) if lease else (0, 0))
    if lease:
        user = "system:serviceaccount:system:celeriac-operator"
        assert wrong[0]["subject"] == f"permissions of {user} in system"
        assert (
            wrong[0]["says"]
            == f"may not update, create leases.coordination.k8s.io {lease}: nobody leads, and nothing is done"
        )
        assert wrong[0]["fix"].splitlines()[1:] == [
            f'- {{apiGroups: ["coordination.k8s.io"], resources: [leases], resourceNames: [{lease}], verbs: [update]}}',
            '- {apiGroups: ["coordination.k8s.io"], resources: [leases], verbs: [create]}',
        ]


def test_a_namespace_that_is_not_there_is_said_and_nothing_more_is_asked_of_it(api, kubeconfig) -> None:
    code, found = doctor(kubeconfig, "-n", "nosuchns")

    assert code == 1
    assert [(finding["level"], finding["says"]) for finding in found if finding["subject"] == "namespace nosuchns"] == [
        ("error", "there is no such namespace")
    ]
    assert not any("nosuchns" in finding["subject"] for finding in found if finding["subject"] != "namespace nosuchns")


def test_that_a_namespace_may_not_be_seen_is_said_where_nothing_shows_that_it_is_there(
    api, kubeconfig, redis_server: RedisServer
) -> None:
    api.fail("GET", "/api/v1/namespaces/[^/]*$", status=403)
    fit_installation(api, redis_server.url)

    assert doctor(kubeconfig)[0] == 0
    code, found = doctor(kubeconfig, "-n", "nosuchns")

    [unknown] = [finding for finding in found if finding["level"] != "ok"]
    assert (code, unknown["level"]) == (2, "unknown")
    assert unknown["says"].startswith(
        "it has no WorkerPool, and whether it exists could not be told: this user may not"
    )


def test_an_account_that_is_not_there_is_said_instead_of_its_rights(api, kubeconfig) -> None:
    api.denied |= {("get", "pods"), ("get", "secrets")}

    code, found = doctor(kubeconfig, "--no-broker", "--service-account", "system/celeriac")

    assert code == 1
    said = [(finding["level"], finding["says"]) for finding in found if "ServiceAccount" in finding["subject"]]
    assert said == [("error", "there is no ServiceAccount celeriac in namespace system")]
    assert [finding for finding in found if "may not" in finding["says"]] == []


def test_an_account_that_may_not_be_seen_has_its_rights_asked_for(api, kubeconfig) -> None:
    api.fail("GET", "/serviceaccounts/", status=403)
    api.denied.add(("get", "pods"))

    _, found = doctor(kubeconfig, "--service-account", "system/celeriac-operator")

    assert any("whether it exists could not be told" in finding["says"] for finding in found)
    assert any("may not get pods" in finding["says"] for finding in found)


def test_rights_that_are_alike_are_one_finding_with_the_rule_that_grants_them(
    api, kubeconfig, redis_server: RedisServer
) -> None:
    fit_installation(api, redis_server.url)
    workloads = ("deployments", "replicasets", "statefulsets")
    api.denied |= {(verb, plural) for plural in workloads for verb in ("get", "list", "watch")} | {("watch", "pods")}

    _, found = doctor(kubeconfig, "--no-broker", "--service-account", "system/celeriac-operator")

    user = "system:serviceaccount:system:celeriac-operator"
    wrong = [finding for finding in found if finding["level"] != "ok"]
    assert {finding["subject"] for finding in wrong} == {f"permissions of {user} in shop"}
    assert [finding["says"] for finding in wrong] == [
        "may not get, list, watch deployments.apps, replicasets.apps, statefulsets.apps: targets are not seen",
        "may not watch pods: pods are not seen",
    ]
    assert wrong[0]["fix"].endswith(
        f"bind a Role of namespace shop to {user}, with these rules:\n"
        '- {apiGroups: ["apps"], resources: [deployments, replicasets, statefulsets], verbs: [get, list, watch]}'
    )


def test_an_account_without_any_right_is_one_finding_with_the_whole_role(
    api, kubeconfig, redis_server: RedisServer
) -> None:
    fit_installation(api, redis_server.url)
    api.denied |= {(verb, need.resource.partition("/")[0]) for need in NEEDS for verb in need.verbs}

    _, found = doctor(kubeconfig, "--no-broker", "--service-account", "system/celeriac-operator")

    [wrong] = [finding for finding in found if finding["level"] != "ok"]
    assert wrong["says"] == "has none of the rights that the operator needs there"
    rules = yaml.safe_load(wrong["fix"].partition("rules:\n")[2])
    granted = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(need.group, need.resource, verb) for need in NEEDS for verb in need.verbs}


def test_who_sets_replicas_back_is_found_on_the_target(api, kubeconfig, redis_server: RedisServer) -> None:
    fit_installation(api, redis_server.url)
    made = api.get("deployments", "mails")
    made["metadata"]["managedFields"] = [owner("kustomize-controller", "Apply")]
    api.put("deployments", made)

    code, found = doctor(kubeconfig)

    [wrong] = [finding for finding in found if finding["level"] != "ok"]
    assert (code, wrong["level"], wrong["subject"]) == (0, "warning", "WorkerPool shop/mails, Deployment mails")
    assert "kustomize-controller (Flux) owns it by server-side apply" in wrong["says"]
    assert "docs/from-a-deployment.md" in wrong["fix"]


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
    api.denied |= {("get", "pods"), ("list", "pods")}
    done = CliRunner().invoke(cli, ["doctor", "--kubeconfig", kubeconfig, "--no-broker"])
    assert "ok       Kubernetes API: " in done.output
    assert "         to do: celeriac-operator crd --no-rules | kubectl apply -f -\n" in done.output
    assert '\n           - {apiGroups: [""], resources: [pods], verbs: [get, list]}\n' in done.output
    assert "2 error" in done.output
