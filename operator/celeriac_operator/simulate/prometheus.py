"""A load as a Prometheus has seen it: `query_prometheus`."""

import json
import math
from base64 import b64encode
from collections.abc import Sequence
from http.client import HTTPException
from itertools import pairwise
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

from celeriac.broker.connection import redacted
from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.load import Counts, Shape
from celeriac_operator.simulate.recorded import NO_NAME, Record, record

_TIMEOUT_S = 30.0

#: Points of a series that Prometheus gives in one answer.
_MOST_POINTS = 11_000

#: Of its answer to a wrong query.
_MOST_CHARACTERS = 300

#: A series that rises so often, in whole numbers, and never falls, is a counter and no rate.
_RISES = 5


def query_prometheus(
    url: str, query: str, *, end_at: float, since_s: float, step_s: float, service_s: float | None, token: str = ""
) -> Record:
    """Arrivals a second as a range query tells them; of several series each is the queue that its label `queue` names.

    url: with user:password@ for Basic auth; token: or for Bearer. Raises SetupError with Prometheus' own words when it
    refuses, and when it does not answer, or with nothing.
    """
    shown = redacted(url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise SetupError(f"{shown} is not a Prometheus' URL such as http://prometheus:9090")
    if token and "@" in urlsplit(url).netloc:
        raise SetupError(f"{shown} has a user, and there is a token: Prometheus takes one of them")
    if not 0 < step_s <= since_s:
        raise SetupError(
            f"{since_s:g} s cannot be looked at in a step of {step_s:g} s: give --step and a longer --since"
        )
    if since_s / step_s + 1 > _MOST_POINTS:
        least_s = math.ceil(since_s / (_MOST_POINTS - 1))
        raise SetupError(
            f"{since_s:g} s in steps of {step_s:g} s are {since_s / step_s + 1:,.0f} points, and Prometheus gives"
            f" {_MOST_POINTS:,}: give --step {least_s}s or more, or a shorter --since"
        )
    start_at = end_at - since_s
    asked = urlencode({"query": query, "start": f"{start_at:.3f}", "end": f"{end_at:.3f}", "step": f"{step_s:g}"})
    try:
        with urlopen(_request(url, f"/api/v1/query_range?{asked}", token), timeout=_TIMEOUT_S) as answer:
            found = json.load(answer)["data"]["result"]
    except HTTPError as error:
        with error:  # it is the answer, too, with its connection
            said = _said(error)
        raise SetupError(
            f"Prometheus at {shown} refused the query {query!r}: {redacted(f'HTTP {error.code}, {said}')}"
        ) from error
    except (URLError, HTTPException, OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"Prometheus at {shown} did not answer the query {query!r}: {redacted(str(error))}") from error
    shapes: dict[str, Shape] = {}
    notes: list[str] = []
    for series in found:
        name = series.get("metric", {}).get("queue") or NO_NAME
        if name in shapes:
            raise SetupError(f"the query {query!r} has several series for queue {name}: write sum by (queue) (...)")
        values = [(float(at), float(value)) for at, value in series.get("values") or ()]
        if _counts_up([value for _, value in values]):
            notes.append(
                f"what the query gives for queue {name} only ever rises, like a counter; it is taken for arrivals a second:"
                " should it be rate(...[5m])?"
            )
        shapes[name] = _counts(values, start_at=start_at, since_s=since_s, step_s=step_s)
    if not shapes:
        raise SetupError(f"Prometheus at {shown} knows nothing of the query {query!r} in the last {since_s:g} s")
    return record(shapes, since_s, start_at, tuple(shapes), service_s, notes)


def _request(url: str, path: str, token: str) -> Request:
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    request = Request(parts._replace(netloc=host, path=parts.path.rstrip("/")).geturl() + path)
    if at:
        user, _, password = credentials.partition(":")
        basic = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")
    elif token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return request


def _said(error: HTTPError) -> str:
    """What the answer says is wrong: Prometheus' `error`, else its first words, else the status' own."""
    try:
        body = error.read(65_536).decode(errors="replace").strip()
    except (OSError, HTTPException):
        return str(error.reason)
    try:
        body = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        pass  # not Prometheus' own answer, but that of something before it
    return " ".join(body.split())[:_MOST_CHARACTERS] or str(error.reason)


def _counts_up(values: Sequence[float]) -> bool:
    steps = [after - before for before, after in pairwise(values)]
    return (
        all(value == int(value) for value in values if math.isfinite(value))
        and all(step >= 0 for step in steps)
        and sum(step > 0 for step in steps) >= _RISES
    )


def _counts(values: Sequence[tuple[float, float]], *, start_at: float, since_s: float, step_s: float) -> Counts:
    """Rates as counts; where the series has a gap, nothing came."""
    counts = [0.0] * math.ceil(since_s / step_s)
    for at, rate_per_s in values:
        span = int((at - start_at) // step_s)
        if 0 <= span < len(counts) and math.isfinite(rate_per_s):
            counts[span] = max(0.0, rate_per_s) * step_s
    return Counts(counts=tuple(counts), span_s=step_s)
