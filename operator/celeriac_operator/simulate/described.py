"""Scenarios from YAML files of the form that docs/simulate.md describes: `read_scenario(path)`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any

from celeriac_operator.documents import documents
from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.load import (
    Counts,
    Distribution,
    Herd,
    QueueLoad,
    ServiceTime,
    Shape,
    Sine,
    Steady,
)
from celeriac_operator.simulate.scenario import (
    LONGEST_S,
    MOST_TASKS,
    START_AT,
    Outages,
    Pods,
    Scenario,
    moment_of,
    pool_spec,
    span_s,
)

_FIELDS = ("title", "start", "duration", "pods", "pool", "queues", "outages")

_MOST_PER_S = 1_000_000.0
_MOST_LIMIT = 1_000_000_000.0
_MOST_SLOTS = 1_000

#: Short, whatever is in a file: a few lines of YAML can stand for a value of any size.
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def read_scenario(path: Path) -> Scenario:
    """The scenario in a file. Raises SetupError with the file, the field, what it holds and what it may hold."""
    try:
        found = documents(path.read_bytes(), str(path))
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error}") from error
    if len(found) > 1:
        raise SetupError(f"{path} holds {len(found)} documents; a scenario is one")
    try:
        return _scenario(path.stem, _Fields.of(found[0] if found else None, "", _FIELDS))
    except ValueError as error:
        raise SetupError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Fields:
    """A mapping of the file and where it stands. All methods raise ValueError with field, value and what is allowed."""

    raw: Mapping[str, Any]
    path: str

    @classmethod
    def of(cls, raw: object, path: str, known: Sequence[str]) -> "_Fields":
        if not isinstance(raw, Mapping):
            raise ValueError(  # noqa: TRY004  one error for all faults
                f"{path or 'the file'} is {_shown(raw)}, must be a mapping with {', '.join(known)}"
            )
        unknown = sorted(set(map(str, raw)) - set(known))
        if unknown:
            raise ValueError(f"{path or 'the file'} has {_shown(unknown)[1:-1]}, known are {', '.join(known)}")
        return cls(raw, path)

    def __contains__(self, name: str) -> bool:
        return name in self.raw

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def nested(self, name: str, known: Sequence[str], *, required: bool = False) -> "_Fields":
        value = self.raw.get(name)
        return _Fields.of({} if value is None and not required else value, self.at(name), known)

    def items(self, name: str) -> list[tuple[Any, str]]:
        """The entries of a list, each with its path."""
        value = self.raw.get(name)
        if value is not None and not isinstance(value, list):
            raise ValueError(f"{self.at(name)} is {_shown(value)}, must be a list")
        return [(entry, f"{self.at(name)}[{i}]") for i, entry in enumerate(value or ())]

    def number(self, name: str, *, most: float, above_zero: bool = False) -> float:
        return _number(self.raw.get(name), self.at(name), most=most, above_zero=above_zero)

    def whole(self, name: str, default: int | None = None, *, least: int, most: int) -> int:
        value = self.raw.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{self.at(name)} is {_shown(value)}, must be a whole number from {least} to {most}")
        return value

    def seconds(self, name: str, default_s: float | None = None, *, above_zero: bool = False) -> float:
        """Of a number, which is seconds, or of text such as 5m."""
        value = self.raw.get(name)
        if value is None:
            if default_s is None:
                raise ValueError(f"{self.at(name)} is missing: write a duration such as 30s, 5m or 4h")
            return default_s
        text = value if isinstance(value, str) else ""
        if not text or re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            seconds = _number(float(text) if text else value, self.at(name), most=LONGEST_S)
        else:
            try:
                seconds = span_s(text)
            except ValueError as error:
                raise ValueError(
                    f"{self.at(name)} is {_shown(value)}, must be a duration such as 30s, 5m or 4h, up to 31 days"
                ) from error
        if above_zero and seconds == 0:
            raise ValueError(f"{self.at(name)} is {_shown(value)}, must be above 0")
        return seconds


def _number(value: object, path: str, *, most: float, above_zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{path} is {_shown(value)}, must be a number from 0 to {most:.0f}")
    if above_zero and value == 0:
        raise ValueError(f"{path} is {_shown(value)}, must be above 0")
    return float(value)


def _scenario(name: str, fields: _Fields) -> Scenario:
    pods = fields.nested("pods", ("slots", "coldStart", "grace"))
    loads = tuple(_queue(entry, path) for entry, path in fields.items("queues"))
    if not loads:
        raise ValueError("queues is missing: name at least one, with its serviceTime and its arrivals")
    names = [load.name for load in loads]
    if twice := sorted({each for each in names if names.count(each) > 1}):
        raise ValueError(f"queues names {', '.join(twice)} more than once")
    pool = fields.raw.get("pool")
    if pool is not None and not isinstance(pool, Mapping):
        raise ValueError(f"pool is {_shown(pool)}, must be a mapping with fields of a WorkerPool's spec")
    title = fields.raw.get("title", name)
    if not isinstance(title, str):
        raise ValueError(f"title is {_shown(title)}, must be text")  # noqa: TRY004  as above
    return Scenario(
        name=name,
        title=title,
        spec=pool_spec(pool or {}, names),
        loads=loads,
        duration_s=fields.seconds("duration", above_zero=True),
        pods=Pods(
            slots=pods.whole("slots", 4, least=1, most=_MOST_SLOTS),
            cold_start_s=pods.seconds("coldStart", 20.0),
            grace_s=pods.seconds("grace", 30.0),
        ),
        outages=tuple(_outages(entry, path) for entry, path in fields.items("outages")),
        start_at=_start(fields.raw.get("start")),
    )


def _start(value: object) -> float:
    if value is None:
        return START_AT
    try:
        return moment_of(str(value))  # YAML reads most ISO times itself, and writes them as such
    except ValueError as error:
        raise ValueError(f"start is {_shown(value)}, must be a time such as 2026-01-05T08:00:00+01:00") from error


def _queue(raw: object, path: str) -> QueueLoad:
    fields = _Fields.of(raw, path, ("name", "serviceTime", "limitPerSecond", "arrivals"))
    service = fields.nested("serviceTime", ("mean", "distribution"), required=True)
    distribution = service.raw.get("distribution", Distribution.EXPONENTIAL)
    if not isinstance(distribution, str) or distribution not in tuple(Distribution):
        raise ValueError(
            f"{service.at('distribution')} is {_shown(distribution)}, must be one of {', '.join(Distribution)}"
        )
    name = fields.raw.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 255:
        raise ValueError(f"{path}.name is {_shown(name)}, must be text of 1 to 255 characters")
    limit = None
    if fields.raw.get("limitPerSecond") is not None:
        limit = fields.number("limitPerSecond", most=_MOST_LIMIT, above_zero=True)
    return QueueLoad(
        name=name,
        service=ServiceTime(mean_s=service.seconds("mean", above_zero=True), distribution=Distribution(distribution)),
        shapes=tuple(_shape(entry, at) for entry, at in fields.items("arrivals")),
        limit_per_s=limit,
    )


def _shape(raw: object, path: str) -> Shape:
    named: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    if "rate" in named:
        fields = _Fields.of(raw, path, ("rate", "first", "every", "for"))
        every_s = _every(fields)
        if every_s is None and "for" in fields:
            raise ValueError(f"{fields.at('for')} needs {fields.at('every')}: for so long, each time")
        return Steady(
            rate_per_s=fields.number("rate", most=_MOST_PER_S),
            first_at=fields.seconds("first", 0.0),
            every_s=every_s,
            for_s=0.0 if every_s is None else fields.seconds("for"),
        )
    if "low" in named or "high" in named:
        fields = _Fields.of(raw, path, ("low", "high", "period"))
        low, high = fields.number("low", most=_MOST_PER_S), fields.number("high", most=_MOST_PER_S)
        if low > high:
            raise ValueError(f"{fields.at('low')} is {low:g}, above high {high:g}")
        return Sine(low_per_s=low, high_per_s=high, period_s=fields.seconds("period", above_zero=True))
    if "count" in named:
        fields = _Fields.of(raw, path, ("count", "first", "every", "ahead"))
        return Herd(
            count=fields.whole("count", least=0, most=MOST_TASKS),
            first_at=fields.seconds("first", 0.0),
            every_s=_every(fields),
            ahead_s=fields.seconds("ahead", 0.0),
        )
    if "counts" in named:
        fields = _Fields.of(raw, path, ("counts", "span", "first"))
        return Counts(
            counts=tuple(_number(count, at, most=MOST_TASKS) for count, at in fields.items("counts")),
            span_s=fields.seconds("span", above_zero=True),
            first_at=fields.seconds("first", 0.0),
        )
    raise ValueError(f"{path} is {_shown(raw)}, must have rate (every, for), low and high, count, or counts")


def _every(fields: _Fields) -> float | None:
    return fields.seconds("every", above_zero=True) if "every" in fields else None


def _outages(raw: object, path: str) -> Outages:
    fields = _Fields.of(raw, path, ("first", "every", "for"))
    for_s, every_s = fields.seconds("for", above_zero=True), _every(fields)
    if every_s is not None and for_s >= every_s:
        raise ValueError(f"{fields.at('for')} is {for_s:g} s, must be shorter than every, which is {every_s:g} s")
    return Outages(first_at=fields.seconds("first"), for_s=for_s, every_s=every_s)


def _shown(value: object) -> str:
    return _REPR.repr(value)
