"""The store of an app without result_backend: it keeps nothing, and says so to whoever asks for a result."""

from collections.abc import Mapping, Sequence
from typing import Any

from celeriac.exceptions import ImproperlyConfigured, NotSupported
from celeriac.wire.chord import ChordPart, ChordStart, Joined
from celeriac.wire.result import ResultMeta

_HOW = (
    "no result backend is configured: set result_backend (or CELERIAC_RESULT_BACKEND), for example redis://host:6379/1"
)


class DisabledBackend:
    """See ResultBackend."""

    keeps_results = False
    keeps_chords = False
    answers = False

    def expect(self) -> str:
        return ""

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        return [None] * len(records)

    def encode(self, meta: ResultMeta) -> bytes:
        raise NotSupported(_HOW)

    def fetch(self, task_id: str) -> ResultMeta | None:
        raise ImproperlyConfigured(_HOW)

    def fetch_many(self, task_ids: Sequence[str]) -> Mapping[str, ResultMeta]:
        raise ImproperlyConfigured(_HOW)

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        raise ImproperlyConfigured(_HOW)

    def forget(self, task_id: str) -> None:
        """Nothing is kept."""

    def cleanup(self) -> int:
        return 0

    def save_group(self, group_id: str, members: Any) -> None:
        raise ImproperlyConfigured(_HOW)

    def fetch_group(self, group_id: str) -> Any:
        raise ImproperlyConfigured(_HOW)

    def forget_group(self, group_id: str) -> None:
        """Nothing is kept."""

    def open_chords(self, starts: Sequence[ChordStart]) -> None:
        raise NotSupported(f"a chord needs a result store that counts its members; {_HOW}")

    def widen_chord(self, group_id: str, task_id: str) -> None:
        raise NotSupported(f"a chord needs a result store that counts its members; {_HOW}")

    def encode_part(self, task_id: str, state: str, result: Any) -> bytes:
        raise NotSupported(f"a chord needs a result store that counts its members; {_HOW}")

    def join_chords(self, parts: Sequence[ChordPart]) -> list[Joined]:
        raise NotSupported(f"a chord needs a result store that counts its members; {_HOW}")

    def close_chords(self, joined: Sequence[Joined]) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""
