# Question: which widths should a scene network keep, if it may cost so much and no more?
# Command:  .venv/bin/python -m recipes.budget.esc10 --data path-of-ESC-10
#           (resumable; small: --folds 1 --seeds 0 --costs macs --shares 0.4 --choices ours)
# Measured: README.md beside this file.
"""Cut ``DCASE2021Baseline`` to budgets on ESC-10 and repair it on unlabelled training clips.

Dense networks are those of ``recipes.repair.esc10``, trained here where they are not in its folder. Uniform widths,
widths by one common error, and ours, in one step and in three; the same clips, order of filters and repair for all.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning_cosprune import measure_complexity
from recipes.budget.rivals import CHOICES, Budgeted, Rivals, agreement, correlation, each
from recipes.cells import read, write
from recipes.repair import esc10

COSTS = ("macs", "params")
SHARES = (0.7, 0.5, 0.35, 0.25, 0.15)
"""Parts of the dense network's cost that are left."""

CLIPS = 80


class Study:
    """All networks of one fold and seed; what was measured is kept and not measured again."""

    def __init__(self, options: argparse.Namespace, fold: int, seed: int) -> None:
        self.fold, self.seed, self.count = fold, seed, options.clips
        self.path = options.out / f"dcase2021_fold{fold}_seed{seed}.csv"
        self.cells = {cell.key: cell for cell in read(self.path, Budgeted)}
        self.base = esc10.Study(argparse.Namespace(data=options.data, out=options.dense), fold, seed)
        self.rivals = Rivals(self.base.dense, self.base.example, self.base.calibration(options.clips))

    def run(self, cost: str, share: float, choice: str) -> None:
        if (cost, share, choice, self.count) in self.cells:
            return
        base = self.base
        network, planning, repairing = self.rivals.make(cost, share, choice)
        found = esc10.scores(network, base.test)
        after = measure_complexity(network, base.example)
        cell = Budgeted(
            "DCASE2021Baseline",
            self.fold,
            self.seed,
            cost,
            share,
            choice,
            self.count,
            accuracy=(found.argmax(dim=1) == base.labels).double().mean().item(),
            agreement=agreement(found, base.dense_scores),
            correlation=correlation(found, base.dense_scores),
            params_removed=1 - after.params / base.dense_macs.params,
            macs_removed=1 - after.macs / base.dense_macs.macs,
            latency_ratio=self.rivals.ratio(network),
            plan_seconds=planning,
            repair_seconds=repairing,
        )
        self.cells[cell.key] = cell
        write(self.path, Budgeted, self.cells.values())
        print(cell, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="esc10", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="ESC-10, in DCASE layout or its author's")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--costs", nargs="+", choices=("params", "macs", "bytes"), default=COSTS)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--dense", type=Path, default=Path("runs/repair"), help="where dense networks are kept")
    parser.add_argument("--out", type=Path, default=Path("runs/budget"))
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="lightning")
    for seed in options.seeds:
        for fold in options.folds:
            each(options.costs, options.shares, options.choices, Study(options, fold, seed).run)


if __name__ == "__main__":
    main()
