"""kopf in this process against an API server in this process: what is seen, what is poked, how it recovers and ends."""

import logging
import re
import threading

import pytest
from objects import deployment, pod, replica_set, worker_pool

from celeriac_operator import handlers
from celeriac_operator.cluster.index import WATCHED, ClusterIndex
from celeriac_operator.errors import NotFound
from celeriac_operator.handlers import Watches, require_crd

MAILS = ("Deployment", "shop", "mails")


@pytest.fixture
def index():
    return ClusterIndex()


@pytest.fixture
def poked():
    return []


@pytest.fixture
def watches(api, client, index, poked, monkeypatch):
    monkeypatch.setattr(handlers, "RESTART_S", (0.1,))
    monkeypatch.setattr(handlers, "REFUSED_S", 0.1)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    made = Watches(client, index, namespaces=["shop"], poke=lambda *pool: poked.append(pool))
    yield made
    made.stop()
    assert "watches" not in {thread.name for thread in threading.enumerate()}


def _pods(index):
    workload = index.workload(MAILS)
    return {found.record.name: found.record for found in index.pods(workload)} if workload else {}


def test_what_is_there_and_what_comes_and_goes_is_in_the_index(api, watches, index, poked, eventually):
    owner = api.put("deployments", deployment())
    between = api.put("replicasets", replica_set("mails-1", owner=owner))
    api.put("pods", pod("mails-1-a", owner=between))
    api.put("workerpools", worker_pool())

    watches.start()
    eventually(lambda: set(_pods(index)) == {"mails-1-a"} and index.pools())
    api.put("pods", pod("mails-1-b", owner=between))
    eventually(lambda: set(_pods(index)) == {"mails-1-a", "mails-1-b"})
    api.put("pods", pod("mails-1-a", owner=between, ready=False))
    eventually(lambda: not _pods(index)["mails-1-a"].ready)
    api.delete("pods", "mails-1-b")

    eventually(lambda: set(_pods(index)) == {"mails-1-a"})
    assert watches.running
    assert set(poked) == {("shop", "mails")}


def test_a_new_pool_pokes_the_loop_and_our_own_status_does_not(api, watches, index, poked, eventually):
    watches.start()
    api.put("workerpools", worker_pool())
    eventually(lambda: len(poked))
    poked.clear()

    api.put("workerpools", {**api.get("workerpools", "mails"), "status": {"replicas": 3}})
    eventually(lambda: index.pools()[0].record.status == {"replicas": 3})

    assert poked == []


def test_nothing_is_ever_written(api, watches, index, eventually):
    api.put("workerpools", worker_pool())
    api.put("deployments", deployment())

    watches.start()
    eventually(lambda: index.pools() and index.workload(MAILS))
    api.put("workerpools", worker_pool(maxReplicas=3))
    eventually(lambda: index.pools()[0].record.spec.get("maxReplicas") == 3)

    assert {verb for verb, _, _ in api.requests} == {"GET"}
    assert not {"finalizers", "annotations"} & set(api.get("workerpools", "mails")["metadata"])


def test_only_served_namespaces_are_asked_for_and_neither_namespaces_nor_crds(api, watches, index, eventually):
    api.put("workerpools", worker_pool())

    watches.start()
    eventually(lambda: len(index.pools()))

    def listed():
        return {path for path, _ in api.sent("GET") if re.search(r"/v1(alpha1)?/.", path)}

    wanted = {f"{path}/namespaces/shop/{plural}" for path, plural in WATCHED.values()}
    eventually(lambda: listed() >= wanted)
    assert listed() == wanted


def test_what_is_there_is_listed_in_pages(api, watches, index, eventually, monkeypatch):
    monkeypatch.setattr(handlers, "PAGE", 2)
    for number in range(5):
        api.put("workerpools", worker_pool(f"pool-{number}"))

    watches.start()

    eventually(lambda: len(index.pools()) == 5)
    path, plural = WATCHED["WorkerPool"]
    lists = [path_ for path_, _ in api.sent("GET") if path_ == f"{path}/namespaces/shop/{plural}"]
    assert len(lists) >= 3


def test_watches_that_break_off_go_on_where_they_were(api, watches, index, eventually):
    api.put("workerpools", worker_pool("one"))
    watches.start()
    eventually(lambda: len(index.pools()) == 1)

    for name in ("two", "three"):
        api.close_watches()
        api.put("workerpools", worker_pool(name))
        eventually(lambda name=name: name in {found.record.name for found in index.pools()})

    assert watches.running


def test_a_watch_whose_version_is_too_old_lists_anew(api, watches, index, eventually):
    api.put("workerpools", worker_pool("one"))
    watches.start()
    eventually(lambda: len(index.pools()) == 1)

    api.compact()
    api.change_untold("workerpools", "one", {"spec": {"maxReplicas": 3}})

    eventually(lambda: index.pools()[0].record.spec.get("maxReplicas") == 3)


def test_watches_that_fail_begin_again(api, watches, index, eventually, caplog):
    api.hidden.add("/apis/celeriac.dev/v1alpha1")
    watches.start()
    eventually(lambda: "watching failed, it begins again" in caplog.text)
    assert "apply the CRD" in caplog.text

    api.put("workerpools", worker_pool())
    api.hidden.clear()

    eventually(lambda: index.pools() and watches.running)


def test_refused_credentials_are_tried_again_until_they_are_accepted(api, watches, index, eventually, caplog):
    api.put("workerpools", worker_pool())
    watches.start()
    eventually(lambda: len(index.pools()))

    fault = api.fail("GET", "/workerpools$", status=401)
    api.close_watches()
    eventually(lambda: "does not accept our credentials" in caplog.text)
    api.faults.remove(fault)
    api.put("workerpools", worker_pool("again"))

    eventually(lambda: len(index.pools()) == 2)


def test_watches_end_while_they_wait_to_begin_again(api, watches, eventually, caplog, monkeypatch):
    monkeypatch.setattr(handlers, "RESTART_S", (60.0,))
    api.hidden.add("/apis/celeriac.dev/v1alpha1")
    watches.start()
    eventually(lambda: "begins again in 60 s" in caplog.text)

    watches.stop()

    assert not watches.running


@pytest.mark.parametrize("hidden", [True, False], ids=["no kind of the group is served", "only other kinds are"])
def test_a_missing_crd_says_how_to_apply_it(api, client, hidden):
    if hidden:
        api.hidden.add("/apis/celeriac.dev/v1alpha1")
    else:
        api.fail("GET", "/apis/celeriac.dev/v1alpha1$", status=200, body=b'{"resources": [{"name": "others"}]}')

    with pytest.raises(NotFound, match=r"celeriac-operator crd \| kubectl apply -f -"):
        require_crd(client)
