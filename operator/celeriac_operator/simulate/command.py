"""`celeriac-operator simulate`: what a load would cost under our operator, and under KEDA."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import click

from celeriac_operator import clock
from celeriac_operator.documents import documents
from celeriac_operator.errors import OperatorError, SetupError
from celeriac_operator.local.manifest import objects_of
from celeriac_operator.resources.spec import SpecError, WorkerPoolSpec
from celeriac_operator.simulate import plot
from celeriac_operator.simulate.described import read_scenario
from celeriac_operator.simulate.figures import Figures, grid, run, run_all
from celeriac_operator.simulate.keda import KedaSettings
from celeriac_operator.simulate.prometheus import query_prometheus
from celeriac_operator.simulate.recorded import Record, read_csv
from celeriac_operator.simulate.report import Row, as_json, best, rows, shown_time, table
from celeriac_operator.simulate.scenario import Pods, Scenario, acting, built_in, check, pool_spec, span_s

#: The values of KEDA that are shown beside ours without --grid: its defaults for Redis and RabbitMQ, and a large one.
_USUAL_VALUES = (5, 20, 100)

#: What --scenario all stands for.
_ALL = ("a", "b", "c", "d", "e")


#: Each is a run of every setting.
MOST_SEEDS = 1000


def _checked_seeds(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
    first, dash, last = value.partition("-")
    seeds: Sequence[int]
    try:
        seeds = range(int(first), int(last or first) + 1) if dash else [*map(int, value.split(","))]
    except ValueError:
        seeds = ()
    if not seeds:
        raise click.BadParameter(f"{value!r} is neither a number, nor a list such as 1,2,5, nor a range such as 1-5")
    if seeds[MOST_SEEDS:]:  # a range knows no length beyond that of memory
        raise click.BadParameter(f"{value!r:.80} are more than {MOST_SEEDS} seeds")
    return tuple(seeds)


def _checked_seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else span_s(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _checked_values(_ctx: click.Context, _param: click.Parameter, values: tuple[float, ...]) -> tuple[float, ...]:
    for value in values:
        if not 0 < value < math.inf:
            raise click.BadParameter(f"{value:g} is no target value of KEDA: it is above 0")
    return values


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--scenario", "names", multiple=True, metavar="NAME", help="A built-in one: A to E, all, daily, ...")
@click.option("--describe", type=_FILE, help="A scenario in a YAML file.")
@click.option(
    "--csv", "csv_file", type=_FILE, help="A recorded load: rows of at,seconds or of at,count; queue optional."
)
@click.option("--prometheus", metavar="URL", help="A Prometheus that has recorded a load; needs --query.")
@click.option("--query", help="PromQL for arrivals a second, with a label queue where there are several.")
@click.option("--since", default="24h", show_default=True, callback=_checked_seconds, help="How far back to query.")
@click.option("--step", default="60s", show_default=True, callback=_checked_seconds, help="Resolution of the query.")
@click.option("--service-time", callback=_checked_seconds, help="Mean run time of tasks, where the record has none.")
@click.option("--token-file", type=_FILE, help="A file with a bearer token for Prometheus.")
@click.option("--pool", type=click.File("rb"), help="A manifest with the WorkerPool to simulate; - for standard input.")
@click.option("--pool-name", metavar="NAME", help="Which of the manifest's WorkerPools, where there are several.")
@click.option("--objective", type=click.IntRange(1), help="spec.objective.seconds.")
@click.option("--max", "most", type=click.IntRange(1), help="spec.maxReplicas.")
@click.option("--min", "least", type=click.IntRange(0), help="spec.minReplicas.")
@click.option("--slots", type=click.IntRange(1), help="Slots of a pod.")
@click.option("--cold-start", callback=_checked_seconds, help="From the order for a pod to its first heartbeat.")
@click.option("--grace", callback=_checked_seconds, help="terminationGracePeriodSeconds, which KEDA's victims have.")
@click.option("--seeds", default="1", show_default=True, callback=_checked_seeds, help="Draws of chance, such as 1-5.")
@click.option("--keda", "values", multiple=True, type=float, callback=_checked_values,
              help="KEDA's target values.  [default: 5, 20 and 100]")  # fmt: skip
@click.option("--keda-metric", type=click.Choice(["messages", "ready"]), default="messages", show_default=True,
              help="What KEDA counts: all messages, or (Redis lists, AMQP) those that wait.")  # fmt: skip
@click.option("--grid", "whole_grid", is_flag=True, help="All values from 1 to 1000, min 0 and 1, window 60 and 300 s.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True, help="Processes.")
@click.option("--json", "as_text", flag_value=False, default=True, help="Print JSON.")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a PNG.")
def simulate(
    *,
    names: tuple[str, ...],
    describe: Path | None,
    csv_file: Path | None,
    prometheus: str | None,
    query: str | None,
    since: float,
    step: float,
    service_time: float | None,
    token_file: Path | None,
    pool: BinaryIO | None,
    pool_name: str | None,
    objective: int | None,
    most: int | None,
    least: int | None,
    slots: int | None,
    cold_start: float | None,
    grace: float | None,
    seeds: tuple[int, ...],
    values: tuple[float, ...],
    keda_metric: str,
    whole_grid: bool,
    jobs: int,
    as_text: bool,
    plot_file: Path | None,
) -> None:
    """Replay a load through this operator, KEDA and the HPA. Compares their decisions.

    Prints for each: the 95th percentile of waits, the part of tasks that waited for longer than the objective,
    pod-hours, tasks killed by scale-in, and writes of /scale.
    """
    sources = [bool(names), describe is not None, csv_file is not None, prometheus is not None]
    if sum(sources) != 1:
        raise click.UsageError("give one of --scenario, --describe, --csv and --prometheus")
    if (prometheus is None) != (query is None):
        raise click.UsageError("--prometheus and --query need each other")
    if pool_name is not None and pool is None:
        raise click.UsageError("--pool-name needs --pool")
    notes: list[str] = []
    try:
        if plot_file is not None:
            plot.require_matplotlib()
            plot.require_place(plot_file)
        spec = None if pool is None else _pool_of(pool, pool_name)
        if names:
            scenarios = [read_scenario(path) for path in _named(names)]
        elif describe is not None:
            scenarios = [read_scenario(describe)]
        elif csv_file is not None:
            scenarios = [_recorded(csv_file.stem, read_csv(csv_file, service_time))]
        else:
            record = query_prometheus(
                prometheus or "", query or "", end_at=clock.now(), since_s=since, step_s=step, service_s=service_time,
                token="" if token_file is None else _token(token_file),
            )  # fmt: skip
            notes += record.notes
            scenarios = [_recorded("prometheus", record)]
        scenarios = [
            _adapted(
                scenario,
                pool=spec,
                objective_s=objective,
                most=most,
                least=least,
                pods=_pods(scenario.pods, spec, slots, cold_start, grace),
            )
            for scenario in scenarios
        ]
        for scenario in scenarios:
            check(scenario)
    except OperatorError as error:
        raise click.ClickException(str(error)) from error
    acted = [acting(scenario.spec) for scenario in scenarios]
    notes += [note for _, said in acted for note in said]
    scenarios = [replace(scenario, spec=spec) for scenario, (spec, _) in zip(scenarios, acted, strict=True)]
    for note in dict.fromkeys(notes):
        click.echo(f"note: {note}", err=True)

    found_json, panels = [], []
    for scenario in scenarios:
        settings = _settings(scenario, values, whole_grid=whole_grid, ready_only=keda_metric == "ready")
        began = time.monotonic()
        figures = list(run_all(scenario, [None, *settings], seeds, processes=jobs))
        took_s = time.monotonic() - began
        if not any(run.tasks for run in figures):
            raise click.ClickException(
                f"{scenario.name}: no task arrives within {shown_time(scenario.duration_s)}, so there is nothing to compare"
            )
        found = rows(figures)
        found_json.append(as_json(scenario, found, figures))
        if as_text:
            click.echo("\n".join([*table(scenario, found), f"  {len(figures)} runs in {took_s:.0f} s", ""]))
        if plot_file is not None:
            panels.append((scenario, _drawn(scenario, found, seeds[0]), found))
    if not as_text:
        click.echo(json.dumps(found_json, indent=2))
    if plot_file is not None:
        plot.draw(plot_file, panels)
        click.echo(f"{plot_file} is written", err=True)


def _named(names: Sequence[str]) -> list[Path]:
    known = built_in()
    wanted = [name for given in names for name in (_ALL if given.lower() == "all" else (given.lower(),))]
    for name in wanted:
        if name not in known:
            raise SetupError(f"there is no scenario {name}; there are {', '.join(known)}, and all for A to E")
    return [known[name] for name in wanted]


def _pool_of(manifest: BinaryIO, name: str | None) -> WorkerPoolSpec:
    """The spec of the manifest's one WorkerPool, or of that with this name. Raises SetupError."""
    shown = str(getattr(manifest, "name", "standard input"))
    found = objects_of(documents(manifest.read(), shown))
    pools = [(_name(raw), raw.get("spec") or {}) for raw in found if raw.get("kind") == "WorkerPool"]
    names = ", ".join(known for known, _ in pools)
    if not pools:
        raise SetupError(f"{shown} holds no WorkerPool")
    wanted = [pool for pool in pools if name in (None, pool[0])]
    if not wanted:
        raise SetupError(f"{shown} holds no WorkerPool {name}, only {names}")
    if len(wanted) > 1:
        raise SetupError(f"{shown} holds {len(wanted)} WorkerPools, {names}: say which one by --pool-name")
    [(known, spec)] = wanted
    try:
        return WorkerPoolSpec.parse(spec)
    except SpecError as error:
        raise SetupError(f"{shown}: WorkerPool {known}: {error}") from error


