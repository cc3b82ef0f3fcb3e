# Question: what do the cells of the repair studies say together?
# Command:  .venv/bin/python -m recipes.repair.summarize --out recipes/repair --figures docs/images
# Measured: the tables are in README.md beside this file.
"""Put the cells of the studies into one csv a study, and make the tables and figures of the pages from these alone.

Differences are paired: each network against the dense network of its own fold and seed (for YAMNet of its own fold).
Intervals are those of the mean over folds and seeds at 95 %, from Student's t over the pairs. Folds share training
clips and seeds share folds, so they are somewhat too narrow.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recipes.cells import read, write
from recipes.repair import esc10, yamnet
from recipes.statistics import interval

CUTS = ("published rule", "11/11/24", "8/8/16", "5/5/11")
REPAIRS = ("none", "batch norm", "constant", "merge", "GRAIL", "least squares")
COLOURS = {
    "none": "#9aa3b2",
    "batch norm": "#b58900",
    "constant": "#6c9a8b",
    "merge": "#7b68a6",
    "GRAIL": "#c8553d",
    "least squares": "#1f6fb2",
}


def gather(runs: Path, pattern: str, kind: type, out: Path) -> list[Any]:
    """The cells of all files in the runs' folder, written to ``out``; where there are none, those of ``out``."""
    found = [cell for path in sorted(runs.glob(pattern)) for cell in read(path, kind)]
    if not found:
        return read(out, kind)
    found.sort(key=lambda cell: tuple(str(value) for value in vars(cell).values()))
    write(out, kind, found)
    return found


def paired(cells: Iterable[Any], dense: dict[Any, Any], key: Callable[[Any], Any], value: str) -> list[float]:
    return [100 * (getattr(cell, value) - getattr(dense[key(cell)], value)) for cell in cells]


def row(cells: list[Any], dense: dict[Any, Any], key: Callable[[Any], Any]) -> str:
    if not cells:
        return ""
    accuracy = 100 * statistics.mean(cell.accuracy for cell in cells)
    mean, half = interval(paired(cells, dense, key, "accuracy"))
    return f"{accuracy:.1f} ({mean:+.1f} ± {half:.1f})"


