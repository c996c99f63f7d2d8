"""Every error Celeriac raises, under Celery's names where Celery has one.

CeleriacError
├── ImproperlyConfigured            a setting, URL or task definition that cannot work
├── OperationalError                the broker or the result store did not do what was asked
│   ├── BrokerUnavailable           it could not be reached
│   ├── MessageRefused              the broker does not take this message, now or later
│   │   └── NotRoutable             it would reach no queue, or nobody
│   └── BackendUnavailable          the result store could not be reached
├── NotSupported                    this broker or pool cannot do that; the message names what can
├── NotRegistered                   no task of that name
├── DecodeError                     a message or record that cannot be read
│   └── ContentDisallowed           its content type is not in accept_content
├── EncodeError                     a value that cannot be serialized
├── TimeoutError                    get() waited long enough
├── MaxRetriesExceededError         retry() was asked for once too often
├── ChordError                      a chord's body did not run, since a member of its header failed
├── TaskRevokedError                revoked, expired or terminated
├── SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
└── TaskPredicate                   raised by tasks to steer the worker; not failures
    ├── Retry                       run again later
    ├── Ignore                      leave the state as it is
    └── Reject                      give the message back, or dead-letter it
"""

import builtins
from datetime import datetime
from typing import Any


class CeleriacError(Exception):
    """Base of all our errors."""


class ImproperlyConfigured(CeleriacError):
    """A setting, URL or definition that cannot work; the message says which, and what would."""


class OperationalError(CeleriacError):
    """The broker or the result store did not do what was asked.

    published  when many messages were to be published: the places of those that surely are on their queues.
    """

    published: frozenset[int] = frozenset()


class BrokerUnavailable(OperationalError):
    """The broker could not be reached. The message holds the URL without its password."""


class MessageRefused(OperationalError):
    """The broker does not take this one message: no such exchange, no permission, too large. Others go."""


class NotRoutable(MessageRefused):
    """The message would reach no queue (mandatory), or a queue that no worker consumes (require_consumer). Nothing was sent."""


class BackendUnavailable(OperationalError):
    """The result store could not be reached. The message holds the URL without its password."""


class NotSupported(CeleriacError):
    """This broker, result store or pool cannot do that."""


class NotRegistered(CeleriacError):
    """No task of that name is registered here."""


class DecodeError(CeleriacError):
    """A message body or result record that cannot be read."""


class ContentDisallowed(DecodeError):
    """A content type that accept_content does not list."""


class EncodeError(CeleriacError):
    """A value that the serializer cannot write."""


class TimeoutError(CeleriacError, builtins.TimeoutError):  # noqa: A001 - Celery's name
    """get() or a publish waited as long as it was told to."""


class MaxRetriesExceededError(CeleriacError):
    """retry() was called more often than max_retries allows, and no `exc` was given."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = task_kwargs or {}


#: The guide's name.
MaxRetriesExceeded = MaxRetriesExceededError


class ChordError(CeleriacError):
    """A chord's body did not run: a member of its header failed, or the body could not be sent."""


class TaskRevokedError(CeleriacError):
    """The task was revoked, expired before it ran, or was terminated."""


class SoftTimeLimitExceeded(CeleriacError):
    """Raised inside a task when its soft time limit is over."""


class TimeLimitExceeded(CeleriacError):
    """The hard time limit is over."""


class WorkerLostError(CeleriacError):
    """The process that ran the task went away."""


class TaskPredicate(CeleriacError):
    """Raised by tasks to steer the worker."""


class Ignore(TaskPredicate):
    """Acknowledge the message and leave the task's state as it is."""


class Reject(TaskPredicate):
    """Do not acknowledge the message: requeue it, or let it become a dead letter."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue


class Retry(TaskPredicate):
    """Run the task again later. Raised by `Task.retry`; `sig` holds what to publish.

    exc    what made the retry necessary; stored as the result of the RETRY state.
    when   seconds from now, or the moment (aware).
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def __str__(self) -> str:
        if self.message:
            return self.message
        when = f"in {self.when}s" if isinstance(self.when, int | float) else f"at {self.when}"
        reason = f": {self.exc!r}" if self.exc is not None else ""
        return f"Retry {when}{reason}"


#: The guide's name.
RetryTaskError = Retry
