"""When a task runs again, and when it has run often enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.policy.retry import backoff_s, exhausted


@pytest.mark.parametrize(
    ("retries", "max_retries", "ended"),
    [
        pytest.param(0, 3, False, id="never retried"),
        pytest.param(2, 3, False, id="one is left"),
        pytest.param(3, 3, True, id="none is left"),
        pytest.param(9, 3, True, id="beyond, after the limit was lowered"),
        pytest.param(0, 0, True, id="none allowed"),
        pytest.param(10**9, None, False, id="no limit"),
    ],
)
def test_a_task_is_retried_max_retries_times(retries: int, max_retries: int | None, ended: bool) -> None:
    assert exhausted(retries, max_retries) is ended


@pytest.mark.parametrize(
    ("factor_s", "retries", "cap_s", "wait_s"),
    [
        (1, 0, 600, 1), (1, 1, 600, 2), (1, 2, 600, 4), (1, 9, 600, 512), (1, 10, 600, 600), (5, 2, 600, 20), (0.5, 0, 600, 0.5),
        (0, 5, 600, 0), (1, 5, 10, 10), (1, 10_000, 600, 600),
    ],
)  # fmt: skip
def test_the_wait_doubles_up_to_its_cap(factor_s: float, retries: int, cap_s: float, wait_s: float) -> None:
    assert backoff_s(factor_s, retries, cap_s, None) == wait_s


@pytest.mark.parametrize(("retries", "sides"), [(0, 2), (3, 9), (20, 601)])
def test_jitter_rolls_one_die_from_nothing_to_the_whole_wait(retries: int, sides: int) -> None:
    rolled: list[int] = []

    def roll(count: int) -> int:
        rolled.append(count)
        return 0

    assert backoff_s(1.0, retries, 600.0, roll) == 0.0
    assert rolled == [sides]
    assert backoff_s(1.0, retries, 600.0, lambda count: count - 1) == sides - 1


@given(factor=st.floats(0, 1e6), retries=st.integers(0, 10**6), cap=st.floats(0, 1e6), share=st.floats(0, 0.999))
def test_a_wait_is_never_negative_nor_above_its_cap(factor: float, retries: int, cap: float, share: float) -> None:
    for jitter in (None, lambda count: int(share * count)):
        assert 0 <= backoff_s(factor, retries, cap, jitter) <= cap
