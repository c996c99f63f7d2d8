"""The request: what a running task may know of its own call. Read lazily from the message's headers."""

import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any


class Request:
    """`task.request`. Every attribute of Celery's context can be read at any time; what is not known is None, 0 or empty.

    Custom headers are attributes too.
    """

    __slots__ = (
        "_headers",
        "_outer",
        "_properties",
        "_task",
        "_utc",
        "added",
        "args",
        "awaits_call",
        "called_directly",
        "children",
        "delivery_info",
        "embed",
        "hostname",
        "is_eager",
        "kwargs",
        "retry_asked",
    )

    def __init__(
        self, task: Any = None, headers: Mapping[str, Any] | None = None, *, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
        hostname: str | None = None, delivery_info: Mapping[str, Any] | None = None, properties: Mapping[str, Any] | None = None,
        embed: Mapping[str, Any] | None = None, is_eager: bool = False, called_directly: bool = False, outer: "Request | None" = None,
    ) -> None:  # fmt: skip
        self._task = task
        self._headers = headers or {}
        self._properties = properties or {}
        self._outer = outer
        self.args = args
        self.kwargs = kwargs if kwargs is not None else {}
        self.embed = embed or {}
        self.hostname = hostname
        self.delivery_info = delivery_info or {}
        self.is_eager = is_eager
        self.called_directly = called_directly
        #: Whether the next Task.__call__ is the worker's own, through a __call__ of the user's, and no call inside the body.
        self.awaits_call = False
        #: Calls made in it, in Celery's form of a handle.
        self.children: list[Any] = []
        #: Members that it has added to its chord.
        self.added = 0
        #: Set by Task.retry: what the worker publishes when the body has ended.
        self.retry_asked: Any = None

    @property
    def id(self) -> str | None:
        """The task's id."""
        return self._headers.get("id")

    @property
    def time_limit(self) -> float | None:
        """The call's hard time limit in seconds, or its type's."""
        return self._limit(0)

    @property
    def soft_time_limit(self) -> float | None:
        """The call's soft time limit in seconds, or its type's."""
        return self._limit(1)

    def _limit(self, place: int) -> float | None:
        limits = self._headers.get("timelimit")
        return limits[place] if isinstance(limits, list | tuple) and len(limits) == 2 else None

    @property
    def retries(self) -> int:
        """How often it was retried: 0 at first."""
        return self._headers.get("retries") or 0

    @property
    def loglevel(self) -> int:
        """The level from which the worker logs, a number of `logging`."""
        return task_log_level()

    @property
    def logfile(self) -> str | None:
        """The file the worker logs to; None: standard error."""
        return log_file()

    @property
    def task(self) -> str | None:
        """The task's name."""
        return self._headers.get("task") or getattr(self._task, "name", None)

    @property
    def utc(self) -> bool:
        """Times of messages are UTC."""
        return True

    @property
    def timelimit(self) -> Any:
        """(hard, soft) of this call in seconds, None where it asks for none."""
        return self._headers.get("timelimit") or [None, None]

    @property
    def correlation_id(self) -> str | None:
        """The id again, as AMQP names it."""
        return self._properties.get("correlation_id") or self.id

    @property
    def reply_to(self) -> str | None:
        """The caller's reply queue."""
        return self._properties.get("reply_to")

    @property
    def taskset(self) -> str | None:
        """The guide's name of `group`."""
        return self._headers.get("group")

    @property
    def callbacks(self) -> Any:
        """Signatures called with the result."""
        return self.embed.get("callbacks")

    @property
    def errbacks(self) -> Any:
        """Signatures called when it fails."""
        return self.embed.get("errbacks")

    @property
    def chain(self) -> Any:
        """What follows, the next one last."""
        return self.embed.get("chain")

    @property
    def chord(self) -> Any:
        """The body that this task's group is the header of."""
        return self.embed.get("chord")

    @property
    def headers(self) -> Mapping[str, Any]:
        """The message's headers."""
        return self._headers

    def add_child(self, task_id: str) -> None:
        """Note a call that was made here, for whoever follows the results."""
        self.children.append([[task_id, None], None])

    def update(self, *given: Mapping[str, Any], **attributes: Any) -> None:
        """Change attributes, as tests of bodies do."""
        for name, value in dict(*given, **attributes).items():
            if name in REQUEST_FIELDS and name != "properties":
                setattr(self, name, value)
            else:
                self._headers = {**self._headers, name: value}

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or `default`."""
        value = getattr(self, name)
        return default if value is None else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._headers.get(name)

    def __repr__(self) -> str:
        return f"<Request: {self.id} args={self.args!r} kwargs={self.kwargs!r}>"


#: What a Request is made with besides its headers, by name.
REQUEST_FIELDS = ("args", "kwargs", "hostname", "delivery_info", "properties", "embed", "is_eager", "called_directly")

#: The innermost request of this thread or asyncio task; outer ones hang on it.
current: ContextVar[Request | None] = ContextVar("celeriac_request", default=None)

#: What `task.request` is while the task does not run.
IDLE = Request(called_directly=True)


def task_log_level() -> int:
    """The level from which what tasks log is written, a number of `logging`."""
    return logging.getLogger("celeriac.task").getEffectiveLevel()


def log_file() -> str | None:
    """The file that this process logs to, if it does."""
    files = (handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler))
    return next((handler.baseFilename for handler in files), None)


def task_logger(name: str) -> logging.Logger:
    """The logger `celeriac.task.<name>`. Its records have task_name and task_id: of the call they were made in, else None."""
    logger = logging.getLogger(f"celeriac.task.{name}")
    if _which_call not in logger.filters:
        logger.addFilter(_which_call)
    return logger


def _which_call(record: logging.LogRecord) -> bool:
    request = current.get()
    record.task_id = request.id if request is not None else None
    record.task_name = request.task if request is not None else None
    return True
