"""How many messages to claim: what is free, and beyond that only what will start at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.policy.admission import claim_size


@pytest.mark.parametrize(
    ("free", "slots", "run_s", "multiplier", "size"),
    [
        pytest.param(1, 1, None, None, 1, id="unknown run time: nothing ahead"),
        pytest.param(0, 8, None, None, 0, id="full, and unknown run time"),
        pytest.param(3, 8, None, None, 3, id="what is free"),
        pytest.param(1, 1, 0.001, None, 21, id="20 ms of 1 ms tasks"),
        pytest.param(0, 1, 0.001, None, 20, id="full, with short tasks"),
        pytest.param(4, 4, 0.010, None, 12, id="four slots of 10 ms tasks"),
        pytest.param(1, 1, 0.021, None, 1, id="a task longer than that"),
        pytest.param(8, 8, 3600.0, None, 8, id="long tasks"),
        pytest.param(0, 8, 3600.0, None, 0, id="full, with long tasks"),
        pytest.param(1, 1, 0.0, None, 500, id="no time at all: the bound"),
        pytest.param(1, 1, 0.001, 1, 1, id="a multiplier of one: nothing ahead"),
        pytest.param(4, 4, None, 4, 16, id="Celery's default multiplier"),
        pytest.param(0, 4, 9.0, 4, 12, id="a multiplier when full"),
        pytest.param(2, 2, None, 0, 2, id="a multiplier of zero"),
        pytest.param(1, 100, None, 1000, 500, id="never more than the bound"),
    ],
)
def test_so_many_are_claimed(free: int, slots: int, run_s: float | None, multiplier: int | None, size: int) -> None:
    assert claim_size(free=free, slots=slots, run_s=run_s, multiplier=multiplier) == size


@pytest.mark.parametrize(
    ("held", "passing", "size"),
    [
        pytest.param(0, 0, 160, id="eight slots of 1 ms tasks"),
        pytest.param(7, 0, 20, id="seven of them held by long bodies: what the eighth will start"),
        pytest.param(8, 0, 0, id="all of them held"),
        pytest.param(8, 50, 100, id="nothing of the last claim took a slot: twice as many"),
        pytest.param(0, 50, 160, id="no fewer than without"),
        pytest.param(0, 400, 500, id="never more than the bound"),
    ],
)
def test_long_bodies_and_messages_that_pass_change_what_is_claimed_ahead(held: int, passing: int, size: int) -> None:
    assert claim_size(free=0, slots=8, run_s=0.001, multiplier=None, held=held, passing=passing) == size


@given(
    free=st.integers(0, 200),
    slots=st.integers(1, 200),
    run_s=st.none() | st.floats(0, 1e5),
    multiplier=st.none() | st.integers(0, 50),
)
def test_never_fewer_than_the_free_slots_nor_more_than_the_bound(
    free: int, slots: int, run_s: float | None, multiplier: int | None
) -> None:
    assert free <= claim_size(free=free, slots=slots, run_s=run_s, multiplier=multiplier) <= 500
