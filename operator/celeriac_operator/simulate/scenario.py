"""A scenario: a pool, its pods, and what arrives; read from a YAML file of the form that docs/simulate.md describes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from celeriac_operator.errors import SetupError
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec, seconds_of
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pods:
    """What a pod is like: slots, seconds from its order to its first heartbeat, seconds from SIGTERM to SIGKILL."""

    slots: int = 4
    cold_start_s: float = 20.0
    grace_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outages:
    """The broker does not answer for for_s from first_at on, and then each every_s (None: once)."""

    first_at: float
    for_s: float
    every_s: float | None = None

    def spans(self, duration_s: float) -> Sequence[tuple[float, float]]:
        spans, at = [], self.first_at
        while at < duration_s:
            spans.append((at, at + self.for_s))
            if self.every_s is None:
                break
            at += self.every_s
        return spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """name is short, title says what it is like. spec is all that our operator is told."""

    name: str
    title: str
    spec: WorkerPoolSpec
    loads: tuple[QueueLoad, ...]
    duration_s: float
    pods: Pods
    outages: tuple[Outages, ...] = ()

    def objective_s(self, queue: str) -> float:
        found = next(known for known in self.spec.queues if known.name == queue)
        return float(self.spec.objective_of(found).seconds)


def built_in() -> dict[str, Path]:
    """Name -> file of the scenarios that come with the operator, by name."""
    folder = Path(str(files("celeriac_operator.simulate") / "scenarios"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_scenario(path: Path) -> Scenario:
    """The scenario in a file. Raises SetupError with the file, the field and what it may hold."""
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error
    try:
        return _scenario(path.stem, _mapping(raw, "the file", _FIELDS))
    except ValueError as error:
        raise SetupError(f"{path}: {error}") from error


def pool_spec(fields: Mapping[str, Any], queues: Sequence[str]) -> WorkerPoolSpec:
    """The spec of `fields` (a WorkerPool's, as far as they matter here) with these queues. Raises ValueError."""
    given = {str(entry.get("name")): entry for entry in fields.get("queues") or () if isinstance(entry, Mapping)}
    raw = {**fields, "targetRef": {"name": "workers"}, "queues": [given.get(name, {"name": name}) for name in queues]}
    try:
        return WorkerPoolSpec.parse(raw)
    except SpecError as error:
        raise ValueError(str(error).replace("spec.", "pool.")) from error


_FIELDS = ("title", "duration", "pods", "pool", "queues", "outages")


def _scenario(name: str, raw: Mapping[str, Any]) -> Scenario:
    pods = _mapping(raw.get("pods") or {}, "pods", ("slots", "coldStart", "grace"))
    loads = tuple(_queue(entry, f"queues[{i}]") for i, entry in enumerate(_list(raw.get("queues"), "queues")))
    if not loads:
        raise ValueError("queues is missing: name at least one, with its serviceTime and its arrivals")
    return Scenario(
        name=name,
        title=str(raw.get("title") or name),
        spec=pool_spec(raw.get("pool") or {}, [load.name for load in loads]),
        loads=loads,
        duration_s=_seconds(raw, "duration", "duration"),
        pods=Pods(
            slots=int(_number(pods, "slots", "pods", 4)),
            cold_start_s=_seconds(pods, "coldStart", "pods.coldStart", 20.0),
            grace_s=_seconds(pods, "grace", "pods.grace", 30.0),
        ),
        outages=tuple(_outages(entry, f"outages[{i}]") for i, entry in enumerate(_list(raw.get("outages"), "outages"))),
    )


def _queue(raw: object, path: str) -> QueueLoad:
    fields = _mapping(raw, path, ("name", "serviceTime", "limitPerSecond", "arrivals"))
    service = _mapping(fields.get("serviceTime"), f"{path}.serviceTime", ("mean", "distribution"))
    try:
        distribution = Distribution(service.get("distribution", "exponential"))
    except ValueError:
        raise ValueError(f"{path}.serviceTime.distribution must be one of {', '.join(Distribution)}") from None
    limit = fields.get("limitPerSecond")
    return QueueLoad(
        name=str(fields.get("name") or ""),
        service=ServiceTime(mean_s=_seconds(service, "mean", f"{path}.serviceTime.mean"), distribution=distribution),
        shapes=tuple(
            _shape(entry, f"{path}.arrivals[{i}]")
            for i, entry in enumerate(_list(fields.get("arrivals"), f"{path}.arrivals"))
        ),
        limit_per_s=None if limit is None else _number(fields, "limitPerSecond", path),
    )


def _shape(raw: object, path: str) -> Shape:
    fields = raw if isinstance(raw, Mapping) else {}
    first_at = _seconds(fields, "first", f"{path}.first", 0.0)
    every_s = _seconds(fields, "every", f"{path}.every") if "every" in fields else None
    if "rate" in fields:
        _mapping(fields, path, ("rate", "first", "every", "for"))
        for_s = _seconds(fields, "for", f"{path}.for") if every_s is not None else 0.0
        return Steady(rate_per_s=_number(fields, "rate", path), first_at=first_at, every_s=every_s, for_s=for_s)
    if "low" in fields:
        _mapping(fields, path, ("low", "high", "period"))
        return Sine(
            low_per_s=_number(fields, "low", path),
            high_per_s=_number(fields, "high", path),
            period_s=_seconds(fields, "period", f"{path}.period"),
        )
    if "count" in fields:
        _mapping(fields, path, ("count", "first", "every", "ahead"))
        ahead_s = _seconds(fields, "ahead", f"{path}.ahead", 0.0)
        return Herd(count=int(_number(fields, "count", path)), first_at=first_at, every_s=every_s, ahead_s=ahead_s)
    if "counts" in fields:
        _mapping(fields, path, ("counts", "span", "first"))
        counts = tuple(float(count) for count in _list(fields["counts"], f"{path}.counts"))
        return Counts(counts=counts, span_s=_seconds(fields, "span", f"{path}.span"), first_at=first_at)
    raise ValueError(f"{path} must have rate (every, for), low and high, count, or counts")


def _outages(raw: object, path: str) -> Outages:
    fields = _mapping(raw, path, ("first", "every", "for"))
    return Outages(
        first_at=_seconds(fields, "first", f"{path}.first"),
        for_s=_seconds(fields, "for", f"{path}.for"),
        every_s=_seconds(fields, "every", f"{path}.every") if "every" in fields else None,
    )


def _mapping(raw: object, path: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{path} must be a mapping with {', '.join(known)}")  # noqa: TRY004  one error for all faults
    unknown = sorted(set(map(str, raw)) - set(known))
    if unknown:
        raise ValueError(f"{path} has {', '.join(unknown)}, known are {', '.join(known)}")
    return raw


def _list(raw: object, path: str) -> Sequence[Any]:
    if raw is not None and not isinstance(raw, list):
        raise ValueError(f"{path} must be a list")
    return raw or ()


def _number(fields: Mapping[str, Any], name: str, path: str, default: float | None = None) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{path}.{name} is {value!r}, must be a number, 0 or more")
    return float(value)


def _seconds(fields: Mapping[str, Any], name: str, path: str, default_s: float | None = None) -> float:
    value = fields.get(name)
    if value is None:
        if default_s is None:
            raise ValueError(f"{path} is missing: write a duration such as 30s, 5m or 4h")
        return default_s
    text = str(value)
    return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else seconds_of(text)
