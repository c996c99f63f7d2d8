"""The result record: written as Celery writes it, read back as the value or the exception it was."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import exceptions
from celeriac.wire.result import ResultMeta, exception_from_wire, exception_to_wire, from_wire


class PaymentRefused(Exception):
    """An exception of a user's own."""

    class Partly(Exception):
        """Nested: its name has a dot."""


class Demanding(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code)


json_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.text())
)


@given(
    status=st.sampled_from(["SUCCESS", "STARTED", "PROGRESS"]),
    result=json_values,
    done=st.none() | st.just("2026-05-04T12:00:00+00:00"),
    extra=st.dictionaries(st.sampled_from(["group_id", "parent_id", "name", "queue"]), st.text()),
)
def test_a_record_survives_the_wire(status: str, result: Any, done: str | None, extra: dict[str, str]) -> None:
    meta = ResultMeta("id1", status, result, None, done, (), extra)

    assert from_wire(json.loads(json.dumps(meta.to_wire()))) == meta


def test_a_record_opens_with_its_status_and_has_celerys_keys() -> None:
    wire = ResultMeta("id1", "SUCCESS", 5, children=[["c", None]], extra={"group_id": "g"}).to_wire()

    assert list(wire) == ["status", "result", "traceback", "children", "date_done", "task_id", "group_id"]
    assert wire["children"] == [["c", None]]


@pytest.mark.parametrize("record", [{}, {"status": "SUCCESS"}, {"task_id": "a"}, [], None, "text", 7], ids=repr)
def test_what_is_no_record_is_a_value_error_that_shows_it(record: Any) -> None:
    with pytest.raises(ValueError, match="not a result record"):
        from_wire(record)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("bad", 7), id="a builtin"),
        pytest.param(KeyError("name"), id="a key error"),
        pytest.param(PaymentRefused("no", {"left": [1, 2]}), id="a user's own"),
        pytest.param(PaymentRefused.Partly(1.5, None, True), id="a nested class"),
        pytest.param(exceptions.MaxRetriesExceededError("enough"), id="one of ours"),
    ],
)
def test_an_exception_is_rebuilt_as_its_own_class_with_its_arguments(error: Exception) -> None:
    record = json.loads(json.dumps(exception_to_wire(error)))

    rebuilt = exception_from_wire(record, sys.modules)

    assert type(rebuilt) is type(error)
    assert rebuilt.args == error.args


def test_what_json_cannot_write_in_an_exception_is_written_as_its_repr() -> None:
    assert exception_to_wire(ValueError({1, 2}, b"\xff", [object, {3: 4}]))["exc_message"] == [
        "{1, 2}", "b'\\xff'", ["<class 'object'>", "{3: 4}"],
    ]  # fmt: skip


def test_an_argument_whose_repr_raises_is_named_by_its_type() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert exception_to_wire(ValueError(Shy()))["exc_message"] == ["<Shy>"]


@pytest.mark.parametrize(
    ("record", "name", "arguments"),
    [
        pytest.param({"exc_type": "Gone", "exc_message": ["x"], "exc_module": "not.here"}, "Gone", ("x",), id="a class that is not here"),
        pytest.param({"exc_type": "A.Gone", "exc_message": ["x"], "exc_module": "not.here"}, "Gone", ("x",), id="a nested one"),
        pytest.param({"exc_type": "ValueError", "exc_message": "x"}, "ValueError", ("x",), id="a message that is text"),
        pytest.param({"exc_type": "ValueError", "exc_message": ["x"], "exc_module": None}, "ValueError", ("x",), id="no module"),
        pytest.param({"exc_type": "NotRegistered", "exc_message": ["x"], "exc_module": "celery.exceptions"}, "NotRegistered", ("x",), id="celery's"),
        pytest.param({"exc_type": "WorkerLostError", "exc_message": [], "exc_module": "billiard.exceptions"}, "WorkerLostError", (), id="billiard's"),
    ],
)  # fmt: skip
def test_an_exception_from_elsewhere_keeps_its_name(record: Any, name: str, arguments: Any) -> None:
    rebuilt = exception_from_wire(record, sys.modules)

    assert (type(rebuilt).__name__, rebuilt.args) == (name, arguments)


def test_celerys_exceptions_become_ours() -> None:
    record = {"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}

    assert type(exception_from_wire(record, sys.modules)) is exceptions.TaskRevokedError


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        pytest.param("system", "os", id="a function"),
        pytest.param("Popen", "subprocess", id="a class that is no exception"),
        pytest.param("eval", "builtins", id="a builtin function"),
        pytest.param("SystemExit", "builtins", id="an exception that would end the process"),
        pytest.param("KeyboardInterrupt", "builtins", id="an interrupt"),
        pytest.param("ValueError.__init__", "builtins", id="a method"),
        pytest.param("__class__", "not.here", id="a dunder of nothing"),
    ],
)
def test_a_record_never_makes_us_call_what_is_no_ordinary_exception(kind: str, module: str) -> None:
    rebuilt = exception_from_wire({"exc_type": kind, "exc_message": ["rm -rf"], "exc_module": module}, sys.modules)

    assert isinstance(rebuilt, exceptions.CeleriacError)


def test_a_class_that_wants_other_arguments_is_shown_whole() -> None:
    record = exception_to_wire(Demanding(7, reason="r"))

    rebuilt = exception_from_wire(record, sys.modules)

    assert type(rebuilt) is exceptions.CeleriacError
    assert "Demanding(7,)" in str(rebuilt)


@pytest.mark.parametrize("record", [None, "text", 7, [], {}, {"exc_message": ["x"]}], ids=repr)
def test_what_describes_no_exception_is_kept_as_the_argument_of_one(record: Any) -> None:
    assert exception_from_wire(record, sys.modules).args == (record,)


def test_an_exception_that_was_pickled_is_itself() -> None:
    error = PaymentRefused("x")

    assert exception_from_wire(error, sys.modules) is error


def test_an_argument_too_large_for_json_becomes_text() -> None:
    assert exception_to_wire(ValueError(2**63, 10**5000))["exc_message"] == [str(2**63), "<int>"]
