"""Results in this process: for tests, and for eager code."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celeriac import states
from celeriac.broker.codec import JSON, decode, encode
from celeriac.exceptions import EncodeError
from celeriac.wire.chord import ChordPart, ChordStart, Joined, part_record
from celeriac.wire.result import ResultMeta, from_wire


@dataclass(slots=True)
class _Chord:
    """An open chord. parts: (place, order of arrival) -> payload. added: members that came later. holder: the member that sends the body."""

    size: int
    structure: Any
    parts: dict[tuple[float, int], bytes] = field(default_factory=dict)
    counted: set[tuple[str, int | None]] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    holder: str | None = None
    done: bool = False


def open_memory(name: str) -> "MemoryBackend":
    """The store of that name, one in the process; without a name a new one."""
    return _named.setdefault(name, MemoryBackend()) if name else MemoryBackend()


class MemoryBackend:
    """See ResultBackend. Values go through JSON, so that tests meet what production meets."""

    keeps_results = True
    keeps_chords = True
    answers = False

    def __init__(self) -> None:
        self._groups: dict[str, bytes] = {}
        self._chords: dict[str, _Chord] = {}
        self._records: dict[str, bytes] = {}
        self._status: dict[str, str] = {}
        self._changed = threading.Condition()

    def expect(self) -> str:
        return ""

    def store(self, records: Sequence[tuple[ResultMeta, bytes | None]]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        with self._changed:
            for meta, encoded in records:
                try:
                    payload = encoded if encoded is not None else self.encode(meta)
                except EncodeError as error:
                    errors.append(error)
                    continue
                errors.append(None)
                if self._status.get(meta.task_id) != states.SUCCESS:
                    self._records[meta.task_id] = payload
                    self._status[meta.task_id] = meta.status
            self._changed.notify_all()
        return errors

    def encode(self, meta: ResultMeta) -> bytes:
        return encode(meta.to_wire(), "json")[2]

    def fetch(self, task_id: str) -> ResultMeta | None:
        encoded = self._records.get(task_id)
        return from_wire(_read(encoded)) if encoded is not None else None

    def fetch_many(self, task_ids: Sequence[str]) -> Mapping[str, ResultMeta]:
        found = ((task_id, self.fetch(task_id)) for task_id in task_ids)
        return {task_id: meta for task_id, meta in found if meta is not None}

    def wait(self, task_id: str, timeout_s: float | None, interval_s: float) -> ResultMeta | None:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._status.get(task_id) not in states.READY_STATES:
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return None
                self._changed.wait(left_s)
        return self.fetch(task_id)

    def forget(self, task_id: str) -> None:
        with self._changed:
            self._records.pop(task_id, None)
            self._status.pop(task_id, None)

    def cleanup(self) -> int:
        return 0

    def save_group(self, group_id: str, members: Any) -> None:
        self._groups[group_id] = encode(members, "json")[2]

    def fetch_group(self, group_id: str) -> Any:
        encoded = self._groups.get(group_id)
        return None if encoded is None else _read(encoded)

    def forget_group(self, group_id: str) -> None:
        self._groups.pop(group_id, None)

    def open_chords(self, starts: Sequence[ChordStart]) -> None:
        with self._changed:
            for start in starts:
                self._chords.setdefault(start.group_id, _Chord(start.size, start.structure))

    def widen_chord(self, group_id: str, task_id: str) -> None:
        with self._changed:
            chord = self._chords.get(group_id)
            if chord is not None and task_id not in chord.added:
                chord.added.add(task_id)
                chord.size += 1

    def encode_part(self, task_id: str, state: str, result: Any) -> bytes:
        return encode(part_record(task_id, state, result), "json")[2]

    def join_chords(self, parts: Sequence[ChordPart]) -> list[Joined]:
        with self._changed:
            complete: dict[str, Joined] = {}
            for part in parts:
                chord = self._chords.get(part.group_id)
                if chord is None or chord.done:
                    continue
                member = (part.task_id, part.place)
                if member not in chord.counted:
                    chord.counted.add(member)
                    order = float("inf") if part.place is None else float(part.place)
                    chord.parts[order, len(chord.parts)] = part.payload
                if len(chord.parts) == chord.size and chord.holder in {None, part.task_id}:
                    chord.holder = part.task_id
                    ordered = [_read(payload) for _, payload in sorted(chord.parts.items())]
                    complete[part.group_id] = Joined(part.group_id, part.task_id, ordered, chord.structure)
        return list(complete.values())

    def close_chords(self, joined: Sequence[Joined]) -> None:
        with self._changed:
            for one in joined:
                chord = self._chords.get(one.group_id)
                if chord is not None and chord.holder == one.task_id:
                    chord.done = True
                    chord.parts.clear()

    def close(self) -> None:
        """Nothing is open."""


def _read(encoded: bytes) -> Any:
    return decode(encoded, JSON, "utf-8", {JSON})


#: Stores that several apps share: cache+memory:///name.
_named: dict[str, MemoryBackend] = {}
