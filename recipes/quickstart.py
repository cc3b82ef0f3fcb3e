# Question: how much smaller does the published rule make a scene classifier, and what does it cost in accuracy beside
# its rivals? Command:  make quickstart            (synthetic scenes)      make quickstart DATA=path    (any folder in
# DCASE layout)
"""Train a dense network, prune it, fine-tune it on a part of the data, and compare it with its rivals on the test
clips.

Every accuracy is that of the last epoch, the number of epochs being fixed beforehand; nothing is chosen on the test
clips. Each seed trains one dense network. Cosine similarity, L1 norm and chance each remove the same number of filters
from a copy of it, and each copy is fine-tuned alike. The last rival has the size of the pruned network, starts from
random weights and sees all training data for as many epochs as the pruned network did before and after the cut
together.
"""

from __future__ import annotations

import argparse
import copy
import logging
import platform
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch

from lightning_cosprune import Complexity, CosineFilterPruning, PruningPlan, apply_plan, measure_complexity
from lightning_cosprune.data import DCASEScenes, LogMel, SyntheticScenes
from lightning_cosprune.models import DCASE2021Baseline, DCASE2022Baseline, SceneClassifier
from lightning_cosprune.report import format_table, plot_filters, write_html

CRITERIA = {"cosine": "cosine similarity", "l1": "L1 norm", "random": "random"}
NETWORKS = {"dcase2021": DCASE2021Baseline, "dcase2022": DCASE2022Baseline}


class Measurement(NamedTuple):
    """One network of one seed on the test clips."""

    accuracy: float
    log_loss: float
    complexity: Complexity
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quieten()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()
    scenes, setting = open_scenes(options)

    results: dict[str, list[Measurement]] = {}
    by_device: dict[str, list[dict[str, float]]] = {}
    figures: list[Any] = []
    first_report = ""
    for number, seed in enumerate(range(options.seeds), start=1):
        print(f"\nSeed {number} of {options.seeds}", flush=True)
        study = Study(scenes, options, seed)
        dense = study.train_dense()
        plans = {}
        for criterion in CRITERIA:
            plans[criterion] = study.prune_and_fine_tune(dense, criterion)
        study.train_from_scratch(plans["cosine"])
        for row, measurement in study.measurements.items():
            results.setdefault(row, []).append(measurement)
        for row, accuracies in study.by_device.items():
            by_device.setdefault(row, []).append(accuracies)
        if not figures:
            figures = [plot_filters(dense, plans["cosine"], layer) for layer in plans["cosine"].pruned]
            first_report = study.report

    table = accuracy_table(results)
    differences = paired_differences(results)
    devices = device_table(by_device, scenes.devices)
    took = f"Took {time.perf_counter() - start:.0f} s on {machine()}."
    print(f"\n{setting}\n\n{format_table(table[0], table[1:])}")
    print(
        f"\nDifference to cosine similarity, fine-tuned, seed by seed:\n{format_table(differences[0], differences[1:])}"
    )
    print(f"\nAccuracy by recording device:\n{format_table(devices[0], devices[1:])}")
    print(f"\nThe first seed's cut by cosine similarity\n{first_report}\n\n{took}")
    page = options.out / "report.html"
    sections = [
        ("What was run", f"{setting}\n{took}"),
        ("Results", table),
        ("", __doc__.split("\n\n", 1)[1]),
        ("Difference to cosine similarity, fine-tuned, seed by seed", differences),
        ("Accuracy by recording device", devices),
        (
            "Filters of the first seed's dense network",
            "Cosine similarity decides which filters are near copies of another.",
        ),
        *(("", figure) for figure in figures),
    ]
    write_html(page, f"Filter pruning: {scenes_name(options)}", sections)
    print(f"Report: {page}")


