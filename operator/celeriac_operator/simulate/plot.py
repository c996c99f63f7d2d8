"""The PNG: demand and capacity, waits, and pods over time; and the whole grid, p95 wait against pod-hours."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.figures import Figures
from celeriac_operator.simulate.report import OURS, Row
from celeriac_operator.simulate.scenario import Scenario

#: Moments in a run that are drawn.
SAMPLES = 720

_OURS_COLOUR, _KEDA_COLOUR, _LOAD_COLOUR = "#1b7f4d", "#c2571a", "#8a929b"


def require_matplotlib() -> Any:
    """matplotlib's figure class. Raises SetupError that says how to get it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SetupError("--plot needs matplotlib: install celeriac[simulate]") from error
    return Figure


def require_place(path: Path) -> None:
    """Raises SetupError when no PNG can be written there: better now than after the runs."""
    if path.suffix.lower() != ".png":
        raise SetupError(f"--plot writes a PNG: {path} must end in .png")
    writable = os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK | os.X_OK)
    if not writable:
        raise SetupError(f"--plot cannot write {path}: {path.parent} must be a folder that you may write to")


def draw(path: Path, panels: Sequence[tuple[Scenario, Sequence[Figures], Sequence[Row]]]) -> None:
    """Write a PNG with one column a scenario.

    panels: the scenario; runs with samples, ours first; the rows of all settings, drawn when there are more than a few.
    """
    tall = 4 if any(len(found) > 8 for _, _, found in panels) else 3
    figure = require_matplotlib()(figsize=(max(8.0, 5.2 * len(panels)), 2.9 * tall), layout="constrained")
    axes = figure.subplots(tall, len(panels), squeeze=False)
    for column, (scenario, runs, found) in enumerate(panels):
        name = scenario.name.upper() if len(scenario.name) == 1 else scenario.name
        axes[0][column].set_title(f"{name}: {scenario.title}", fontsize=10, pad=22)  # the legend is below it
        _capacity(axes[0][column], runs)
        _waits(axes[1][column], scenario, runs)
        _pods(axes[2][column], scenario, runs)
        if tall == 4:
            _grid(axes[3][column], found)
    figure.savefig(path, format="png", dpi=110)


def _capacity(axes: Any, runs: Sequence[Figures]) -> None:
    first = runs[0].samples
    hours = [sample.at / 3600 for sample in first]
    every_s = first[1].at - first[0].at
    came = [sample.came_s / every_s for sample in first]
    # The line makes a herd of one moment visible, which as an area is thinner than a pixel.
    axes.fill_between(
        hours, came, step="pre", facecolor=_LOAD_COLOUR, edgecolor=_LOAD_COLOUR, alpha=0.6, linewidth=0.8,
        label="work that comes in",
    )  # fmt: skip
    for run, colour, name in _named(runs):
        axes.step(hours, [sample.slots for sample in run.samples], where="post", color=colour, lw=1, label=name)
    most = max(sample.slots for run in runs for sample in run.samples)
    # What comes in within one sample may be far more than any pods could run at once.
    axes.set_ylim(0, 1.08 * max(1, most, min(2 * most, max(came))))
    axes.set_ylabel("slots of ready pods")
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _waits(axes: Any, scenario: Scenario, runs: Sequence[Figures]) -> None:
    for run, colour, _ in _named(runs):
        hours = [sample.at / 3600 for sample in run.samples]
        axes.plot(hours, [sample.longest_wait_s for sample in run.samples], color=colour, lw=0.9)
    for queue in scenario.spec.queues:
        objective_s = scenario.objective_s(queue.name)
        if objective_s is not None:
            axes.axhline(objective_s, color="black", lw=0.7, ls="--")
            axes.annotate(
                f"objective of {queue.name}", (0.005, objective_s), xycoords=("axes fraction", "data"),
                xytext=(0, 2), textcoords="offset points", fontsize=6,
            )  # fmt: skip
    axes.set_ylabel("longest wait, s")
    axes.set_ylim(bottom=0)


def _pods(axes: Any, scenario: Scenario, runs: Sequence[Figures]) -> None:
    for run, colour, _ in _named(runs):
        hours = [sample.at / 3600 for sample in run.samples]
        axes.step(hours, [sample.pods for sample in run.samples], where="post", color=colour, lw=1)
    axes.axhline(scenario.spec.max_replicas, color="black", lw=0.7, ls=":")
    axes.set_ylabel("pods, starting and ending too")
    axes.set_xlabel("hours")
    axes.set_ylim(bottom=0)


def _grid(axes: Any, found: Sequence[Row]) -> None:
    """Worst p95 over objective against pod-hours: below and to the left is better on both."""
    for window_s, marker in ((60.0, "o"), (None, "s")):
        for least, filled in ((0, True), (1, False)):
            some = [
                row
                for row in found
                if row.keda and (row.keda.down_window_s, row.keda.min_replicas) == (window_s, least)
            ]
            # A setting with either minimum often costs the same: the hollow marker is drawn around the filled one.
            name = f"KEDA, min {least}, window {300 if window_s is None else 60} s"
            axes.scatter(
                [row.pod_hours for row in some], [_wait(row) for row in some], s=14 if filled else 40, marker=marker, label=name,
                facecolors=_KEDA_COLOUR if filled else "none", edgecolors=_KEDA_COLOUR, linewidths=0.7,
            )  # fmt: skip
    ours = next(row for row in found if row.keda is None)
    axes.scatter([ours.pod_hours], [_wait(ours)], s=110, marker="*", color=_OURS_COLOUR, label=OURS, zorder=3)
    if ours.strain is not None:
        axes.axhline(1.0, color="black", lw=0.7, ls="--")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=0.1)
    most = max(_wait(row) for row in found)
    axes.set_yticks([tick for tick in (0, 0.1, 0.3, 1, 3, 10, 30, 100, 300) if tick <= max(1.0, 1.5 * most)])
    axes.set_ylim(-0.03, 2.0 * max(1.0, most))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=7)
    axes.set_xlabel("pod-hours")
    axes.set_ylabel("p95 wait, s" if ours.strain is None else "p95 wait / objective")
    axes.legend(fontsize=6, loc="best")


def _wait(row: Row) -> float:
    return max(row.p95_s.values()) if row.strain is None else row.strain


def _named(runs: Sequence[Figures]) -> list[tuple[Figures, str, str]]:
    return [
        (run, _OURS_COLOUR if run.keda is None else _KEDA_COLOUR, OURS if run.keda is None else run.keda.name)
        for run in runs
    ]
