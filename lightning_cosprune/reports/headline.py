"""The answer in figures: what a run saved, and what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_cosprune.reports.record import THIS_RUN, Outcome, RunRecord
from lightning_cosprune.reports.tables import spread

__all__ = ["Headline", "Tile", "headline_of"]

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Tile:
    """One figure: what, how much, and in small letters from what to what.

    Attributes:
        share: What a bar below it shows: the part that is left, or the accuracy; in [0, 1].
    """

    name: str
    value: str
    detail: str = ""
    tone: str = ""
    share: float | None = None


@dataclass(frozen=True)
class Headline:
    """Figures of what went, and of how well the networks do."""

    sentence: str
    costs: tuple[Tile, ...]
    accuracies: tuple[Tile, ...]


def headline_of(record: RunRecord) -> Headline:
    """The figures that a page opens with, as far as they are known."""
    dense, after = _ends(record)
    costs = []
    if dense and after:
        for name, field, units in (
            ("multiply-accumulates", "macs", ((1e9, "G"), (1e6, "M"), (1e3, "k"))),
            ("parameters", "params", ((1e6, "M"), (1, ""))),
            ("memory", "bytes", ((1e6, "MB"), (1e3, "kB"))),
            ("time of a pass", "latency", ((1, "s"), (1e-3, "ms"))),
        ):
            old, new = getattr(dense, field), getattr(after, field)
            if old and new and statistics.mean(old):
                change = statistics.mean(new) / statistics.mean(old) - 1
                size, unit = next((one for one in units if statistics.mean(old) >= one[0]), units[-1])
                digits = 0 if size == 1 and field == "params" else 2
                figures = [spread([x / size for x in values], digits) for values in (old, new)]
                costs.append(
                    Tile(
                        name, _percent(change), f"{figures[0]} → {figures[1]} {unit}".strip(), share=min(1 + change, 1)
                    )
                )
    tiles = []
    for role, name in (("dense", "dense"), ("cut", "as cut"), ("repaired", "repaired"), ("tuned", "fine-tuned")):
        outcome = next((one for one in record.outcomes if one.role == role and one.accuracy), None)
        if outcome is not None:
            told = "" if outcome.series == THIS_RUN else outcome.series
            value = spread([100 * x for x in outcome.accuracy], 1).split(" ± ")
            detail = " ".join([*(f"± {x}" for x in value[1:]), told]).strip()
            share = statistics.mean(outcome.accuracy)
            tiles.append(Tile(name, f"{value[0]}\N{NO-BREAK SPACE}%", detail, role, share))
    errors = record.prunes[-1].repair if record.prunes else None
    if not tiles and errors is not None and errors.error_before is not None and errors.error_after is not None:
        tiles = [
            Tile("outputs changed, as cut", f"{errors.error_before:.1%}", "of their variance", "cut"),
            Tile("outputs changed, repaired", f"{errors.error_after:.1%}", "of their variance", "repaired"),
        ]
    rivals = [outcome for outcome in record.outcomes if outcome.role == "rival" and outcome.accuracy]
    if rivals and tiles:
        best = max(rivals, key=lambda outcome: statistics.mean(outcome.accuracy))
        tiles.append(
            Tile(
                "best rival",
                f"{100 * statistics.mean(best.accuracy):.1f}\N{NO-BREAK SPACE}%",
                best.label,
                "rival",
                statistics.mean(best.accuracy),
            )
        )
    return Headline(_sentence(costs, tiles), tuple(costs), tuple(tiles))


def _ends(record: RunRecord) -> tuple[Outcome | None, Outcome | None]:
    dense = next((outcome for outcome in record.outcomes if outcome.role == "dense"), None)
    pruned = [outcome for outcome in record.outcomes if outcome.role in ("tuned", "repaired", "cut")]
    after = next((outcome for role in ("tuned", "repaired", "cut") for outcome in pruned if outcome.role == role), None)
    if record.prunes and (dense is None or after is None):
        first, last = record.prunes[0].report.before, record.prunes[-1].report.after
        costs = [
            Outcome("", "dense", macs=(one.macs,), params=(one.params,), bytes=(one.bytes,)) for one in (first, last)
        ]
        return costs[0], costs[1]
    return dense, after


def _sentence(costs: Sequence[Tile], tiles: Sequence[Tile]) -> str:
    gone = [f"{tile.value.lstrip(_MINUS)} of the {tile.name}" for tile in costs[:2] if tile.value.startswith(_MINUS)]
    words = f"{' and '.join(gone)} went" if gone else "Nothing went"
    dense = next((tile for tile in tiles if tile.tone == "dense"), None)
    after = next((tile for tile in reversed(tiles) if tile.tone in ("tuned", "repaired")), None)
    if dense and after:
        words += f"; the dense network is right on {dense.value} of the clips, the pruned one on {after.value}"
    return f"{words}."


def _percent(change: float) -> str:
    return f"{_MINUS if change < 0 else '+'}{abs(change):.0%}".replace("%", "\N{NO-BREAK SPACE}%")
