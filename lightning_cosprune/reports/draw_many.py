"""Pictures of many networks beside each other: what each layer lost, how each device is served, what energy went."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_cosprune.reports.record import Outcome
from lightning_cosprune.reports.theme import colour_of, figure, styled
from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_devices", "draw_energy", "draw_ratios"]

_MOST_CHARACTERS = 34


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
        drawn = figure(0.55 + 0.24 * len(shown))
        axes = drawn.subplots()
        means = [1e3 * statistics.mean(outcome.kwh) for outcome in shown]
        spreads = [1e3 * statistics.stdev(outcome.kwh) if len(outcome.kwh) > 1 else 0.0 for outcome in shown]
        axes.barh(
            range(len(shown)), means, xerr=spreads, height=0.6, color=colour_of("series1"), ecolor=colour_of("muted")
        )
        for row, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
            axes.text(mean + spread + 0.02 * max(means), row, f"{mean:,.3g}", va="center", fontsize=8)
        axes.set_xlim(0, 1.2 * max(mean + spread for mean, spread in zip(means, spreads, strict=True)))
        axes.set_yticks(range(len(shown)), [_short(outcome.label) for outcome in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("energy of a run, watt-hours")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    return drawn  # type: ignore[no-any-return]


def _cells(
    labels: Sequence[str], rows: Sequence[Mapping[str, float]], colour: str, ends: tuple[float, float], title: str
) -> Any:
    """Shares as cells, the deeper the larger, each with its percent where there is room."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    low, high = ends
    rectangle = import_viz("matplotlib.patches").Rectangle
    with styled():
        drawn = figure(0.75 + 0.24 * len(rows) + 0.055 * max(map(len, columns)))
        axes = drawn.subplots()
        for y, row in enumerate(rows):
            for x, name in enumerate(columns):
                if name not in row:
                    continue
                depth = 0.06 + 0.84 * (row[name] - low) / (high - low) if high > low else 0.5
                axes.add_patch(
                    rectangle((x + 0.03, y + 0.05), 0.94, 0.9, facecolor=colour_of(colour), alpha=depth, linewidth=0)
                )
                if len(columns) <= 12:
                    axes.text(x + 0.5, y + 0.52, f"{100 * row[name]:.0f}", ha="center", va="center", fontsize=7.5)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([x + 0.5 for x in range(len(columns))], [_short(name, 18) for name in columns], rotation=40)
        for tick in axes.get_xticklabels():
            tick.set(ha="left", rotation_mode="anchor")
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_yticks([y + 0.5 for y in range(len(rows))], [_short(label) for label in labels])
        axes.spines[:].set_visible(False)
        axes.set_xlabel(title)
    return drawn


def _short(name: str, most: int = _MOST_CHARACTERS) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
