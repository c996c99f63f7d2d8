"""A scenario: a pool, its pods, and what arrives, as values; and whether it can be simulated."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from celeriac_operator.errors import SetupError
from celeriac_operator.resources.fields import seconds_of
from celeriac_operator.resources.spec import Mode, Objective, ObjectiveType, SpecError, WorkerPoolSpec
from celeriac_operator.simulate.load import QueueLoad, most_draws, tasks_expected

#: Monday 2026-01-05 00:00 UTC: schedules need a time of the week.
START_AT = 1_767_571_200.0

#: What is simulated at the most: a month; tasks; numbers drawn for them; repetitions of an event; slots of all pods.
LONGEST_S = 31 * 86_400.0
MOST_TASKS = 10_000_000
_MOST_DRAWS = 100_000_000
_MOST_TIMES = 1_000_000
_MOST_SLOTS = 100_000

#: 1970 and 2100: what is outside was not meant as a time.
_EARLIEST_AT, _LATEST_AT = 0.0, 4_102_444_800.0


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
    """name is short, title says what it is like. spec is all that our operator is told. start_at: epoch seconds."""

    name: str
    title: str
    spec: WorkerPoolSpec
    loads: tuple[QueueLoad, ...]
    duration_s: float
    pods: Pods
    outages: tuple[Outages, ...] = ()
    start_at: float = START_AT

    def objective_of(self, queue: str) -> Objective:
        return self.spec.objective_of(next(known for known in self.spec.queues if known.name == queue))

    def objective_s(self, queue: str) -> float | None:
        """The wait that the queue's objective is about; None for one that is about something else than time."""
        objective = self.objective_of(queue)
        return float(objective.seconds) if objective.type in (ObjectiveType.DRAIN_TIME, ObjectiveType.LATENCY) else None


def built_in() -> dict[str, Path]:
    """Name -> file of the scenarios that come with the operator, by name."""
    folder = Path(str(files("celeriac_operator.simulate") / "scenarios"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def pool_spec(fields: Mapping[str, Any], queues: Sequence[str]) -> WorkerPoolSpec:
    """The spec of `fields` (a WorkerPool's, as far as they matter here) with these queues. Raises ValueError."""
    entries = fields.get("queues")
    if entries is not None and not isinstance(entries, list):
        raise ValueError(f"pool.queues is {entries!r:.80}, must be a list")
    for i, entry in enumerate(entries or ()):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ValueError(  # noqa: TRY004  one error for all faults
                f"pool.queues[{i}] is {entry!r:.80}, must be a mapping with a name, which is text"
            )
    given = {entry["name"]: entry for entry in entries or ()}
    if strange := sorted(set(given) - set(queues)):
        raise ValueError(f"pool.queues names {', '.join(strange)}, which is not among queues: {', '.join(queues)}")
    raw = {**fields, "targetRef": {"name": "workers"}, "queues": [given.get(name, {"name": name}) for name in queues]}
    try:
        return WorkerPoolSpec.parse(raw)
    except SpecError as error:
        raise ValueError(str(error).replace("spec.", "pool.")) from error


def acting(spec: WorkerPoolSpec) -> tuple[WorkerPoolSpec, list[str]]:
    """The spec as it is simulated, and a sentence on each field that is passed over for it."""
    notes = []
    if spec.mode in (Mode.DRY_RUN, Mode.PAUSED):
        notes.append(f"mode {spec.mode} is simulated as {Mode.ACTIVE}")
        spec = replace(spec, mode=Mode.ACTIVE)
    if spec.replicas is not None:
        notes.append(f"replicas {spec.replicas}, the manual override, is passed over")
        spec = replace(spec, replicas=None)
    if spec.rate_limits:
        notes.append(
            "rateLimits are passed over, as a load names queues and not tasks: give a queue limitPerSecond in a scenario"
        )
        spec = replace(spec, rate_limits=())
    if spec.schedules:
        notes.append("schedules hold for Celeriac; the KEDA beside it has no cron trigger")
    return spec, notes


def check(scenario: Scenario) -> None:
    """Raises SetupError when the scenario is more than can be simulated in reasonable time."""
    duration_s, name = scenario.duration_s, scenario.name
    if not 0 < duration_s <= LONGEST_S:
        raise SetupError(f"{name} takes {duration_s / 86_400:g} days; what can be simulated is up to 31")
    tasks = sum(tasks_expected(shape, duration_s) for load in scenario.loads for shape in load.shapes)
    if tasks > MOST_TASKS:
        raise SetupError(f"{name} has some {tasks:,.0f} tasks; what can be simulated is up to {MOST_TASKS:,}")
    draws = sum(most_draws(shape, duration_s) for load in scenario.loads for shape in load.shapes)
    if draws > _MOST_DRAWS:
        raise SetupError(
            f"the highest rates of {name}, over {duration_s:g} s, are {draws:,.0f} tasks; what can be drawn is up to"
            f" {_MOST_DRAWS:,}: simulate the part around the peak"
        )
    repeated = [shape for load in scenario.loads for shape in load.shapes] + list(scenario.outages)
    for every_s in (getattr(each, "every_s", None) for each in repeated):
        if every_s is not None and duration_s / every_s > _MOST_TIMES:
            raise SetupError(
                f"{name}: every {every_s:g} s is {duration_s / every_s:,.0f} times; up to {_MOST_TIMES:,} can be simulated"
            )
    slots = scenario.pods.slots * scenario.spec.max_replicas
    if slots > _MOST_SLOTS:
        raise SetupError(
            f"{name}: {scenario.spec.max_replicas} pods (maxReplicas) of {scenario.pods.slots} slots are {slots:,} slots;"
            f" what can be simulated is up to {_MOST_SLOTS:,}"
        )


_DAYS = re.compile(r"([0-9]+(?:\.[0-9]+)?)d(.*)")


def span_s(text: str) -> float:
    """Seconds of a duration, which may have days (1d12h) and is 31 days at the most. Raises ValueError."""
    days = _DAYS.fullmatch(text)
    seconds = float(days[1]) * 86_400 if days else 0.0
    try:
        seconds += 0.0 if days and not days[2] else seconds_of(days[2] if days else text)
    except ValueError:
        raise ValueError(f"{text!r:.80} is not a duration such as 30s, 5m, 1h30m or 2d") from None
    if not seconds <= LONGEST_S:
        raise ValueError(f"{text!r:.80} is longer than 31 days")
    return seconds


def moment_of(text: str) -> float:
    """Epoch seconds of an ISO 8601 time, which without a zone is taken for UTC. Raises ValueError."""
    if "-" not in text:  # else 7 to 8 figures would be a date
        raise ValueError(f"{text:.80} is not a time")
    moment = datetime.fromisoformat(text)
    return checked_moment((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), text)


def checked_moment(at: float, text: str) -> float:
    """Epoch seconds that a person may have meant. Raises ValueError."""
    if not math.isfinite(at) or not _EARLIEST_AT <= at <= _LATEST_AT:
        raise ValueError(f"{text:.80} is not a time between 1970 and 2100")
    return at
