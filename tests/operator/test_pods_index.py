"""Pods as the operator reads them, and the index that finds a pool's pods by owner references."""

import pytest
from objects import deployment, pod, replica_set, stateful_set, worker_pool

from celeriac_operator.cluster.index import ClusterIndex
from celeriac_operator.cluster.pods import epoch_s, pending_reason, pod_of
from celeriac_operator.cluster.sweep import Sweep
from celeriac_operator.errors import Forbidden
from celeriac_operator.fleet.match import pod_samples


def _stored(body, uid, **metadata):
    body["metadata"] = {"namespace": "shop", "uid": uid, "resourceVersion": "1", **body["metadata"], **metadata}
    return body


def test_a_running_pod_tells_when_it_became_ready_and_of_which_revision_it_is():
    found = pod_of(_stored(pod("mails-1", revision="abc"), "p1")).record

    assert (found.phase, found.ready, found.deleting, found.revision) == ("Running", True, False, "abc")
    assert found.ready_at - found.created_at == 20.0


def test_a_pod_that_is_not_ready_has_no_ready_time():
    found = pod_of(_stored(pod("mails-1", ready=False), "p1")).record

    assert (found.ready, found.ready_at) == (False, None)


def test_a_pod_with_a_deletion_timestamp_is_deleting():
    found = pod_of(_stored(pod("mails-1"), "p1", deletionTimestamp="2026-11-22T10:05:00Z"))

    assert found.record.deleting


def _waiting(reason, kind="containerStatuses"):
    return {"phase": "Pending", kind: [{"state": {"waiting": {"reason": reason}}}]}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param({"phase": "Pending"}, "", id="just made"),
        pytest.param(_waiting("ContainerCreating"), "", id="being created"),
        pytest.param(_waiting("PodInitializing"), "", id="init containers run"),
        pytest.param(_waiting("ImagePullBackOff"), "ImagePullBackOff", id="image cannot be pulled"),
        pytest.param(_waiting("ErrImagePull"), "ErrImagePull", id="image pull just failed"),
        pytest.param(_waiting("CreateContainerConfigError"), "CreateContainerConfigError", id="a Secret is missing"),
        pytest.param(_waiting("CrashLoopBackOff"), "CrashLoopBackOff", id="it crashes"),
        pytest.param(_waiting("CrashLoopBackOff", "initContainerStatuses"), "CrashLoopBackOff", id="init crashes"),
        pytest.param({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}, "", id="runs"),
        pytest.param(
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
            },
            "Unschedulable",
            id="no node has room",
        ),
        pytest.param({**_waiting("CrashLoopBackOff"), "phase": "Failed"}, "", id="ended: nothing is pending"),
    ],
)
def test_the_reason_why_a_pod_does_not_run(status, reason):
    assert pending_reason(status) == reason


@pytest.mark.parametrize(
    ("states", "running"),
    [
        pytest.param([{"running": {}}, {"waiting": {"reason": "CrashLoopBackOff"}}], True, id="one crashes, one runs"),
        pytest.param([{"waiting": {"reason": "CrashLoopBackOff"}}], False, id="the only one crashes"),
        pytest.param([], False, id="none yet"),
    ],
)
def test_a_pod_runs_while_one_of_its_containers_does(states, running):
    statuses = [{"state": state} for state in states]

    found = pod_of(_stored(pod("mails-1", ready=False, containerStatuses=statuses), "p1")).record

    assert found.running is running
    assert pod_samples([found], {}, 0.0)[0].running is running


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param("1970-01-01T00:01:00Z", 60.0, id="seconds"),
        pytest.param("1970-01-01T00:01:00.250000Z", 60.25, id="microseconds"),
        pytest.param("1970-01-01T01:01:00+01:00", 60.0, id="another zone"),
    ],
)
def test_times_are_read_as_seconds_since_the_epoch(text, seconds):
    assert epoch_s(text) == seconds


MAILS = ("Deployment", "shop", "mails")


