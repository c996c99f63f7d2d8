"""Every error the operator raises on purpose, in one tree.

    OperatorError
    ├── SetupError          the operator cannot start as it was told to: an option, a kubeconfig
    ├── CannotSign          workers demand signed commands, and there is no key that holds
    └── ClusterError        the Kubernetes API said no, or nothing
        ├── Unreachable     no answer: refused, timed out, broken off
        ├── Unauthorized    401: the credentials are not accepted
        ├── Forbidden       403: a Role lacks a verb
        ├── NotFound        404
        ├── Conflict        409: changed since it was read, or exists already
        ├── Gone            410: the resource version is too old
        ├── Invalid         400, 415, 422: the API refused what was sent
        ├── Throttled       429: too many requests; `retry_after_s` says when
        └── ServerFailed    5xx

`SpecError`, what is wrong with a WorkerPool's spec, lives beside the spec: `resources.spec`.
"""

from collections.abc import Sequence


class OperatorError(Exception):
    """The base of all errors below."""


class SetupError(OperatorError):
    """The operator was told something it cannot start with; the message says which option or file, and what to do."""


class CannotSign(OperatorError):
    """A command was not sent to `nodes`, which heed signed ones only; the message says why, and what to do."""

    def __init__(self, message: str, *, nodes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class ClusterError(OperatorError):
    """A request to the cluster failed.

    what     the request: "PUT /apis/apps/v1/namespaces/shop/deployments/mails/scale".
    status   the HTTP status, None when there was no answer.
    """

    def __init__(self, message: str, *, what: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.what = what
        self.status = status


class Unreachable(ClusterError):
    """No answer came."""


class Unauthorized(ClusterError):
    """The credentials are not accepted."""


class Forbidden(ClusterError):
    """The operator's Role lacks a verb."""


class NotFound(ClusterError):
    """The object, or the whole API, does not exist."""


class Conflict(ClusterError):
    """The object changed since it was read, or exists already."""


class Gone(ClusterError):
    """The resource version asked for is no longer kept."""


class Invalid(ClusterError):
    """The API refused what was sent."""


class Throttled(ClusterError):
    """Too many requests; try again after `retry_after_s`."""

    def __init__(self, message: str, *, what: str = "", status: int | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, what=what, status=status)
        self.retry_after_s = retry_after_s


class ServerFailed(ClusterError):
    """The API server failed over the request."""
