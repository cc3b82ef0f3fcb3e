"""All pictures and tables of a record by name, for the page and for loggers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning_cosprune.reports.draw_layers import draw_pairs, draw_similarity, draw_widths
from lightning_cosprune.reports.draw_many import draw_devices, draw_energy, draw_fractions, draw_ratios
from lightning_cosprune.reports.draw_run import (
    draw_accuracies,
    draw_change,
    draw_curves,
    draw_phases,
    draw_repair,
    draw_tradeoff,
)
from lightning_cosprune.reports.record import Outcome, PruneRecord, RunRecord
from lightning_cosprune.reports.tables import layer_rows, norm_rows, outcome_rows, skipped_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gallery", "MOST_LAYERS", "ends_of", "tables_of"]

MOST_LAYERS = 16
"""The filters of so many layers are drawn for loggers, of those that lost most."""

Pictures = Mapping[str, "Callable[[], Figure | None]"]
"""Name -> what draws it, once, or draws nothing where nothing is known of it."""


class Gallery:
    """What can be drawn of a record; page and loggers may share it, and then nothing is drawn twice.

    Attributes:
        record: What is known of the run.
        run: Pictures of the run as a whole.
        prunes: Pictures of each prune and of each layer that lost filters in it.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.run: Pictures = _once(_run_pictures(record))
        self.prunes: Sequence[Pictures] = [_once(_prune_pictures(prune)) for prune in record.prunes]

    def figures(self, *, layers: bool = True) -> Iterator[tuple[str, Figure]]:
        """The pictures for loggers, one after the other, with their names.

        Args:
            layers: Whether layers are drawn, which a test does not change: of the last prune, and the filters of those
                that lost most.

        Yields:
            Such as ``("similarity/conv1", figure)``.
        """
        wanted = dict(self.run)
        if self.record.prunes and layers:
            prune = self.record.prunes[-1]
            lost = {layer.name: len(layer.pruned_idxs) for layer in prune.report.layers}
            least = sorted(prune.layers, key=lambda picture: -lost[picture.name])[MOST_LAYERS:]
            left_out = {f"{kind}/{picture.name}" for picture in least for kind in ("similarity", "filters")}
            wanted |= {name: draw for name, draw in self.prunes[-1].items() if name not in left_out}
        for name, draw in wanted.items():
            drawn = draw()
            if drawn is not None:
                yield name, drawn


def _once(pictures: Pictures) -> Pictures:
    return {name: functools.cache(draw) for name, draw in pictures.items()}


def _run_pictures(record: RunRecord) -> Pictures:
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


def _prune_pictures(prune: PruneRecord) -> Pictures:
    found: dict[str, Callable[[], Figure | None]] = {
        "widths": partial(draw_widths, prune),
        "repair": partial(draw_repair, prune),
    }
    removed = {layer.name: layer.pruned_idxs for layer in prune.report.layers}
    for picture in prune.layers:
        found[f"similarity/{picture.name}"] = partial(draw_similarity, picture, removed[picture.name])
        found[f"filters/{picture.name}"] = partial(draw_pairs, picture)
    return found


def ends_of(record: RunRecord) -> tuple[Outcome, Outcome] | None:
    """The dense network and the first that came of it, trained on or else repaired, where both are known."""
    first = {role: outcome for outcome in reversed(record.outcomes) for role in [outcome.role]}
    dense, after = first.get("dense"), first.get("tuned", first.get("repaired"))
    return None if dense is None or after is None else (dense, after)


def tables_of(record: RunRecord) -> dict[str, list[list[str]]]:
    """The tables of the page by name, each with its header first; those without a row are left out."""
    tables = {
        "networks": outcome_rows(record),
        "skipped": skipped_rows(record),
        "norms": norm_rows(record),
        "phases": _phase_rows(record),
    }
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
