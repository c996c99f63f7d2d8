"""Time limits: whose word holds for a call, and what a body that runs is due."""

import math
from typing import Any

import pytest

from celeriac.policy.timelimit import HARD, NOTHING, SOFT, UNLIMITED, Limits, Step, limits_of, next_step

TYPE = Limits(hard=30.0, soft=20.0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(None, TYPE, id="no header"),
        pytest.param([None, None], TYPE, id="asks for nothing"),
        pytest.param([9, 5], Limits(9.0, 5.0), id="hard and soft"),
        pytest.param((9, 5), Limits(9.0, 5.0), id="a tuple, as pickle and msgpack may give"),
        pytest.param([9, None], Limits(9.0, 20.0), id="hard alone"),
        pytest.param([None, 5.5], Limits(30.0, 5.5), id="soft alone"),
        pytest.param([0, 0], TYPE, id="zero means not asked, as in Celery"),
        pytest.param([-1, math.nan], TYPE, id="no time at all"),
        pytest.param(["9", {}], TYPE, id="no numbers"),
        pytest.param([True, True], TYPE, id="booleans"),
        pytest.param([9], TYPE, id="too short"),
        pytest.param(9, TYPE, id="a number"),
        pytest.param("95", TYPE, id="a text of two letters"),
    ],
)
def test_a_call_has_the_limits_it_asks_for_else_those_of_its_type(asked: Any, expected: Limits) -> None:
    assert limits_of(asked, TYPE) == expected


@pytest.mark.parametrize(
    ("limits", "ran_s", "told", "expected"),
    [
        pytest.param(UNLIMITED, 1e9, False, Step(NOTHING, math.inf), id="no limits"),
        pytest.param(TYPE, 5.0, False, Step(NOTHING, 15.0), id="before the soft limit"),
        pytest.param(TYPE, 20.0, False, Step(SOFT, 10.0), id="at the soft limit"),
        pytest.param(TYPE, 21.0, True, Step(NOTHING, 9.0), id="told once, not twice"),
        pytest.param(TYPE, 30.0, True, Step(HARD, math.inf), id="at the hard limit"),
        pytest.param(TYPE, 31.0, False, Step(HARD, math.inf), id="seen late: the hard limit goes first"),
        pytest.param(Limits(hard=3.0), 1.0, False, Step(NOTHING, 2.0), id="hard alone"),
        pytest.param(Limits(soft=3.0), 3.0, False, Step(SOFT, math.inf), id="soft alone"),
        pytest.param(Limits(soft=3.0), 4.0, True, Step(NOTHING, math.inf), id="soft alone, told"),
        pytest.param(
            Limits(hard=2.0, soft=3.0), 2.5, False, Step(HARD, math.inf), id="a soft limit above the hard one"
        ),
    ],
)
def test_a_body_is_told_once_at_its_soft_limit_and_has_failed_at_its_hard_one(
    limits: Limits, ran_s: float, told: bool, expected: Step
) -> None:
    assert next_step(limits, ran_s=ran_s, told=told) == expected
