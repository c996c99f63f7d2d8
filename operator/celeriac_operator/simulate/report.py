"""The figures of many runs as a table, as JSON, and in one sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from celeriac_operator.simulate.figures import Figures
from celeriac_operator.simulate.keda import KedaSettings
from celeriac_operator.simulate.scenario import Scenario

OURS = "Celeriac"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting over all seeds: means, but for killed, which is the sum.

    met, beats: with how many seeds it meets the objective, and beats ours by over 10 % on both figures while it does.
    """

    name: str
    keda: KedaSettings | None
    p95_s: Mapping[str, float]
    strain: float
    late: float
    pod_hours: float
    killed: int
    lost_s: float
    writes: float
    met: int
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
        p95_s={name: fmean(run.p95_s[name] for run in runs) for name in runs[0].p95_s},
        strain=fmean(run.strain for run in runs),
        late=fmean(run.late for run in runs),
        pod_hours=fmean(run.pod_hours for run in runs),
        killed=sum(run.killed for run in runs),
        lost_s=sum(run.lost_s for run in runs),
        writes=fmean(run.writes for run in runs),
        met=sum(run.met for run in runs),
        beats=sum(run.met and run.beats(ours[run.seed]) for run in runs),
        seeds=len(runs),
    )


def best(found: Sequence[Row]) -> Row | None:
    """The KEDA setting to show beside ours: the cheapest that meets the objective with all seeds, else the fastest."""
    others = [row for row in found if row.keda is not None]
    meeting = [row for row in others if row.met == row.seeds]
    if meeting:
        return min(meeting, key=lambda row: row.pod_hours)
    return min(others, key=lambda row: row.strain, default=None)


def table(scenario: Scenario, found: Sequence[Row]) -> list[str]:
    """Lines for a terminal."""
    width = max(len(row.name) for row in found)
    seeds = found[0].seeds
    objectives = ", ".join(f"{queue.name} {scenario.objective_s(queue.name):g} s" for queue in scenario.spec.queues)
    head = f"{scenario.name.upper() if len(scenario.name) == 1 else scenario.name}: {scenario.title}"
    lines = [f"{head} ({scenario.duration_s / 3600:g} h, {seeds} seed{'s' * (seeds > 1)}, objective: {objectives})"]
    waits = "".join(f"{'p95 ' + queue.name:>14}" for queue in scenario.spec.queues)
    lines.append(f"  {'':{width}}{waits}    late  pod-hours  killed  writes  meets  beats ours")
    for row in found:
        waits = "".join(f"{row.p95_s[queue.name]:12.2f} s" for queue in scenario.spec.queues)
        met = f"{row.met}/{row.seeds}" if row.seeds > 1 else ("yes" if row.met else "no")
        lines.append(
            f"  {row.name:{width}}{waits}{row.late:7.1%}{row.pod_hours:11.2f}{row.killed:8d}{row.writes:8.0f}{met:>7}"
            f"{'' if row.keda is None else f'{row.beats:12d}'}"
        )
    return [*lines, f"  {verdict(found)}"]


def verdict(found: Sequence[Row]) -> str:
    """What the comparison comes to."""
    others = [row for row in found if row.keda is not None]
    ours = next(row for row in found if row.keda is None)
    meeting = sum(row.met > 0 for row in others)
    beating = sum(row.beats > 0 for row in others)
    return (
        f"{len(others)} settings of KEDA: {meeting} meet the objective, {beating} of them beat ours by over 10 % on both "
        f"wait and pod-hours; tasks killed: ours {ours.killed}, KEDA's up to {max((r.killed for r in others), default=0)}"
    )


def as_json(scenario: Scenario, found: Sequence[Row], runs: Sequence[Figures]) -> dict[str, Any]:
    """Everything, for programs: the rows, and each run."""
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "durationSeconds": scenario.duration_s,
        "objectiveSeconds": {queue.name: scenario.objective_s(queue.name) for queue in scenario.spec.queues},
        "verdict": verdict(found),
        "rows": [asdict(row) for row in found],
        "runs": [
            {name: value for name, value in asdict(run).items() if name != "samples"} | {"met": run.met} for run in runs
        ],
    }
