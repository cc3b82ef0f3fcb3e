# Question: what of a pruned scene network comes back without labels or a gradient step, beside fine-tuning and rivals?
# Command:  .venv/bin/python -m recipes.repair.esc10 --data path-of-ESC-10        (resumable; --help lists the options)
# Measured: README.md beside this file.
"""Prune ``DCASE2021Baseline`` on ESC-10, repair it on unlabelled training clips, and compare with its rivals.

For each fold and seed one dense network is trained for 30 epochs on all training clips. Copies of it lose filters by
each criterion, are repaired in each way, and are tested on the fold's 80 test clips. Calibration clips are drawn from
the training clips, without their labels. The same numbers of filters go whatever the criterion. Nothing is chosen on
the test clips: all numbers of epochs, clips and filters are written below.
"""

from __future__ import annotations

import argparse
import copy
import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_cosprune import PruningReport, apply_plan, measure_complexity, merge_removed, plan_pruning
from lightning_cosprune import refit_least_squares as least_squares
from lightning_cosprune.calibration.statistics import reestimate_batch_norms
from lightning_cosprune.data import DCASEScenes, LogMel
from lightning_cosprune.models import DCASE2021Baseline, SceneClassifier
from lightning_cosprune.repair.constant import compensate_constants
from recipes.cells import read, write
from recipes.repair.grail import grail_map

EPOCHS = 30
FINE_TUNING = {"learning_rate": 1e-3, "fraction": 0.25}
REMOVALS: dict[str, dict[str, float] | str] = {
    "published rule": "redundant",
    "11/11/24": {"conv1": 5 / 16, "conv2": 5 / 16, "conv3": 8 / 32},
    "8/8/16": {"conv1": 0.5, "conv2": 0.5, "conv3": 0.5},
    "5/5/11": {"conv1": 11 / 16, "conv2": 11 / 16, "conv3": 21 / 32},
}
CRITERIA = ("cosine", "response", "l1", "geometric_median", "random")
CLIPS = {"published rule": (16,), "11/11/24": (16,), "8/8/16": (80,), "5/5/11": (80,)}


@dataclass(frozen=True)
class Cell:
    """One network of one fold and seed on the test clips."""

    fold: int
    seed: int
    removal: str
    criterion: str
    repair: str
    clips: int
    epochs: int
    accuracy: float
    log_loss: float
    agreement: float
    correlation: float
    params: int
    macs: int
    params_removed: float
    macs_removed: float
    seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.removal, self.criterion, self.repair, self.clips, self.epochs)


