"""The picture of a study: accuracy of each run against what varies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from matplotlib.figure import Figure

from recipes.statistics import interval
from recipes.study.row import Row

COLOURS = ("#1f6fb2", "#c8553d", "#6c9a8b", "#b58900", "#7b68a6", "#1c2330", "#9aa3b2", "#2f4b26")
LABELS = {
    "fraction": "share of the training clips, %",
    "params": "parameters",
    "macs": "MACs (M)",
    "clips_in_all": "training clips seen, all networks together",
    "seconds_in_all": "seconds of training, all networks together",
}
SCALES = {"fraction": 100, "macs": 1e-6}


def draw(rows: Sequence[Row], settings: Mapping[str, Any], order: Sequence[tuple[str, str]]) -> Figure:
    """Mean accuracy with intervals at 95 %, one line or mark a run, of the first data set.

    Args:
        rows: Of all runs.
        settings: ``x``, a column; ``variants``, patterns of those that are shown; ``level``, a run that is drawn as a
            dotted line.
        order: Runs and variants in the order of the grid.
    """
    x = settings["x"]
    shown = [row for row in rows if row.data == rows[0].data]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    level = [100 * row.accuracy for row in shown if row.run == settings.get("level")]
    if level:
        axes.axhline(sum(level) / len(level), color="#1c2330", linewidth=1, linestyle=":", label=settings["level"])
    patterns = settings.get("variants", ["*"])
    runs = [run for run in dict.fromkeys(run for run, _ in order) if run != settings.get("level")]
    for number, run in enumerate(runs):
        cells: dict[str, list[Row]] = defaultdict(list)
        for row in shown:
            if row.run == run and any(fnmatchcase(row.variant, pattern) for pattern in patterns):
                cells[row.variant].append(row)
        points = []
        for mine in cells.values():
            mean, half = interval([100 * row.accuracy for row in mine])
            place = SCALES.get(x, 1) * sum(float(getattr(row, x)) for row in mine) / len(mine)
            points.append((place, mean, 0.0 if math.isinf(half) else half))
        if points:
            places, means, halves = zip(*sorted(points), strict=True)
            axes.errorbar(
                places,
                means,
                halves,
                color=COLOURS[number % len(COLOURS)],
                label=run.replace("_", " "),
                marker="o",
                markersize=4,
                capsize=2,
                linestyle="-" if len(points) > 1 and x == "fraction" else "none",
            )
    axes.set_xlabel(LABELS.get(x, x))
    axes.set_ylabel("accuracy on test clips, %")
    if x not in ("fraction",):
        axes.set_xscale("log")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
