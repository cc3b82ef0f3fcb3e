# Question: what does pruning leave of a tagger whose training data nobody here has, and what does repair bring back?
# Command:  .venv/bin/python -m recipes.repair.yamnet --weights yamnet.pt --data ESC-10 --names yamnet_class_map.csv
# Measured: README.md beside this file.
"""Prune YAMNet, repair it on unlabelled clips of one fold of ESC-10, and score it zero-shot on the other four.

The same part of every layer's filters goes. Calibration clips are those of fold k, or the first of them in an order
drawn once; test clips those of the other folds. No label, no gradient step, and nothing to choose.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune import PruningReport, apply_plan, merge_removed, plan_pruning
from lightning_cosprune import refit_least_squares as least_squares
from lightning_cosprune.models import YAMNet, read_class_names
from lightning_cosprune.repair.constant import compensate_constants
from recipes.cells import read, write
from recipes.repair.grail import grail_map
from recipes.repair.yamnet_esc10 import (
    Clips,
    clip_logits,
    load_clips,
    zero_shot_accuracy,
)
from recipes.statistics import agreement, correlation

RATIOS = (0.25, 0.4, 0.1, 0.5)
"""Parts of each layer's filters that go: 43, 63, 18 and 74 % of the multiply-accumulates."""

CRITERIA = ("response", "cosine", "l1", "geometric_median", "random")
EXAMPLE = (1, 1, 96, 64)


@dataclass(frozen=True)
class Cell:
    """One network calibrated on one fold, on the clips of the other four."""

    fold: int
    ratio: float
    criterion: str
    repair: str
    clips: int
    accuracy: float
    agreement: float
    correlation: float
    params_removed: float
    macs_removed: float
    seconds: float


class Study:
    """All networks that one fold calibrates; what was measured is kept and not measured again."""

    def __init__(self, dense: nn.Module, clips: Clips, names: Sequence[str], fold: int, out: Path) -> None:
        self.dense, self.clips, self.names, self.fold = dense, clips, names, fold
        self.path = out / f"yamnet_fold{fold}.csv"
        self.cells = {self.key(cell): cell for cell in read(self.path, Cell)}
        self.test = clips.of_fold(*(other for other in range(1, 6) if other != fold))
        own = clips.of_fold(fold)
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(fold))
        self.own = own[order]

    @staticmethod
    def key(cell: Cell) -> tuple[Any, ...]:
        return cell.ratio, cell.criterion, cell.repair, cell.clips

    def calibration(self, clips: int) -> list[Tensor]:
        return [self.clips.patches[self.own[:clips]].flatten(0, 1)]

    def logits_of_dense(self) -> Tensor:
        kept = self.path.with_name(f"yamnet_dense_fold{self.fold}.pt")
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".part")
            torch.save(clip_logits(self.dense, self.clips.patches[self.test]), partial)
            partial.replace(kept)
        logits: Tensor = torch.load(kept, weights_only=True)
        return logits

    def measure(self, key: tuple[Any, ...], make: Callable[[], nn.Module], report: PruningReport | None) -> None:
        if key in self.cells:
            return
        start = time.process_time()
        network = make()
        seconds = time.process_time() - start
        dense = self.logits_of_dense()
        logits = dense if report is None else clip_logits(network, self.clips.patches[self.test])
        self.cells[key] = Cell(
            self.fold,
            *key,
            accuracy=zero_shot_accuracy(logits, self.clips.labels[self.test], self.names),
            agreement=agreement(logits.mean(dim=1), dense.mean(dim=1)),
            correlation=correlation(logits.mean(dim=1), dense.mean(dim=1)),
            params_removed=0.0 if report is None else 1 - report.after.params / report.before.params,
            macs_removed=0.0 if report is None else 1 - report.after.macs / report.before.macs,
            seconds=seconds,
        )
        write(self.path, Cell, self.cells.values())

    def run(self, ratio: float, criterion: str, repairs: Sequence[tuple[str, int]]) -> None:
        self.measure((0.0, "", "none", 0), lambda: self.dense, None)
        if all((ratio, criterion, *repair) in self.cells for repair in repairs):
            return
        network = copy.deepcopy(self.dense)
        example = torch.zeros(EXAMPLE)
        data = self.calibration(80) if criterion == "response" else None
        plan = plan_pruning(
            network, example, criterion=criterion, pruning_ratio=ratio, seed=self.fold, calibration=data
        )
        report = apply_plan(network, plan, example)
        for repair, clips in repairs:

            def make(repair: str = repair, clips: int = clips) -> nn.Module:
                copied = copy.deepcopy(network)
                if repair == "least squares":
                    least_squares(copied, self.dense, self.calibration(clips), report=report)
                elif repair == "GRAIL":
                    grail_map(copied, self.dense, report, self.calibration(clips), example_inputs=example)
                elif repair == "merge":
                    merge_removed(copied, self.dense, report, example_inputs=example)
                elif repair == "constant":
                    compensate_constants(copied, self.dense, report, example_inputs=example)
                return copied

            self.measure((ratio, criterion, repair, clips), make, report)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="yamnet", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--weights", type=Path, required=True, help="yamnet.pt or yamnet.tflite")
    parser.add_argument("--data", type=Path, required=True, help="ESC-10, in DCASE layout or its author's")
    parser.add_argument("--names", type=Path, required=True, help="yamnet_class_map.csv")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--criteria", nargs="+", default=CRITERIA)
    parser.add_argument("--repairs", nargs="+", default=["least squares:80", "GRAIL:80", "none:0"])
    parser.add_argument("--out", type=Path, default=Path("runs/repair"))
    options = parser.parse_args(arguments)
    dense = YAMNet.from_pretrained(options.weights).eval()
    clips, names = load_clips(options.data), read_class_names(options.names)
    repairs = [(name, int(count)) for name, _, count in (repair.rpartition(":") for repair in options.repairs)]
    studies = [Study(dense, clips, names, fold, options.out) for fold in options.folds]
    for ratio in options.ratios:
        for criterion in options.criteria:
            for study in studies:
                start = time.perf_counter()
                study.run(ratio, criterion, repairs)
                took = time.perf_counter() - start
                print(f"{ratio} {criterion} fold {study.fold}: {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
