"""`KubeCluster`: what the loop reads of a pool's target and pods, and what its writes do."""

import base64
import logging
import threading
import time

import pytest
from objects import autoscaler, deployment, pod, replica_set, stateful_set, worker_pool

from celeriac_operator.cluster import rivals
from celeriac_operator.cluster.index import WATCHED, ClusterIndex
from celeriac_operator.cluster.kube import KubeCluster
from celeriac_operator.cluster.sweep import Sweep
from celeriac_operator.errors import ClusterError, Conflict, Forbidden, Invalid, NotFound, Unreachable
from celeriac_operator.resources.labels import FIELD_MANAGER
from celeriac_operator.resources.spec import WorkerPoolSpec


class World:
    """A served namespace: an API server, an index of it as fresh as `look()` made it, and the cluster under test."""

    def __init__(self, api, client):
        self.api = api
        self.client = client
        self.index = ClusterIndex()
        self.cluster = KubeCluster(client, self.index)
        self.look()

    def look(self):
        for uid in self.index.versions():
            self.index.drop(uid)
        Sweep(self.client, self.index, namespaces=["shop"]).fill()

    @property
    def pool(self):
        return next(record for record in self.cluster.pools() if record.name == "mails")

    @property
    def spec(self):
        return WorkerPoolSpec.parse(self.pool.spec)

    @property
    def target(self):
        return self.cluster.target(self.pool, self.spec)

    @property
    def pods(self):
        return self.cluster.pods(self.pool, self.spec)

    def scale(self, replicas):
        self.cluster.scale(self.pool, self.spec, replicas, self.target.resource_version)


def spec_of(target="mails", kind="Deployment"):
    broker = {"urlFrom": {"secretKeyRef": {"name": "redis", "key": "url"}}}
    return worker_pool(target=target, kind=kind, broker=broker, maxReplicas=9)


@pytest.fixture
def world(api, client):
    owner = api.put("deployments", deployment(replicas=2))
    between = api.put("replicasets", replica_set("mails-1", owner=owner))
    for name in ("a", "b"):
        api.put("pods", pod(f"mails-1-{name}", owner=between))
    api.put("workerpools", spec_of())
    return World(api, client)


def test_a_target_tells_what_a_decision_needs(world):
    target = world.target

    assert (target.replicas, target.ready_replicas, target.kind, target.name) == (2, 2, "Deployment", "mails")
    assert (target.grace_s, target.rollout, target.error) == (45.0, False, "")
    assert (target.foreign_manager, target.contested_by) == ("", "")


def test_reading_target_and_pods_asks_the_server_nothing_but_who_else_scales(world):
    world.api.requests.clear()

    for _ in range(3):
        assert world.target.replicas == 2
        assert len(world.pods) == 2

    assert [path for path, _ in world.api.sent("GET")] == [
        "/apis/autoscaling/v1",
        "/apis/autoscaling/v1/namespaces/shop/horizontalpodautoscalers",
        "/apis/keda.sh/v1alpha1",
        "/apis/policy/v1",
        "/apis/policy/v1/namespaces/shop/poddisruptionbudgets",
    ]
    assert len(world.api.requests) == 5


def test_a_budget_that_lets_no_pod_be_evicted_is_told_with_its_name(world):
    labels = {"app": "mails"}
    mails = deployment(replicas=2)
    mails["spec"]["template"]["metadata"] = {"labels": labels}
    world.api.put("deployments", mails)
    spec = {"minAvailable": 9, "selector": {"matchLabels": labels}}
    world.api.put("poddisruptionbudgets", {"metadata": {"name": "strict"}, "spec": spec})
    other = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "other"}}}
    world.api.put("poddisruptionbudgets", {"metadata": {"name": "others"}, "spec": other})
    world.look()

    assert "PodDisruptionBudget strict (minAvailable 9 of 9 replicas) allows no eviction" in world.target.disruption


