"""What the charts render: valid on every Kubernetes they claim, restricted, namespaced, the same each time."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from charts import NEEDED, OPERATOR, WORKER, objects, of_kind, pod_specs, rendered, the
from helm_python import lint
from kubernetes_validate import utils as schemas

from celeriac_operator.cli import cli
from celeriac_operator.resources.fitness import secrets_of
from celeriac_operator.resources.spec import WorkerPoolSpec

#: Oldest and newest of which schemas are at hand, and two between.
VERSIONS = ("1.25.0", "1.29.0", "1.33.0", "1.37.0")

CASES: Mapping[str, tuple[Path, Mapping[str, Any]]] = {
    "operator, defaults": (OPERATOR, {}),
    "operator, cluster-wide": (OPERATOR, {"scope": "cluster", "secrets": {"allowed": ["redis"]}}),
    "operator, two namespaces": (OPERATOR, {"watchNamespaces": ["b", "a", "b"], "secrets": {"allowed": ["x", "y"]}}),
    "operator, signing": (OPERATOR, {"signing": {"secretName": "operator-key", "password": "password", "digest": "sha512"}}),
    "operator, highly available": (OPERATOR, {"replicas": 2, "ha": {"enabled": True}}),
    "operator, all monitors": (
        OPERATOR,
        {
            "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}, "scrapeTimeout": "5s"}},
            "prometheusRule": {"enabled": True, "runbookBaseUrl": "https://runbooks.example/celeriac/"},
            "dashboards": {"annotations": {"grafana_folder": "Celeriac"}, "namespace": "monitoring"},
        },
    ),
    "operator, nothing optional": (
        OPERATOR,
        {
            "crds": {"install": False},
            "dashboards": {"enabled": False},
            "networkPolicy": {"enabled": False},
            "rbac": {"create": False},
            "serviceAccount": {"create": False},
            "drain": {"annotatePods": False},
        },
    ),
    "operator, every extra": (
        OPERATOR,
        {
            "image": {"registry": "registry.example", "digest": "sha256:" + "0" * 64},
            "imagePullSecrets": [{"name": "pull"}],
            "commonLabels": {"team": "shop"},
            "podLabels": {"tier": "control"},
            "podAnnotations": {"note": "1"},
            "extraArgs": ["--x=1"],
            "extraEnv": [{"name": "A", "value": "b"}],
            "extraEnvFrom": [{"configMapRef": {"name": "env"}}],
            "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
            "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
            "extraObjects": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x-{{ .Release.Name }}"}},
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\n",
            ],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
            ],
            "priorityClassName": "high",
            "networkPolicy": {"from": [{"namespaceSelector": {}}], "extraIngress": [{"ports": [{"port": 9}]}]},
        },
    ),
    "worker, defaults": (WORKER, {}),
    "worker, with beat": (WORKER, {"beat": {"enabled": True}, "metrics": {"podMonitor": {"enabled": True}}}),
    "worker, no pool": (WORKER, {"pool": {"enabled": False}, "replicas": 3}),
    "worker, own command": (WORKER, {"app": "", "command": ["celery"], "extraArgs": ["-A", "shop", "worker"]}),
    "worker, every extra": (
        WORKER,
        {
            "image": {"registry": "registry.example", "digest": "sha256:" + "0" * 64},
            "worker": {"queues": ["a", "b"], "concurrency": 4, "executionPool": "solo", "logLevel": "debug"},
            "resultBackend": {"existingSecret": "results"},
            "operator": {"serviceAccount": "celeriac-operator", "namespace": "celeriac"},
            "pool": {"name": "shop", "minReplicas": 1, "maxReplicas": 20, "objective": {"seconds": 30}},
            "metrics": {"podMonitor": {"enabled": True}},
            "softAntiAffinity": True,
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
            "podDisruptionBudget": {"maxUnavailable": 1},
            "resources": {"limits": {"cpu": 2, "memory": "1Gi"}},
            "extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        },
    ),
}  # fmt: skip

#: Kinds that come from a CustomResourceDefinition: test_crd.py and the monitors' own tests look at them.
CUSTOM = {"WorkerPool", "ServiceMonitor", "PodMonitor", "PrometheusRule"}

#: What Kubernetes 1.20 serves of the kinds that we render.
IN_1_20 = {
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1beta1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("v1", "ConfigMap"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
}

each_case = pytest.mark.parametrize(("chart", "values"), CASES.values(), ids=CASES)


@pytest.fixture(scope="module", autouse=True)
def read_each_schema_once() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(schemas, "schema_contents", cache(schemas.schema_contents))
    yield
    patch.undo()


@each_case
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_on(version: str, chart: Path, values: Mapping[str, Any]) -> None:
    found = objects(chart, {**values, "kubeVersion": version})

    for item in found:
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)

    assert found


@each_case
def test_kubernetes_1_20_serves_every_kind_rendered_for_it(chart: Path, values: Mapping[str, Any]) -> None:
    found = objects(chart, {**values, "kubeVersion": "v1.20.2"})

    kinds = {(item["apiVersion"], item["kind"]) for item in found if item["kind"] not in CUSTOM}

    assert kinds <= IN_1_20


@each_case
def test_every_pod_meets_the_restricted_standard(chart: Path, values: Mapping[str, Any]) -> None:
    found = objects(chart, values)
    for spec in (*pod_specs(found), *(pod["spec"] for pod in of_kind("Pod", found))):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(set(volume) & {"emptyDir", "configMap", "secret"} for volume in spec["volumes"])
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", ()))
            assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"]


@each_case
def test_every_object_has_the_recommended_labels(chart: Path, values: Mapping[str, Any]) -> None:
    extra = {"x-rel", "y"}  # extraObjects are the user's
    for item in objects(chart, values):
        if item["metadata"]["name"] not in extra:
            labels = item["metadata"]["labels"]
            suffix = "-test" if item["kind"] == "Pod" else ""
            assert labels["app.kubernetes.io/name"] == chart.name + suffix
            assert labels["app.kubernetes.io/instance"] == "rel"
            assert labels["app.kubernetes.io/managed-by"] == "Helm"
            assert labels["helm.sh/chart"] == f"{chart.name}-0.1.0"


@each_case
def test_no_image_is_named_latest_or_without_a_version(chart: Path, values: Mapping[str, Any]) -> None:
    for spec in pod_specs(objects(chart, values)):
        for container in spec["containers"]:
            name, _, version = container["image"].rpartition("@" if "@" in container["image"] else ":")

            assert name
            assert version not in {"", "latest"}


@each_case
def test_two_renders_are_identical(chart: Path, values: Mapping[str, Any]) -> None:
    assert rendered(chart, values) == rendered(chart, values)


@each_case
def test_only_the_cluster_scope_makes_objects_of_the_cluster(chart: Path, values: Mapping[str, Any]) -> None:
    found = objects(chart, values)

    scoped = {item["kind"] for item in found if item["kind"].startswith("Cluster")}

    assert scoped == ({"ClusterRole", "ClusterRoleBinding"} if values.get("scope") == "cluster" else set())


@each_case
def test_no_role_lists_secrets_or_writes_more_than_scale_and_status(chart: Path, values: Mapping[str, Any]) -> None:
    found = objects(chart, values)

    for role in (*of_kind("Role", found), *of_kind("ClusterRole", found)):
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            if "secrets" in rule["resources"]:
                assert rule["resources"] == ["secrets"]
                assert rule["verbs"] == ["get"]
                assert rule["resourceNames"]  # an empty list would mean: all of them
            if {"update", "patch", "delete", "create"} & set(rule["verbs"]):
                allowed = {"workerpools/status", "events", "leases", "pods"}
                assert all(name in allowed or name.endswith("/scale") for name in rule["resources"])


@each_case
def test_roles_are_bound_to_an_account_by_their_own_name(chart: Path, values: Mapping[str, Any]) -> None:
    found = objects(chart, values)

    roles = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in found}

    for binding in (*of_kind("RoleBinding", found), *of_kind("ClusterRoleBinding", found)):
        ref = binding["roleRef"]
        assert (ref["kind"], binding["metadata"].get("namespace"), ref["name"]) in roles


@pytest.mark.parametrize("chart", [OPERATOR, WORKER], ids=lambda chart: chart.name)
def test_helm_lint_finds_nothing(chart: Path) -> None:
    report = lint(chart, dict(NEEDED[chart]), strict=True)

    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_the_operator_has_a_role_in_each_watched_namespace_and_is_told_of_each() -> None:
    found = objects(OPERATOR, {"watchNamespaces": ["b", "a", "b"], "secrets": {"allowed": ["redis"]}})

    roles = [role["metadata"]["namespace"] for role in of_kind("Role", found)]
    args = the("Deployment", found)["spec"]["template"]["spec"]["containers"][0]["args"]

    assert roles == ["a", "b"]
    assert [arg for arg in args if arg.startswith("--namespace")] == ["--namespace=a", "--namespace=b"]


def test_pods_are_patched_only_where_the_deletion_cost_is_wanted() -> None:
    verbs = {
        wanted: next(
            rule["verbs"]
            for rule in the("Role", objects(OPERATOR, {"drain": {"annotatePods": wanted}}))["rules"]
            if rule["resources"] == ["pods"]
        )
        for wanted in (True, False)
    }

    assert "patch" in verbs[True]
    assert "patch" not in verbs[False]


@pytest.mark.parametrize(("values", "asked"), [({}, False), ({"metrics": {"celeryExporterNames": True}}, True)])
def test_celery_exporters_names_are_served_where_they_are_asked_for(values: dict[str, Any], asked: bool) -> None:
    (spec,) = pod_specs(objects(OPERATOR, values))

    assert ("--celery-exporter-names" in spec["containers"][0]["args"]) is asked


def test_one_operator_is_replaced_and_never_doubled() -> None:
    alone = the("Deployment", objects(OPERATOR))["spec"]
    pair = the("Deployment", objects(OPERATOR, {"replicas": 2, "ha": {"enabled": True}}))["spec"]

    assert (alone["replicas"], alone["strategy"]["type"]) == (1, "Recreate")
    assert (pair["replicas"], pair["strategy"]["type"]) == (2, "RollingUpdate")


def test_the_workers_manifest_leaves_replicas_to_the_operator() -> None:
    deployment = the("Deployment", objects(WORKER))

    assert "replicas" not in deployment["spec"]


def test_a_worker_knows_its_pod_and_when_it_will_be_killed() -> None:
    found = objects(WORKER, {"terminationGracePeriodSeconds": 120, "resultBackend": {"existingSecret": "results"}})

    spec = the("Deployment", found)["spec"]["template"]["spec"]
    env = {variable["name"]: variable for variable in spec["containers"][0]["env"]}

    assert spec["terminationGracePeriodSeconds"] == 120
    assert env["CELERIAC_WORKER_SHUTDOWN_GRACE_S"]["value"] == "115"
    assert env["CELERIAC_PROFILE"]["value"] == "kubernetes"
    assert env["CELERIAC_POD_NAMESPACE"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    assert env["CELERIAC_POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert env["CELERIAC_POD_UID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
    assert env["CELERIAC_BROKER_URL"]["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "url"}
    assert env["CELERIAC_RESULT_BACKEND"]["valueFrom"]["secretKeyRef"] == {"name": "results", "key": "url"}


def test_the_workers_command_is_celerys() -> None:
    found = objects(WORKER, {"worker": {"queues": ["a", "b"], "concurrency": 4}, "extraArgs": ["--max-tasks=9"]})

    container = the("Deployment", found)["spec"]["template"]["spec"]["containers"][0]

    assert container["command"] == ["celeriac"]
    assert container["args"] == [
        "-A", "shop", "worker", "-Q", "a,b", "-c", "4", "-P", "threads", "-l", "info", "--max-tasks=9",
    ]  # fmt: skip


def test_the_operator_gets_the_default_brokers_url_from_a_secret() -> None:
    found = objects(OPERATOR, {"broker": {"existingSecret": "redis", "existingSecretKey": "broker"}})

    env = the("Deployment", found)["spec"]["template"]["spec"]["containers"][0]["env"]

    assert {
        "name": "CELERIAC_OPERATOR_BROKER_URL",
        "valueFrom": {"secretKeyRef": {"name": "redis", "key": "broker"}},
    } in env


def test_one_failed_readiness_probe_is_enough_to_see_a_drain() -> None:
    container = the("Deployment", objects(WORKER))["spec"]["template"]["spec"]["containers"][0]

    assert container["readinessProbe"]["failureThreshold"] == 1
    assert container["readinessProbe"]["periodSeconds"] <= 2


def test_the_pool_is_ten_lines_about_this_deployment() -> None:
    found = objects(
        WORKER, {"worker": {"queues": ["a", "b"]}, "pool": {"maxReplicas": 20, "objective": {"seconds": 30}}}
    )

    pool = the("WorkerPool", found)

    assert pool["spec"] == {
        "targetRef": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": the("Deployment", found)["metadata"]["name"],
        },
        "broker": {"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}},
        "queues": [{"name": "a"}, {"name": "b"}],
        "maxReplicas": 20,
        "objective": {"seconds": 30},
    }


def test_fields_of_the_pool_replace_what_the_chart_fills_in() -> None:
    found = objects(WORKER, {"pool": {"queues": [{"name": "celery", "weight": 4}], "mode": "DryRun"}})

    spec = the("WorkerPool", found)["spec"]

    assert spec["queues"] == [{"name": "celery", "weight": 4}]
    assert spec["mode"] == "DryRun"


def test_a_change_of_the_charts_version_replaces_no_pod() -> None:
    for chart in (OPERATOR, WORKER):
        labels = the("Deployment", objects(chart))["spec"]["template"]["metadata"]["labels"]

        assert "helm.sh/chart" not in labels
        assert "app.kubernetes.io/version" not in labels


def test_the_monitors_find_the_pods_and_name_the_pool() -> None:
    worker = objects(WORKER, {"pool": {"name": "shop"}, "metrics": {"podMonitor": {"enabled": True}}})
    operator = objects(OPERATOR, {"metrics": {"serviceMonitor": {"enabled": True}}})

    pods = the("PodMonitor", worker)["spec"]
    labels = the("Deployment", worker)["spec"]["template"]["metadata"]["labels"]
    service = the("ServiceMonitor", operator)["spec"]

    assert pods["selector"]["matchLabels"].items() <= labels.items()
    assert pods["podMetricsEndpoints"][0]["port"] == "http"
    assert {"sourceLabels": ["__meta_kubernetes_pod_label_celeriac_dev_pool"], "targetLabel": "pool"} in (
        pods["podMetricsEndpoints"][0]["relabelings"]
    )
    assert labels["celeriac.dev/pool"] == "shop"
    assert service["selector"]["matchLabels"].items() <= the("Service", operator)["metadata"]["labels"].items()
    assert service["endpoints"][0]["honorLabels"] is True  # else `namespace` would be the operator's, not the pool's


def test_the_worker_lets_the_operator_read_its_brokers_secret_and_no_other() -> None:
    found = objects(WORKER, {"operator": {"serviceAccount": "celeriac-operator", "namespace": "celeriac"}})

    assert the("Role", found)["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["redis"], "verbs": ["get"]}
    ]
    assert the("RoleBinding", found)["subjects"] == [
        {"kind": "ServiceAccount", "name": "celeriac-operator", "namespace": "celeriac"}
    ]


def test_the_worker_lets_the_operator_read_the_secrets_that_the_pool_names_in_the_brokers_place() -> None:
    sources = ("urlFrom", "managementUrlFrom", "caFrom", "certFrom", "keyFrom")
    ref = {name: {"secretKeyRef": {"name": name.lower(), "key": "k"}} for name in sources}
    tls = {name: ref[name] for name in sources[2:]}
    broker = {"urlFrom": ref["urlFrom"], "managementUrlFrom": ref["managementUrlFrom"], "tls": tls}
    found = objects(WORKER, {"operator": {"serviceAccount": "celeriac-operator"}, "pool": {"broker": broker}})

    (rule,) = the("Role", found)["rules"]

    named = secrets_of(WorkerPoolSpec.parse(the("WorkerPool", found)["spec"]))
    assert [path.rpartition(".")[2] for path, _, _ in named] == list(sources)
    assert rule["resourceNames"] == sorted(name for _, name, _ in named)


def test_without_a_pool_the_operator_may_read_the_workers_own_secret() -> None:
    found = objects(WORKER, {"operator": {"serviceAccount": "celeriac-operator"}, "pool": {"enabled": False}})

    assert the("Role", found)["rules"][0]["resourceNames"] == ["redis"]


def test_the_scale_is_written_and_never_read() -> None:
    rules = the("Role", objects(OPERATOR))["rules"]

    verbs = {name: rule["verbs"] for rule in rules for name in rule["resources"] if "/" in name}

    assert verbs == {
        "workerpools/status": ["patch"],
        **{f"{kind}/scale": ["update"] for kind in ("deployments", "replicasets", "statefulsets")},
    }


@pytest.mark.parametrize(("version", "policy"), [("1.26.9", None), ("1.27.0", "AlwaysAllow")])
def test_a_worker_that_is_not_ready_never_holds_up_a_nodes_drain(version: str, policy: str | None) -> None:
    budget = the("PodDisruptionBudget", objects(WORKER, {"kubeVersion": version}))

    assert budget["spec"].get("unhealthyPodEvictionPolicy") == policy


def test_the_users_affinity_and_the_soft_one_both_hold() -> None:
    own = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]}}

    spec = next(pod_specs(objects(WORKER, {"softAntiAffinity": True, "affinity": own})))

    anti = spec["affinity"]["podAntiAffinity"]
    assert anti["requiredDuringSchedulingIgnoredDuringExecution"] == [{"topologyKey": "zone"}]
    assert len(anti["preferredDuringSchedulingIgnoredDuringExecution"]) == 1


def test_what_selects_the_workers_does_not_select_beat() -> None:
    """The WorkerPool's Deployment, its budget and its network rules are for workers alone, and beat has its own."""
    found = objects(
        WORKER, {"beat": {"enabled": True, "extraArgs": ["--max-interval", "5"]}, "podLabels": {"team": "shop"}}
    )
    worker, beat = sorted(of_kind("Deployment", found), key=lambda item: len(item["metadata"]["name"]))

    labels = beat["spec"]["template"]["metadata"]["labels"]
    for selector in (worker["spec"]["selector"], the("PodDisruptionBudget", found)["spec"]["selector"]):
        assert not selector["matchLabels"].items() <= labels.items()
    assert beat["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels["team"] == "shop"
    assert {item["metadata"]["name"] for item in of_kind("NetworkPolicy", found)} == {
        worker["metadata"]["name"],
        beat["metadata"]["name"],
    }
    [container] = beat["spec"]["template"]["spec"]["containers"]
    assert container["command"] + container["args"] == [
        "celeriac", "-A", "shop", "beat", "-l", "info", "--max-interval", "5",
    ]  # fmt: skip
    assert beat["spec"]["replicas"] == 1


def test_there_is_no_beat_unless_it_is_asked_for() -> None:
    assert [item["metadata"]["name"] for item in objects(WORKER) if "beat" in item["metadata"]["name"]] == []


def test_the_key_is_mounted_read_only_and_without_the_rest_of_its_secret_and_its_password_stands_in_no_argument() -> (
    None
):
    values = {"signing": {"secretName": "operator-key", "certificate": "operator.crt", "password": "password"}}
    (spec,) = pod_specs(objects(OPERATOR, values))
    (container,) = spec["containers"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "signing"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "signing"]
    options = dict(argument.split("=", 1) for argument in container["args"] if argument.startswith("--signing"))

    assert volume["secret"] == {
        "secretName": "operator-key",
        "defaultMode": 0o444,
        "items": [{"key": "tls.key", "path": "key.pem"}, {"key": "operator.crt", "path": "certificate.pem"}],
    }
    assert mount["readOnly"] is True
    assert options == {
        "--signing-key": f"{mount['mountPath']}/key.pem",
        "--signing-certificate": f"{mount['mountPath']}/certificate.pem",
        "--signing-digest": "sha256",
    }
    secret = {"secretKeyRef": {"name": "operator-key", "key": "password"}}
    assert {"name": "CELERIAC_OPERATOR_SIGNING_KEY_PASSWORD", "valueFrom": secret} in container["env"]


@pytest.mark.parametrize("chart", [OPERATOR, WORKER], ids=lambda chart: chart.name)
def test_the_pod_of_helm_test_is_selected_by_nothing_that_selects_the_releases_own(chart: Path) -> None:
    found = objects(chart, {"networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]}})
    labels = the("Pod", found)["metadata"]["labels"]

    selectors = [
        item["spec"]["selector"].get("matchLabels", item["spec"]["selector"])
        for item in found
        if "selector" in item.get("spec", {})
    ]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind("NetworkPolicy", found)]
    assert selectors
    assert not any(selector.items() <= labels.items() for selector in selectors)


def test_the_pod_of_helm_test_is_let_in_where_not_everybody_is() -> None:
    found = objects(OPERATOR, {"networkPolicy": {"from": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]}})

    [rule] = the("NetworkPolicy", found)["spec"]["ingress"]
    prometheus, test = (peer["podSelector"]["matchLabels"] for peer in rule["from"])
    assert prometheus == {"app": "prometheus"}
    assert test.items() <= the("Pod", found)["metadata"]["labels"].items()
    anyone = the("NetworkPolicy", objects(OPERATOR))["spec"]["ingress"][0]
    assert "from" not in anyone


@pytest.mark.parametrize(
    ("values", "least"),
    [
        ({}, "0"),
        ({"pool": {"minReplicas": 3}}, "1"),
        ({"pool": {"minReplicas": 3, "mode": "Paused"}}, "0"),
        ({"pool": {"minReplicas": 3, "replicas": 0}}, "0"),
        ({"pool": {"enabled": False}}, "0"),
        ({"pool": {"enabled": False}, "replicas": 2}, "1"),
        ({"pool": {"enabled": False}, "replicas": 0}, "0"),
    ],
    ids=[
        "a pool that may be empty",
        "a pool that may not",
        "one that is paused",
        "one that is emptied",
        "others scale",
        "a number",
        "none",
    ],
)
def test_helm_test_wants_a_worker_only_where_there_is_one_for_certain(values: Mapping[str, Any], least: str) -> None:
    [container] = the("Pod", objects(WORKER, values))["spec"]["containers"]

    assert container["args"][1:] == ["shop", "*@rel-celeriac-worker*", least]


@pytest.mark.parametrize("chart", [OPERATOR, WORKER], ids=lambda chart: chart.name)
def test_values_that_an_older_release_did_not_have_may_be_missing(chart: Path) -> None:
    """As with `helm upgrade --reuse-values`, which takes no default of the new chart."""
    found = objects(chart, {"tests": None, **({"crds": {"annotations": None}} if chart is OPERATOR else {})})

    assert of_kind("Pod", found) == []
    assert of_kind("Deployment", found)


@pytest.mark.parametrize("keep", [True, False])
def test_the_crd_and_the_pool_have_the_users_annotations_beside_ours(keep: bool) -> None:
    own = {"argocd.argoproj.io/sync-options": "Prune=false"}

    crd = the("CustomResourceDefinition", objects(OPERATOR, {"crds": {"annotations": own, "keep": keep}}))
    pool = the("WorkerPool", objects(WORKER, {"pool": {"annotations": own}}))

    assert crd["metadata"]["annotations"] == own | ({"helm.sh/resource-policy": "keep"} if keep else {})
    assert pool["metadata"]["annotations"] == own
    assert "annotations" not in pool["spec"]
    assert "annotations" not in the("WorkerPool", objects(WORKER))["metadata"]


def test_helm_test_asks_the_service_as_it_is_and_the_doctor_of_each_namespace() -> None:
    found = objects(OPERATOR, {"service": {"port": 9090}, "watchNamespaces": ["b", "a"]}, name="first")
    [container] = the("Pod", found)["spec"]["containers"]
    service = the("Service", found)["metadata"]["name"]

    variable = service.upper().replace("-", "_")  # as Kubernetes names a Service's variables
    assert container["args"][1:] == [f"$({variable}_SERVICE_HOST)", "9090", "a", "b"]
    assert the("Pod", found)["spec"]["serviceAccountName"] == the("ServiceAccount", found)["metadata"]["name"]
    everywhere = the("Pod", objects(OPERATOR, {"scope": "cluster"}))["spec"]["containers"][0]
    assert everywhere["args"][2:] == ["8080"]


@pytest.mark.parametrize(
    ("chart", "values"),
    [
        (OPERATOR, {"tests": {"enabled": False}}),
        (OPERATOR, {"replicas": 0}),
        (WORKER, {"tests": {"enabled": False}}),
        (WORKER, {"command": ["celery"]}),
    ],
    ids=["operator", "no operator runs", "worker", "an image of another make"],
)
def test_there_is_no_test_pod_where(chart: Path, values: Mapping[str, Any]) -> None:
    assert of_kind("Pod", objects(chart, values)) == []


def test_a_key_asks_for_no_right_and_without_one_nothing_is_mounted() -> None:
    without, signing = objects(OPERATOR), objects(OPERATOR, {"signing": {"secretName": "operator-key"}})

    for kind in ("Role", "RoleBinding"):
        assert of_kind(kind, without) == of_kind(kind, signing)
    assert "signing" not in str(the("Deployment", without))
    assert "PASSWORD" not in str(the("Deployment", signing))


def test_the_operators_command_knows_each_option_that_the_chart_gives_it() -> None:
    known = {
        option for parameter in cli.commands["run"].params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    every = {
        "signing": {"secretName": "key"}, "replicas": 2, "ha": {"enabled": True}, "drain": {"annotatePods": False},
        "metrics": {"celeryExporterNames": True},
    }  # fmt: skip
    for values in (every, {"scope": "cluster"}):
        (spec,) = pod_specs(objects(OPERATOR, values))
        given = {argument.split("=")[0] for argument in spec["containers"][0]["args"][1:]}
        assert given <= known
