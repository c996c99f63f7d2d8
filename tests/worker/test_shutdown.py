"""How a worker ends: within its grace, and never later."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.policy.shutdown import DRAINING, RUNNING, STOPPED, Step, next_step


@pytest.mark.parametrize(
    ("phase", "asked_at", "cold", "busy", "now", "step"),
    [
        pytest.param(RUNNING, None, False, 0, 100.0, Step(RUNNING), id="nobody asked, idle"),
        pytest.param(RUNNING, None, False, 3, 100.0, Step(RUNNING), id="nobody asked, busy"),
        pytest.param(RUNNING, 100.0, False, 0, 100.0, Step(STOPPED), id="asked while idle: at once"),
        pytest.param(RUNNING, 100.0, False, 3, 100.0, Step(DRAINING), id="asked while busy: finish"),
        pytest.param(DRAINING, 100.0, False, 1, 109.9, Step(DRAINING), id="within the grace"),
        pytest.param(DRAINING, 100.0, False, 0, 105.0, Step(STOPPED), id="all done"),
        pytest.param(DRAINING, 100.0, False, 1, 110.0, Step(STOPPED, requeue=True), id="the grace is over"),
        pytest.param(DRAINING, 100.0, False, 0, 200.0, Step(STOPPED), id="done, however late: nothing to give back"),
        pytest.param(RUNNING, 100.0, True, 2, 100.0, Step(STOPPED, requeue=True), id="cold: at once"),
        pytest.param(DRAINING, 100.0, True, 2, 101.0, Step(STOPPED, requeue=True), id="asked a second time"),
        pytest.param(RUNNING, 100.0, True, 0, 100.0, Step(STOPPED), id="cold and idle"),
    ],
)
def test_the_next_step(phase: str, asked_at: float | None, cold: bool, busy: int, now: float, step: Step) -> None:
    assert next_step(phase, asked_at=asked_at, cold=cold, busy=busy, grace_s=10.0, now=now) == step


@given(busy=st.integers(0, 5), grace_s=st.floats(0, 1e4), late_s=st.floats(0, 1e4))
def test_after_the_grace_it_has_always_stopped_and_gives_back_what_runs(
    busy: int, grace_s: float, late_s: float
) -> None:
    step = next_step(DRAINING, asked_at=0.0, cold=False, busy=busy, grace_s=grace_s, now=grace_s + late_s)

    assert step == Step(STOPPED, requeue=busy > 0)
