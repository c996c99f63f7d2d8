"""What a result store must do: a Protocol of six methods, in records (wire.result.ResultMeta)."""

from collections.abc import Sequence
from typing import Protocol

from celeriac.wire.result import ResultMeta


class ResultBackend(Protocol):
    """A result store. Safe to use from several threads; survives fork. Raises BackendUnavailable when it cannot be reached."""

    #: Whether anything is kept at all.
    keeps_results: bool

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        """Write all records in one go; for each None, or why it alone was refused.

        A record's bytes may be given, encoded before by `encode`. A stored SUCCESS is never overwritten.
        """

    def encode(self, meta: ResultMeta) -> bytes:
        """The record's bytes. Raises EncodeError naming the value."""

    def fetch(self, task_id: str) -> ResultMeta | None:
        """The record, None when nothing is stored. Raises DecodeError."""

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        """The record once it is ready; None when timeout_s is over."""

    def forget(self, task_id: str) -> None:
        """Delete the record."""

    def close(self) -> None:
        """Disconnect."""