class Study:
    """All networks of one fold and seed; what was measured is kept and not measured again."""

    def __init__(self, options: argparse.Namespace, fold: int, seed: int) -> None:
        self.options, self.fold, self.seed, self.out = options, fold, seed, options.out
        self.path = options.out / f"fold{fold}_seed{seed}.csv"
        self.cells = {cell.key: cell for cell in read(self.path, Cell)}
        self.scenes = open_scenes(options, fold, seed)
        self.train, _ = tensors(self.scenes, "train")
        self.test, self.labels = tensors(self.scenes, "test")
        self.example = self.test[:1]
        drawn = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(1000 + seed))
        self.order = drawn.tolist()
        self.dense = self.dense_network()
        self.dense_macs = measure_complexity(self.dense, self.example)
        self.dense_scores = scores(self.dense, self.test)

    def calibration(self, clips: int) -> list[Tensor]:
        return [self.train[self.order[:clips]]]

    def dense_network(self) -> nn.Module:
        kept = self.out / "dense" / f"fold{self.fold}_seed{self.seed}.pt"
        if kept.is_file():
            network = new_network(self.scenes, self.seed)
            network.load_state_dict(torch.load(kept, weights_only=True)["state_dict"])
        else:
            network = self.fit(new_network(self.scenes, self.seed), self.scenes, EPOCHS)
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".part")
            torch.save({"state_dict": network.state_dict()}, partial)
            partial.replace(kept)
        return network.eval()

    def fit(self, network: nn.Module, scenes: DCASEScenes, epochs: int, rate: float = 1e-3) -> nn.Module:
        pl.seed_everything(self.seed, verbose=False)
        classifier = SceneClassifier(network, len(scenes.scene_labels), scenes.devices, learning_rate=rate)
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            limit_val_batches=0,
            max_epochs=epochs,
        )
        trainer.fit(classifier, datamodule=scenes)
        return network.eval()

    def pruned(self, removal: str, criterion: str) -> tuple[nn.Module, PruningReport]:
        network = copy.deepcopy(self.dense)
        data = self.calibration(CLIPS[removal][0]) if criterion == "response" else None
        plan = plan_pruning(
            network,
            self.example,
            pruning_ratio=REMOVALS[removal],
            criterion=criterion,
            seed=self.seed,
            calibration=data,
        )
        return network, apply_plan(network, plan, self.example)

    def measure(self, key: tuple[str, str, str, int, int], make: Callable[[], nn.Module]) -> None:
        if key in self.cells:
            return
        start = time.process_time()
        network = make()
        seconds = time.process_time() - start
        found = scores(network, self.test)
        cost = measure_complexity(network, self.example)
        pair = torch.stack([found.flatten(), self.dense_scores.flatten()]).double()
        cell = Cell(
            self.fold,
            self.seed,
            *key,
            accuracy=(found.argmax(dim=1) == self.labels).double().mean().item(),
            log_loss=functional.cross_entropy(found, self.labels).item(),
            agreement=(found.argmax(dim=1) == self.dense_scores.argmax(dim=1)).double().mean().item(),
            correlation=torch.corrcoef(pair)[0, 1].item(),
            params=cost.params,
            macs=cost.macs,
            params_removed=1 - cost.params / self.dense_macs.params,
            macs_removed=1 - cost.macs / self.dense_macs.macs,
            seconds=seconds,
        )
        self.cells[cell.key] = cell
        write(self.path, Cell, self.cells.values())

    def stages(self) -> Iterator[Callable[[], None]]:
        """What is measured, the answers to the main questions first."""
        yield self.controls
        for removal in ("11/11/24", "8/8/16", "5/5/11", "published rule"):
            for criterion in CRITERIA:
                yield functools.partial(self.repairs, removal, criterion)
        yield functools.partial(self.fine_tuned, "5/5/11", 3)
        for removal in ("5/5/11", "8/8/16", "11/11/24"):
            yield functools.partial(self.scratch, removal)

    def controls(self) -> None:
        self.measure(("dense", "", "none", 0, 0), lambda: self.dense)
        for clips in (16, 80):
            self.measure(
                ("dense", "", "batch norm", clips, 0),
                lambda clips=clips: reestimated(copy.deepcopy(self.dense), self.calibration(clips)),
            )

    @staticmethod
    def ways(removal: str, criterion: str) -> list[tuple[str, int]]:
        """Repair and clips of every cell without training."""
        by_data = ["least squares", "GRAIL", *(["batch norm"] if criterion in ("cosine", "random") else [])]
        return [
            *((repair, 0) for repair in ("none", "constant", "merge")),
            *((repair, clips) for clips in CLIPS[removal] for repair in by_data),
        ]

    def repairs(self, removal: str, criterion: str) -> None:
        if removal == "published rule" and criterion not in ("cosine", "random"):
            return
        if {(removal, criterion, *rest, 0) for rest in self.ways(removal, criterion)} <= set(self.cells):
            return
        network, report = self.pruned(removal, criterion)

        example = self.example

        def change(repair: str, clips: int) -> nn.Module:
            copied, data = copy.deepcopy(network), self.calibration(clips)
            if repair == "least squares":
                least_squares(copied, self.dense, data, report=report)
            elif repair == "GRAIL":
                grail_map(copied, self.dense, report, data, example_inputs=example)
            elif repair == "batch norm":
                reestimate_batch_norms(copied, data)
            elif repair == "merge":
                merge_removed(copied, self.dense, report, example_inputs=example)
            elif repair == "constant":
                compensate_constants(copied, self.dense, report, example_inputs=example)
            return copied

        for repair, clips in self.ways(removal, criterion):
            self.measure((removal, criterion, repair, clips, 0), functools.partial(change, repair, clips))

    def fine_tuned(self, removal: str, epochs: int) -> None:
        scenes = open_scenes(self.options, self.fold, self.seed, FINE_TUNING["fraction"])
        for criterion in ("cosine", "response"):
            network, report = self.pruned(removal, criterion)
            for repair in ("none", "least squares"):

                def make(
                    repair: str = repair, network: nn.Module = network, report: PruningReport = report
                ) -> nn.Module:
                    copied = copy.deepcopy(network)
                    if repair != "none":
                        least_squares(copied, self.dense, self.calibration(80), report=report)
                    return self.fit(copied, scenes, epochs, FINE_TUNING["learning_rate"])

                self.measure((removal, criterion, repair, 0 if repair == "none" else 80, epochs), make)

    def scratch(self, removal: str) -> None:
        def make() -> nn.Module:
            network = new_network(self.scenes, self.seed + 1000)
            plan = plan_pruning(network, self.example, pruning_ratio=REMOVALS[removal], criterion="random")
            apply_plan(network, plan, self.example)
            return self.fit(network, self.scenes, EPOCHS)

        self.measure((removal, "", "from scratch", 0, EPOCHS), make)


def new_network(scenes: DCASEScenes, seed: int) -> nn.Module:
    pl.seed_everything(seed, verbose=False)
    _, bands, frames = scenes.feature_shape
    return DCASE2021Baseline(len(scenes.scene_labels), bands, frames)


def open_scenes(options: argparse.Namespace, fold: int, seed: int, fraction: float = 1.0) -> DCASEScenes:
    scenes = DCASEScenes(
        options.data,
        fold=fold,
        features=LogMel(),
        validation_fraction=0,
        train_fraction=fraction,
        cache_dir=options.out / "features",
        seed=seed,
        progress=False,
    )
    scenes.prepare_data()
    scenes.setup()
    return scenes


def tensors(scenes: DCASEScenes, part: str) -> tuple[Tensor, Tensor]:
    loader = scenes.test_dataloader() if part == "test" else scenes.train_dataloader()
    dataset: Any = loader.dataset
    batch = loader.collate_fn(dataset.__getitems__(list(range(len(dataset)))))
    return batch[0], batch[1]


@torch.no_grad()
def scores(network: nn.Module, features: Tensor) -> Tensor:
    return torch.cat([network.eval()(batch) for batch in features.split(40)])


def reestimated(network: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """The network itself, with the statistics of unlabelled clips."""
    reestimate_batch_norms(network, batches)
    return network


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="esc10", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True, help="ESC-10 in DCASE layout")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stages", type=int, default=None, help="stop each fold and seed after so many stages")
    parser.add_argument("--out", type=Path, default=Path("runs/repair"))
    options = parser.parse_args(arguments)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
    studies = [Study(options, fold, seed) for seed in options.seeds for fold in options.folds]
    for number, stages in enumerate(zip(*(study.stages() for study in studies), strict=True)):
        if options.stages is not None and number >= options.stages:
            break
        for study, stage in zip(studies, stages, strict=True):
            start = time.perf_counter()
            stage()
            print(
                f"stage {number} fold {study.fold} seed {study.seed}: {time.perf_counter() - start:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