@pytest.fixture
def index():
    """A Deployment with two ReplicaSets and three pods, its pool, and a StatefulSet with one pod."""
    filled = ClusterIndex()
    owner = _stored(deployment(), "d")
    old, new = (
        _stored(replica_set("mails-old", owner=owner), "old"),
        _stored(replica_set("mails-new", owner=owner), "new"),
    )
    stateful = _stored(stateful_set("store", replicas=1), "s")
    for kind, body in [
        ("WorkerPool", _stored(worker_pool(), "w", generation=1)),
        ("Deployment", owner),
        ("ReplicaSet", old),
        ("ReplicaSet", new),
        ("StatefulSet", stateful),
        ("Pod", _stored(pod("mails-old-1", owner=old, revision="old"), "p1")),
        ("Pod", _stored(pod("mails-new-1", owner=new, revision="new"), "p2")),
        ("Pod", _stored(pod("mails-new-2", owner=new, revision="new"), "p3")),
        ("Pod", _stored(pod("store-0", owner=stateful), "p4")),
        ("Pod", _stored(pod("stray"), "p5")),
    ]:
        filled.put(kind, body)
    return filled


def _names(index, target):
    return [found.record.name for found in index.pods(index.workload(target))]


def test_a_deployments_pods_are_those_of_its_replica_sets(index):
    assert _names(index, MAILS) == ["mails-new-1", "mails-new-2", "mails-old-1"]


def test_a_stateful_sets_pods_are_its_own(index):
    assert _names(index, ("StatefulSet", "shop", "store")) == ["store-0"]


def test_a_replica_set_has_its_pods_too(index):
    assert _names(index, ("ReplicaSet", "shop", "mails-old")) == ["mails-old-1"]


def test_pods_that_arrive_before_their_owners_find_them_later():
    index = ClusterIndex()
    owner = _stored(deployment(), "d")
    between = _stored(replica_set("mails-1", owner=owner), "r")

    index.put("Pod", _stored(pod("mails-1-a", owner=between), "p"))
    index.put("ReplicaSet", between)
    index.put("Deployment", owner)

    assert _names(index, MAILS) == ["mails-1-a"]


def test_what_is_dropped_is_forgotten_with_its_ties(index):
    index.drop("p2")
    index.drop("old")

    assert _names(index, MAILS) == ["mails-new-2"]


def test_a_deployment_made_anew_under_the_same_name_survives_the_late_news_of_the_old_ones_end(index):
    index.put("Deployment", _stored(deployment(replicas=9), "d-again"))

    index.drop("d")

    assert index.workload(MAILS).replicas == 9


def test_a_pod_that_turns_unready_or_goes_concerns_its_pool(index):
    owner = {"kind": "ReplicaSet", "metadata": {"name": "mails-new", "uid": "new"}}

    unready = index.put("Pod", _stored(pod("mails-new-1", owner=owner, revision="new", ready=False), "p2"))
    gone = index.drop("p3")

    assert unready == gone == {("shop", "mails")}


def test_a_pod_that_changed_in_nothing_of_note_concerns_nobody(index):
    owner = {"kind": "ReplicaSet", "metadata": {"name": "mails-new", "uid": "new"}}

    concerned = index.put("Pod", _stored(pod("mails-new-1", owner=owner, revision="new"), "p2", labels={"seen": "yes"}))

    assert concerned == frozenset()


def test_our_own_status_write_does_not_concern_the_pool_but_a_new_spec_does(index):
    same = index.put("WorkerPool", _stored({**worker_pool(), "status": {"replicas": 2}}, "w", generation=1))
    changed = index.put("WorkerPool", _stored(worker_pool(maxReplicas=7), "w", generation=2))

    assert same == frozenset()
    assert changed == {("shop", "mails")}
    assert index.pools()[0].record.spec["maxReplicas"] == 7


def test_a_pool_that_changes_its_target_leaves_the_old_one(index):
    index.put("WorkerPool", _stored(worker_pool(target="other"), "w", generation=2))

    assert index.pools_of(MAILS) == []
    assert [found.record.name for found in index.pools_of(("Deployment", "shop", "other"))] == ["mails"]


