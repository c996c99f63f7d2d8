"""The Lease: one acts, the other waits, and a guard in between that asks nobody."""

import threading

import pytest

from celeriac_operator.cluster.index import ClusterIndex
from celeriac_operator.cluster.lease import DEADLINE_S, DURATION_S, Lease
from celeriac_operator.cluster.sweep import Sweep
from celeriac_operator.errors import ClusterError, Forbidden


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def contend(client, clock):
    return lambda identity: Lease(client, namespace="shop", name="operator", identity=identity, clock=clock)


def test_the_first_to_come_holds_it(api, contend):
    lease = contend("a")

    assert lease.attempt()

    assert lease.held()
    assert api.get("leases", "operator")["spec"]["holderIdentity"] == "a"


def test_the_second_waits_as_long_as_the_first_renews(contend, clock):
    first, second = contend("a"), contend("b")
    first.attempt()

    for _ in range(20):
        clock.now += 2
        assert first.attempt()
        assert not second.attempt()

    assert first.held()
    assert not second.held()


def test_a_holder_that_cannot_renew_stops_before_another_may_begin(api, contend, clock):
    first, second = contend("a"), contend("b")
    first.attempt()
    second.attempt()
    acting = []

    for _ in range(int(DURATION_S) + 3):
        clock.now += 1
        taken = second.attempt()
        acting.append((first.held(), taken and second.held()))

    assert (True, True) not in acting
    assert acting.index((False, False)) == int(DEADLINE_S) - 1
    assert acting.index((False, True)) == int(DURATION_S) - 1
    assert api.get("leases", "operator")["spec"]["holderIdentity"] == "b"


def test_each_change_of_holder_is_counted_as_a_transition_and_renewing_is_none(api, contend, clock):
    first, second = contend("a"), contend("b")
    first.attempt()
    before = api.get("leases", "operator")["spec"]["leaseTransitions"]
    first.attempt()
    unchanged = api.get("leases", "operator")["spec"]["leaseTransitions"]
    second.attempt()
    clock.now += DURATION_S
    second.attempt()

    assert unchanged == before
    assert api.get("leases", "operator")["spec"]["leaseTransitions"] == before + 1


def test_a_term_stays_the_same_over_renewals_and_changes_when_another_held_it_in_between(contend, clock):
    first, second = contend("a"), contend("b")
    terms = []
    for lease, passed_s in (
        (first, 0),
        (first, DEADLINE_S + 1),
        (second, 0),
        (second, DURATION_S),
        (first, 0),
        (first, DURATION_S),
    ):
        clock.now += passed_s
        taken = lease.attempt()
        terms.append((taken, lease.term if lease is first else None))

    assert [taken for taken, _ in terms] == [True, True, False, True, False, True]
    assert terms[0][1] == terms[1][1]
    assert terms[5][1] == terms[0][1] + 2


def test_a_holder_that_sees_another_in_its_place_stops_at_once(api, contend, clock):
    first, second = contend("a"), contend("b")
    first.attempt()
    api.delete("leases", "operator")  # by somebody who tidies up
    clock.now += 1
    second.attempt()

    assert not first.attempt()

    assert (first.held(), second.held()) == (False, True)


def test_of_two_that_find_it_expired_one_gets_it(contend, clock, client, monkeypatch):
    dead, first, second = contend("dead"), contend("a"), contend("b")
    dead.attempt()
    first.attempt()
    second.attempt()
    clock.now += DURATION_S
    read = client.get

    def and_meanwhile(path):
        found = read(path)
        monkeypatch.setattr(client, "get", read)
        first.attempt()
        return found

    monkeypatch.setattr(client, "get", and_meanwhile)
    taken = second.attempt()

    assert not taken
    assert first.held()
    assert not second.held()


def test_a_renewal_counts_from_when_it_was_sent(api, contend, clock):
    lease = contend("a")
    lease.attempt()
    sent_at = clock.now

    clock.now = sent_at + DEADLINE_S - 0.1
    just_held = lease.held()
    clock.now = sent_at + DEADLINE_S

    assert just_held
    assert not lease.held()


def test_a_server_that_fails_leaves_the_holder_its_time(api, contend, clock):
    lease = contend("a")
    lease.attempt()
    api.fail("PUT", "/leases/", status=500)
    clock.now += 2

    with pytest.raises(ClusterError):
        lease.attempt()

    assert lease.held()


def test_without_the_permission_nobody_acts(api, contend):
    api.fail("GET", "/leases/", status=403)
    lease = contend("a")

    with pytest.raises(Forbidden):
        lease.attempt()

    assert not lease.held()


def test_a_holder_that_ends_gives_it_up_and_the_next_begins_at_once(client, eventually):
    first = Lease(client, namespace="shop", name="operator", identity="a")
    second = Lease(client, namespace="shop", name="operator", identity="b")
    first.start()
    eventually(first.held)

    first.stop()

    assert not first.held()
    assert second.attempt()
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_one_that_never_held_it_gives_nothing_up(api, client, contend):
    contend("a").attempt()
    bystander = contend("b")

    bystander.stop()

    assert api.get("leases", "operator")["spec"]["holderIdentity"] == "a"


def test_what_nobody_expected_ends_neither_the_lease_nor_the_comparison(api, client, monkeypatch, eventually, caplog):
    monkeypatch.setattr("celeriac_operator.cluster.lease.RETRY_S", 0.05)
    lease = Lease(client, namespace="shop", name="operator", identity="a")
    sweep = Sweep(client, ClusterIndex(), namespaces=["shop"], first_s=0.05, interval_s=0.05)
    with monkeypatch.context() as broken:
        broken.setattr(client, "request", lambda *_a, **_k: 1 / 0)
        lease.start()
        sweep.start()
        eventually(lambda: caplog.text.count("the Lease could not be renewed: this is a bug") >= 2)
        eventually(lambda: caplog.text.count("the index was not compared with the cluster: this is a bug") >= 2)
        assert not lease.held()

    eventually(lease.held)
    assert (lease.alive, sweep.alive) == (True, True)
    lease.stop()
    sweep.stop()
    assert (lease.alive, sweep.alive) == (False, False)
