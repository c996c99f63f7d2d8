"""`plot.py REPORT.json PICTURE.png`: the figures as bars. Run by the Python of .venv-bench-peers, which has matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

#: measurement, broker, figure, title
PANELS = (
    ("drain", "redis", "per_s_norm", "Redis: drain, tasks/s"),
    ("drain", "amqp", "per_s_norm", "RabbitMQ: drain, tasks/s"),
    ("results", "redis", "per_s_norm", "Redis: drain with results, tasks/s"),
    ("enqueue", "redis", "cpu_s_per_10k_norm", "Redis: enqueue, client CPU-s per 10,000 (less is better)"),
    ("latency", "redis", "p50_ms", "Redis: latency at 50/s, ms: p50, thin: p99 (less is better; cut off)"),
    ("idle", "redis", "rss_mb", "Redis: idle worker, RSS MB (less is better)"),
)
COLOURS = {"celeriac": "#2a7f62", "celery": "#b7791f", "raw": "#9aa0a6"}
OTHERS = "#6b8fc4"


def main(report: Path, picture: Path) -> None:
    rows = json.loads(report.read_text())["rows"]
    panels = [(panel, chosen) for panel in PANELS if (chosen := _of(rows, panel[0], panel[1], panel[2]))]
    if not panels:
        raise SystemExit(f"{report} has no figure that the plot shows")
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    tallest = max(len(chosen) for _, chosen in panels)
    figure, grid = plt.subplots(down, across, figsize=(7.5 * across, (0.27 * tallest + 1.0) * down), squeeze=False)
    for axes, (panel, chosen) in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, chosen)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def _of(rows: list[dict[str, Any]], what: str, broker: str, key: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["what"], row["broker"]) == (what, broker) and key in row["figures"]]


def _draw(axes: Any, panel: tuple[str, str, str, str], rows: list[dict[str, Any]]) -> None:
    _, _, key, title = panel
    names = [row["name"] for row in rows]
    if key == "p50_ms":
        names = [f"{row['name']}: {_median(row, 'p50_ms'):.2f}, {_median(row, 'p99_ms'):.1f}" for row in rows]
    values = [_median(row, key) for row in rows]
    places = range(len(rows))
    axes.barh(places, values, color=[COLOURS.get(row["library"], OTHERS) for row in rows], height=0.7)
    for place, row, value in zip(places, rows, values, strict=True):
        seen = row["figures"][key]
        if key == "p50_ms":
            axes.plot([value, _median(row, "p99_ms")], [place, place], color="#555555", linewidth=1)
            continue
        if seen["lowest"] != seen["highest"]:
            axes.plot([seen["lowest"], seen["highest"]], [place, place], color="#333333", linewidth=1)
        words = f" {value:,.0f}" if value >= 20 else f" {value:,.2f}"
        axes.annotate(words, (max(value, seen["highest"]), place), va="center", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    if key == "p50_ms":  # one polling library's tail would hide all others
        axes.set_xlim(0, 3 * sorted(values)[len(values) // 2] + 2)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


def _median(row: dict[str, Any], key: str) -> float:
    value: float = row["figures"][key]["median"]
    return value


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
