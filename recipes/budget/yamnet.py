# Question: which widths should a tagger keep whose training data nobody here has, if it may cost so much and no more?
# Command:  .venv/bin/python -m recipes.budget.yamnet --weights yamnet.pt --data ESC-10 --names yamnet_class_map.csv
#           (resumable; small: --folds 1 --costs params --shares 0.4 --choices ours)
# Measured: README.md beside this file.
"""Cut YAMNet to budgets, repair it on unlabelled clips of one fold of ESC-10, and score it zero-shot on the other four.

Uniform widths, widths by one common error, and ours, in one step and in three; the same clips, the same order of the
filters and the same repair for all. No label, no gradient step. Nothing is chosen on the test clips.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_cosprune.models import YAMNet, read_class_names
from recipes.budget.rivals import CHOICES, Rivals
from recipes.budget.study import Study
from recipes.repair.yamnet_esc10 import Clips, clip_logits, load_clips, zero_shot_accuracy

COSTS = ("params", "macs")
SHARES = (0.57, 0.4, 0.3, 0.374, 0.261)
"""Parts of the dense network's cost that are left, those MACs among them that uniform 25, 40 and 50 % leave."""

CLIPS = 80
EXAMPLE = (1, 1, 96, 64)


def study_of(dense: nn.Module, clips: Clips, names: Sequence[str], fold: int, out: Path, count: int) -> Study:
    """All networks that one fold calibrates."""
    test = clips.of_fold(*(other for other in range(1, 6) if other != fold))
    own = clips.of_fold(fold)
    own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(fold))][:count]
    rivals = Rivals(dense, torch.zeros(EXAMPLE), [clips.patches[own].flatten(0, 1)])

    def look(network: nn.Module) -> tuple[float, Tensor]:
        logits = clip_logits(network, clips.patches[test])
        return zero_shot_accuracy(logits, clips.labels[test], names), logits.mean(dim=1)

    return Study("YAMNet", fold, 0, count, out / f"yamnet_fold{fold}.csv", rivals, look)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="yamnet", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--weights", type=Path, required=True, help="yamnet.pt or yamnet.tflite")
    parser.add_argument("--data", type=Path, required=True, help="ESC-10, in DCASE layout or its author's")
    parser.add_argument("--names", type=Path, required=True, help="yamnet_class_map.csv")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--costs", nargs="+", choices=("params", "macs", "bytes"), default=COSTS)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--out", type=Path, default=Path("runs/budget"))
    options = parser.parse_args(arguments)
    dense = YAMNet.from_pretrained(options.weights).eval()
    clips, names = load_clips(options.data), read_class_names(options.names)
    for fold in options.folds:
        start = time.perf_counter()
        study = study_of(dense, clips, names, fold, options.out, options.clips)
        study.run(options.costs, options.shares, options.choices)
        print(f"fold {fold}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
