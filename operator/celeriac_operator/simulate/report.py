"""The figures of many runs as a table, as JSON, and in one sentence."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from celeriac_operator.resources.spec import Objective, ObjectiveType
from celeriac_operator.simulate.figures import Figures
from celeriac_operator.simulate.keda import KedaSettings
from celeriac_operator.simulate.scenario import START_AT, Scenario

OURS = "Celeriac"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting over all seeds: means, but for killed, which is the sum.

    met, beats: with how many seeds it meets the objective (None: it is not about time), and beats ours by over 10 % on
    both figures while it does.
    """

    name: str
    keda: KedaSettings | None
    tasks: float
    p95_s: Mapping[str, float]
    strain: float | None
    late: float | None
    pod_hours: float
    killed: int
    lost_s: float
    writes: float
    met: int | None
    beats: int
    seeds: int


def rows(figures: Sequence[Figures]) -> list[Row]:
    """A row for each setting, in the order of their first run; ours must be among them."""
    ours = {run.seed: run for run in figures if run.keda is None}
    settings = list(dict.fromkeys(run.keda for run in figures))
    return [_row(keda, [run for run in figures if run.keda == keda], ours) for keda in settings]


def _row(keda: KedaSettings | None, runs: Sequence[Figures], ours: Mapping[int, Figures]) -> Row:
    return Row(
        name=OURS if keda is None else keda.name,
        keda=keda,
        tasks=fmean(run.tasks for run in runs),
        p95_s={name: fmean(run.p95_s[name] for run in runs) for name in runs[0].p95_s},
        strain=_mean(run.strain for run in runs),
        late=_mean(run.late for run in runs),
        pod_hours=fmean(run.pod_hours for run in runs),
        killed=sum(run.killed for run in runs),
        lost_s=sum(run.lost_s for run in runs),
        writes=fmean(run.writes for run in runs),
        met=None if runs[0].met is None else sum(run.met is True for run in runs),
        beats=sum(run.met is not False and run.beats(ours[run.seed]) for run in runs),
        seeds=len(runs),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """None as soon as one is: either all runs are judged, or none."""
    known = list(values)
    return None if None in known else fmean(value for value in known if value is not None)


def best(found: Sequence[Row]) -> Row | None:
    """The KEDA setting to show beside ours: the cheapest that meets the objective with all seeds, else the fastest."""
    others = [row for row in found if row.keda is not None]
    meeting = [row for row in others if row.met == row.seeds]
    if meeting:
        return min(meeting, key=lambda row: row.pod_hours)
    return min(others, key=lambda row: max(row.p95_s.values()) if row.strain is None else row.strain, default=None)


def table(scenario: Scenario, found: Sequence[Row]) -> list[str]:
    """Lines for a terminal."""
    width = max(len(row.name) for row in found)
    queues = [queue.name for queue in scenario.spec.queues]
    # A column is as wide as its heading, and the widest figure.
    columns = [max(len(f"p95 {name}"), *(len(_wait(row, name)) for row in found)) + 2 for name in queues]
    waits = "".join(f"{'p95 ' + name:>{column}}" for name, column in zip(queues, columns, strict=True))
    lines = [heading(scenario, found), f"  {'':{width}}{waits}    late  pod-hours  killed  writes  meets  beats ours"]
    for row in found:
        waits = "".join(f"{_wait(row, name):>{column}}" for name, column in zip(queues, columns, strict=True))
        met = "-" if row.met is None else f"{row.met}/{row.seeds}" if row.seeds > 1 else ("yes" if row.met else "no")
        late = f"{'-':>8}" if row.late is None else f"{row.late:8.1%}"
        lines.append(
            f"  {row.name:{width}}{waits}{late}{row.pod_hours:11.2f}{row.killed:8d}{row.writes:8.0f}{met:>7}"
            f"{'' if row.keda is None else f'{row.beats:12d}'}"
        )
    return [*lines, f"  {verdict(found)}"]


def heading(scenario: Scenario, found: Sequence[Row]) -> str:
    """What was simulated, in one line."""
    name = scenario.name.upper() if len(scenario.name) == 1 else scenario.name
    seeds = found[0].seeds
    began = ""
    if scenario.start_at != START_AT or scenario.spec.schedules:
        began = f" from {datetime.fromtimestamp(scenario.start_at, UTC):%a %Y-%m-%d %H:%M} UTC"
    objectives = ", ".join(
        f"{queue.name} {_shown(scenario.objective_of(queue.name))}" for queue in scenario.spec.queues
    )
    return (
        f"{name}: {scenario.title} ({shown_time(scenario.duration_s)}{began}, {found[0].tasks:,.0f} tasks,"
        f" {seeds} seed{'s' * (seeds > 1)}, objective: {objectives})"
    )


def _shown(objective: Objective) -> str:
    match objective.type:
        case ObjectiveType.BACKLOG:
            return f"{objective.target} messages a slot, which no wait is judged by"
        case ObjectiveType.UTILIZATION:
            return f"{objective.target} % busy, which no wait is judged by"
        case _:
            return f"{objective.seconds} s"


def shown_time(seconds: float) -> str:
    """A duration in its two largest units: 1 d 12 h, 5 min 59 s, 0.5 s."""
    if seconds < 60.0:
        return f"{seconds:g} s"
    parts, rest = [], round(seconds)
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length_s)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _wait(row: Row, queue: str) -> str:
    return f"{row.p95_s[queue]:.2f} s"