def _name(raw: Mapping[str, Any]) -> str:
    metadata = raw.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, Mapping) else "without a name"


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    if not token or not token.isprintable():
        raise SetupError(f"{path} holds no token: it must be one line of ASCII that can be read")
    return token


def _recorded(name: str, record: Record) -> Scenario:
    return Scenario(
        name=name,
        title="recorded load",
        spec=pool_spec({}, [load.name for load in record.loads]),
        loads=record.loads,
        duration_s=record.duration_s,
        pods=Pods(),
        start_at=record.start_at,
    )


def _adapted(
    scenario: Scenario,
    *,
    pool: WorkerPoolSpec | None,
    objective_s: int | None,
    most: int | None,
    least: int | None,
    pods: Pods,
) -> Scenario:
    """The scenario with what was said on the command line. A pool must consume all of the scenario's queues."""
    spec = scenario.spec
    if pool is not None:
        known = {queue.name: queue for queue in pool.queues}
        missing = [queue.name for queue in spec.queues if queue.name not in known]
        if missing:
            raise SetupError(f"the pool consumes {', '.join(known)}, but the load is on {', '.join(missing)}")
        spec = replace(pool, queues=tuple(known[queue.name] for queue in spec.queues))
    if objective_s is not None:
        spec = replace(spec, objective=replace(spec.objective, seconds=objective_s))
    if most is not None:
        spec = replace(spec, max_replicas=most)
    if least is not None:
        spec = replace(spec, min_replicas=least)
    if spec.min_replicas > spec.max_replicas:
        raise SetupError(f"minReplicas is {spec.min_replicas}, above maxReplicas {spec.max_replicas}")
    return replace(scenario, spec=spec, pods=pods)


