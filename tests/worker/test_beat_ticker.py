"""What is due, what is sent for it and what is left out: tables over passed-in time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.beat.ticker import Due, due, read_tick_id, tick_id
from celeriac.schedules import crontab, schedule

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("now_s", "catch_up", "deadline_s", "expected"),
    [
        pytest.param(59.9, "latest", None, None, id="not yet"),
        pytest.param(60, "latest", None, (60, True), id="due to the moment"),
        pytest.param(61, "latest", None, (60, True), id="a second late"),
        pytest.param(200, "latest", None, (180, True), id="three are missed: the last is sent"),
        pytest.param(200, "latest", 30, (180, True), id="the last is within the deadline"),
        pytest.param(200, "latest", 10, (180, False), id="the last is too late"),
        pytest.param(200, "all", None, (60, True), id="three are missed: the first is sent first"),
        pytest.param(200, "all", 100, (120, True), id="the first within the deadline"),
        pytest.param(200, "all", 10, (180, False), id="all are too late"),
        pytest.param(59, "all", 10, None, id="none is missed"),
        pytest.param(60.5, "skip", None, (60, True), id="half a second late is no miss"),
        pytest.param(95, "skip", None, (60, False), id="35 s late: left out"),
        pytest.param(200, "skip", None, (180, True), id="the last of three is 20 s late"),
        pytest.param(215, "skip", None, (180, False), id="the last of three is 35 s late"),
        pytest.param(215, "skip", 40, (180, True), id="the deadline says what is a miss"),
    ],
)
@pytest.mark.parametrize("plan", [schedule(60), crontab()], ids=["every 60 s", "crontab"])
def test_what_is_due(plan, now_s, catch_up, deadline_s, expected) -> None:
    found = due(plan, AT, after(now_s), UTC, catch_up, deadline_s)

    assert found == (Due(after(expected[0]), expected[1]) if expected else None)


@given(st.lists(st.floats(0.1, 500), max_size=20), st.sampled_from(["latest", "all"]))
def test_every_run_is_sent_in_order_and_once_however_late_beat_looks(pauses: list[float], catch_up: str) -> None:
    plan, last, now, sent = schedule(60), AT, AT, []
    for pause_s in pauses:
        now += timedelta(seconds=pause_s)
        while (found := due(plan, last, now, UTC, catch_up, None)) is not None:
            last = found.moment
            sent.append(found.moment)

    grid = [after(60 * n) for n in range(1, int((now - AT) / timedelta(seconds=60)) + 1)]
    assert sent == sorted(set(sent))
    assert set(sent) <= set(grid)
    assert catch_up == "latest" or sent == grid
    assert not grid or sent[-1] == grid[-1]


@pytest.mark.parametrize("entry", ["mail", "every 10 s", "", "shop.add(3, 4)"])
def test_a_tick_is_named_by_entry_and_moment(entry: str) -> None:
    assert read_tick_id(tick_id(entry, after(0.25))) == (entry, after(0.25))
