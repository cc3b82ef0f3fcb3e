"""Pictures of a run: what it cost and brought, how it learned, for whom, where time and energy went."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cosprune.reports.record import THIS_RUN, Outcome, PruneRecord, RunRecord
from lightning_cosprune.reports.theme import SERIES, colour_of, figure, label_rows, row_height, styled
from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "draw_accuracies",
    "draw_change",
    "draw_curves",
    "draw_phases",
    "draw_repair",
    "draw_tradeoff",
]

_MARKS = {"dense": "D", "cut": "x", "repaired": "o", "tuned": "^", "rival": "s"}
_COLOURS = {"dense": "ink", "cut": "removed", "repaired": "repaired", "tuned": "tuned"}
_TOLD = {"dense": "dense", "cut": "as cut", "repaired": "repaired", "tuned": "trained on", "rival": "rival"}


def draw_tradeoff(outcomes: Sequence[Outcome]) -> Figure:
    """Accuracy against multiply-accumulates, mean and standard deviation over seeds; networks of a series joined."""
    shown = [outcome for outcome in outcomes if outcome.accuracy and outcome.macs]
    with styled():
        drawn = figure(3.5)
        axes = drawn.subplots()
        places = _side_by_side([statistics.mean(outcome.macs) / 1e6 for outcome in shown])
        if len(_series_of(shown)) < 2:
            way = [
                (x, outcome) for role in _TOLD for outcome, x in zip(shown, places, strict=True) if outcome.role == role
            ]
            way = [(x, outcome) for x, outcome in way if outcome.role != "rival"]
            heights = [100 * statistics.mean(outcome.accuracy) for _, outcome in way]
            axes.plot([x for x, _ in way], heights, ":", color=colour_of("faint"), linewidth=1.4, zorder=0)
        for outcome, x in zip(shown, places, strict=True):
            y, spread = 100 * statistics.mean(outcome.accuracy), 100 * _deviation(outcome.accuracy)
            axes.errorbar(
                x,
                y,
                yerr=spread or None,
                fmt=_MARKS[outcome.role],
                color=_colour(outcome, shown),
                markersize=6 if outcome.role != "cut" else 7,
                markeredgewidth=1.8 if outcome.role == "cut" else 0,
                elinewidth=1.1,
            )
        axes.set_xlabel("multiply-accumulates of a forward pass, millions")
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y")
        axes.set_xlim(0, 1.08 * max(places, default=1.0))
        line = import_viz("matplotlib.lines").Line2D
        roles = [role for role in _MARKS if any(outcome.role == role for outcome in shown)]
        handles = [
            line(
                [],
                [],
                marker=_MARKS[role],
                linestyle="",
                color=colour_of(_COLOURS.get(role, "muted") if len(_series_of(shown)) < 2 else "muted"),
                label=_TOLD[role],
                markersize=5,
            )
            for role in roles
        ]
        named = _series_of(shown)
        handles += [
            line([], [], linewidth=3, color=colour_of(SERIES[place % len(SERIES)]), label=series)
            for place, series in enumerate(named)
            if len(named) > 1
        ]
        columns = 2 if max(map(len, named), default=0) > 20 else 3
        drawn.legend(handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=1.2)
    return drawn  # type: ignore[no-any-return]


def draw_accuracies(outcomes: Sequence[Outcome]) -> Figure:
    """A row a network: its accuracy, mean and standard deviation, and each seed."""
    shown = [outcome for outcome in outcomes if outcome.accuracy]
    with styled():
        labels = [outcome.label for outcome in shown]
        drawn = figure(0.6 + row_height(labels) * len(shown))
        axes = drawn.subplots()
        for row, outcome in enumerate(shown):
            seeds = 100 * np.array(outcome.accuracy)
            colour = _colour(outcome, shown)
            axes.plot(seeds, np.full(len(seeds), row), "|", color=colour, markersize=7, alpha=0.55)
            axes.errorbar(
                seeds.mean(),
                row,
                xerr=100 * _deviation(outcome.accuracy) or None,
                fmt=_MARKS[outcome.role],
                color=colour,
                markersize=5.5,
                markeredgewidth=1.6 if outcome.role == "cut" else 0,
                elinewidth=1.2,
            )
        for outcome in shown:
            if outcome.role == "dense":
                axes.axvline(100 * statistics.mean(outcome.accuracy), color=colour_of("faint"), linewidth=1, zorder=0)
        label_rows(axes, labels)
        axes.set_xlabel("accuracy, %")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
    return drawn  # type: ignore[no-any-return]


def draw_curves(record: RunRecord) -> Figure | None:
    """Loss and accuracy by epoch, with the prunes and repairs marked."""
    panels = [
        (title, names)
        for title, words in (("loss", ("loss",)), ("accuracy", ("acc",)))
        if (names := _curves_about(record.curves, words))
    ]
    panels = panels or [("metrics", list(record.curves)[:4])]
    if not any(names for _, names in panels):
        return None
    with styled():
        drawn = figure(1.9 * len(panels) + 0.4)
        stacked = np.atleast_1d(drawn.subplots(len(panels), 1, sharex=True))
        for axes, (title, names) in zip(stacked, panels, strict=True):
            for place, name in enumerate(names):
                epochs, values = zip(*record.curves[name], strict=True)
                axes.plot(epochs, values, "-o", color=colour_of(SERIES[place]), markersize=3, linewidth=1.4, label=name)
            if title == "accuracy":
                _mark_phases(axes, record)
            axes.set_title(title)
            axes.grid(axis="y")
            for event in record.events:
                axes.axvline(event.epoch, color=colour_of("removed"), linewidth=1.1, linestyle=(0, (4, 2)))
            axes.legend(loc="best", handlelength=1.2)
        for event in record.events:
            stacked[0].annotate(
                event.name,
                (event.epoch, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -1),
                textcoords="offset points",
                color=colour_of("removed"),
                fontsize=8,
                ha="left",
                va="top",
            )
        stacked[-1].set_xlabel("epochs since the start")
        stacked[-1].set_xlim(left=0)
        stacked[-1].xaxis.get_major_locator().set_params(integer=True)
    return drawn  # type: ignore[no-any-return]


def draw_change(before: Mapping[str, float], after: Mapping[str, float], xlabel: str = "accuracy, %") -> Figure:
    """A row a name: from what was before to what is after, in percent."""
    names = [name for name in before if name in after]
    with styled():
        drawn = figure(0.75 + 0.24 * len(names))
        axes = drawn.subplots()
        olds, news = ([100 * values[name] for name in names] for values in (before, after))
        rows = range(len(names))
        for row, old, new in zip(rows, olds, news, strict=True):
            better = new >= old if xlabel.startswith("accuracy") else new <= old
            axes.plot([old, new], [row, row], color=colour_of("repaired" if better else "removed"), lw=1.6, zorder=1)
        axes.plot(olds, rows, "o", color=colour_of("faint"), label="before", markersize=8.5)
        axes.plot(news, rows, "o", color=colour_of("kept"), label="after", markersize=5)
        axes.set_yticks(rows, [name.replace("_", " ") for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(xlabel)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        drawn.legend(loc="outside upper right", ncols=2, handlelength=1)
    return drawn  # type: ignore[no-any-return]


def draw_repair(prune: PruneRecord) -> Figure | None:
    """What each repaired layer computes wrongly, before the repair and after it."""
    layers = [layer for layer in prune.repair.layers if layer.error_before is not None] if prune.repair else []
    if not layers or prune.repair is None:
        return None
    before = {layer.name: layer.error_before or 0.0 for layer in layers}
    after = {layer.name: layer.error_after or 0.0 for layer in layers}
    if prune.repair.error_before is not None and prune.repair.error_after is not None:
        before["the network's output"] = prune.repair.error_before
        after["the network's output"] = prune.repair.error_after
    drawn: Any = draw_change(before, after, "unexplained part of the dense layer's output, %")
    if max(before.values()) > 20 * max(min(after.values()), 1e-9):
        drawn.axes[0].set_xscale("symlog", linthresh=0.1)
        drawn.axes[0].xaxis.get_major_locator().set_params(numticks=6)
        drawn.axes[0].xaxis.set_major_formatter(import_viz("matplotlib.ticker").FuncFormatter(lambda x, _: f"{x:g}"))
        drawn.axes[0].set_xlim(0, 150 * max(*before.values(), *after.values()))
    return drawn  # type: ignore[no-any-return]


def draw_phases(record: RunRecord) -> Figure | None:
    """Seconds, and where they were counted watt-hours, by phase."""
    phases = [phase for phase in record.phases if phase.seconds > 0]
    if not phases:
        return None
    metered = any(phase.kwh for phase in phases)
    with styled():
        drawn = figure(0.5 + 0.27 * len(phases))
        columns = np.atleast_1d(drawn.subplots(1, 1 + metered, sharey=True))
        values = [("seconds", [phase.seconds for phase in phases], "kept")]
        if metered:
            values.append(("watt-hours", [1e3 * (phase.kwh or 0.0) for phase in phases], "series1"))
        for axes, (label, numbers, colour) in zip(columns, values, strict=True):
            axes.barh(range(len(phases)), numbers, color=colour_of(colour), height=0.6)
            for row, number in enumerate(numbers):
                axes.text(number + 0.02 * max(numbers), row, f"{number:,.3g}", va="center", fontsize=8)
            axes.set_xlim(0, 1.28 * max(*numbers, 1e-12))
            axes.set_xlabel(label)
            axes.set_xticks([])
            axes.spines[["left", "bottom"]].set_visible(False)
        columns[0].set_yticks(range(len(phases)), [phase.name for phase in phases])
        columns[0].set_ylim(len(phases) - 0.5, -0.5)
    return drawn  # type: ignore[no-any-return]


def _colour(outcome: Outcome, outcomes: Sequence[Outcome]) -> str:
    """A colour a series; a colour a role where there is one series."""
    named = _series_of(outcomes)
    if len(named) < 2 and outcome.role in _COLOURS:
        return colour_of(_COLOURS[outcome.role])
    return colour_of(SERIES[named.index(outcome.series) % len(SERIES)]) if outcome.series else colour_of("ink")


def _series_of(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(outcome.series for outcome in outcomes if outcome.series))


def _side_by_side(places: list[float]) -> list[float]:
    """Networks of the same cost are moved apart, in the order in which they come."""
    found = list(places)
    for value in sorted(set(places)):
        near = [i for i, place in enumerate(places) if place == value]
        step = min(0.012, 0.08 / len(near)) * max(places)
        for rank, i in enumerate(near):
            found[i] = value + (rank - (len(near) - 1) / 2) * step
    return found


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _curves_about(curves: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    names = [name for name in curves if any(word in name.lower() for word in words)]
    plain = [name for name in names if "_device" not in name and "_scene" not in name and "class_averaged" not in name]
    return (plain or names)[:4]


def _mark_phases(axes: Any, record: RunRecord) -> None:
    """The accuracy at the cut and after the repair, which belong to no epoch."""
    if not record.events:
        return
    for outcome in record.outcomes:
        if outcome.role in ("dense", "cut", "repaired") and outcome.accuracy and outcome.series == THIS_RUN:
            axes.plot(
                record.events[-1].epoch,
                outcome.accuracy[0],
                _MARKS[outcome.role],
                color=colour_of(_COLOURS[outcome.role]),
                markersize=6,
                markeredgewidth=1.8 if outcome.role == "cut" else 0,
                label=outcome.label,
                linestyle="",
            )