def test_our_own_scale_is_known_before_the_watch_tells_it(index):
    index.wrote_scale("d", replicas=7, resource_version="99")

    assert (index.workload(MAILS).replicas, index.workload(MAILS).resource_version) == (7, "99")


@pytest.fixture
def cluster(api):
    owner = api.put("deployments", deployment())
    between = api.put("replicasets", replica_set("mails-1", owner=owner))
    for name in ("a", "b"):
        api.put("pods", pod(f"mails-1-{name}", owner=between))
    api.put("workerpools", worker_pool())
    return api


def test_a_sweep_fills_an_empty_index(cluster, client):
    index = ClusterIndex()

    Sweep(client, index, namespaces=["shop"]).fill()

    assert _names(index, MAILS) == ["mails-1-a", "mails-1-b"]
    assert [found.record.name for found in index.pools()] == ["mails"]


def test_a_sweep_reads_no_namespace_that_is_not_served(cluster, client):
    cluster.put("pods", pod("elsewhere"), namespace="other")
    index = ClusterIndex()

    Sweep(client, index, namespaces=["shop"]).fill()

    assert {namespace for _, namespace, _ in index.versions().values()} == {"shop"}
    assert all("/namespaces/shop/" in path for path, _ in cluster.sent("GET"))


def test_what_was_deleted_while_no_watch_looked_is_dropped_at_the_next_comparison(cluster, client):
    index = ClusterIndex()
    sweep = Sweep(client, index, namespaces=["shop"])
    sweep.fill()
    cluster.delete("pods", "mails-1-a", told=False)

    concerned = sweep.compare()

    assert _names(index, MAILS) == ["mails-1-b"]
    assert concerned == {("shop", "mails")}


def test_a_change_that_no_watch_told_of_is_read_at_the_second_comparison(cluster, client):
    index = ClusterIndex()
    sweep = Sweep(client, index, namespaces=["shop"])
    sweep.fill()
    cluster.change_untold("deployments", "mails", {"spec": {"replicas": 8}})

    first = sweep.compare()
    after_first = index.workload(MAILS).replicas
    second = sweep.compare()

    assert (first, after_first) == (frozenset(), 2)
    assert index.workload(MAILS).replicas == 8
    assert second == {("shop", "mails")}
    assert sweep.missed == 1


@pytest.mark.parametrize("quicker", ["a newer state", "its end"])
def test_what_a_watch_tells_while_an_object_is_read_stays(cluster, client, monkeypatch, quicker):
    index = ClusterIndex()
    sweep = Sweep(client, index, namespaces=["shop"])
    sweep.fill()
    cluster.change_untold("deployments", "mails", {"spec": {"replicas": 8}})
    sweep.compare()
    read = client.get

    def and_meanwhile(path, **query):
        found = read(path, **query)
        if quicker == "its end":
            index.drop(found["metadata"]["uid"])
        else:
            cluster.change_untold("deployments", "mails", {"spec": {"replicas": 9}})
            index.put("Deployment", cluster.get("deployments", "mails"))
        return found

    monkeypatch.setattr(client, "get", and_meanwhile)
    sweep.compare()

    held = index.workload(MAILS)
    assert (held and held.replicas) == (9 if quicker == "a newer state" else None)


def test_a_comparison_that_finds_nothing_reads_nothing_but_metadata(cluster, client):
    index = ClusterIndex()
    sweep = Sweep(client, index, namespaces=["shop"])
    sweep.fill()
    cluster.requests.clear()

    sweep.compare()

    assert sweep.missed == 0
    assert len(cluster.requests) == 5


def test_a_sweep_that_may_not_list_says_so_and_keeps_the_index(cluster, client):
    index = ClusterIndex()
    sweep = Sweep(client, index, namespaces=["shop"])
    sweep.fill()
    cluster.fail("GET", "/pods", status=403)

    with pytest.raises(Forbidden):
        sweep.compare()

    assert _names(index, MAILS) == ["mails-1-a", "mails-1-b"]