def test_a_budget_is_judged_at_the_replicas_that_the_pool_may_have_lest_the_condition_come_and_go(world):
    labels = {"app": "mails"}
    for name, limit in (("one", {"minAvailable": 1}), ("none", {"maxUnavailable": 0})):
        world.api.put(
            "poddisruptionbudgets", {"metadata": {"name": name}, "spec": {**limit, "selector": {"matchLabels": labels}}}
        )
        told = set()
        for replicas in (1, 2, 0):
            mails = deployment(replicas=replicas)
            mails["spec"]["template"]["metadata"] = {"labels": labels}
            world.api.put("deployments", mails)
            world.look()
            told.add(world.target.disruption)
        assert len(told) == 1
        assert any("allows no eviction" in said for said in told) is (name == "none")
        world.cluster = KubeCluster(world.client, world.index)  # budgets are believed for a minute


def test_a_pod_is_killed_by_its_uid_and_one_that_was_made_anew_is_spared(world):
    old = world.api.get("pods", "mails-1-a")
    world.api.delete("pods", "mails-1-a", told=False)
    world.api.put("pods", pod("mails-1-a", owner=world.api.get("replicasets", "mails-1")))

    world.cluster.kill_pod(world.pool, "mails-1-a")
    world.cluster.kill_pod(world.pool, "mails-1-b")
    world.cluster.kill_pod(world.pool, "gone-long-ago")

    assert [body["metadata"]["name"] for body in world.api.all("pods")] == ["mails-1-a"]
    assert next(body for _, body in world.api.sent("DELETE")) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": old["metadata"]["uid"]},
    }


def test_a_missing_target_is_an_error_in_the_sample_and_clears_by_itself(world):
    world.api.delete("deployments", "mails")
    world.look()
    missing = world.target
    pods = world.pods

    world.api.put("deployments", deployment(replicas=4))
    world.look()

    assert missing.error == "Deployment shop/mails does not exist: create it, or correct spec.targetRef"
    assert list(pods) == []
    assert (world.target.error, world.target.replicas) == ("", 4)


def test_pods_that_ended_are_left_out(world):
    owner = world.api.get("replicasets", "mails-1")
    world.api.put("pods", pod("mails-1-c", owner=owner, phase="Failed"))
    world.look()

    assert [found.name for found in world.pods] == ["mails-1-a", "mails-1-b"]


def test_pods_that_a_quota_refused_are_told_as_pending(world):
    body = deployment(replicas=4)
    message = "pods is forbidden: exceeded quota: small"
    body["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": message}]
    body["status"]["replicas"] = 2
    body["metadata"]["uid"] = world.api.get("deployments", "mails")["metadata"]["uid"]
    world.api.put("deployments", body)
    world.look()

    refused = [found for found in world.pods if found.pending_reason]

    assert [(found.phase, found.pending_reason) for found in refused] == [("Pending", "QuotaExceeded")] * 2


def test_pods_of_two_revisions_are_a_rollout(world):
    owner = world.api.get("replicasets", "mails-1")
    world.api.put("pods", pod("mails-1-a", owner=owner, revision="r2"))
    world.look()

    assert world.target.rollout


def test_pods_of_an_old_revision_that_are_going_are_no_rollout(world):
    owner = world.api.get("replicasets", "mails-1")
    body = pod("mails-1-a", owner=owner, revision="r0")
    body["metadata"]["deletionTimestamp"] = "2026-11-22T10:00:00Z"
    world.api.put("pods", body)
    world.look()

    assert not world.target.rollout


def test_a_new_template_that_its_controller_has_not_seen_is_a_rollout(world):
    body = world.api.get("deployments", "mails")
    body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 60
    world.api.put("deployments", body)
    world.look()

    assert world.target.rollout


def test_a_stateful_set_that_keeps_two_revisions_on_purpose_is_no_rollout(world):
    kept = stateful_set("store", observedGeneration=1, updatedReplicas=1, currentRevision="r1", updateRevision="r2")
    kept["spec"]["updateStrategy"] = {"rollingUpdate": {"partition": 1}}
    owner = world.api.put("statefulsets", kept)
    for name, revision in (("store-0", "r1"), ("store-1", "r2")):
        world.api.put("pods", pod(name, owner=owner, revision=revision))
    world.api.put("workerpools", {**spec_of(target="store", kind="StatefulSet"), "metadata": {"name": "store"}})
    world.look()
    pool = next(record for record in world.cluster.pools() if record.name == "store")

    target = world.cluster.target(pool, WorkerPoolSpec.parse(pool.spec))

    assert (target.kind, target.error, target.rollout, target.ordered) == ("StatefulSet", "", False, True)


