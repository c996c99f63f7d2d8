"""The fate of a claimed message before its body is read: in this order, readable, known, not too often, not revoked, not expired, due."""

from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac.exceptions import DecodeError, NotRegistered, WorkerLostError
from celeriac.policy.admission import RUN, Discard, Run, Wait, admit
from celeriac.policy.outcome import Revoked, Unreadable
from celeriac.wire.message import STARTS

NOW = 1_000_000.0
TASK = {"id": "a", "task": "t"}


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def fate(headers: dict[str, Any], *, known: bool = True, revoked: bool = False) -> Run | Wait | Discard:
    return admit(headers, known=known, revoked=revoked, max_starts=5, now=NOW)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(TASK, id="a plain message"),
        pytest.param({**TASK, "eta": None, "expires": None}, id="no times"),
        pytest.param({**TASK, "eta": at(-1)}, id="due"),
        pytest.param({**TASK, "eta": at(0)}, id="due just now"),
        pytest.param({**TASK, "expires": at(1)}, id="not expired yet"),
        pytest.param({**TASK, STARTS: 4}, id="started four times of five"),
        pytest.param({**TASK, STARTS: 0}, id="not started"),
        pytest.param({**TASK, STARTS: "many"}, id="a count that somebody else wrote"),
        pytest.param({**TASK, STARTS: None}, id="a count that is null"),
    ],
)
def test_what_may_run_runs(headers: dict[str, Any]) -> None:
    assert fate(headers) is RUN


def test_what_is_not_due_waits_for_its_time() -> None:
    assert fate({**TASK, "eta": at(30)}) == Wait(NOW + 30)
    assert fate({**TASK, "eta": at(30), "expires": at(60)}) == Wait(NOW + 30)


@pytest.mark.parametrize(
    ("headers", "given", "outcome", "reason"),
    [
        pytest.param({}, {"known": False}, DecodeError, "malformed", id="no headers"),
        pytest.param({"id": "a"}, {"known": False}, DecodeError, "malformed", id="no task"),
        pytest.param({"task": "t"}, {"known": False}, DecodeError, "malformed", id="no id"),
        pytest.param({"id": 7, "task": "t"}, {"known": False}, DecodeError, "malformed", id="an id that is no text"),
        pytest.param({"id": "a", "task": ["t"]}, {"known": False}, DecodeError, "malformed", id="a task that is no text"),
        pytest.param(TASK, {"known": False}, NotRegistered, "unknown_task", id="an unknown task"),
        pytest.param({**TASK, STARTS: 5}, {}, WorkerLostError, "too_many_starts", id="started too often"),
        pytest.param({**TASK, STARTS: 9, "eta": at(9)}, {"revoked": True}, WorkerLostError, "too_many_starts", id="before everything else"),
        pytest.param({**TASK, "eta": "soon"}, {}, ValueError, "malformed", id="an eta that is no time"),
        pytest.param({**TASK, "expires": 12.5}, {}, ValueError, "malformed", id="an expiry that is no time"),
    ],
)  # fmt: skip
def test_what_cannot_run_ends_as_unreadable_with_its_reason(
    headers: dict[str, Any], given: dict[str, bool], outcome: type[Exception], reason: str
) -> None:
    verdict = fate(headers, **given)

    assert isinstance(verdict, Discard)
    assert isinstance(verdict.outcome, Unreadable)
    assert type(verdict.outcome.error) is outcome
    assert verdict.outcome.reason == reason


@pytest.mark.parametrize(
    ("headers", "revoked", "why"),
    [
        pytest.param(TASK, True, "revoked", id="revoked"),
        pytest.param({**TASK, "expires": at(-1)}, True, "revoked", id="revoked before expired"),
        pytest.param({**TASK, "eta": at(30)}, True, "revoked", id="revoked while it waits"),
        pytest.param({**TASK, "expires": at(-0.001)}, False, "expired", id="expired"),
        pytest.param({**TASK, "expires": at(0)}, False, "expired", id="expired just now"),
        pytest.param({**TASK, "expires": at(-1), "eta": at(30)}, False, "expired", id="expired before it is due"),
    ],
)
def test_what_nobody_wants_any_more_ends_as_revoked(headers: dict[str, Any], revoked: bool, why: str) -> None:
    assert fate(headers, revoked=revoked) == Discard(Revoked(why))


def test_a_message_that_is_no_task_says_what_it_has() -> None:
    verdict = fate({"id": "a", "colour": "red"}, known=False)

    assert isinstance(verdict, Discard)
    assert isinstance(verdict.outcome, Unreadable)
    assert "['colour', 'id']" in str(verdict.outcome.error)


def test_an_unknown_tasks_error_names_it() -> None:
    verdict = fate({"id": "a", "task": "shop.gone"}, known=False)

    assert isinstance(verdict, Discard)
    assert isinstance(verdict.outcome, Unreadable)
    assert str(verdict.outcome.error) == "shop.gone"
