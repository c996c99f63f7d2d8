"""Which child gets the next job, how far ahead, and how long results may wait: tables."""

import pytest

from celeriac.policy.dispatch import MOST_AT_ONCE, MOST_REST_S, UNKNOWN, learned, may_follow, rest_s


@pytest.mark.parametrize(
    ("load_s", "count", "may"),
    [
        pytest.param(0.0, 0, True, id="an idle child takes anything"),
        pytest.param(0.001, 3, True, id="a child with little to do takes more"),
        pytest.param(0.021, 3, False, id="not behind what takes longer than 20 ms"),
        pytest.param(UNKNOWN, 1, False, id="not behind what nobody knows"),
        pytest.param(0.001, MOST_AT_ONCE, False, id="not more than its socket holds"),
    ],
)
def test_a_job_is_sent_behind_others_only_when_it_will_start_soon(load_s: float, count: int, may: bool) -> None:
    assert may_follow(load_s, count) is may


def test_a_type_is_learned_from_its_first_run_rises_fast_and_falls_slowly() -> None:
    first = learned(UNKNOWN, 0.01)
    assert first == 0.01
    assert learned(first, 1.0) > 0.5
    assert 0.85 < learned(1.0, 0.0) < 1.0


@pytest.mark.parametrize(
    ("children", "rest"),
    [
        pytest.param([(0.0, 0), (0.02, 50)], 0.0, id="a child is idle: its next result is waited for"),
        pytest.param([(0.01, 1), (0.02, 50)], 0.0, id="a child has nothing to go on with"),
        pytest.param([(0.004, 40), (0.02, 50)], 0.002, id="half of the shortest"),
        pytest.param([(0.02, 50), (0.02, 50)], MOST_REST_S, id="never more than 5 ms"),
        pytest.param([(UNKNOWN, 2), (UNKNOWN, 2)], MOST_REST_S, id="nor behind what nobody knows"),
        pytest.param([(0.0015, 20), (0.02, 50)], 0.0, id="less than the clock can tell is nothing"),
    ],
)
def test_results_may_wait_only_while_every_child_has_work_to_go_on_with(
    children: list[tuple[float, int]], rest: float
) -> None:
    assert rest_s(children) == pytest.approx(rest)