def test_a_number_just_written_settles_until_its_controller_has_seen_it(world):
    before = world.target
    world.scale(4)
    world.look()
    written = world.target
    body = world.api.get("deployments", "mails")
    body["status"]["observedGeneration"] = body["metadata"]["generation"]
    world.api.put("deployments", body)
    world.look()

    assert (before.settling, written.settling, world.target.settling) == (False, True, False)
    assert before.existing == 2


def test_pods_that_exist_and_were_not_seen_yet_were_not_refused(world):
    body = deployment(replicas=4)
    message = "pods is forbidden: exceeded quota: small"
    body["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": message}]
    body["metadata"]["uid"] = world.api.get("deployments", "mails")["metadata"]["uid"]
    world.api.put("deployments", body)
    world.look()

    assert [found for found in world.pods if found.pending_reason] == []


def test_our_own_scale_is_no_rollout(world):
    world.scale(4)
    world.look()

    assert world.api.get("deployments", "mails")["metadata"]["generation"] == 2
    assert not world.target.rollout


def test_scaling_writes_the_number_and_is_known_at_once(world):
    world.scale(5)

    assert world.api.get("deployments", "mails")["spec"]["replicas"] == 5
    assert world.target.replicas == 5
    world.scale(6)  # with the version that the first write made
    assert world.api.get("deployments", "mails")["spec"]["replicas"] == 6


def test_a_conflict_is_raised_and_the_next_read_is_fresh(world):
    world.api.put("deployments", {**world.api.get("deployments", "mails"), "status": {"replicas": 1}})

    with pytest.raises(Conflict):
        world.scale(5)

    world.scale(5)
    assert world.api.get("deployments", "mails")["spec"]["replicas"] == 5


def test_what_a_watch_tells_while_a_conflict_is_looked_at_stays(world, monkeypatch):
    world.api.put("deployments", {**world.api.get("deployments", "mails"), "status": {"replicas": 1}})
    read = world.client.get

    def and_meanwhile(path, **query):
        found = read(path, **query)
        if path.endswith("/deployments/mails"):
            world.api.change_untold("deployments", "mails", {"spec": {"replicas": 7}})
            world.index.put("Deployment", world.api.get("deployments", "mails"))
        return found

    monkeypatch.setattr(world.client, "get", and_meanwhile)
    with pytest.raises(Conflict):
        world.scale(5)

    assert world.target.replicas == 7


