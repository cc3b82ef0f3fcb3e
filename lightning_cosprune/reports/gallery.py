"""All pictures and tables of a record by name, for loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lightning_cosprune.reports.draw_layers import draw_pairs, draw_similarity, draw_widths
from lightning_cosprune.reports.draw_run import (
    draw_accuracies,
    draw_change,
    draw_curves,
    draw_fractions,
    draw_phases,
    draw_repair,
    draw_tradeoff,
)
from lightning_cosprune.reports.record import RunRecord
from lightning_cosprune.reports.tables import layer_rows, outcome_rows, skipped_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_LAYERS", "ends_of", "figures_of", "tables_of"]

MOST_LAYERS = 16
"""The filters of so many layers are drawn, of those that lost most."""


def figures_of(record: RunRecord, *, layers: bool = True) -> Iterator[tuple[str, Figure]]:
    """The pictures that the page shows, one after the other, with their names.

    Args:
        record: What is known of the run; of several prunes the last one is drawn.
        layers: Whether the layers are drawn, which a test does not change.

    Yields:
        Such as ``("similarity/conv1", figure)``.
    """
    measured = [outcome for outcome in record.outcomes if outcome.accuracy]
    if len(measured) > 1:
        yield "tradeoff", draw_tradeoff(measured)
        yield "accuracies", draw_accuracies(measured)
    before, after = ends_of(record)
    wanted: list[tuple[str, Callable[[], Figure | None]]] = [
        ("fractions", lambda: draw_fractions(record.outcomes)),
        ("learning", lambda: draw_curves(record) if record.curves else None),
        ("phases", lambda: draw_phases(record)),
        ("scenes", lambda: draw_change(before["by_scene"], after["by_scene"]) if before["by_scene"] else None),
        ("devices", lambda: draw_change(before["by_device"], after["by_device"]) if before["by_device"] else None),
    ]
    for name, draw in wanted:
        drawn = draw()
        if drawn is not None:
            yield name, drawn
    if record.prunes and layers:
        prune = record.prunes[-1]
        yield "widths", draw_widths(prune)
        repaired = draw_repair(prune)
        if repaired is not None:
            yield "repair", repaired
        removed = {layer.name: layer.pruned_idxs for layer in prune.report.layers}
        most = sorted(prune.layers, key=lambda picture: -len(removed[picture.name]))[:MOST_LAYERS]
        for picture in prune.layers:
            if picture in most:
                yield f"similarity/{picture.name}", draw_similarity(picture, removed[picture.name])
                yield f"filters/{picture.name}", draw_pairs(picture)


def ends_of(record: RunRecord) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Accuracies by scene and by device of the dense network and of the pruned one, where both are known.

    Returns:
        ``{"by_scene": ..., "by_device": ...}`` twice, with empty mappings for what is not known of both.
    """
    dense = next((outcome for outcome in record.outcomes if outcome.role == "dense"), None)
    after = next((outcome for outcome in record.outcomes if outcome.role == "tuned"), None)
    found: tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]] = ({}, {})
    for kind in ("by_scene", "by_device"):
        both = [dict(getattr(outcome, kind)) if outcome else {} for outcome in (dense, after)]
        known = len(both[0]) > 1 and bool(both[1])
        for place in (0, 1):
            found[place][kind] = both[place] if known else {}
    return found


def tables_of(record: RunRecord) -> dict[str, list[list[str]]]:
    """The tables of the page by name, each with its header first; those without a row are left out."""
    tables = {"networks": outcome_rows(record), "skipped": skipped_rows(record), "phases": _phase_rows(record)}
    if record.prunes:
        tables["layers"] = layer_rows(record.prunes[-1])
    return {name: rows for name, rows in tables.items() if len(rows) > 1}


def _phase_rows(record: RunRecord) -> list[list[str]]:
    rows = [["phase", "seconds", "kWh", "kg CO2"]]
    for phase in record.phases:
        used = ["" if value is None else f"{value:.6f}" for value in (phase.kwh, phase.kg)]
        rows.append([phase.name, f"{phase.seconds:.2f}", *used])
    return rows
