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

from torch import Tensor, nn

from recipes.budget.rivals import CHOICES, Rivals
from recipes.budget.study import Study
from recipes.repair import esc10

COSTS = ("macs", "params")
SHARES = (0.7, 0.5, 0.35, 0.25, 0.15)
"""Parts of the dense network's cost that are left."""

CLIPS = 80


def study_of(options: argparse.Namespace, fold: int, seed: int) -> Study:
    """All networks that come of the dense one of one fold and seed."""
    base = esc10.Study(argparse.Namespace(data=options.data, out=options.dense), fold, seed)

    def look(network: nn.Module) -> tuple[float, Tensor]:
        scores = esc10.scores(network, base.test)
        return (scores.argmax(dim=1) == base.labels).double().mean().item(), scores

    rivals = Rivals(base.dense, base.example, base.calibration(options.clips))
    path = options.out / f"dcase2021_fold{fold}_seed{seed}.csv"
    return Study("DCASE2021Baseline", fold, seed, options.clips, path, rivals, look)


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
            study_of(options, fold, seed).run(options.costs, options.shares, options.choices)


if __name__ == "__main__":
    main()
