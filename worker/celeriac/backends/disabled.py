"""The store of an app without result_backend: it keeps nothing, and says so to whoever asks for a result."""

from collections.abc import Sequence

from celeriac.exceptions import ImproperlyConfigured, NotSupported
from celeriac.wire.result import ResultMeta

_HOW = (
    "no result backend is configured: set result_backend (or CELERIAC_RESULT_BACKEND), for example redis://host:6379/1"
)


class DisabledBackend:
    """See ResultBackend."""

    keeps_results = False

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        return [None] * len(records)

    def encode(self, meta: ResultMeta) -> bytes:
        raise NotSupported(_HOW)

    def fetch(self, task_id: str) -> ResultMeta | None:
        raise ImproperlyConfigured(_HOW)

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        raise ImproperlyConfigured(_HOW)

    def forget(self, task_id: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""