def esc10_table(cells: list[esc10.Cell]) -> str:
    """One row a cut and criterion, one column a repair."""

    def key(cell: esc10.Cell) -> tuple[int, int]:
        return cell.fold, cell.seed

    dense = {key(cell): cell for cell in cells if cell.removal == "dense" and cell.repair == "none"}
    lines = [
        "| kept | MACs, parameters cut | criterion | " + " | ".join(REPAIRS) + " |",
        "|" + "---|" * (len(REPAIRS) + 3),
    ]
    controls = [
        row([cell for cell in cells if cell.removal == "dense" and cell.clips == clips], dense, key)
        for clips in (0, 16, 80)
    ]
    lines.append(f"| 16/16/32 | | dense | {controls[0]} | {controls[1]}, 80 clips {controls[2]} | | | | |")
    for removal in CUTS:
        for criterion in esc10.CRITERIA:
            of_row = [cell for cell in cells if (cell.removal, cell.criterion, cell.epochs) == (removal, criterion, 0)]
            if not of_row:
                continue
            clips = esc10.CLIPS[removal][0]
            entries = [
                row([cell for cell in of_row if cell.repair == repair and cell.clips in (0, clips)], dense, key)
                for repair in REPAIRS
            ]
            cut = ", ".join(
                f"{100 * statistics.mean(getattr(cell, name) for cell in of_row):.0f} %"
                for name in ("macs_removed", "params_removed")
            )
            lines.append(f"| {removal}, {clips} clips | {cut} | {criterion} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def short_table(cells: list[esc10.Cell]) -> str:
    """The table of the README: one column a cut."""

    def key(cell: esc10.Cell) -> tuple[int, int]:
        return cell.fold, cell.seed

    dense = {key(cell): cell for cell in cells if cell.removal == "dense" and cell.repair == "none"}
    cuts = [removal for removal in CUTS[1:] if any(cell.removal == removal for cell in cells)]
    heads = []
    for removal in cuts:
        one = next(cell for cell in cells if cell.removal == removal)
        gone = f"{100 * one.macs_removed:.0f} % of MACs, {100 * one.params_removed:.0f} % of parameters gone"
        heads.append(f"{gone}; {esc10.CLIPS[removal][0]} clips")
    lines = ["| accuracy %, difference to dense | " + " | ".join(heads) + " |", "|---|" + "---|" * len(cuts)]

    def add(label: str, choose: Callable[[esc10.Cell], bool]) -> None:
        chosen = [[cell for cell in cells if cell.removal == removal and choose(cell)] for removal in cuts]
        if all(chosen):
            lines.append(f"| {label} | " + " | ".join(row(one, dense, key) for one in chosen) + " |")

    for criterion in ("response", "cosine", "l1", "random"):
        name = {"response": "**response**", "l1": "L1 norm"}.get(criterion, criterion)
        ours = "**least squares**" if criterion == "response" else "least squares"
        for repair, label in (("none", "as cut"), ("GRAIL", "GRAIL's map"), ("least squares", ours)):
            add(
                f"{name}, {label}",
                lambda cell, criterion=criterion, repair=repair: (
                    (cell.criterion, cell.repair, cell.epochs) == (criterion, repair, 0)
                    and cell.clips in (0, esc10.CLIPS[cell.removal][0])
                ),
            )
    add("same size, trained from scratch on 320 labelled clips", lambda cell: cell.repair == "from scratch")
    return "\n".join(lines)


def after_training_table(cells: list[esc10.Cell]) -> str:
    def key(cell: esc10.Cell) -> tuple[int, int]:
        return cell.fold, cell.seed

    dense = {key(cell): cell for cell in cells if cell.removal == "dense" and cell.repair == "none"}
    names = {(cell.removal, cell.criterion, cell.repair, cell.clips, cell.epochs) for cell in cells if cell.epochs}
    lines = ["| kept | criterion | repair | epochs | accuracy % | networks |", "|---|---|---|---|---|---|"]
    for name in sorted(names, key=lambda one: (CUTS.index(one[0]), one[4], one[1], one[2])):
        of_row = [
            cell for cell in cells if (cell.removal, cell.criterion, cell.repair, cell.clips, cell.epochs) == name
        ]
        removal, criterion, repair, _, epochs = name
        lines.append(f"| {removal} | {criterion} | {repair} | {epochs} | {row(of_row, dense, key)} | {len(of_row)} |")
    return "\n".join(lines)


def yamnet_table(cells: list[yamnet.Cell]) -> str:
    def key(cell: yamnet.Cell) -> int:
        return cell.fold

    dense = {cell.fold: cell for cell in cells if cell.ratio == 0}
    names = sorted({(cell.ratio, cell.criterion, cell.repair, cell.clips) for cell in cells if cell.ratio})
    lines = [
        "| MACs, parameters cut | criterion | repair | clips | accuracy % | agreement % | correlation | folds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        of_row = [cell for cell in cells if (cell.ratio, cell.criterion, cell.repair, cell.clips) == name]
        mean, half = interval(paired(of_row, dense, key, "accuracy"))
        cut = f"{100 * of_row[0].macs_removed:.0f} %, {100 * of_row[0].params_removed:.0f} %"
        accuracy = 100 * statistics.mean(cell.accuracy for cell in of_row)
        agreement = 100 * statistics.mean(cell.agreement for cell in of_row)
        correlation = statistics.mean(cell.correlation for cell in of_row)
        lines.append(
            f"| {cut} | {name[1]} | {name[2]} | {name[3]} | {accuracy:.1f} ({mean:+.1f} ± {half:.1f}) | "
            f"{agreement:.1f} | {correlation:.3f} | {len(of_row)} |"
        )
    return "\n".join(lines)


def draw(cells: list[esc10.Cell]) -> Figure:
    """Accuracy after each repair, against how much of the computation is gone, one panel a criterion."""
    shown = [criterion for criterion in esc10.CRITERIA if any(cell.criterion == criterion for cell in cells)]
    figure = Figure(figsize=(2.5 * len(shown) + 0.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    dense = [100 * cell.accuracy for cell in cells if cell.removal == "dense" and cell.repair == "none"]
    for axes, criterion in zip(panels, shown, strict=True):
        axes.axhline(statistics.mean(dense), color="#1c2330", linewidth=1, linestyle=":")
        for repair in REPAIRS:
            points = []
            for removal in CUTS[1:]:
                of_point = [
                    cell
                    for cell in cells
                    if (cell.removal, cell.criterion, cell.repair, cell.epochs) == (removal, criterion, repair, 0)
                    and cell.clips in (0, esc10.CLIPS[removal][0])
                ]
                if of_point:
                    mean, half = interval([100 * cell.accuracy for cell in of_point])
                    points.append((100 * statistics.mean(cell.macs_removed for cell in of_point), mean, half))
            if points:
                x, y, half_widths = zip(*points, strict=True)
                axes.errorbar(
                    x, y, half_widths, color=COLOURS[repair], label=repair, marker="o", markersize=3, capsize=2
                )
        axes.set_title(criterion.replace("_", " "), fontsize=10)
        axes.set_xlabel("% of MACs removed")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("accuracy on ESC-10, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="summarize", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/repair"), help="where the studies left their cells")
    parser.add_argument("--out", type=Path, default=Path("recipes/repair"), help="folder of the csv files")
    parser.add_argument("--figures", type=Path, default=Path("docs/images"))
    options = parser.parse_args(arguments)
    scenes = gather(options.runs, "fold*_seed*.csv", esc10.Cell, options.out / "esc10.csv")
    tagger = gather(options.runs, "yamnet_fold*.csv", yamnet.Cell, options.out / "yamnet.csv")
    if scenes:
        print(short_table(scenes), esc10_table(scenes), after_training_table(scenes), sep="\n\n")
        draw(scenes).savefig(options.figures / "repair.png", dpi=110)
    if tagger:
        print(f"\n{yamnet_table(tagger)}")


if __name__ == "__main__":
    main()
