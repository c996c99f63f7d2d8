"""What a result store must do: a Protocol, in records (wire.result.ResultMeta) and a chord's bookkeeping (wire.chord)."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from celeriac.wire.chord import ChordPart, ChordStart, Joined
from celeriac.wire.result import ResultMeta


class ResultBackend(Protocol):
    """A result store. Safe to use from several threads; survives fork. Raises BackendUnavailable when it cannot be reached."""

    #: Whether anything is kept at all.
    keeps_results: bool
    #: Whether it can count a chord's members. Without, a chord is refused when it is called, and the methods below raise NotSupported.
    keeps_chords: bool
    #: Whether records go to who sent the call alone: `expect` says where to, and a record's reply_to repeats it.
    answers: bool

    def expect(self) -> str:
        """The queue at which records of calls sent from this process are awaited, for stores that answer; else ""."""

    # -- records

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        """Write all records in one go; for each None, or why it alone was refused.

        A record's bytes may be given, encoded before by `encode`. A stored SUCCESS is never overwritten.
        """

    def encode(self, meta: ResultMeta) -> bytes:
        """The record's bytes. Raises EncodeError naming the value."""

    def fetch(self, task_id: str) -> ResultMeta | None:
        """The record, None when nothing is stored. Raises DecodeError."""

    def fetch_many(self, task_ids: Sequence[str]) -> Mapping[str, ResultMeta]:
        """The records that are stored, by id, in one go. Raises DecodeError."""

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        """The record once it is ready; None when timeout_s is over."""

    def forget(self, task_id: str) -> None:
        """Delete the record."""

    def cleanup(self) -> int:
        """Delete what has expired, where the store does not by itself; how many records."""

    # -- groups

    def save_group(self, group_id: str, members: Any) -> None:
        """Keep a group's result: nested tuples of ids, as GroupResult.as_tuple gives them."""

    def fetch_group(self, group_id: str) -> Any:
        """The same, of lists; None when nothing is stored."""

    def forget_group(self, group_id: str) -> None:
        """Delete it."""

    # -- chords

    def open_chords(self, starts: Sequence[ChordStart]) -> None:
        """Expect so many members each, before any of them is sent. Opening one again changes nothing."""

    def widen_chord(self, group_id: str, task_id: str) -> None:
        """Expect this call as one more member of an open chord: once, however often it is said. Whoever says so may run again."""

    def encode_part(self, task_id: str, state: str, result: Any) -> bytes:
        """A ChordPart's payload. Raises EncodeError naming the value."""

    def join_chords(self, parts: Sequence[ChordPart]) -> list[Joined]:
        """Count these members, each once whatever its number of runs; the chords that are complete and whose bodies their callers are to send.

        A chord is handed out once: to the member that completed it, and to that one again whenever it joins again before `close_chords`.
        """

    def close_chords(self, joined: Sequence[Joined]) -> None:
        """Their bodies are on their queues: forget the members. Whoever joins later is told nothing."""

    def close(self) -> None:
        """Disconnect."""
