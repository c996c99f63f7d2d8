"""What arrives: shapes of a load, and the tasks that one draw of chance makes of them. Seconds count from the start."""

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import itemgetter


class Distribution(StrEnum):
    CONSTANT = "constant"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"  # sigma 1: the mean is 1.65 times the median, one in twenty takes 3.1 times the mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTime:
    """How long a task runs."""

    mean_s: float
    distribution: Distribution = Distribution.EXPONENTIAL

    def draw(self, chance: random.Random) -> float:
        match self.distribution:
            case Distribution.CONSTANT:
                return self.mean_s
            case Distribution.EXPONENTIAL:
                return chance.expovariate(1.0 / self.mean_s)
            case Distribution.LOGNORMAL:
                return chance.lognormvariate(math.log(self.mean_s) - 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Poisson arrivals; with every_s, only for for_s from first_at on and then each every_s."""

    rate_per_s: float
    first_at: float = 0.0
    every_s: float | None = None
    for_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sine:
    """Poisson arrivals whose rate swings between low and high, from the middle upwards at first."""

    low_per_s: float
    high_per_s: float
    period_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Herd:
    """count tasks that become due at the same moment, once or each every_s; sent ahead_s before that with an ETA."""

    count: int
    first_at: float
    every_s: float | None = None
    ahead_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """So many arrivals in each span of span_s, evenly at random within it; the last span is followed by nothing."""

    counts: tuple[float, ...]
    span_s: float
    first_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Tasks as they were: (arrived, ran for s or None when not known), in order of arrival."""

    tasks: tuple[tuple[float, float | None], ...]


Shape = Steady | Sine | Herd | Counts | Recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """One queue's load. limit_per_s: starts a second that a rate limit of the whole cluster allows, None for any."""

    name: str
    service: ServiceTime
    shapes: tuple[Shape, ...]
    limit_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """One draw of a queue's load, by time: when each task is due, how long it will run.

    delayed   (sent, due) of those that are sent before they are due, by due time; sent_at: the former alone, sorted.
    """

    due_at: "array[float]"
    run_s: "array[float]"
    delayed: tuple[tuple[float, float], ...] = ()
    sent_at: tuple[float, ...] = ()


def draw(load: QueueLoad, duration_s: float, chance: random.Random) -> Tasks:
    """The tasks of `load` up to `duration_s`."""
    due: list[float] = []
    delayed: list[tuple[float, float]] = []
    recorded: list[tuple[float, float | None]] = []
    for shape in load.shapes:
        match shape:
            case Recorded():
                recorded += [task for task in shape.tasks if task[0] < duration_s]
            case Herd():
                moments = [at for at in _moments(shape.first_at, shape.every_s, duration_s) for _ in range(shape.count)]
                due += moments
                if shape.ahead_s > 0:
                    delayed += [(at - shape.ahead_s, at) for at in moments]
            case _:
                due += _arrivals(shape, duration_s, chance)
    due.sort()
    run_s = [load.service.draw(chance) for _ in due]
    if recorded:
        known = [(at, load.service.draw(chance) if ran_s is None else ran_s) for at, ran_s in recorded]
        both = sorted([*zip(due, run_s, strict=True), *known], key=itemgetter(0))
        due, run_s = [at for at, _ in both], [ran_s for _, ran_s in both]
    return Tasks(
        due_at=array("d", due),
        run_s=array("d", run_s),
        delayed=tuple(sorted(delayed, key=itemgetter(1))),
        sent_at=tuple(sorted(sent for sent, _ in delayed)),
    )


def _rate(shape: Steady | Sine | Counts, at: float) -> float:
    """Arrivals a second to be expected around `at`."""
    match shape:
        case Steady(every_s=None):
            return shape.rate_per_s if at >= shape.first_at else 0.0
        case Steady():
            since = at - shape.first_at
            return shape.rate_per_s if since >= 0 and since % (shape.every_s or math.inf) < shape.for_s else 0.0
        case Sine():
            middle, swing = (shape.high_per_s + shape.low_per_s) / 2, (shape.high_per_s - shape.low_per_s) / 2
            return middle + swing * math.sin(2 * math.pi * at / shape.period_s)
        case Counts():
            span = int((at - shape.first_at) // shape.span_s)
            return shape.counts[span] / shape.span_s if 0 <= span < len(shape.counts) else 0.0


def _arrivals(shape: Steady | Sine | Counts, duration_s: float, chance: random.Random) -> Iterator[float]:
    """A Poisson process of the shape's rate, drawn at its highest rate and thinned (Lewis and Shedler 1979)."""
    match shape:
        case Steady():
            highest = shape.rate_per_s
        case Sine():
            highest = shape.high_per_s
        case Counts():
            highest = max(shape.counts, default=0.0) / shape.span_s
    if highest <= 0:
        return
    thinned = not (isinstance(shape, Steady) and shape.every_s is None)
    gap, even, at = chance.expovariate, chance.random, shape.first_at if isinstance(shape, Steady | Counts) else 0.0
    while True:
        at += gap(highest)
        if at >= duration_s:
            return
        if not thinned or even() * highest < _rate(shape, at):
            yield at


def tasks_expected(shape: Shape, duration_s: float) -> float:
    """About how many tasks a shape brings."""
    match shape:
        case Steady(every_s=None):
            return shape.rate_per_s * max(0.0, duration_s - shape.first_at)
        case Steady(every_s=every_s, for_s=for_s):
            return shape.rate_per_s * max(0.0, duration_s - shape.first_at) * min(1.0, for_s / (every_s or math.inf))
        case Sine():
            return (shape.low_per_s + shape.high_per_s) / 2 * duration_s
        case Counts():
            return sum(shape.counts)
        case Herd(every_s=None):
            return shape.count if shape.first_at < duration_s else 0
        case Herd(every_s=every_s):
            return shape.count * max(0.0, math.ceil((duration_s - shape.first_at) / (every_s or math.inf)))
        case Recorded():
            return len(shape.tasks)


def most_draws(shape: Shape, duration_s: float) -> float:
    """How many arrivals `draw` tries: what the shape's highest rate would bring all the time."""
    match shape:
        case Steady():
            return shape.rate_per_s * max(0.0, duration_s - shape.first_at)
        case Sine():
            return shape.high_per_s * duration_s
        case Counts():
            return max(shape.counts, default=0.0) / shape.span_s * max(0.0, duration_s - shape.first_at)
        case Herd() | Recorded():
            return tasks_expected(shape, duration_s)


def _moments(first_at: float, every_s: float | None, duration_s: float) -> Sequence[float]:
    if every_s is None:
        return [first_at] if first_at < duration_s else []
    return [first_at + n * every_s for n in range(max(0, math.ceil((duration_s - first_at) / every_s)))]
