"""Celery's result record as a value: what stands under `celery-task-meta-<id>`, and how an exception is written.

Source: celery/backends/base.py of 5.7, measured in research/celery.md 3D.
"""

import builtins
from collections.abc import Mapping
from typing import Any, NamedTuple

from celeriac import exceptions

KEY_PREFIX = "celery-task-meta-"


class ResultMeta(NamedTuple):
    """A task's state and what belongs to it.

    result     SUCCESS: the value. STARTED: {pid, hostname}. A custom state: its meta. FAILURE, RETRY, REVOKED:
               {exc_type, exc_message, exc_module}.
    date_done  ISO 8601, None unless ready.
    extra      group_id, parent_id, and with result_extended name, args, kwargs, worker, retries, queue.
    reply_to   the queue of who sent the call, for stores that answer there; not part of the record.
    """

    task_id: str
    status: str
    result: Any = None
    traceback: str | None = None
    date_done: str | None = None
    children: Any = ()
    extra: Mapping[str, Any] = {}
    reply_to: str = ""

    def to_wire(self) -> dict[str, Any]:
        """The record as JSON types (its result excepted, which is the user's)."""
        return {
            "status": self.status,
            "result": self.result,
            "traceback": self.traceback,
            "children": list(self.children),
            "date_done": self.date_done,
            "task_id": self.task_id,
            **self.extra,
        }


def with_arguments(meta: ResultMeta, args: Any, kwargs: Any) -> ResultMeta:
    """The record with what the task was called with, as result_extended adds it; what JSON cannot write as its repr."""
    return meta._replace(extra={**meta.extra, "args": _plain(args), "kwargs": _plain(kwargs)})


_FIELDS = ("status", "result", "traceback", "children", "date_done", "task_id")


def from_wire(record: Mapping[str, Any]) -> ResultMeta:
    """The record as a value. Raises ValueError when it has no status or task_id."""
    try:
        return ResultMeta(
            task_id=record["task_id"],
            status=record["status"],
            result=record.get("result"),
            traceback=record.get("traceback"),
            date_done=record.get("date_done"),
            children=record.get("children") or (),
            extra={name: value for name, value in record.items() if name not in _FIELDS},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a result record: {record!r:.200}") from error


class Described(exceptions.CeleriacError):
    """An exception that another process raised: what `exception_to_wire` wrote there, and its str and its repr."""

    def __init__(self, record: Mapping[str, Any], text: str, shown: str) -> None:
        super().__init__(text)
        self.record = dict(record)
        self.shown = shown

    def __repr__(self) -> str:
        return self.shown


#: Our errors that Celery's clients know, and the module they know them from.
_IN_CELERY = {
    "TimeLimitExceeded": "billiard.exceptions",
    "SoftTimeLimitExceeded": "billiard.exceptions",
    "WorkerLostError": "billiard.exceptions",
}


def exception_to_wire(error: BaseException) -> dict[str, Any]:
    """The exception as JSON types. Arguments that JSON cannot write become their repr, as Celery does."""
    if isinstance(error, Described):
        return dict(error.record)
    kind = type(error)
    name, module = getattr(kind, "__qualname__", kind.__name__), kind.__module__
    return {
        "exc_type": name,
        "exc_message": [_plain(argument) for argument in error.args],
        "exc_module": _IN_CELERY.get(name, module) if module == exceptions.__name__ else module,
    }


def class_name(error: BaseException) -> str:
    """The name of the exception's class, wherever it was raised."""
    return str(error.record.get("exc_type")) if isinstance(error, Described) else type(error).__name__


def exception_from_wire(record: Any, modules: Mapping[str, Any]) -> BaseException:
    """The exception that a record describes: its own class where `modules` (sys.modules) has it, else one of that name.

    Never imports anything and never calls what is not an exception class.
    """
    if isinstance(record, BaseException):
        return record
    if not isinstance(record, Mapping) or "exc_type" not in record:
        return exceptions.CeleriacError(record)
    name, module = str(record["exc_type"]), str(record.get("exc_module") or "builtins")
    message = record.get("exc_message")
    arguments = tuple(message) if isinstance(message, list | tuple) else (message,)
    kind: Any = exceptions if module in {"celery.exceptions", "billiard.exceptions"} else modules.get(module)
    for part in name.split("."):
        kind = getattr(kind, part, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        kind = getattr(builtins, name, None) if module == "builtins" else None
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = type(name.rpartition(".")[2] or "Error", (exceptions.CeleriacError,), {"__module__": module})
    try:
        rebuilt: BaseException = kind(*arguments)
    except Exception:  # noqa: BLE001 - a class whose __init__ wants other arguments
        rebuilt = exceptions.CeleriacError(f"{module}.{name}{arguments!r}")
    return rebuilt


_INT64 = 2**63


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | float | bool) or (isinstance(value, int) and -_INT64 <= value < _INT64):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(part) for key, part in value.items()}
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a broken __repr__
        return f"<{type(value).__name__}>"
