"""Pictures of many networks beside each other: by share of the data, by layer, by device, by energy."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_cosprune.reports.record import Outcome
from lightning_cosprune.reports.theme import SERIES, colour_of, figure, label_rows, row_height, styled
from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_devices", "draw_energy", "draw_fractions", "draw_ratios"]


def draw_fractions(outcomes: Sequence[Outcome]) -> Figure | None:
    """Accuracy against the share of the training data, a line a series."""
    by_series: dict[str, dict[float, list[float]]] = {}
    for outcome in outcomes:
        if outcome.fraction is not None and outcome.accuracy and outcome.role in ("tuned", "rival"):
            by_series.setdefault(outcome.series or outcome.label, {}).setdefault(outcome.fraction, []).extend(
                outcome.accuracy
            )
    by_series = {series: points for series, points in by_series.items() if len(points) > 1}
    if not by_series:
        return None
    with styled():
        drawn = figure(3.1)
        axes = drawn.subplots()
        for place, (series, points) in enumerate(by_series.items()):
            fractions = sorted(points)
            axes.errorbar(
                [100 * fraction for fraction in fractions],
                [100 * statistics.mean(points[fraction]) for fraction in fractions],
                yerr=[
                    100 * (statistics.stdev(points[fraction]) if len(points[fraction]) > 1 else 0.0)
                    for fraction in fractions
                ],
                fmt="-o",
                markersize=4,
                linewidth=1.4,
                elinewidth=1.0,
                color=colour_of(SERIES[place % len(SERIES)]),
                label=series,
            )
        axes.set_xlabel("share of the training data after the cut, %")
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y")
        drawn.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    return drawn  # type: ignore[no-any-return]


def draw_ratios(outcomes: Sequence[Outcome]) -> Figure | None:
    """A row a network, a column a layer: what part of its filters the layer lost; the heat-map of a dashboard."""
    shown = [outcome for outcome in outcomes if outcome.ratios]
    if len(shown) < 2:
        return None
    drawn: Figure = _cells(
        [outcome.label for outcome in shown],
        [outcome.ratios for outcome in shown],
        "removed",
        (0.0, 1.0),
        "filters removed, %",
    )
    return drawn


def draw_devices(outcomes: Sequence[Outcome]) -> Figure | None:
    """A row a network, a column a recording device: the accuracy on its clips."""
    shown = [outcome for outcome in outcomes if len(outcome.by_device) > 1]
    if len(shown) < 2:
        return None
    values = [value for outcome in shown for value in outcome.by_device.values()]
    drawn: Figure = _cells(
        [outcome.label for outcome in shown],
        [outcome.by_device for outcome in shown],
        "kept",
        (min(values), max(values)),
        "accuracy by recording device, %",
    )
    return drawn


def draw_energy(outcomes: Sequence[Outcome]) -> Figure | None:
    """A bar a network: the energy that its run took, mean and standard deviation over seeds."""
    shown = [outcome for outcome in outcomes if outcome.kwh]
    if len(shown) < 2:
        return None
    with styled():
        labels = [outcome.label for outcome in shown]
        drawn = figure(0.55 + row_height(labels) * len(shown))
        axes = drawn.subplots()
        means = [1e3 * statistics.mean(outcome.kwh) for outcome in shown]
        spreads = [1e3 * statistics.stdev(outcome.kwh) if len(outcome.kwh) > 1 else 0.0 for outcome in shown]
        ends = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axes.barh(
            range(len(shown)), means, xerr=spreads, height=0.4, color=colour_of("series1"), ecolor=colour_of("muted")
        )
        for row, (mean, end) in enumerate(zip(means, ends, strict=True)):
            axes.text(end + 0.02 * max(ends), row, f"{mean:,.3g}", va="center", fontsize=8)
        axes.set_xlim(0, 1.2 * max(*ends, 1e-12))
        label_rows(axes, labels)
        axes.set_xlabel("energy of a run, watt-hours")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    return drawn  # type: ignore[no-any-return]


def _cells(
    labels: Sequence[str], rows: Sequence[Mapping[str, float]], colour: str, ends: tuple[float, float], title: str
) -> Any:
    """Shares as cells, the deeper the larger, each with its percent where there is room."""
    columns = sorted({name for row in rows for name in row}, key=_naturally)
    low, high = ends
    rectangle = import_viz("matplotlib.patches").Rectangle
    above = row_height(labels) > 0.3
    top, height = (-0.12, 0.56) if above else (-0.45, 0.9)
    with styled():
        drawn = figure(0.75 + row_height(labels) * len(rows) + 0.045 * min(max(map(len, columns)), 18))
        axes = drawn.subplots()
        for y, row in enumerate(rows):
            for x, name in enumerate(columns):
                if name not in row:
                    continue
                depth = 0.06 + 0.84 * (row[name] - low) / (high - low) if high > low else 0.5
                axes.add_patch(
                    rectangle((x + 0.03, y + top), 0.94, height, facecolor=colour_of(colour), alpha=depth, linewidth=0)
                )
                if len(columns) <= 12:
                    told = f"{100 * row[name]:.0f}"
                    axes.text(x + 0.5, y + top + height / 2, told, ha="center", va="center", fontsize=7.5)
        axes.set_xlim(0, len(columns))
        label_rows(axes, labels)
        axes.set_xticks([x + 0.5 for x in range(len(columns))], [_short(name, 18) for name in columns])
        axes.xaxis.tick_top()
        if sum(len(_short(name, 18)) for name in columns) > 42:
            for tick in axes.get_xticklabels():
                tick.set(rotation=40, ha="left", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(title)
        axes.xaxis.set_label_position("bottom")
    return drawn


def _naturally(name: str) -> list[tuple[int, str]]:
    """So that conv10 comes after conv9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