@pytest.mark.parametrize(
    ("change", "news"),
    [
        pytest.param(lambda index: None, False, id="nothing"),
        pytest.param(lambda index: index.put("Pod", _a_pod()), False, id="a pod as it was"),
        pytest.param(lambda index: index.put("Pod", _a_pod(resourceVersion="9")), False, id="a pod's version"),
        pytest.param(lambda index: index.put("Pod", _a_pod(ready=False)), True, id="a pod that is not ready"),
        pytest.param(lambda index: index.put("Pod", _a_pod("mails-2")), True, id="a new pod"),
        pytest.param(lambda index: index.drop("mails-1"), True, id="a pod that went"),
        pytest.param(
            lambda index: index.put("Deployment", _a_deployment(resourceVersion="9")), False, id="its version"
        ),
        pytest.param(lambda index: index.put("Deployment", _a_deployment(replicas=3)), True, id="another number"),
        pytest.param(lambda index: index.wrote_scale("d", replicas=3, resource_version="9"), True, id="our own write"),
        pytest.param(lambda index: index.drop("r"), True, id="a ReplicaSet that went"),
        pytest.param(lambda index: index.drop("d"), True, id="the target went"),
    ],
)
def test_a_trace_stays_the_same_while_nothing_of_note_happens_to_a_target_and_its_pods(change, news):
    index = ClusterIndex()
    index.put("Deployment", _a_deployment())
    owner = {"metadata": {"uid": "d", "name": "mails"}, "kind": "Deployment"}
    index.put("ReplicaSet", _stored(replica_set("mails-r1", owner=owner), "r"))
    index.put("Pod", _a_pod())
    before = index.trace(("Deployment", "shop", "mails"))

    change(index)

    assert (index.trace(("Deployment", "shop", "mails")) != before) is news


def _a_deployment(*, replicas=2, **metadata):
    return _stored(deployment("mails", replicas=replicas), "d", **metadata)


def _a_pod(name="mails-1", *, ready=True, **metadata):
    owner = {"metadata": {"uid": "r", "name": "mails-r1"}, "kind": "ReplicaSet"}
    return _stored(pod(name, owner=owner, ready=ready), name, **metadata)


def test_what_is_read_again_as_it_was_is_not_held_anew():
    index, owner = ClusterIndex(), _stored(deployment(), "d1")
    index.put("Deployment", owner)
    index.put("Pod", _stored(pod("mails-1", owner=owner), "p1"))
    before = index.workload(("Deployment", "shop", "mails"))
    held, trace = index.pods(before), index.trace(("Deployment", "shop", "mails"))

    assert index.put("Deployment", _stored(deployment(), "d1")) == frozenset()
    assert index.put("Pod", _stored(pod("mails-1", owner=owner), "p1")) == frozenset()

    assert index.workload(("Deployment", "shop", "mails")) is before
    assert index.pods(before)[0] is held[0]
    assert index.trace(("Deployment", "shop", "mails")) == trace


@pytest.mark.parametrize(
    ("brought", "shared"),
    [
        pytest.param({"replicas": 2, "history": [{"to": 2}]}, True, id="as we wrote it"),
        pytest.param({"replicas": 3, "history": [{"to": 2}]}, False, id="another's"),
        pytest.param(None, False, id="none"),
    ],
)
def test_of_a_status_that_we_wrote_one_copy_is_held(brought, shared):
    index, ours = ClusterIndex(), {"replicas": 2, "history": [{"to": 2}]}
    index.put("WorkerPool", _stored(worker_pool(), "w1"))
    index.wrote_status("w1", ours)
    index.put("WorkerPool", _stored(worker_pool() | {"status": brought}, "w1", resourceVersion="2"))

    held = index.pool("w1").record.status
    assert held == (brought or {})
    assert (held is ours) is shared
