# Question: what do the cells of the budget study say together?
# Command:  .venv/bin/python -m recipes.budget.summarize --out recipes/budget --figures docs/images
# Measured: the tables are in README.md beside this file.
"""Put the cells into one tidy csv, and make the table and the figure of Pareto curves from it alone."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from recipes.budget.rivals import CHOICES
from recipes.budget.study import Budgeted
from recipes.repair.summarize import gather
from recipes.statistics import interval

COLOURS = {"uniform": "#9aa3b2", "common error": "#c8553d", "ours": "#1f6fb2", "ours, 3 steps": "#6c9a8b"}
PRICES = {"params_removed": "parameters left", "macs_removed": "MACs left", "latency_ratio": "measured time left"}
GAINS = {"accuracy": "accuracy %", "agreement": "agreement with the dense network %"}


def table(cells: Sequence[Budgeted]) -> str:
    """One row a budget and choice: means over folds and seeds, with the interval of the mean at 95 %."""
    heads = ("network", "budget", "choice", "accuracy %", "agreement %", "correlation", "MACs, parameters cut", "time")
    lines = [f"| {' | '.join(heads)} | networks |", "|" + "---|" * (len(heads) + 1)]
    keys = sorted({(cell.network, cell.cost, -cell.share) for cell in cells})
    for network, cost, share in keys:
        for choice in CHOICES:
            own = [
                one
                for one in cells
                if (one.network, one.cost, one.share, one.choice) == (network, cost, -share, choice)
            ]
            if not own:
                continue
            mean, half = interval([100 * one.accuracy for one in own])

            def average(name: str, own: list[Budgeted] = own) -> float:
                return statistics.mean(getattr(one, name) for one in own)

            lines.append(
                f"| {network} | {_budget(cost, -share)} | {choice} | {mean:.1f}"
                + (f" ± {half:.1f}" if len(own) > 1 else "")
                + f" | {100 * average('agreement'):.1f} | {average('correlation'):.3f} | "
                f"{average('macs_removed'):.0%}, {average('params_removed'):.0%} | {average('latency_ratio'):.2f} | "
                f"{len(own)} |"
            )
    return "\n".join(lines)


def differences(cells: Sequence[Budgeted]) -> str:
    """Ours less each other choice within the same budget, paired by fold and seed: means with their intervals."""
    looks = {"accuracy": 100, "agreement": 100, "correlation": 1}
    lines = ["| network | budget | ours less | accuracy, points | agreement, points | correlation | networks |"]
    lines.append("|---|---|---|---|---|---|---|")
    found = {((one.network, one.cost, -one.share), one.choice, (one.fold, one.seed)): one for one in cells}
    for budget in sorted({budget for budget, *_ in found}):
        for rival in (choice for choice in CHOICES if choice != "ours"):
            pairs = [
                (found[budget, "ours", network], other)
                for (within, choice, network), other in found.items()
                if (within, choice) == (budget, rival) and (budget, "ours", network) in found
            ]
            if not pairs:
                continue
            told = []
            for look, unit in looks.items():
                mean, half = interval([unit * (getattr(ours, look) - getattr(other, look)) for ours, other in pairs])
                digits = 1 if unit > 1 else 3
                told.append(f"{mean:+.{digits}f}" + (f" ± {half:.{digits}f}" if len(pairs) > 1 else ""))
            network, cost, share = budget
            lines.append(f"| {network} | {_budget(cost, -share)} | {rival} | {' | '.join(told)} | {len(pairs)} |")
    return "\n".join(lines)


def _budget(cost: str, share: float) -> str:
    return f"{share:.0%} of the {'MACs' if cost == 'macs' else cost}"


def figure(cells: Sequence[Budgeted], network: str) -> Figure:
    """Accuracy and agreement against what is left of each cost, one line a choice."""
    drawn = Figure(figsize=(11, 6), layout="constrained")
    axes = drawn.subplots(len(GAINS), len(PRICES), sharey="row")
    for row, (gain, label) in enumerate(GAINS.items()):
        for column, (price, below) in enumerate(PRICES.items()):
            one = axes[row, column]
            for choice in CHOICES:
                points = sorted(_points(cells, network, choice, price, gain))
                if points:
                    # Of time there are points of every budget, between which no line leads.
                    marks = "o" if price == "latency_ratio" else "o-"
                    one.plot(*zip(*points, strict=True), marks, markersize=3, color=COLOURS[choice], label=choice)
            one.set_xlabel(below if row == len(GAINS) - 1 else "")
            one.set_ylabel(label if column == 0 else "")
    axes[0, -1].legend(fontsize=8)  # all choices are there
    drawn.suptitle(f"{network}: widths within a budget, the same repair for all")
    return drawn


def _points(cells: Sequence[Budgeted], network: str, choice: str, price: str, gain: str) -> list[tuple[float, float]]:
    """Of the budgets that limit what the axis shows (of time: all) the mean cost and the mean gain."""
    cost = {"params_removed": "params", "macs_removed": "macs"}.get(price)
    own = [one for one in cells if one.network == network and one.choice == choice and cost in (None, one.cost)]
    found = []
    for key in {(one.cost, one.share) for one in own}:
        same = [one for one in own if (one.cost, one.share) == key]
        paid = statistics.mean(getattr(one, price) for one in same)
        gained = 100 * statistics.mean(getattr(one, gain) for one in same)
        found.append((paid if price == "latency_ratio" else 1 - paid, gained))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="summarize", description=str(__doc__))
    parser.add_argument("--runs", type=Path, default=Path("runs/budget"))
    parser.add_argument("--out", type=Path, default=Path("recipes/budget"), help="where the csv file is")
    parser.add_argument("--figures", type=Path, default=None, help="folder of the figures; none are drawn without it")
    options = parser.parse_args(arguments)
    cells = gather(options.runs, "*_fold*.csv", Budgeted, options.out / "budget.csv")
    print(table(cells), differences(cells), sep="\n\n")
    for network in sorted({cell.network for cell in cells}) if options.figures else ():
        figure(cells, network).savefig(options.figures / f"budget_{network.lower()}.png", dpi=120)


if __name__ == "__main__":
    main()
