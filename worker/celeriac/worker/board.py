"""The board: a page of memory that the worker and its child processes share, one place a child. It says what each of them runs."""

import mmap

_WORDS = 8  # of 8 bytes: a cache line for each child, so that no two write to the same one
_TAKEN, _STARTED, _BEGUN, _SOFT, _LAST = range(5)


class Board:
    """Made before the fork. Each word has one writer."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._memory = mmap.mmap(-1, places * _WORDS * 8)
        view = memoryview(self._memory)
        self._words = view.cast("Q")
        self._times = view.cast("d")

    def place(self, number: int) -> "Place":
        """One child's words."""
        return Place(self._words, self._times, number * _WORDS)


class Place:
    """What one child runs. The child writes the first three, the worker the others.

    taken     the job it has read. begun: the same, once nothing stands against running it; started: since when (monotonic seconds).
    soft      the job whose soft time limit is over: written before the signal, so that a late signal hits no other job.
    last      after this job the child begins no other: written before the signal that ends it, so that it cannot hit the next one.
              (The child writes `taken` and then reads `last`; the worker writes `last` and then reads `taken`: one of them sees it.)
    """

    __slots__ = ("_at", "_times", "_words")

    def __init__(self, words: "memoryview[int]", times: "memoryview[float]", at: int) -> None:
        self._words, self._times, self._at = words, times, at

    def take(self, number: int) -> bool:
        """In the child: note that it has read a job; whether it may run it."""
        words, at = self._words, self._at
        words[at + _TAKEN] = number
        return not words[at + _LAST]

    def begin(self, number: int, now: float) -> None:
        """In the child: note that it runs from now on."""
        self._times[self._at + _STARTED] = now
        self._words[self._at + _BEGUN] = number

    def finish_after(self, number: int) -> bool:
        """In the worker: let the child begin nothing after this job; False when it already has."""
        words, at = self._words, self._at
        words[at + _LAST] = number
        return words[at + _TAKEN] == number

    @property
    def begun(self) -> int:
        return self._words[self._at + _BEGUN]

    @property
    def started(self) -> float:
        return self._times[self._at + _STARTED]

    @property
    def soft(self) -> int:
        return self._words[self._at + _SOFT]

    @soft.setter
    def soft(self, number: int) -> None:
        self._words[self._at + _SOFT] = number

    @property
    def is_last(self) -> bool:
        """Whether the child is to begin nothing more."""
        return bool(self._words[self._at + _LAST])

    def clear(self) -> None:
        """As nobody has written to it."""
        for word in range(_WORDS):
            self._words[self._at + word] = 0
