"""What user code in the worker's main process gets of a message: in signals, and in `Task.execute`."""

import traceback as tracebacks
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from celeriac.app.context import log_file, task_log_level
from celeriac.app.task import Task
from celeriac.broker.codec import decode
from celeriac.broker.consumer import Delivery, payload
from celeriac.exceptions import Ignore, Reject
from celeriac.policy.outcome import Failed, Ignored, Outcome, Rejected
from celeriac.wire.message import parse_time, split_body


class TaskRequest:
    """A call that has come in, under Celery's names. The body is decoded when `args` or `kwargs` is first asked for.

    Headers that Celery's protocol has not are attributes, too; what is not known is None. accept: content types that are read.
    """

    __slots__ = ("_accept", "_arguments", "handed_over", "hostname", "message", "task")

    def __init__(self, message: Delivery, task: Task | None, *, hostname: str, accept: frozenset[str]) -> None:
        self.message = message
        self.task = task
        self.hostname = hostname
        self._accept = accept
        self._arguments: tuple[Any, Any] | None = None
        #: Whether execute_using_pool was called.
        self.handed_over = False

    @property
    def request_dict(self) -> Mapping[str, Any]:
        """The message's headers."""
        return self.message.headers

    headers = request_dict

    @property
    def id(self) -> str | None:
        """The task's id."""
        return self.message.headers.get("id")

    @property
    def task_id(self) -> str | None:
        """The same."""
        return self.id

    @property
    def name(self) -> str | None:
        """The task's name."""
        return self.message.headers.get("task")

    task_name = name
    type = name

    @property
    def retries(self) -> int:
        """How often it was retried."""
        return self.message.headers.get("retries") or 0

    @property
    def args(self) -> Any:
        """Positional arguments. Raises DecodeError for a body that cannot be read."""
        return self._decoded()[0]

    @property
    def kwargs(self) -> Any:
        """Keyword arguments. Raises DecodeError for a body that cannot be read."""
        return self._decoded()[1]

    @property
    def eta(self) -> datetime | None:
        """When it was due, None: at once."""
        return _moment(self.message.headers.get("eta"))

    @property
    def expires(self) -> datetime | None:
        """Until when it may start."""
        return _moment(self.message.headers.get("expires"))

    @property
    def delivery_info(self) -> dict[str, Any]:
        """exchange, routing_key, queue, priority, redelivered."""
        return self.message.info

    @property
    def correlation_id(self) -> str | None:
        """The id again, as AMQP names it."""
        return self.message.properties.get("correlation_id") or self.id

    @property
    def reply_to(self) -> str | None:
        """The caller's reply queue."""
        return self.message.properties.get("reply_to")

    def execute_using_pool(self, pool: Any, loglevel: int | None = None, logfile: str | None = None, **_: Any) -> None:
        """Have it run in the worker's pool as any other call, as soon as `Task.execute` has returned."""
        self.handed_over = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.message.headers.get(name)

    def __repr__(self) -> str:
        return f"<TaskRequest: {self.name}[{self.id}]>"

    def _decoded(self) -> tuple[Any, Any]:
        if self._arguments is None:
            message = self.message
            body = decode(
                payload(message), message.content_type, message.content_encoding, self._accept, message.headers.get("compression")
            )  # fmt: skip
            args, kwargs, _ = split_body(body)
            self._arguments = (args, kwargs)
        return self._arguments


def handed_over(request: TaskRequest, pool: Any, consumer: Any) -> Outcome | None:
    """What a task's own `execute` makes of a call; None: it runs."""
    task = request.task
    if task is None:
        return None
    try:
        task.execute(request, pool, task_log_level(), log_file(), consumer=consumer)
    except Ignore:
        return Ignored()
    except Reject as error:
        return Rejected(str(error.reason) if error.reason is not None else "rejected by execute()", error.requeue)
    except Exception as error:  # noqa: BLE001 - user code: its error is the task's
        return Failed(error, tracebacks.format_exc())
    if request.handed_over:
        return None
    return Rejected(
        f"{task.name}.execute() has returned without calling super().execute(), raising Ignore or raising Reject", False
    )


def _moment(text: Any) -> datetime | None:
    try:
        seconds = parse_time(text)
    except ValueError:
        return None
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
