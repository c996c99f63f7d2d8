"""What the operator's own probes say: a thread that has ended is a reason to restart, a cluster that is away is none."""

from typing import Any

import pytest
from scraped import page_of

from celeriac_operator.main import _State
from celeriac_operator.metrics import OperatorMetrics


class Part:
    alive = True
    running = True
    missed = 3

    def livez(self) -> tuple[bool, str]:
        return True, "2 brokers served"

    def age_s(self) -> float:
        return 20.0

    def last_event_age_s(self) -> float:
        return 50.0


def state(**parts: Any) -> _State:
    fields: dict[str, Any] = dict.fromkeys(("loop", "index", "sweep", "watches", "lease"), Part())
    return _State(**{**fields, "metrics": OperatorMetrics(version=""), "filled": True, "serving": True, **parts})


class Ended(Part):
    alive = False


@pytest.mark.parametrize("name", ["lease", "watches", "sweep"])
def test_a_thread_that_has_ended_is_named_and_ends_the_life_of_the_process(name: str) -> None:
    assert state().livez() == (True, "2 brokers served")
    assert state(lease=None).livez()[0]
    assert state(**{name: Ended()}).livez() == (False, f"the thread of {name} has ended")


def test_before_the_threads_begin_and_when_they_are_told_to_end_none_is_missed() -> None:
    assert state(serving=False, sweep=Ended()).livez()[0]


def test_changes_that_no_watch_told_of_are_counted() -> None:
    page = page_of(state().families())

    assert "celeriac_operator_watch_missed_changes_total 3.0" in page
