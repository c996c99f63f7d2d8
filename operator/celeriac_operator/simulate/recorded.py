"""A load as it was: from a CSV file, or from a Prometheus that has watched the queues."""

import csv
import json
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

from celeriac.broker.connection import redacted
from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.load import Counts, QueueLoad, Recorded, ServiceTime, Shape

#: The queue's name where a record has none.
NO_NAME = "tasks"

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was recorded, by queue, and how long the record is. unknown: queues whose run times it does not hold."""

    loads: tuple[QueueLoad, ...]
    duration_s: float
    unknown: tuple[str, ...] = ()


def read_csv(path: Path, service_s: float | None) -> Record:
    """The tasks, or the counts of tasks, of a CSV file with a header line.

    at        when: seconds, or ISO 8601. In the order of time.
    queue     optional.
    seconds   how long the task ran, optional: one row is one task.
    count     or: how many tasks came from this row's time to the next one's; rows evenly apart, at the same times for
              all queues.

    service_s: mean run time of tasks whose row does not say. Raises SetupError with the line that is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"cannot read {path}: {error}") from error
    if not rows or "at" not in rows[0]:
        raise SetupError(f"{path} needs a header line with at, and with seconds or count, and rows below it")
    by_queue: dict[str, list[tuple[float, float | None]]] = {}
    field = "count" if "count" in rows[0] else "seconds"
    for line, row in enumerate(rows, start=2):
        try:
            value = _measure(row[field], field) if row.get(field) else None
            by_queue.setdefault(row.get("queue") or NO_NAME, []).append((_moment(row["at"]), value))
        except ValueError as error:
            raise SetupError(f"{path}, line {line}: {error}") from error
    first_at = min(rows[0][0] for rows in by_queue.values())
    if field == "count":
        spans_s = {name: _span_s(path, [at for at, _ in rows]) for name, rows in by_queue.items()}
        shapes: dict[str, Shape] = {
            name: Counts(
                counts=tuple(count or 0.0 for _, count in rows), span_s=spans_s[name], first_at=rows[0][0] - first_at
            )
            for name, rows in by_queue.items()
        }
        duration_s = max(rows[-1][0] - first_at + spans_s[name] for name, rows in by_queue.items())
        unknown = tuple(by_queue)
    else:
        shapes = {
            name: Recorded(tasks=tuple((at - first_at, ran_s) for at, ran_s in sorted(rows, key=lambda row: row[0])))
            for name, rows in by_queue.items()
        }
        # A minute more, for the last ones to start.
        duration_s = max(at for rows in by_queue.values() for at, _ in rows) - first_at + 60.0
        unknown = tuple(name for name, rows in by_queue.items() if any(ran_s is None for _, ran_s in rows))
    return _record(shapes, duration_s, unknown, service_s)


def query_prometheus(
    url: str, query: str, *, end_at: float, since_s: float, step_s: float, service_s: float | None
) -> Record:
    """Arrivals a second as a range query tells them; of several series each is the queue that its label `queue` names.

    url: with user:password@ for Basic auth. Raises SetupError when the server does not answer, or with nothing.
    """
    shown = redacted(url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise SetupError(f"{shown} is not a Prometheus' URL such as http://prometheus:9090")
    if not 0 < step_s <= since_s:
        raise SetupError(
            f"{since_s:g} s cannot be looked at in a step of {step_s:g} s: give --step and a longer --since"
        )
    asked = urlencode(
        {"query": query, "start": f"{end_at - since_s:.3f}", "end": f"{end_at:.3f}", "step": f"{step_s:g}"}
    )
    try:
        with urlopen(_request(url, f"/api/v1/query_range?{asked}"), timeout=_TIMEOUT_S) as answer:
            found = json.load(answer)["data"]["result"]
    except (URLError, HTTPException, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the answer, too, with its connection
        raise SetupError(f"Prometheus at {shown} did not answer the query {query!r}: {redacted(str(error))}") from error
    shapes: dict[str, Shape] = {}
    for series in found:
        name = series.get("metric", {}).get("queue") or NO_NAME
        if name in shapes:
            raise SetupError(f"the query {query!r} has several series for queue {name}: write sum by (queue) (...)")
        shapes[name] = _counts(series.get("values") or (), start_at=end_at - since_s, since_s=since_s, step_s=step_s)
    if not shapes:
        raise SetupError(f"Prometheus at {shown} knows nothing of the query {query!r} in the last {since_s:g} s")
    return _record(shapes, since_s, tuple(shapes), service_s)


def _request(url: str, path: str) -> Request:
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host, path=parts.path.rstrip("/")).geturl() + path)
    if at:
        user, _, password = credentials.partition(":")
        basic = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")
    return request


def _counts(values: Sequence[Sequence[Any]], *, start_at: float, since_s: float, step_s: float) -> Counts:
    """Rates as counts; where the series has a gap, nothing came."""
    counts = [0.0] * math.ceil(since_s / step_s)
    for at, value in values:
        span, rate_per_s = int((float(at) - start_at) // step_s), float(value)
        if 0 <= span < len(counts) and math.isfinite(rate_per_s):
            counts[span] = max(0.0, rate_per_s) * step_s
    return Counts(counts=tuple(counts), span_s=step_s)


def _record(shapes: Mapping[str, Shape], duration_s: float, unknown: Sequence[str], service_s: float | None) -> Record:
    if unknown and service_s is None:
        raise SetupError(f"how long tasks of {', '.join(unknown)} run is not in the record: give --service-time")
    loads = tuple(
        QueueLoad(name=name, service=ServiceTime(mean_s=service_s or 1.0), shapes=(shape,))
        for name, shape in shapes.items()
    )
    return Record(loads=loads, duration_s=duration_s, unknown=tuple(unknown))


def _span_s(path: Path, times: Sequence[float]) -> float:
    spans = [after - before for before, after in pairwise(times)]
    if not spans or min(spans) <= 0 or max(spans) > 1.01 * min(spans):
        raise SetupError(f"{path}: rows with a count must be evenly apart, in the order of time, two at the least")
    return spans[0]


def _measure(text: str, field: str) -> float:
    """A count or seconds: a finite number that is not negative. Raises ValueError."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"the {field} {'is' if field == 'count' else 'are'} {text}: write 0 or more")
    return value


def _moment(text: str) -> float:
    """Seconds of a number or of an ISO 8601 time, which without a zone is taken for UTC. Raises ValueError."""
    try:
        at_s = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(at_s):
        raise ValueError(f"at is {text}: write seconds, or ISO 8601")
    return at_s