class Study:
    """All networks of one seed."""

    def __init__(self, scenes: DCASEScenes, options: argparse.Namespace, seed: int) -> None:
        self.scenes = scenes
        self.options = options
        self.seed = seed
        self.measurements: dict[str, Measurement] = {}
        self.by_device: dict[str, dict[str, float]] = {}
        self.report = ""
        self.example = torch.zeros(1, *scenes.feature_shape)

    def train_dense(self) -> SceneClassifier:
        classifier = self.new_classifier(self.seed)
        seconds = self.fit("dense", classifier, self.options.epochs, fraction=1.0)
        self.measure("dense", classifier, seconds)
        return classifier

    def prune_and_fine_tune(self, dense: SceneClassifier, criterion: str) -> PruningPlan:
        classifier = copy.deepcopy(dense)
        pruning = CosineFilterPruning(self.options.pruning_ratio, criterion=criterion, seed=self.seed)
        label = CRITERIA[criterion]
        seconds = self.fit(
            f"{label}, fine-tuning", classifier, self.options.finetune_epochs, self.options.fraction, [pruning]
        )
        plan = pruning.plans[0]
        untuned = copy.deepcopy(dense)
        apply_plan(untuned, plan, self.example)
        self.measure(f"{label}, pruned", untuned, 0.0)
        self.measure(f"{label}, fine-tuned", classifier, seconds)
        if criterion == "cosine":
            self.report = str(pruning.reports[0])
        return plan

    def train_from_scratch(self, plan: PruningPlan) -> None:
        classifier = self.new_classifier(self.seed + 1000)
        # Which filters go does not matter in a network that knows nothing yet; how many go does.
        apply_plan(classifier, PruningPlan(plan.pruned, plan.filters), self.example)
        seconds = self.fit(
            "same size, from scratch", classifier, self.options.epochs + self.options.finetune_epochs, 1.0
        )
        self.measure("same size, from scratch", classifier, seconds)

    def new_classifier(self, seed: int) -> SceneClassifier:
        pl.seed_everything(seed, verbose=False)
        _, bands, frames = self.scenes.feature_shape
        network = NETWORKS[self.options.network](len(self.scenes.scene_labels), bands, frames)
        return SceneClassifier(network, len(self.scenes.scene_labels), self.scenes.devices)

    def fit(
        self,
        name: str,
        classifier: SceneClassifier,
        epochs: int,
        fraction: float,
        callbacks: Sequence[pl.Callback] = (),
    ) -> float:
        """Train and return how long it took, in seconds."""
        pl.seed_everything(self.seed, verbose=False)
        scenes = open_scenes(self.options, fraction=fraction, seed=self.seed)[0]
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[NamedProgress(name), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        start = time.perf_counter()
        trainer.fit(classifier, datamodule=scenes)
        return time.perf_counter() - start

    def measure(self, row: str, classifier: SceneClassifier, seconds: float) -> None:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        (metrics,) = trainer.test(classifier, datamodule=self.scenes, verbose=False)
        complexity = measure_complexity(classifier, self.example)
        self.measurements[row] = Measurement(metrics["test/accuracy"], metrics["test/log_loss"], complexity, seconds)
        prefix = "test/accuracy_device_"
        self.by_device[row] = {
            name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)
        }


