"""A record as tables: for the console, for a spreadsheet, for a paper."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence

from lightning_cosprune.reports.draw_layers import widths_of
from lightning_cosprune.reports.record import Outcome, PruneRecord, RunRecord
from lightning_cosprune.surgery.report import PruningReport, format_table

__all__ = [
    "csv_text",
    "format_outcomes",
    "latex_rows",
    "layer_rows",
    "norm_rows",
    "outcome_rows",
    "ratios_of",
    "skipped_rows",
    "spread",
]

_COLUMNS: tuple[tuple[str, Callable[[Outcome], Sequence[float]], float, int], ...] = (
    ("accuracy %", lambda outcome: outcome.accuracy, 100, 1),
    ("log loss", lambda outcome: outcome.log_loss, 1, 3),
    ("MACs (M)", lambda outcome: outcome.macs, 1e-6, 2),
    ("parameters", lambda outcome: outcome.params, 1, 0),
    ("kB", lambda outcome: outcome.bytes, 1e-3, 1),
    ("ms a pass", lambda outcome: outcome.latency, 1e3, 2),
    ("training s", lambda outcome: outcome.seconds, 1, 0),
)

CSV_FIELDS = (
    "network",
    "role",
    "series",
    "fraction",
    "seed",
    "accuracy",
    "log_loss",
    "macs",
    "params",
    "bytes",
    "latency_s",
    "training_s",
)
"""Columns of :func:`csv_text`."""


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and, where the values differ, the standard deviation between seeds; empty for no values."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign},.{digits}f}"
    return mean if len(set(values)) == 1 else f"{mean} ± {statistics.stdev(values):,.{digits}f}"


def outcome_rows(record: RunRecord) -> list[list[str]]:
    """The measured networks, a row each, without the columns that nothing is known of.

    Returns:
        Rows of cells, the header first; the header alone where nothing was measured.
    """
    known = [column for column in _COLUMNS if any(column[1](outcome) for outcome in record.outcomes)]
    rows = [["", *(name for name, *_ in known)]]
    for outcome in record.outcomes:
        cells = [spread([scale * x for x in values(outcome)], digits) for _, values, scale, digits in known]
        rows.append([outcome.label, *cells])
    return rows


def format_outcomes(record: RunRecord) -> str:
    """The measured networks as text in columns; empty where nothing was measured."""
    header, *rows = outcome_rows(record)
    return format_table(header, rows) if rows else ""


def latex_rows(record: RunRecord) -> str:
    """The measured networks as rows of a LaTeX ``tabular``, the header first; no package is needed."""
    return "\n".join(" & ".join(map(_latex, row)) + r" \\" for row in outcome_rows(record))


def csv_text(record: RunRecord) -> str:
    """The measured networks as tidy csv, a line a network and seed, in units without prefix; accuracies in [0, 1]."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for outcome in record.outcomes:
        costs = (outcome.macs, outcome.params, outcome.bytes, outcome.latency, outcome.seconds)
        columns = (outcome.accuracy, outcome.log_loss, *costs)
        for seed in range(max(map(len, columns), default=0)):
            cells = [repr(column[min(seed, len(column) - 1)]) if column else "" for column in columns]
            fraction = "" if outcome.fraction is None else repr(outcome.fraction)
            writer.writerow([outcome.label, outcome.role, outcome.series, fraction, seed, *cells])
    return written.getvalue()


def ratios_of(reports: Sequence[PruningReport]) -> dict[str, float]:
    """The part of its filters that each layer has lost after all these prunes."""
    found: dict[str, float] = {}
    first: dict[str, int] = {}
    for report in reports:
        for layer in report.layers:
            before = first.setdefault(layer.name, layer.filters_before)
            found[layer.name] = 1 - layer.filters_after / before
    return found


def layer_rows(prune: PruneRecord) -> list[list[str]]:
    """The layers, a row each: filters before and after, and how well what stands for the removed explains them.

    Returns:
        Rows of cells, the header first.
    """
    pictures = {picture.name: picture for picture in prune.layers}
    rows = [["layer", "filters before", "after", "removed", *(["explained, median"] if pictures else [])]]
    for width in widths_of(prune):
        picture = pictures.get(width.name)
        told = [f"{statistics.median(picture.explained):.0%}" if picture and picture.explained else ""]
        share = f"{1 - width.after / width.before:.1%}" if width.after < width.before else ""
        rows.append([width.name, f"{width.before:,}", f"{width.after:,}", share, *(told if pictures else [])])
    return rows


def skipped_rows(record: RunRecord) -> list[list[str]]:
    """What kept all its filters, or was not repaired, and why; empty where nothing was.

    Returns:
        Rows of cells, the header first.
    """
    found: dict[tuple[str, str], None] = {}
    for prune in record.prunes:
        found |= dict.fromkeys(prune.report.skipped.items())
        if prune.repair is not None:
            found |= dict.fromkeys((name, f"not repaired: {why}") for name, why in prune.repair.skipped.items())
    return [["layer", "why"], *([name, why] for name, why in found)] if found else []


def norm_rows(record: RunRecord) -> list[list[str]]:
    """Norms over channels that scale the kept channels otherwise than before; empty where there are none.

    Returns:
        Rows of cells, the header first.
    """
    found: dict[str, dict[str, None]] = {}
    for prune in record.prunes:  # a later one may reach a norm through other layers
        for norm, layers in prune.report.norms.items():
            found.setdefault(norm, {}).update(dict.fromkeys(layers))
    rows = [[norm, ", ".join(layers)] for norm, layers in found.items()]
    return [["norm", "over fewer channels of"], *rows] if rows else []


def _latex(cell: str) -> str:
    for character in "\\&%$#_{}":
        cell = cell.replace(character, {"\\": r"\textbackslash "}.get(character, f"\\{character}"))
    return cell.replace(" ± ", r" $\pm$ ").replace("→", r"$\to$")
