"""A load as it was, from a CSV file."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.load import Counts, QueueLoad, Recorded, ServiceTime, Shape
from celeriac_operator.simulate.scenario import LONGEST_S, MOST_TASKS, START_AT, checked_moment, moment_of

#: The queue's name where a record has none.
NO_NAME = "tasks"

#: Numbers from here on (September 2001) are epoch seconds, smaller ones count from the record's own zero.
_EPOCH_FROM = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was recorded, by queue; when it began, in epoch seconds, and how long it is.

    unknown: queues whose run times it does not hold. notes: what its reader may not have meant.
    """

    loads: tuple[QueueLoad, ...]
    duration_s: float
    start_at: float = START_AT
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    at: float
    queue: str
    value: float | None


def read_csv(path: Path, service_s: float | None) -> Record:
    """The tasks, or the counts of tasks, of a CSV file with a header line.

    at        when: ISO 8601, epoch seconds, or seconds from the record's zero, which is taken for Monday 0:00 UTC. In
              the order of time.
    queue     optional.
    seconds   how long the task ran, optional: one row is one task.
    count     or: how many tasks came from this row's time to the next one's; rows evenly apart, at the same times for
              all queues.

    Columns are separated by commas, semicolons or tabs, as the header has them. service_s: mean run time of tasks whose
    row does not say. Raises SetupError with the line that is wrong.
    """
    field, rows = _rows(path)
    by_queue: dict[str, list[_Row]] = {}
    for row in rows:
        by_queue.setdefault(row.queue, []).append(row)
    first_at = min(row.at for row in rows)
    if field == "count":
        spans_s = {name: _span_s(path, name, [row.at for row in some]) for name, some in by_queue.items()}
        shapes: dict[str, Shape] = {
            name: Counts(
                counts=tuple(row.value or 0.0 for row in some), span_s=spans_s[name], first_at=some[0].at - first_at
            )
            for name, some in by_queue.items()
        }
        duration_s = max(some[-1].at - first_at + spans_s[name] for name, some in by_queue.items())
        unknown = tuple(by_queue)
    else:
        shapes = {
            name: Recorded(tasks=tuple((row.at - first_at, row.value) for row in sorted(some, key=lambda row: row.at)))
            for name, some in by_queue.items()
        }
        # A minute more, for the last ones to start.
        duration_s = max(row.at for row in rows) - first_at + 60.0
        unknown = tuple(name for name, some in by_queue.items() if any(row.value is None for row in some))
    start_at = first_at if first_at >= _EPOCH_FROM else START_AT + (first_at if 0 <= first_at < LONGEST_S else 0.0)
    return record(shapes, duration_s, start_at, unknown, service_s)


def record(
    shapes: Mapping[str, Shape], duration_s: float, start_at: float, unknown: Sequence[str], service_s: float | None,
    notes: Sequence[str] = (),
) -> Record:  # fmt: skip
    """The record of these shapes, by queue. Raises SetupError when run times are unknown and service_s is None."""
    if unknown and service_s is None:
        raise SetupError(
            f"the record does not say how long tasks run (queue {', '.join(unknown)}): give --service-time"
        )
    loads = tuple(
        QueueLoad(name=name, service=ServiceTime(mean_s=service_s or 1.0), shapes=(shape,))
        for name, shape in shapes.items()
    )
    return Record(loads=loads, duration_s=duration_s, start_at=start_at, unknown=tuple(unknown), notes=tuple(notes))


def _rows(path: Path) -> tuple[str, list[_Row]]:
    """Which of count and seconds the file has, and its rows."""
    rows: list[_Row] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a byte-order mark
            header = file.readline()
            separator = max(",;\t", key=header.count)
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
            if "at" not in names:
                raise SetupError(
                    f"{path} needs a header line with at, and with seconds or count, and rows below it;"
                    f" its first line is {header.strip()!r:.80}"
                )
            if "count" in names and "seconds" in names:
                raise SetupError(f"{path} has both count and seconds: a row is a span of time, or a task")
            field = "count" if "count" in names else "seconds"
            reader = csv.reader(file, delimiter=separator)
            for cells in reader:
                if cells:
                    try:
                        rows.append(_row(dict(_together(names, cells)), field))
                    except ValueError as error:
                        raise SetupError(f"{path}, line {reader.line_num + 1}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"cannot read {path}: {error}") from error
    if not rows:
        raise SetupError(f"{path} needs a header line with at, and with seconds or count, and rows below it")
    return field, rows


def _together(names: Sequence[str], cells: Sequence[str]) -> list[tuple[str, str]]:
    if len(cells) != len(names):
        raise ValueError(f"it has {len(cells)} columns, the header has {len(names)}: {', '.join(names)}")
    return list(zip(names, (cell.strip() for cell in cells), strict=True))


def _row(cells: Mapping[str, str], field: str) -> _Row:
    value = _measure(cells[field], field) if cells.get(field) else None
    return _Row(_moment(cells["at"]), cells.get("queue") or NO_NAME, value)


def _span_s(path: Path, queue: str, times: Sequence[float]) -> float:
    spans = [after - before for before, after in pairwise(times)]
    if not spans or min(spans) <= 0 or max(spans) > 1.01 * min(spans):
        raise SetupError(
            f"{path}: rows with a count must be evenly apart, in the order of time, two at the least; those of {queue} are not"
        )
    return spans[0]


def _measure(text: str, field: str) -> float:
    """A count or seconds: a number that is not negative. Raises ValueError."""
    most = MOST_TASKS if field == "count" else LONGEST_S
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise ValueError(
            f"the {field} {'is' if field == 'count' else 'are'} {text!r:.80}: write a number such as 0.5, from 0 to {most:.0f}"
        )
    return value


def _moment(text: str) -> float:
    """Seconds of a number or of an ISO 8601 time, which without a zone is taken for UTC. Raises ValueError."""
    try:
        at_s = float(text)
    except ValueError:
        at_s = None
    try:
        if at_s is None:
            return moment_of(text)
        return at_s if abs(at_s) < _EPOCH_FROM else checked_moment(at_s, text)
    except ValueError as error:
        raise ValueError(
            f"at is {text!r:.80}: write seconds (not milliseconds), or ISO 8601 such as 2026-01-05T08:00:00Z"
        ) from error
