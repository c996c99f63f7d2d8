"""Every error Celeriac raises, under Celery's names where Celery has one.

CeleriacError (CeleryError)
├── ImproperlyConfigured            a setting, URL or task definition that cannot work
├── SecurityError                   a signed message that does not prove who wrote it
├── OperationalError                the broker or the result store did not do what was asked
│   ├── BrokerUnavailable           it could not be reached
│   ├── MessageRefused              the broker does not take this message, now or later
│   │   └── NotRoutable             it would reach no queue, or nobody
│   └── BackendUnavailable          the result store could not be reached
├── BackendError                    a result store's own trouble; BackendGetMetaError, BackendStoreError
├── NotSupported                    this broker or pool cannot do that; the message names what can
├── DecodeError                     a message or record that cannot be read
│   ├── ContentDisallowed           its content type is not in accept_content
│   └── UntrustedMessage            its signature does not prove who wrote it; a SecurityError, too
├── EncodeError                     a value that cannot be serialized
├── TaskError                       about tasks, and calls of them
│   ├── NotRegistered               no task of that name; a KeyError, too
│   ├── AlreadyRegistered           a task of that name is there already
│   ├── QueueNotFound               no queue of that name; a KeyError, too
│   ├── TimeoutError                get() waited long enough
│   ├── MaxRetriesExceededError     retry() was asked for once too often
│   ├── TaskRevokedError            revoked, expired or terminated
│   ├── InvalidTaskError            a message that is no task
│   ├── IncompleteStream            the end of a stream is missing
│   └── ChordError                  a task of a chord's header has failed
├── SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError, Terminated
└── TaskPredicate                   raised by tasks to steer the worker; not failures
    ├── Retry                       run again later
    ├── Ignore                      leave the state as it is
    └── Reject                      give the message back, or dead-letter it

CeleriacWarning (CeleryWarning): AlwaysEagerIgnored, DuplicateNodenameWarning, DuplicateTaskNameWarning, FixupWarning, NotConfigured,
SecurityWarning; and Celery's CDeprecationWarning, CPendingDeprecationWarning.
"""

import builtins
from datetime import datetime
from typing import Any, NoReturn


class CeleriacError(Exception):
    """Base of all our errors."""


#: Celery's name.
CeleryError = CeleriacError


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


class SecurityError(CeleriacError):
    """A signed message that does not prove who wrote it, or a key that cannot be used."""


class BackendError(CeleriacError):
    """Trouble of a result store."""


class BackendGetMetaError(BackendError):
    """A record could not be read. task_id: whose."""

    def __init__(self, *args: Any, task_id: str = "") -> None:
        super().__init__(*args)
        self.task_id = task_id

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """A record could not be written. task_id, state: of what."""

    def __init__(self, *args: Any, task_id: str = "", state: str = "") -> None:
        super().__init__(*args)
        self.task_id = task_id
        self.state = state

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


class TaskError(CeleriacError):
    """Base of errors about tasks and calls of them."""


class NotRegistered(KeyError, TaskError):
    """No task of that name is registered here."""

    def __repr__(self) -> str:
        return f"NotRegistered({self.args[0]!r})" if len(self.args) == 1 else super().__repr__()

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class AlreadyRegistered(TaskError):
    """A task of that name is registered already."""


class QueueNotFound(KeyError, TaskError):
    """A queue that task_queues does not have."""

    def __str__(self) -> str:
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class IncompleteStream(TaskError):
    """The end of a stream of data is missing."""


class InvalidTaskError(TaskError):
    """A message that is no task, or has fields that cannot be right."""


class ChordError(TaskError):
    """A chord's body did not run: a member of its header failed, or the body could not be sent."""


class DecodeError(CeleriacError):
    """A message body or result record that cannot be read."""


class ContentDisallowed(DecodeError):
    """A content type that accept_content does not list."""


class UntrustedMessage(DecodeError, SecurityError):
    """A message whose signature is missing, wrong, of somebody unknown, or out of time. Its task never runs."""


class EncodeError(CeleriacError):
    """A value that the serializer cannot write."""


class TimeoutError(TaskError, builtins.TimeoutError):  # noqa: A001 - Celery's name
    """get() or a publish waited as long as it was told to."""


class MaxRetriesExceededError(TaskError):
    """retry() was called more often than max_retries allows, and no `exc` was given."""

    def __init__(self, *args: Any, task_args: Any = (), task_kwargs: Any = None) -> None:
        super().__init__(*args)
        self.task_args = task_args
        self.task_kwargs = task_kwargs or {}


#: The guide's name.
MaxRetriesExceeded = MaxRetriesExceededError


class TaskRevokedError(TaskError):
    """The task was revoked, expired before it ran, or was terminated."""


class SoftTimeLimitExceeded(CeleriacError):
    """Raised inside a task when its soft time limit is over."""


class TimeLimitExceeded(CeleriacError):
    """The hard time limit is over."""


class WorkerLostError(CeleriacError):
    """The process that ran the task went away."""


class Terminated(CeleriacError):
    """The process that ran the task was ended by a request."""


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


class WorkerShutdown(SystemExit):
    """Raised in a worker to end it when its tasks have ended."""


class WorkerTerminate(SystemExit):
    """Raised in a worker to end it at once."""


class CeleriacWarning(UserWarning):
    """Base of our warnings."""


#: Celery's name.
CeleryWarning = CeleriacWarning


class AlwaysEagerIgnored(CeleriacWarning):
    """send_task() always sends: task_always_eager is for tasks that are known here."""


class DuplicateNodenameWarning(CeleriacWarning):
    """Two workers have one node name."""


class DuplicateTaskNameWarning(CeleriacWarning):
    """Two tasks have one name; the first stays."""


class FixupWarning(CeleriacWarning):
    """Something of a framework could not be set right."""


class NotConfigured(CeleriacWarning):
    """No configuration was found."""


class SecurityWarning(CeleriacWarning):
    """A setting that is a risk."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Is deprecated."""


def reraise(tp: type[BaseException], value: BaseException, tb: Any = None) -> NoReturn:
    """Raise `value` with this traceback (Celery's helper)."""
    raise value if value.__traceback__ is tb else value.with_traceback(tb)