def test_another_writer_of_replicas_is_named_when_it_is_recorded(world):
    world.scale(5)
    body = world.api.get("deployments", "mails")
    body["spec"]["replicas"] = 1
    entry = {"manager": "argocd", "time": "2999-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    body["metadata"]["managedFields"] = [entry]
    world.api.put("deployments", body)
    world.look()

    assert world.target.contested_by == "argocd"
    world.scale(5)
    assert world.target.contested_by == ""


def recorded(replicas: int, manager: str) -> dict:
    entry = {"manager": manager, "time": "2999-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    body = deployment(replicas=replicas)
    body["metadata"]["managedFields"] = [entry]
    return body


def test_a_write_that_another_replica_of_the_operator_made_is_ours(world):
    world.scale(5)
    world.api.put("deployments", recorded(3, FIELD_MANAGER))
    world.look()

    assert (world.target.contested_by, world.target.ours) == ("", True)
    world.api.put("deployments", recorded(1, "argocd"))
    world.look()
    assert (world.target.contested_by, world.target.ours) == ("argocd", False)


def test_a_write_that_was_applied_and_not_answered_is_ours(world):
    world.scale(3)
    replace = world.api.replace

    def late(*given):
        stored = replace(*given)
        time.sleep(0.8)  # longer than the client waits
        return stored

    world.api.replace = late
    with pytest.raises(Unreachable):
        world.scale(5)
    world.api.replace = replace
    world.look()

    assert world.target.replicas == 5
    assert (world.target.contested_by, world.target.ours) == ("", True)


def test_a_number_that_was_refused_is_not_ours_when_somebody_else_writes_it(world):
    world.scale(3)
    world.api.fail("PUT", "/scale$", status=422, times=1)
    with pytest.raises(Invalid):
        world.scale(5)
    world.api.put("deployments", deployment(replicas=5))
    world.look()

    assert (world.target.contested_by, world.target.ours) == ("an unknown field manager", False)


def test_what_was_written_before_another_replica_led_accuses_nobody(world):
    world.scale(3)
    world.cluster._lease = NotHeld()
    assert not world.cluster.may_act()
    world.api.put("deployments", deployment(replicas=5))
    world.look()

    assert world.target.contested_by == ""


def test_writes_to_workloads_that_are_gone_are_forgotten(world):
    world.scale(3)
    world.api.put("workerpools", {**spec_of(target="other"), "metadata": {"name": "other"}})
    world.api.delete("deployments", "mails")
    world.api.put("deployments", deployment("other", replicas=1))
    world.look()
    other = next(record for record in world.cluster.pools() if record.name == "other")
    spec = WorkerPoolSpec.parse(other.spec)

    world.cluster.scale(other, spec, 2, world.cluster.target(other, spec).resource_version)

    assert len(world.cluster._writes._written) == 1


def test_another_writer_that_is_not_recorded_is_told_all_the_same(world):
    world.scale(5)
    body = world.api.get("deployments", "mails")
    body["spec"]["replicas"] = 1
    world.api.put("deployments", body)
    world.look()

    assert world.target.contested_by == "an unknown field manager"


@pytest.mark.parametrize(
    ("rival", "name"),
    [
        pytest.param(autoscaler("old-hpa", target="mails"), "HorizontalPodAutoscaler/old-hpa", id="of the same target"),
        pytest.param(
            autoscaler("hpa", target="mails", kind="WorkerPool"), "HorizontalPodAutoscaler/hpa", id="of the pool itself"
        ),
        pytest.param(autoscaler("hpa", target="other"), "", id="of another target"),
    ],
)
def test_a_horizontal_pod_autoscaler_is_a_rival_if_it_scales_the_target(world, rival, name):
    world.api.put("horizontalpodautoscalers", rival)

    assert world.target.foreign_manager == name


def test_of_two_pools_on_one_target_the_older_keeps_it(world):
    younger = spec_of()
    younger["metadata"] = {"name": "again", "creationTimestamp": "2999-01-01T00:00:00Z"}
    world.api.put("workerpools", younger)
    world.look()
    records = {record.name: record for record in world.cluster.pools()}

    others = {name: world.cluster.target(record, world.spec).foreign_manager for name, record in records.items()}

    assert others == {"again": "WorkerPool/mails", "mails": ""}


def test_an_older_pool_with_a_wrong_spec_is_no_rival(world):
    wrong = spec_of()
    wrong["spec"]["queues"] = []
    wrong["metadata"] = {"name": "wrong", "creationTimestamp": "2000-01-01T00:00:00Z"}
    world.api.put("workerpools", wrong)
    world.look()

    assert world.target.foreign_manager == ""


def test_an_older_pool_that_was_moved_to_the_target_is_no_rival(world):
    moved = spec_of()
    moved["metadata"] = {"name": "moved", "creationTimestamp": "2000-01-01T00:00:00Z"}
    moved["status"] = {"target": {"kind": "Deployment", "name": "other"}}
    world.api.put("workerpools", moved)
    world.look()

    assert world.target.foreign_manager == ""


def test_an_older_pool_that_only_watches_is_no_rival(world):
    watcher = spec_of()
    watcher["spec"]["mode"] = "DryRun"
    watcher["metadata"] = {"name": "watcher", "creationTimestamp": "2000-01-01T00:00:00Z"}
    world.api.put("workerpools", watcher)
    world.look()

    assert world.target.foreign_manager == ""


def test_without_the_permission_to_list_autoscalers_it_is_said_once(world, caplog):
    world.api.fail("GET", "horizontalpodautoscalers", status=403)

    with caplog.at_level(logging.WARNING):
        assert [world.target.foreign_manager for _ in range(3)] == ["", "", ""]

    assert len([record for record in caplog.records if "will not be noticed" in record.message]) == 1


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}], ids=["failed", "throttled"])
def test_until_autoscalers_have_been_listed_once_nobody_knows_whether_one_is_a_rival(world, monkeypatch, fault):
    monkeypatch.setattr(rivals, "FIRST_RETRY_S", 0.2)
    world.api.put("horizontalpodautoscalers", autoscaler("hpa", target="mails"))
    world.api.fail("GET", "horizontalpodautoscalers", **fault, times=1)

    first, second = world.target, world.target
    time.sleep(1.2)  # a throttled client waits for a second
    later = world.target

    for target in (first, second):
        assert target.foreign_manager == ""
        assert "whether a HorizontalPodAutoscaler scales it too is not known" in target.foreign_unread
    assert (later.foreign_manager, later.foreign_unread) == ("HorizontalPodAutoscaler/hpa", "")


