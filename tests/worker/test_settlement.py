"""What follows from each outcome: what is stored, published, acknowledged and told. The one table of a task's fate."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac.exceptions import DecodeError, NotRegistered, TimeLimitExceeded
from celeriac.policy.outcome import Failed, Ignored, Lost, Outcome, Rejected, RetryAsked, Revoked, Succeeded, Unreadable
from celeriac.policy.settlement import ACK, AGAIN, DEAD, DEATH, REQUEUE, Rules, Settlement, settle
from celeriac.wire.message import SENT_AT, STARTS, TaskMessage, compose

NOW = 1_700_000_000.0
NOW_TEXT = datetime.fromtimestamp(NOW, UTC).isoformat()
KEEP, IGNORE, ERRORS_ONLY = Rules(), Rules(ignore_result=True), Rules(ignore_result=True, store_errors=True)
NEXT = compose(id="n1", task="t.next", args=(), kwargs={}, queue="q2", origin="o", sent_at=NOW)
EMBED = {"callbacks": [{"task": "t.after"}], "errbacks": None, "chain": [{"task": "t.last"}], "chord": None}

SUCCEEDED = Succeeded(None, b'{"status": "SUCCESS"}')
FAILED = Failed(ValueError("bad"), "Traceback: bad")
RETRY = RetryAsked(OSError("away"), "Traceback: away", NOW + 30, (1, 2), {"z": 3}, {"embed": EMBED})


def headers(**changes: Any) -> dict[str, Any]:
    message = compose(id="a1", task="t.add", args=(1,), kwargs={}, queue="q", origin="gen1@here", sent_at=NOW - 9)
    return {**message.headers, **changes}


def settled(outcome: Outcome, rules: Rules = KEEP, **changes: Any) -> Settlement:
    return settle(outcome, headers(**changes), rules, queue="q", hostname="w@here", now=NOW)


@pytest.mark.parametrize(
    ("outcome", "state", "stored", "publishes", "then", "dies"),
    [
        pytest.param(SUCCEEDED, "succeeded", "SUCCESS", 0, ACK, None, id="succeeded"),
        pytest.param(Succeeded(None, b"{}", (NEXT,)), "succeeded", "SUCCESS", 1, ACK, None, id="succeeded, with a successor"),
        pytest.param(FAILED, "failed", "FAILURE", 0, ACK, None, id="failed"),
        pytest.param(Failed(ValueError(), "", True, (NEXT,)), "failed", "FAILURE", 1, ACK, None, id="failed, with an error callback"),
        pytest.param(RETRY, "retried", "RETRY", 1, ACK, None, id="asked for a retry"),
        pytest.param(RetryAsked(None, "", NOW, (), {}, {}), "retried", "RETRY", 1, ACK, None, id="asked for a retry without a reason"),
        pytest.param(Rejected("no", True), "requeued", None, 0, REQUEUE, None, id="rejected, to be requeued"),
        pytest.param(Rejected("no", False), "rejected", "FAILURE", 0, DEAD, "rejected", id="rejected"),
        pytest.param(Rejected("no", False, (NEXT,)), "rejected", "FAILURE", 1, DEAD, "rejected", id="rejected, with an error callback"),
        pytest.param(Ignored(), "ignored", None, 0, ACK, None, id="ignored"),
        pytest.param(Revoked("revoked"), "revoked", "REVOKED", 0, ACK, None, id="revoked"),
        pytest.param(Revoked("expired"), "expired", "REVOKED", 0, ACK, None, id="expired"),
        pytest.param(Unreadable(DecodeError("x"), "malformed"), "dead_lettered", "FAILURE", 0, DEAD, "malformed", id="malformed"),
        pytest.param(Unreadable(NotRegistered("x"), "unknown_task"), "dead_lettered", "FAILURE", 0, DEAD, "unknown_task", id="unknown"),
    ],
)  # fmt: skip
def test_each_outcome_has_its_settlement(
    outcome: Outcome, state: str, stored: str | None, publishes: int, then: str, dies: str | None
) -> None:
    settlement = settled(outcome)

    assert settlement.state == state
    assert (settlement.store.status if settlement.store else None) == stored
    assert len(settlement.publish) == publishes
    assert settlement.then == then
    assert (settlement.death["reason"] if settlement.death else None) == dies


@pytest.mark.parametrize(
    ("outcome", "rules", "stored"),
    [
        pytest.param(Succeeded(None, None), IGNORE, None, id="a success that nobody wants"),
        pytest.param(FAILED, IGNORE, None, id="a failure that nobody wants"),
        pytest.param(RETRY, IGNORE, None, id="a retry that nobody wants"),
        pytest.param(Revoked("revoked"), IGNORE, None, id="a revoke that nobody wants"),
        pytest.param(Unreadable(DecodeError("x"), "malformed"), IGNORE, None, id="an unreadable one that nobody wants"),
        pytest.param(FAILED, ERRORS_ONLY, "FAILURE", id="a failure, when errors are wanted"),
        pytest.param(Revoked("revoked"), ERRORS_ONLY, "REVOKED", id="a revoke, when errors are wanted"),
        pytest.param(RETRY, ERRORS_ONLY, None, id="a retry, when only errors are wanted"),
    ],
)
def test_ignored_results_are_not_stored(outcome: Outcome, rules: Rules, stored: str | None) -> None:
    store = settled(outcome, rules).store

    assert (store.status if store else None) == stored


def test_a_success_is_stored_as_the_bytes_that_were_encoded_where_it_ran() -> None:
    settlement = settled(SUCCEEDED)

    assert settlement.encoded == SUCCEEDED.record
    assert settlement.store is not None
    assert settlement.store.task_id == "a1"


# -- records


def test_a_failure_record_says_what_was_raised_when_and_where() -> None:
    store = settled(FAILED).store

    assert store is not None
    assert store.result == {"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"}
    assert (store.traceback, store.date_done) == ("Traceback: bad", NOW_TEXT)


def test_a_retry_record_shows_its_cause_and_is_not_done() -> None:
    store = settled(RETRY).store

    assert store is not None
    assert (store.result["exc_type"], store.traceback, store.date_done) == ("OSError", "Traceback: away", None)


def test_a_record_knows_its_group_and_its_parent() -> None:
    store = settled(FAILED, group="g1", parent_id="p1").store

    assert store is not None
    assert store.extra == {"group_id": "g1", "parent_id": "p1"}


def test_an_extended_record_tells_the_call() -> None:
    store = settled(FAILED, Rules(result_extended=True), retries=2).store

    assert store is not None
    assert store.extra == {
        "name": "t.add",
        "args": "(1,)",
        "kwargs": "{}",
        "worker": "w@here",
        "retries": 2,
        "queue": "q",
    }


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        pytest.param(Unreadable(NotRegistered("t.add"), "unknown_task"), "NotRegistered", id="unknown"),
        pytest.param(Revoked("expired"), "TaskRevokedError", id="expired"),
    ],
)
def test_celerys_own_errors_are_written_as_celerys(outcome: Outcome, kind: str) -> None:
    store = settled(outcome).store

    assert store is not None
    assert (store.result["exc_type"], store.result["exc_module"]) == (kind, "celery.exceptions")


# -- dead letters


def test_a_dead_letter_says_why_where_when_and_how_often_it_was_started() -> None:
    death = settled(Unreadable(DecodeError("x" * 5000), "malformed"), **{STARTS: 3}).death

    assert death == {"reason": "malformed", "detail": "x" * 1000, "queue": "q", "at": NOW, "by": "w@here", "starts": 3}


def test_a_message_without_an_id_becomes_a_dead_letter_without_a_record() -> None:
    settlement = settle(Unreadable(DecodeError("x"), "malformed"), {}, KEEP, queue="q", hostname="w@here", now=NOW)

    assert (settlement.then, settlement.store) == (DEAD, None)


# -- the next try


def again(asked: RetryAsked = RETRY, rules: Rules = KEEP, **changes: Any) -> TaskMessage:
    [message] = settled(asked, rules, **changes).publish
    return message


def test_a_retry_is_the_same_call_with_one_retry_more() -> None:
    first = headers(
        retries=2,
        shadow="s",
        root_id="r",
        parent_id="p",
        group="g",
        group_index=4,
        timelimit=[30, 20],
        ignore_result=True,
    )

    message = again(**first)

    same = (
        "id",
        "task",
        "root_id",
        "parent_id",
        "group",
        "group_index",
        "shadow",
        "origin",
        "timelimit",
        "ignore_result",
        "lang",
    )
    assert {name: message.headers[name] for name in same} == {name: first[name] for name in same}
    assert message.headers["retries"] == 3
    assert message.queue == "q"
    assert message.body == ((1, 2), {"z": 3}, EMBED)


def test_a_retry_waits_until_it_is_due() -> None:
    message = again()

    assert (message.due_at, message.headers["eta"]) == (NOW + 30, datetime.fromtimestamp(NOW + 30, UTC).isoformat())
    assert message.headers[SENT_AT] == NOW


def test_a_retry_that_is_due_already_has_no_eta() -> None:
    message = again(RETRY._replace(due_at=NOW), eta="2020-01-01T00:00:00+00:00")

    assert (message.due_at, message.headers["eta"]) == (None, None)


def test_custom_headers_travel_with_every_try() -> None:
    assert again(tenant={"a": [1]}, stamps={"x": 1}).headers["tenant"] == {"a": [1]}
    assert again(stamps={"x": 1}).headers["stamps"] == {"x": 1}


@pytest.mark.parametrize("expires", ["2030-01-01T00:00:00+00:00", "2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00"])
def test_a_retry_expires_when_the_call_did(expires: str) -> None:
    message = again(RETRY._replace(options={}), expires=expires)  # nothing waits for it: the broker may drop it

    assert datetime.fromisoformat(message.headers["expires"]) == datetime(2030, 1, 1, tzinfo=UTC)
    assert message.expiration_s == datetime(2030, 1, 1, tzinfo=UTC).timestamp() - NOW


def test_a_retry_is_a_delivery_of_its_own() -> None:
    message = again(**{STARTS: 3, "redelivered": True, DEATH: {"reason": "replayed"}})

    assert not {STARTS, "redelivered", DEATH} & set(message.headers)


def test_a_compressed_call_is_compressed_again_and_not_only_marked_so() -> None:
    message = again(compression="application/x-gzip")

    assert message.compression == "application/x-gzip"
    assert "compression" not in message.headers


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        pytest.param({"queue": "other"}, "queue", "other", id="queue"),
        pytest.param({"priority": 6}, "priority", 6, id="priority"),
        pytest.param({"serializer": "yaml"}, "serializer", "yaml", id="serializer"),
        pytest.param({"reply_to": "r"}, "reply_to", "r", id="reply_to"),
        pytest.param({"expires": datetime.fromtimestamp(NOW + 5, UTC)}, "expiration_s", 5.0, id="expires"),
    ],
)
def test_a_retrys_own_options_win(options: dict[str, Any], field: str, value: object) -> None:
    assert getattr(again(RETRY._replace(options=options)), field) == value


def test_a_retrys_own_limits_and_headers_win() -> None:
    options = {"time_limit": 9, "headers": {"tenant": "b"}}

    message = again(RETRY._replace(options=options), timelimit=[30, 20], tenant="a", colour="red")

    assert message.headers["timelimit"] == [9, 20]
    assert (message.headers["tenant"], message.headers["colour"]) == ("b", "red")


def test_a_retry_is_written_as_its_type_says() -> None:
    assert again(rules=Rules(serializer="pickle")).serializer == "pickle"


@pytest.mark.parametrize(
    "strange",
    [
        {"timelimit": 5},
        {"timelimit": [1]},
        {"timelimit": None},
        {"retries": "two"},
        {"retries": None},
        {"group": 7},
        {"lang": None},
    ],
    ids=repr,
)
def test_strange_headers_of_another_client_do_not_stop_a_retry(strange: dict[str, Any]) -> None:
    assert again(**strange).id == "a1"


# -- a failure that leaves its message behind

DIES, LATE = Rules(dies_when_failed=True), Rules(again_when_late=True, max_starts=3)
OVER = Failed(TimeLimitExceeded(9), "where it was")


@pytest.mark.parametrize(
    ("outcome", "rules", "starts", "state", "then", "dies", "stored"),
    [
        pytest.param(FAILED, DIES, 0, "failed", DEAD, "failed", "FAILURE", id="a failure, not to be acknowledged"),
        pytest.param(FAILED, LATE, 0, "failed", ACK, None, "FAILURE", id="a failure, where only late ones are not"),
        pytest.param(OVER, KEEP, 0, "failed", ACK, None, "FAILURE", id="too late"),
        pytest.param(OVER, DIES, 0, "failed", DEAD, "failed", "FAILURE", id="too late is a failure, too"),
        pytest.param(OVER, LATE, 0, "requeued", AGAIN, None, None, id="too late for the first time"),
        pytest.param(OVER, LATE, 1, "requeued", AGAIN, None, None, id="too late, the last but one"),
        pytest.param(OVER, LATE, 2, "failed", DEAD, "time_limit", "FAILURE", id="too late, the last one"),
        pytest.param(SUCCEEDED, DIES, 0, "succeeded", ACK, None, "SUCCESS", id="a success"),
        pytest.param(RETRY, DIES, 0, "retried", ACK, None, "RETRY", id="a retry"),
        pytest.param(Lost("killed"), DIES, 0, "failed", DEAD, "failed", "FAILURE", id="a lost one"),
    ],
)  # fmt: skip
def test_a_failure_that_is_not_acknowledged_leaves_a_dead_letter_and_a_late_one_runs_again_up_to_the_cap(
    outcome: Outcome, rules: Rules, starts: int, state: str, then: str, dies: str | None, stored: str | None
) -> None:
    settlement = settled(outcome, rules, **{STARTS: starts})

    assert (settlement.state, settlement.then) == (state, then)
    assert (settlement.death["reason"] if settlement.death else None) == dies
    assert (settlement.store.status if settlement.store else None) == stored


def test_the_dead_letter_of_a_failure_names_the_error_and_what_follows_it_is_sent() -> None:
    settlement = settled(FAILED._replace(follow=(NEXT,)), DIES)

    assert settlement.death is not None
    assert settlement.death["detail"] == "ValueError('bad')"
    assert settlement.publish == (NEXT,)


def test_a_rejected_call_has_failed_for_who_waits_for_it() -> None:
    store = settled(Rejected("no room", False)).store

    assert store is not None
    assert store.result == {"exc_type": "Reject", "exc_message": ["no room", False], "exc_module": "celery.exceptions"}


RETRIED = Rules(retry_lost_s=30.0, max_retries=2, again_when_lost=True)


@pytest.mark.parametrize(
    ("rules", "retries", "state", "then", "stored", "retry_at"),
    [
        pytest.param(RETRIED, 0, "retried", ACK, "RETRY", NOW + 30, id="the first"),
        pytest.param(RETRIED, 1, "retried", ACK, "RETRY", NOW + 30, id="the last"),
        pytest.param(RETRIED, 2, "failed", ACK, "FAILURE", None, id="none left"),
        pytest.param(RETRIED._replace(max_retries=None), 99, "retried", ACK, "RETRY", NOW + 30, id="without an end"),
        pytest.param(RETRIED, "x", "retried", ACK, "RETRY", NOW + 30, id="a count that is none"),
        pytest.param(RETRIED._replace(ignore_result=True), 0, "retried", ACK, None, NOW + 30, id="nobody wants the result"),
    ],
)  # fmt: skip
def test_a_lost_call_is_retried_where_its_type_says_so_as_often_as_it_may_be(
    rules: Rules, retries: Any, state: str, then: str, stored: str | None, retry_at: float | None
) -> None:
    settlement = settled(Lost("killed by SIGKILL"), rules, retries=retries)

    assert (settlement.state, settlement.then, settlement.retry_at) == (state, then, retry_at)
    assert (settlement.store.status if settlement.store else None) == stored


# -- a task whose process was lost

RERUN = Rules(again_when_lost=True, max_starts=3)


@pytest.mark.parametrize(
    ("rules", "starts", "state", "then", "stored"),
    [
        pytest.param(RERUN, 0, "requeued", AGAIN, None, id="the first start"),
        pytest.param(RERUN, 1, "requeued", AGAIN, None, id="the last but one"),
        pytest.param(RERUN, 2, "dead_lettered", DEAD, "FAILURE", id="the last one"),
        pytest.param(RERUN, 9, "dead_lettered", DEAD, "FAILURE", id="more than there may be"),
        pytest.param(RERUN, "x", "requeued", AGAIN, None, id="a count that is none"),
        pytest.param(KEEP, 0, "failed", ACK, "FAILURE", id="not to run again"),
        pytest.param(IGNORE, 0, "failed", ACK, None, id="not to run again, and nobody wants the result"),
        pytest.param(RERUN._replace(ignore_result=True), 2, "dead_lettered", DEAD, None, id="the last one, and nobody wants the result"),
    ],
)  # fmt: skip
def test_a_lost_task_runs_again_up_to_the_cap_where_its_type_says_so_else_it_has_failed(
    rules: Rules, starts: Any, state: str, then: str, stored: str | None
) -> None:
    settlement = settled(Lost("the process that ran it was killed by SIGKILL"), rules, **{STARTS: starts})

    assert (settlement.state, settlement.then, settlement.publish) == (state, then, ())
    assert (settlement.store.status if settlement.store else None) == stored
    assert "SIGKILL" in str(settlement.error)


def test_the_dead_letter_of_a_lost_task_says_what_killed_it_and_how_often_it_was_started() -> None:
    settlement = settled(Lost("the process that ran it was killed by SIGSEGV"), RERUN, **{STARTS: 2})

    assert settlement.death is not None
    assert (settlement.death["reason"], settlement.death["starts"]) == ("worker_lost", 3)
    assert "SIGSEGV" in settlement.death["detail"]
    assert settlement.store is not None
    assert (settlement.store.result["exc_type"], settlement.store.result["exc_module"]) == (
        "WorkerLostError",
        "billiard.exceptions",
    )


def test_a_retry_whose_message_was_composed_where_the_body_ran_is_published_as_it_is() -> None:
    assert settled(RetryAsked(OSError("away"), "", NOW, None, None, {}, "", NEXT)).publish == (NEXT,)


# -- nothing is ever lost

outcomes = st.one_of(
    st.builds(Succeeded, st.none(), st.none() | st.binary(), st.sampled_from([(), (NEXT,)]), st.just(""), st.just(())),
    st.builds(Failed, st.builds(ValueError, st.text()), st.text(), st.booleans(), st.sampled_from([(), (NEXT,)]), st.just(())),
    st.builds(
        RetryAsked, st.none() | st.builds(OSError), st.text(), st.floats(0, 4e9), st.just(()), st.just({}), st.just({}), st.just(""), st.none()
    ),
    st.builds(Rejected, st.text(), st.booleans(), st.sampled_from([(), (NEXT,)]), st.just(())),
    st.builds(Failed, st.builds(TimeLimitExceeded, st.just(9)), st.text(), st.booleans(), st.sampled_from([(), (NEXT,)]), st.just(())),
    st.just(Ignored()),
    st.builds(Unreadable, st.builds(DecodeError, st.text()), st.text()),
    st.builds(Revoked, st.sampled_from(["revoked", "expired", "terminated"]), st.none(), st.none() | st.just(15)),
    st.builds(Lost, st.text(), st.sampled_from([(), (NEXT,)]), st.just(())),
)  # fmt: skip


@given(
    outcome=outcomes,
    rules=st.builds(
        Rules,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.just("json"),
        st.booleans(),
        st.just(2),
        st.booleans(),
        st.booleans(),
        st.none() | st.just(1.0),
        st.none() | st.just(1),
    ),
)
def test_a_message_that_goes_has_ended_well_or_left_something_behind(outcome: Outcome, rules: Rules) -> None:
    settlement = settled(outcome, rules)

    goes_on = settlement.then in {AGAIN, REQUEUE} or settlement.retry_at is not None
    follow = () if goes_on else getattr(outcome, "follow", ())
    assert settlement.publish[: len(follow)] == follow
    match outcome:
        case RetryAsked():
            assert [message.id for message in settlement.publish] == ["a1"]
        case Rejected(_, requeue) if requeue:
            assert settlement.then == REQUEUE
        case Rejected() | Unreadable():
            assert settlement.then == DEAD
            assert settlement.death
            assert settlement.death["reason"] is not None
        case Lost() if settlement.then == AGAIN:
            assert rules.again_when_lost
        case Failed() if settlement.then == AGAIN:
            assert rules.again_when_late
        case Lost() if settlement.retry_at is not None:
            assert rules.retry_lost_s is not None
        case Lost() if settlement.then == DEAD:
            assert settlement.death
        case Failed() | Revoked() | Lost():
            assert settlement.store is not None or (rules.ignore_result and not rules.store_errors)
        case Succeeded():
            assert settlement.encoded == outcome.record
            assert (settlement.store is None) == (outcome.record is None)
        case _:
            assert settlement == Settlement("ignored")
    assert (settlement.death is not None) == (settlement.then == DEAD)
