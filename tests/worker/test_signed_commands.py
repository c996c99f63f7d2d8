"""Which commands pass the gate of a worker whose messages are signed, as tables; what is told of the others, and how often."""

import logging
import time
from typing import Any

import pytest

from celeriac.broker.codec import JSON, SIGNED
from celeriac.broker.gate import MOST_TOLD, Gate
from celeriac.policy.commands import AGE_S, outdated, unsigned
from celeriac.wire import control
from celeriac.wire.control import EITHER, OPERATORS, PLAIN, SENT, Sent, sent_from_wire, sent_to_wire

NOW, BEGAN = 10_000.0, 9_000.0


@pytest.mark.parametrize(
    ("method", "heeds", "refused"),
    [
        *[(method, control.SIGNED, True) for method in sorted(OPERATORS)],
        *[(method, EITHER, False) for method in sorted(OPERATORS)],
        ("revoke", control.SIGNED, True),
        ("revoke", EITHER, True),
        ("ping", EITHER, True),
    ],
)
def test_who_demands_signatures_heeds_no_other_commands_but_the_operators_while_it_is_given_its_key(
    method: str, heeds: str, refused: bool
) -> None:
    refusal = unsigned(method, heeds=heeds)

    assert bool(refusal) is refused
    assert refusal is None or refusal.reason == "unsigned"


@pytest.mark.parametrize(
    ("method", "sent", "says"),
    [
        pytest.param("drain", Sent(NOW, "a"), "", id="now"),
        pytest.param("drain", Sent(NOW - AGE_S, "a"), "", id="as old as may be"),
        pytest.param("drain", Sent(NOW - AGE_S - 1, "a"), "was sent 61 s ago", id="too old"),
        pytest.param("drain", Sent(NOW + AGE_S, "a"), "", id="by a clock that is ahead"),
        pytest.param("drain", Sent(NOW + AGE_S + 1, "a"), "was sent 61 s from now", id="by a clock that is too far ahead"),
        pytest.param("drain", Sent(NOW, "known"), "came a second time", id="a second time"),
        pytest.param("shutdown", Sent(NOW, "known"), "came a second time", id="the order to end, a second time"),
        pytest.param("ping", Sent(NOW, "known"), "", id="a question, a second time"),
        pytest.param("dump_active", Sent(NOW - 500, "a"), "", id="a question by an old name, late"),
        pytest.param("revoke", Sent(NOW - 500, "a"), "was sent 500 s ago", id="a person's command, late"),
        pytest.param("shutdown", None, "", id="of a client of Celery's, which says no time"),
    ],
)  # fmt: skip
def test_a_signed_command_that_was_recorded_is_heeded_no_second_time(method: str, sent: Sent | None, says: str) -> None:
    refusal = outdated(method, sent, began_at=BEGAN, seen={"known"}, now=NOW)

    assert (refusal.reason if refusal else "") == ("outdated" if says else "")
    assert says in (refusal.says if refusal else "")


@pytest.mark.parametrize(("before_s", "refused"), [(0.5, False), (1.5, True)], ids=["clocks in step", "recorded"])
def test_what_was_sent_before_the_worker_began_is_not_heeded_by_it(before_s: float, refused: bool) -> None:
    sent = Sent(NOW - before_s, "a")
    assert bool(outdated("shutdown", sent, began_at=NOW, seen=(), now=NOW + 0.2)) is refused


@pytest.mark.parametrize(
    "found",
    ["now", [1.0, "a"], {}, {"at": 1.0}, {"at": "1", "id": "a"}, {"at": True, "id": "a"}, {"at": 1.0, "id": ""}, {"at": float("nan"), "id": "a"}],
)  # fmt: skip
def test_a_time_that_cannot_be_read_is_an_error(found: Any) -> None:
    with pytest.raises(ValueError, match="time of sending"):
        sent_from_wire({"method": "drain", SENT: found})


def test_a_time_survives_the_wire_and_none_is_none() -> None:
    assert sent_from_wire({SENT: sent_to_wire(Sent(5.0, "a"))}) == Sent(5.0, "a")
    assert sent_from_wire({"method": "drain"}) is None


def command(method: str, **more: Any) -> dict[str, Any]:
    return {"method": method, "arguments": {}, "destination": None, **more}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_refused_command_is_counted_each_time_and_told_once_for_each_kind_with_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(control.SIGNED)

    passed = [gate.passes(command(method), JSON) for method in ("drain", "drain", "shutdown", "revoke", "drain")]

    assert passed == [False] * 5
    assert gate.refused["unsigned"] == 5
    assert [line.split(" is not")[0] for line in told(caplog)] == [
        f"remote control: the command {method}" for method in ("drain", "shutdown", "revoke")
    ]
    assert "signing.secretName" in told(caplog)[0]
    assert "security_accept_unsigned_operator" in told(caplog)[0]
    assert "setup_security()" in told(caplog)[2]


def test_a_signed_command_passes_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(control.SIGNED)
    signed = command("drain", **{SENT: {"at": time.time(), "id": "a"}})

    assert [gate.passes(signed, SIGNED), gate.passes(signed, SIGNED)] == [True, False]
    assert gate.passes(command("drain", **{SENT: {"at": time.time(), "id": "b"}}), SIGNED)
    assert not gate.passes(command("drain", **{SENT: "yesterday"}), SIGNED)
    assert gate.refused["outdated"] == 2
    assert "came a second time" in told(caplog)[0]


def test_ids_are_remembered_for_as_long_as_their_time_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, began = Gate(control.SIGNED), time.time()

    for step in range(500):
        monkeypatch.setattr(time, "time", lambda step=step: began + step)
        assert gate.passes(command("drain", **{SENT: {"at": began + step, "id": str(step)}}), SIGNED)

    assert len(gate._seen) == AGE_S + 1


def test_a_worker_without_signatures_heeds_plain_commands_and_says_once_that_signed_ones_are_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(PLAIN)

    with caplog.at_level(logging.INFO):
        for _ in range(3):
            gate.undecodable(ValueError("content disallowed"), SIGNED)

    assert gate.passes(command("drain"), JSON)
    assert set(gate.refused.values()) == {0}
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_signers_who_are_not_trusted_are_told_of_once_each_and_only_so_many(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(control.SIGNED)

    for number in range(2 * MOST_TOLD):
        for _ in range(2):
            gate.undecodable(ValueError(f"signed by {number}"), SIGNED)

    assert gate.refused["untrusted"] == 4 * MOST_TOLD
    assert len(told(caplog)) == MOST_TOLD + 1
    assert "from now on they are counted only" in told(caplog)[-1]


def test_names_that_nobody_knows_are_one_kind(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(control.SIGNED)

    for number in range(50):
        gate.passes(command(f"made up {number}"), JSON)
    gate.passes(command([]), JSON)  # type: ignore[arg-type]

    assert len(told(caplog)) == 1
