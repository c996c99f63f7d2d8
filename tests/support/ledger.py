"""What the tasks of jobs.py have written: how often each started and ended."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ledger:
    path: Path

    def starts(self) -> Counter[int]:
        return self._count("start")

    def ends(self) -> Counter[int]:
        return self._count("end")

    def _count(self, wanted: str) -> Counter[int]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return Counter(int(number) for what, number, _, _ in map(str.split, lines) if what == wanted)
