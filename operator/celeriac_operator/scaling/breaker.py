"""The circuit breaker: while most tasks fail, more pods would only fail more.

A dependency that is down makes every task fail fast, which looks like demand. Growth stops while failures dominate the last
two minutes, and goes on when they no longer do; what runs is left alone. A retry counts neither way: tasks that poll retry
while all is well, and those that retry because of a fault fail in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from celeriac_operator.scaling.signals import QueueSample

#: How far back tasks that ended are judged, from how many on, and how close together the marks are kept.
WINDOW_S, LEAST_RUNS, _SPACING_S = 120.0, 20, 5.0
#: It opens when more than this part of them failed, and closes when less than that did.
OPENS_AT, CLOSES_AT = 0.5, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Totals of all queues at one moment: tasks ended, and those of them that failed."""

    at: float
    ended: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """The marks within the window, oldest first, and whether growth is stopped."""

    marks: tuple[Runs, ...] = ()
    open: bool = False

    @property
    def window(self) -> tuple[int, int]:
        """(tasks ended, failed ones of them) within the window."""
        if not self.marks:
            return (0, 0)
        return (self.marks[-1].ended - self.marks[0].ended, self.marks[-1].failed - self.marks[0].failed)


def judge(breaker: Breaker, queues: Sequence[QueueSample], at: float) -> Breaker:
    """The breaker after a sample read at `at`. Totals that fell begin a new window: what they counted from is lost."""
    if not queues or (breaker.marks and at <= breaker.marks[-1].at):
        return breaker
    now = Runs(
        at=at,
        ended=sum(queue.completed for queue in queues),
        failed=sum(queue.failed for queue in queues),
    )
    marks = breaker.marks
    if marks and (now.ended < marks[-1].ended or now.failed < marks[-1].failed):
        marks = ()
    while len(marks) > 1 and marks[1].at <= at - WINDOW_S:
        marks = marks[1:]
    # The newest mark moves along until it is far enough from the one before it.
    if len(marks) > 1 and marks[-1].at - marks[-2].at < _SPACING_S:
        marks = marks[:-1]
    marks = (*marks, now)
    ended, failed = now.ended - marks[0].ended, now.failed - marks[0].failed
    if ended < LEAST_RUNS:
        return Breaker(marks=marks)
    return Breaker(marks=marks, open=failed > ended * (CLOSES_AT if breaker.open else OPENS_AT))