def verdict(found: Sequence[Row]) -> str:
    """What the comparison comes to."""
    others = [row for row in found if row.keda is not None]
    ours = next(row for row in found if row.keda is None)
    judged = [row.met for row in others if row.met is not None]
    meeting = sum(met > 0 for met in judged)
    met = f"{meeting} meet{'s' * (meeting == 1)} the objective," if judged else "the objective is no time to be met,"
    beating = sum(row.beats > 0 for row in others)
    return (
        f"{len(others)} setting{'s' * (len(others) != 1)} of KEDA: {met}"
        f" {beating} of them beat{'s' * (beating == 1)} ours by over 10 % on both wait and pod-hours;"
        f" tasks killed: ours {ours.killed}, KEDA's up to {max((r.killed for r in others), default=0)}"
    )


def as_json(scenario: Scenario, found: Sequence[Row], runs: Sequence[Figures]) -> dict[str, Any]:
    """Everything, for programs: the rows, and each run. Keys are written as a WorkerPool's."""
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "start": datetime.fromtimestamp(scenario.start_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "durationSeconds": scenario.duration_s,
        "objectiveSeconds": {queue.name: scenario.objective_s(queue.name) for queue in scenario.spec.queues},
        "verdict": verdict(found),
        "rows": [
            {"name": row.name, **_cost(row), "met": row.met, "beats": row.beats, "seeds": row.seeds} for row in found
        ],
        "runs": [{**_cost(run), "seed": run.seed, "unstarted": run.unstarted, "met": run.met} for run in runs],
    }


def _cost(of: Row | Figures) -> dict[str, Any]:
    return {
        "keda": None if of.keda is None else _settings(of.keda),
        "tasks": of.tasks,
        "p95Seconds": dict(of.p95_s),
        "strain": of.strain,
        "late": of.late,
        "podHours": of.pod_hours,
        "killed": of.killed,
        "lostSeconds": of.lost_s,
        "writes": of.writes,
    }


def _settings(keda: KedaSettings) -> dict[str, Any]:
    """By the names that a ScaledObject has for them; stabilizationWindowSeconds null: no `behavior`."""
    return {
        "value": keda.value,
        "minReplicaCount": keda.min_replicas,
        "maxReplicaCount": keda.max_replicas,
        "pollingInterval": keda.polling_s,
        "cooldownPeriod": keda.cooldown_s,
        "stabilizationWindowSeconds": keda.down_window_s,
        "readyOnly": keda.ready_only,
    }