def test_other_threads_wait_for_the_first_answer(world):
    world.api.put("horizontalpodautoscalers", autoscaler("hpa", target="mails"))
    world.api.fail("GET", "/apis/autoscaling/v1$", delay_s=0.15, times=1)
    told: list[str] = []

    threads = [threading.Thread(target=lambda: told.append(world.target.foreign_manager)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert told == ["HorizontalPodAutoscaler/hpa"] * 3


def test_other_threads_wait_so_long_and_no_longer(world, monkeypatch):
    monkeypatch.setattr(rivals, "FIRST_ANSWER_S", 0.2)
    world.api.fail("GET", "/apis/autoscaling/v1$", delay_s=3, times=1)
    asking = threading.Thread(target=lambda: world.target)
    asking.start()
    time.sleep(0.1)

    began = time.monotonic()
    unread = [world.target.foreign_unread for _ in range(3)]
    took_s = time.monotonic() - began
    asking.join()

    assert all("no answer yet" in sentence for sentence in unread)
    assert took_s < 2


def test_a_list_from_before_a_pool_was_there_does_not_count_for_it(world, monkeypatch):
    assert (world.target.foreign_manager, world.target.foreign_unread) == ("", "")
    monkeypatch.setattr(rivals, "NEW_POOL_S", 0.3)
    world.api.put("horizontalpodautoscalers", autoscaler("hpa", target="mails"))
    pool = world.index.pools()[0].record
    world.index.drop(pool.uid)
    world.index.put("WorkerPool", world.api.get("workerpools", pool.name))

    first = world.target
    time.sleep(0.35)
    second = world.target

    assert (first.foreign_manager, "no answer yet" in first.foreign_unread) == ("", True)
    assert (second.foreign_manager, second.foreign_unread) == ("HorizontalPodAutoscaler/hpa", "")


def test_a_list_that_fails_later_leaves_what_was_known(world, monkeypatch):
    monkeypatch.setattr(rivals, "FRESH_S", 0.0)
    world.api.put("horizontalpodautoscalers", autoscaler("hpa", target="mails"))
    assert world.target.foreign_manager == "HorizontalPodAutoscaler/hpa"

    world.api.fail("GET", "horizontalpodautoscalers", status=500)

    assert (world.target.foreign_manager, world.target.foreign_unread) == ("HorizontalPodAutoscaler/hpa", "")


def test_a_secrets_value_is_decoded(world):
    world.api.put("secrets", {"metadata": {"name": "redis"}, "data": {"url": _encoded("redis://:p@host/0\n")}})

    assert world.cluster.secret("shop", "redis", "url") == "redis://:p@host/0"


def test_a_secret_without_the_key_names_the_keys_it_has_but_no_value(world):
    world.api.put("secrets", {"metadata": {"name": "redis"}, "data": {"uri": _encoded("redis://:hidden@host")}})

    with pytest.raises(NotFound, match="no key 'url'; its keys: uri") as caught:
        world.cluster.secret("shop", "redis", "url")

    assert "hidden" not in str(caught.value)


def test_a_secret_that_is_not_text_is_refused(world):
    world.api.put("secrets", {"metadata": {"name": "redis"}, "data": {"url": base64.b64encode(b"\xff\xfe").decode()}})

    with pytest.raises(ClusterError, match="is not text"):
        world.cluster.secret("shop", "redis", "url")


def test_the_status_is_replaced_as_a_whole(world):
    world.cluster.write_status(world.pool, {"replicas": 1, "decision": {"terms": {"steady": "1.0"}}})
    world.cluster.write_status(world.pool, {"replicas": 2})

    stored = world.api.get("workerpools", "mails")
    assert stored["status"] == {"replicas": 2}
    assert stored["spec"]["maxReplicas"] == 9
    assert all(path.endswith("/status") for path, _ in world.api.sent("PATCH"))


def test_the_status_of_a_pool_that_was_made_anew_is_left_alone(world):
    stale = world.pool
    world.api.delete("workerpools", "mails")
    world.api.put("workerpools", spec_of())

    with pytest.raises(Invalid):
        world.cluster.write_status(stale, {"replicas": 1})

    assert "status" not in world.api.get("workerpools", "mails")


def test_marked_pods_carry_their_cost_and_gone_ones_are_passed_over(world):
    world.cluster.mark_pods(world.pool, {"mails-1-a": -1000, "gone": -1000})
    world.look()
    world.api.requests.clear()
    world.cluster.mark_pods(world.pool, {"mails-1-a": -1000})

    cost = world.api.get("pods", "mails-1-a")["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"]
    assert cost == "-1000"
    assert world.api.requests == []


def test_pods_are_not_marked_any_more_once_that_was_forbidden(world, caplog):
    world.api.fail("PATCH", "/pods/", status=403)

    for _ in range(2):
        world.cluster.mark_pods(world.pool, {"mails-1-a": 1, "mails-1-b": 1})

    assert len(world.api.sent("PATCH", "/pods/")) == 1
    assert "no deletion cost from now on" in caplog.text


def test_an_event_names_the_pool(world):
    world.cluster.event(world.pool, "Normal", "ScaledUp", "from 2 to 5: backlog")

    (event,) = world.api.all("events")
    assert event["involvedObject"]["uid"] == world.pool.uid
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "ScaledUp", "from 2 to 5: backlog")


def test_an_event_that_repeats_is_written_once_until_its_message_changes(world):
    for message in ("the broker is away", "the broker is away", "the broker is back"):
        world.cluster.event(world.pool, "Warning", "BrokerUnreachable", message)

    assert [event["message"] for event in world.api.all("events")] == ["the broker is away", "the broker is back"]


def test_an_event_that_repeats_after_five_minutes_is_counted(world):
    now = [0.0]
    world.cluster._events._clock = lambda: now[0]

    for now[0] in (0.0, 299.0, 301.0):
        world.cluster.event(world.pool, "Warning", "AtMax", "held at 9")

    (event,) = world.api.all("events")
    assert event["count"] == 2


def test_an_event_that_cannot_be_written_stops_nothing(world, caplog):
    world.api.fail("POST", "/events", status=403)

    world.cluster.event(world.pool, "Normal", "ScaledUp", "from 2 to 5")

    assert "the event ScaledUp on WorkerPool shop/mails was not written" in caplog.text


class NotHeld:
    def held(self):
        return False


def test_a_replica_without_the_lease_reads_everything_and_writes_nothing(world):
    standby = KubeCluster(world.client, world.index, lease=NotHeld())
    world.api.requests.clear()

    assert not standby.may_act()
    assert standby.target(world.pool, world.spec).replicas == 2
    for write in (
        lambda: standby.scale(world.pool, world.spec, 5, world.target.resource_version),
        lambda: standby.write_status(world.pool, {}),
        lambda: standby.mark_pods(world.pool, {"mails-1-a": 1}),
        lambda: standby.event(world.pool, "Normal", "A", "b"),
    ):
        with pytest.raises(Conflict, match="another replica of the operator holds the Lease"):
            write()
    assert {verb for verb, _, _ in world.api.requests} == {"GET"}


@pytest.mark.parametrize("kind", list(WATCHED))
def test_a_kind_that_may_not_be_listed_is_told_by_its_path(world, kind):
    path, plural = WATCHED[kind]
    world.api.fail("GET", f"{plural}$", status=403)

    with pytest.raises(Forbidden, match=f"GET {path}/namespaces/shop/{plural}: 403"):
        world.look()


def _encoded(text):
    return base64.b64encode(text.encode()).decode()