class NamedProgress(pl.callbacks.TQDMProgressBar):
    """Lightning's progress bar, with the name of the network that is trained."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=5)
        self.name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(
            f"{self.name:<32} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )


def open_scenes(options: argparse.Namespace, fraction: float = 1.0, seed: int = 0) -> tuple[DCASEScenes, str]:
    """The scenes and a line that says what they are."""
    root, features = options.data, LogMel()
    if root is None:
        root, features = options.out / "synthetic-scenes", LogMel(num_frames=51)
        SyntheticScenes(root, cache_dir=options.out / "features").prepare_data()
    scenes = DCASEScenes(
        root,
        fold=options.fold,
        features=features,
        train_fraction=fraction,
        validation_fraction=options.validation,
        cache_dir=options.out / "features",
        seed=seed,
    )
    scenes.prepare_data()
    scenes.setup()
    tables = scenes.tables()
    shape = "x".join(map(str, scenes.feature_shape[1:]))
    return scenes, (
        f"{scenes_name(options)}, fold {options.fold}: {len(tables['train'])} training, {len(tables['validation'])} "
        "validation and "
        f"{len(tables['test'])} test clips of {shape} log-mel features, {len(scenes.scene_labels)} classes. "
        f"Network {options.network}, {options.epochs} epochs; fine-tuning {options.finetune_epochs} epochs on "
        f"{options.fraction:.0%} of the training clips; mean and standard deviation over {options.seeds} seeds."
    )


def scenes_name(options: argparse.Namespace) -> str:
    return "SYNTHETIC scenes" if options.data is None else options.data.name


def accuracy_table(results: dict[str, list[Measurement]]) -> list[list[str]]:
    rows = [["", "accuracy %", "log loss", "parameters", "MACs (M)", "kB", "training s"]]
    for name, measured in results.items():
        costs = [one.complexity for one in measured]
        rows.append(
            [
                name,
                spread([100 * one.accuracy for one in measured], 1),
                spread([one.log_loss for one in measured], 3),
                spread([cost.params for cost in costs], 0),
                spread([cost.macs / 1e6 for cost in costs], 2),
                spread([cost.bytes / 1e3 for cost in costs], 1),
                spread([one.seconds for one in measured], 0) if any(one.seconds for one in measured) else "",
            ]
        )
    return rows


def paired_differences(results: dict[str, list[Measurement]]) -> list[list[str]]:
    base = [one.accuracy for one in results[f"{CRITERIA['cosine']}, fine-tuned"]]
    rivals = [name for name in results if name.endswith(("dense", "fine-tuned", "scratch")) and "cosine" not in name]
    rows = [["", "accuracy, points", *(f"seed {seed}" for seed in range(len(base)))]]
    for name in rivals:
        points = [100 * (one.accuracy - other) for one, other in zip(results[name], base, strict=True)]
        rows.append([name, spread(points, 1, sign="+"), *(f"{value:+.1f}" for value in points)])
    return rows


def device_table(by_device: dict[str, list[dict[str, float]]], devices: Sequence[str]) -> list[list[str]]:
    present = [
        device for device in devices if all(device in accuracies for runs in by_device.values() for accuracies in runs)
    ]
    rows = [["accuracy %", *present]]
    for name, runs in by_device.items():
        rows.append([name, *(f"{100 * float(np.mean([run[device] for run in runs])):.1f}" for device in present)])
    return rows


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean and, where the values differ, the standard deviation between seeds."""
    mean = f"{np.mean(values):{sign},.{digits}f}"
    return mean if len(set(values)) == 1 else f"{mean} +- {np.std(values, ddof=1):,.{digits}f}"


def machine() -> str:
    return f"{torch.get_num_threads()} threads of {platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}"


def quieten() -> None:
    """Hide what Lightning says of every one of the trainers; the progress bars and the table stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")


def last_fold(root: Path) -> int:
    """The highest fold in the folder: the TAU sets have one, ESC-10 has five."""
    folds = [
        re.fullmatch(r"fold(\d+)_train\.(csv|txt)", path.name) for path in (root / "evaluation_setup").glob("fold*")
    ]
    return max((int(fold[1]) for fold in folds if fold), default=1)


def ratio(text: str) -> float | str:
    return text if text == "redundant" else float(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="quickstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder in DCASE layout (default: synthetic scenes, written to OUT)")
    parser.add_argument("--fold", type=int, help="fold of the evaluation setup (default: the highest there is)")
    parser.add_argument("--network", choices=NETWORKS, help="default: dcase2022 for synthetic scenes, else dcase2021")
    parser.add_argument("--epochs", type=int, help="of the dense network (default: 12 on synthetic scenes, else 30)")
    parser.add_argument("--finetune-epochs", type=int, help="after the cut (default: half of EPOCHS)")
    parser.add_argument(
        "--fraction", type=float, default=0.75, help="of the training clips to fine-tune on (default: 0.75)"
    )
    parser.add_argument(
        "--pruning-ratio",
        type=ratio,
        default="redundant",
        help='of each layer, or "redundant" for the published rule (default)',
    )
    parser.add_argument(
        "--validation", type=float, default=0.0, help="of the training locations to hold out (default: 0)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how often all is repeated (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the processor (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/quickstart"), help="where results go (default: runs/quickstart)"
    )
    options = parser.parse_args(arguments)
    synthetic = options.data is None
    options.fold = options.fold or (1 if synthetic else last_fold(options.data))
    options.network = options.network or ("dcase2022" if synthetic else "dcase2021")
    options.epochs = options.epochs or (12 if synthetic else 30)
    options.finetune_epochs = options.finetune_epochs or max(1, options.epochs // 2)
    return options


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