def _pods(
    pods: Pods, pool: WorkerPoolSpec | None, slots: int | None, cold_start_s: float | None, grace_s: float | None
) -> Pods:
    """The pods as the command line has them, else as the pool does (concurrency, coldStart), else as they are."""
    if pool is not None:
        pods = replace(
            pods,
            slots=pool.concurrency or pods.slots,
            cold_start_s=pods.cold_start_s if pool.cold_start_s is None else pool.cold_start_s,
        )
    return Pods(
        slots=pods.slots if slots is None else slots,
        cold_start_s=pods.cold_start_s if cold_start_s is None else cold_start_s,
        grace_s=pods.grace_s if grace_s is None else grace_s,
    )


def _settings(scenario: Scenario, values: Sequence[float], *, whole_grid: bool, ready_only: bool) -> list[KedaSettings]:
    if whole_grid:
        return grid(scenario, ready_only=ready_only)
    return [
        KedaSettings(
            value=value,
            min_replicas=scenario.spec.min_replicas,
            max_replicas=scenario.spec.max_replicas,
            ready_only=ready_only,
        )
        for value in values or _USUAL_VALUES
    ]


def _drawn(scenario: Scenario, found: Sequence[Row], seed: int) -> list[Figures]:
    """Ours, and the KEDA setting that is nearest to it, once more with samples."""
    shown = best(found)
    return [
        run(scenario, None, seed, samples=plot.SAMPLES),
        *([] if shown is None else [run(scenario, shown.keda, seed, samples=plot.SAMPLES)]),
    ]
