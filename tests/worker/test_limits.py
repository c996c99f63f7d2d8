"""Rate limits in force: tokens from here or from the cluster, and when to look again."""

import pytest

from celeriac.worker.limits import Limit


def never(*_: object) -> tuple[int, float]:
    raise AssertionError("the broker was asked")


@pytest.mark.parametrize(("per_s", "burst"), [(0.1, 1), (1, 1), (2, 2), (10, 2), (20, 2), (1000, 100)])
def test_a_tenth_of_a_second_may_start_at_once_and_two_where_a_late_look_matters(per_s: float, burst: int) -> None:
    limit = Limit("t", per_s, "worker")

    assert limit.take(10_000, 0.0, never) == burst
    assert limit.take(10_000, 0.0, never) == 0


def test_a_limit_of_this_worker_asks_nobody_and_says_when_to_look_again() -> None:
    limit = Limit("t", 1.0, "worker")

    assert limit.take(1, 100.0, never) == 1
    assert limit.look_at == 0.0
    assert limit.take(1, 100.1, never) == 0
    assert limit.look_at == pytest.approx(101.0)
    assert limit.take(1, 101.0, never) == 1


def test_looks_that_come_late_cost_no_start() -> None:
    limit = Limit("t", 10.0, "worker")
    late_s = 0.03

    started = sum(limit.take(1, 0.1 * tick + late_s * (tick % 2), never) for tick in range(600))

    assert started == pytest.approx(600, abs=2)


def test_a_limit_of_the_cluster_asks_the_broker_for_no_more_than_its_burst() -> None:
    asked: list[tuple[object, ...]] = []

    def take(*wanted: object) -> tuple[int, float]:
        asked.append(wanted)
        return 2, 0.0

    limit = Limit("t", 20.0, "cluster")

    assert limit.take(50, 0.0, take) == 2
    assert asked == [("t", 20.0, 2, 2)]


def test_tokens_of_the_cluster_that_were_granted_are_used_before_more_are_asked_for() -> None:
    grants = [(3, 0.0), (0, 0.25)]
    limit = Limit("t", 100.0, "cluster")

    taken = [limit.take(1, 10.0, lambda *_: grants.pop(0)) for _ in range(4)]

    assert taken == [1, 1, 1, 0]
    assert limit.look_at == pytest.approx(10.25)


def test_without_a_shared_state_a_limit_of_the_cluster_holds_for_this_worker() -> None:
    limit = Limit("t", 1.0, "cluster")

    assert [limit.take(1, 0.0, None), limit.take(1, 0.5, None), limit.take(1, 1.0, None)] == [1, 0, 1]


@pytest.mark.parametrize("scope", ["worker", "cluster"])
def test_tokens_that_found_no_message_can_be_used_later(scope: str) -> None:
    grants = [(2, 0.0)]
    limit = Limit("t", 20.0, scope)
    take = lambda *_: grants.pop(0) if grants else (0, 1.0)  # noqa: E731

    assert limit.take(2, 0.0, take) == 2
    limit.give(2)

    assert limit.take(2, 0.0, take) == 2
    assert limit.take(1, 0.0, take) == 0


def test_it_never_looks_again_at_once() -> None:
    limit = Limit("t", 1.0, "cluster")

    limit.take(1, 5.0, lambda *_: (0, 0.0))

    assert limit.look_at > 5.0
