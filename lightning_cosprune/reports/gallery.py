"""All pictures and tables of a record by name, for the page and for loggers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_cosprune.reports.draw_layers import draw_pairs, draw_similarity, draw_widths
from lightning_cosprune.reports.draw_many import draw_devices, draw_energy, draw_ratios
from lightning_cosprune.reports.draw_run import (
    draw_accuracies,
    draw_change,
    draw_curves,
    draw_fractions,
    draw_phases,
    draw_repair,
    draw_tradeoff,
)
from lightning_cosprune.reports.record import LayerPicture, Outcome, PruneRecord, RunRecord
from lightning_cosprune.reports.tables import layer_rows, outcome_rows, skipped_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_LAYERS", "ends_of", "figures_of", "layer_pictures", "prune_pictures", "run_pictures", "tables_of"]

MOST_LAYERS = 16
"""The filters of so many layers are drawn for loggers, of those that lost most."""

Pictures = Mapping[str, "Callable[[], Figure | None]"]
"""Name -> what draws it, or draws nothing where nothing is known of it."""


def run_pictures(record: RunRecord) -> Pictures:
    """What is drawn of a run as a whole."""
    measured = [outcome for outcome in record.outcomes if outcome.accuracy]
    compared = measured if len(measured) > 1 else []
    return {
        "tradeoff": lambda: draw_tradeoff(compared) if compared else None,
        "accuracies": lambda: draw_accuracies(compared) if compared else None,
        "fractions": partial(draw_fractions, record.outcomes),
        "ratios": partial(draw_ratios, record.outcomes),
        "learning": lambda: draw_curves(record) if record.curves else None,
        "scenes": partial(_change, record, "by_scene"),
        "devices": partial(_change, record, "by_device"),
        "networks_by_device": partial(draw_devices, record.outcomes),
        "phases": partial(draw_phases, record),
        "energy": partial(draw_energy, record.outcomes),
    }


def prune_pictures(prune: PruneRecord) -> Pictures:
    """What is drawn of one prune as a whole."""
    return {"widths": partial(draw_widths, prune), "repair": partial(draw_repair, prune)}


def layer_pictures(prune: PruneRecord, picture: LayerPicture) -> Pictures:
    """What is drawn of one layer that lost filters."""
    (removed,) = (layer.pruned_idxs for layer in prune.report.layers if layer.name == picture.name)
    return {
        f"similarity/{picture.name}": partial(draw_similarity, picture, removed),
        f"filters/{picture.name}": partial(draw_pairs, picture),
    }


def figures_of(record: RunRecord, *, layers: bool = True) -> Iterator[tuple[str, Figure]]:
    """The pictures that the page shows, one after the other, with their names.

    Args:
        record: What is known of the run; of several prunes the last one is drawn.
        layers: Whether the layers are drawn, which a test does not change.

    Yields:
        Such as ``("similarity/conv1", figure)``.
    """
    wanted = dict(run_pictures(record))
    if record.prunes and layers:
        prune = record.prunes[-1]
        wanted |= prune_pictures(prune)
        lost = {layer.name: len(layer.pruned_idxs) for layer in prune.report.layers}
        most = sorted(prune.layers, key=lambda picture: -lost[picture.name])[:MOST_LAYERS]
        for picture in prune.layers:
            if picture in most:
                wanted |= layer_pictures(prune, picture)
    for name, draw in wanted.items():
        drawn = draw()
        if drawn is not None:
            yield name, drawn


def ends_of(record: RunRecord) -> tuple[Outcome, Outcome] | None:
    """The dense network and the one that came of it in the end, where both are known."""
    dense = next((outcome for outcome in record.outcomes if outcome.role == "dense"), None)
    after = next((outcome for outcome in reversed(record.outcomes) if outcome.role in ("tuned", "repaired")), None)
    return None if dense is None or after is None else (dense, after)


def tables_of(record: RunRecord) -> dict[str, list[list[str]]]:
    """The tables of the page by name, each with its header first; those without a row are left out."""
    tables = {"networks": outcome_rows(record), "skipped": skipped_rows(record), "phases": _phase_rows(record)}
    if record.prunes:
        tables["layers"] = layer_rows(record.prunes[-1])
    return {name: rows for name, rows in tables.items() if len(rows) > 1}


def _change(record: RunRecord, kind: str) -> Any:
    ends = ends_of(record)
    if ends is None:
        return None
    before, after = (getattr(outcome, kind) for outcome in ends)
    return draw_change(before, after) if len(before) > 1 and after else None


def _phase_rows(record: RunRecord) -> list[list[str]]:
    rows = [["phase", "seconds", "kWh", "kg CO2"]]
    for phase in record.phases:
        used = ["" if value is None else f"{value:.6f}" for value in (phase.kwh, phase.kg)]
        rows.append([phase.name, f"{phase.seconds:.2f}", *used])
    return rows
