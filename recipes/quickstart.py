# Question: how much smaller does the published rule make a scene network, and what does that cost beside its rivals?
# Command:  make quickstart             on synthetic scenes, made on the spot
#           make quickstart ESC10=path  on ESC-10, 400 real recordings, fetched to the path unless they are there
#           make quickstart DATA=path   on any folder in DCASE layout
#           make quickstart WANDB=1     and leave an offline W&B run of each network, which `wandb sync` uploads
# Measured: README.md beside this file.
"""Train a dense network, prune it, fine-tune it on a part of the data, and compare it with its rivals.

Accuracies are those of the last epoch on the test clips; the number of epochs is fixed beforehand and nothing is chosen
on the test clips.

Each seed trains one dense network. Cosine similarity, what the kept filters can say of the responses, L1 norm and
chance each remove the same number of filters from a copy of it. Each copy is tested as it is; repaired by least squares
on a few training clips, without their labels and without a gradient step; and fine-tuned. The last rival has the size
of the network that cosine similarity leaves, starts from random weights, and sees all training clips for as many epochs
as the pruned network did before and after the cut. "Batch norm re-estimated" is the dense network with the statistics
of the same unlabelled clips: what they alone bring.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import platform
import re
import statistics
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from lightning_cosprune import (
    Complexity,
    CosineFilterPruning,
    Outcome,
    PruningPlan,
    RepairReport,
    RunRecord,
    SafeWandbLogger,
    apply_plan,
    measure_complexity,
    refit_least_squares,
    write_report,
)
from lightning_cosprune.calibration.statistics import reestimate_batch_norms
from lightning_cosprune.data import ESC10, DCASEScenes, LogMel, SyntheticScenes
from lightning_cosprune.models import DCASE2021Baseline, DCASE2022Baseline, SceneClassifier
from lightning_cosprune.reports.layers import with_pictures
from lightning_cosprune.reports.tables import outcome_rows, spread
from lightning_cosprune.surgery.report import format_table

CRITERIA = {"cosine": "cosine similarity", "response": "response", "l1": "L1 norm", "random": "random"}
NETWORKS = {"dcase2021": DCASE2021Baseline, "dcase2022": DCASE2022Baseline}
TUNED = "{}, fine-tuned"
UNTUNED = "{}, as cut"
REPAIRED = "{}, repaired"
REESTIMATED = "dense, batch norm re-estimated"
SCRATCH = "same size, from scratch"
PROJECT = "lightning_cosprune-quickstart"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quieten()
    start = time.perf_counter()
    # What is wrong with the arguments shows now, not after the dense network is trained.
    CosineFilterPruning(options.pruning_ratio)
    open_scenes(options, options.fraction, seed=0)
    scenes = open_scenes(options, fraction=1.0, seed=0)
    setting = describe(options, scenes)
    print(setting, flush=True)

    results: list[Result] = []
    first: list[RunRecord] = []
    for seed in range(options.seeds):
        print(f"\nSeed {seed + 1} of {options.seeds}", flush=True)
        study = Study(scenes, options, seed)
        dense = study.train_dense()
        study.reestimate(dense)
        prunings = {criterion: study.prune_and_fine_tune(dense, criterion) for criterion in CRITERIA}
        study.train_from_scratch(prunings["cosine"].plans[0])
        results += study.results
        if not first:
            cut = RunRecord.of(prunings["cosine"].reports, [study.repairs["cosine"]])
            first.append(with_pictures(cut, dense, study.example_inputs))

    took = f"Took {time.perf_counter() - start:.0f} s on {machine()}."
    record = recorded(options, scenes, results, first[0], f"{setting} {took}")
    table, differences, devices = outcome_rows(record), paired_differences(results), accuracy_by_device(results)
    print(f"\n{setting}\n\n{format_table(table[0], table[1:])}")
    print(f"\nAccuracy beside {TUNED.format('cosine similarity')}, seed by seed, in points")
    print(format_table(differences[0], differences[1:]))
    if len(scenes.devices) > 1:
        print(f"\nAccuracy by recording device, %\n{format_table(devices[0], devices[1:])}")
    print(f"\nThe first seed's cut by cosine similarity. {record.prunes[0].report}\n\n{took}")

    page = options.out / "report.html"
    write_report(page, record)
    (options.out / "record.json").write_text(record.to_json())
    (options.out / "results.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    print(f"Report: {page}\nNumbers: {options.out / 'results.json'}")
    if options.wandb:
        print(f"W&B runs, to upload with an account: wandb sync --sync-all {options.out / 'wandb'}")


def recorded(
    options: argparse.Namespace, scenes: DCASEScenes, results: list[Result], first: RunRecord, setting: str
) -> RunRecord:
    """All seeds as the value that the page is drawn from; the filters are those of the first seed."""
    explanation = tuple(" ".join(paragraph.split()) for paragraph in str(__doc__).split("\n\n")[1:])
    tables = {f"Accuracy beside {TUNED.format('cosine similarity')}, in points": paired_differences(results)}
    if len(scenes.devices) > 1:
        tables["Accuracy by recording device, %"] = accuracy_by_device(results)
    return replace(
        first,
        title=f"Filter pruning on {scenes_name(options)}",
        outcomes=tuple(outcome(network, results, options) for network in networks_of(results)),
        setting={"what was run": setting},
        tables={heading: tuple(map(tuple, rows)) for heading, rows in tables.items()},
        notes=(*explanation, "The filters are those of the first seed's dense network."),
    )


def outcome(network: str, results: list[Result], options: argparse.Namespace) -> Outcome:
    """One network, all seeds."""
    mine = [result for result in results if result.network == network]
    series, _, step = network.rpartition(", ")
    known = series in CRITERIA.values()
    roles = {"as cut": "cut", "repaired": "repaired", "fine-tuned": "tuned"}
    return Outcome(
        network,
        "dense" if network == "dense" else roles[step] if known else "rival",
        tuple(result.accuracy for result in mine),
        tuple(result.log_loss for result in mine),
        tuple(float(result.complexity.macs) for result in mine),
        tuple(float(result.complexity.params) for result in mine),
        tuple(float(result.complexity.bytes) for result in mine),
        seconds=tuple(result.training_seconds for result in mine if result.training_seconds is not None),
        fraction=options.fraction if known and step == "fine-tuned" else None,
        series=series if known else "",
        by_device={
            device: statistics.mean(result.by_device[device] for result in mine) for device in mine[0].by_device
        },
        by_scene={scene: statistics.mean(result.by_scene[scene] for result in mine) for scene in mine[0].by_scene},
    )


@dataclass(frozen=True)
class Result:
    """One network of one seed on the test clips."""

    seed: int
    network: str
    accuracy: float
    log_loss: float
    by_device: dict[str, float]
    by_scene: dict[str, float]
    complexity: Complexity
    training_seconds: float | None


class Study:
    """All networks of one seed."""

    def __init__(self, scenes: DCASEScenes, options: argparse.Namespace, seed: int) -> None:
        self.scenes = scenes
        self.options = options
        self.seed = seed
        self.results: list[Result] = []
        self.repairs: dict[str, RepairReport] = {}
        self.example_inputs = torch.zeros(1, *scenes.feature_shape)
        self.calibration = unlabelled_clips(scenes, options.clips, seed)

    def train_dense(self) -> SceneClassifier:
        classifier = self.new_classifier(self.seed)
        with self.run("dense", fraction=1.0) as logger:
            seconds = self.fit("dense", classifier, self.options.epochs, 1.0, logger)
            self.results.append(self.test("dense", classifier, seconds, logger))
        return classifier

    def prune_and_fine_tune(self, dense: SceneClassifier, criterion: str) -> CosineFilterPruning:
        tuned, label = copy.deepcopy(dense), CRITERIA[criterion]
        pruning = CosineFilterPruning(
            self.options.pruning_ratio,
            criterion=criterion,
            seed=self.seed,
            calibration=[self.calibration] if criterion == "response" else 16,
        )
        fraction = self.options.fraction
        with self.run(TUNED.format(label), criterion=criterion, fraction=fraction) as logger:
            seconds = self.fit(label, tuned, self.options.finetune_epochs, fraction, logger, [pruning])
            last = self.test(TUNED.format(label), tuned, seconds, logger)
        untuned = copy.deepcopy(dense)
        report = apply_plan(untuned, pruning.plans[0], self.example_inputs)
        with self.run(UNTUNED.format(label), criterion=criterion) as logger:
            self.results.append(self.test(UNTUNED.format(label), untuned, None, logger))
        start = time.perf_counter()
        self.repairs[criterion] = refit_least_squares(untuned, dense, [self.calibration], report=report)
        seconds = time.perf_counter() - start
        with self.run(REPAIRED.format(label), criterion=criterion, repair="least_squares") as logger:
            self.results.append(self.test(REPAIRED.format(label), untuned, seconds, logger))
        self.results.append(last)
        return pruning

    def reestimate(self, dense: SceneClassifier) -> None:
        """What the unlabelled clips bring without any pruning: statistics of batch norms."""
        network = copy.deepcopy(dense)
        start = time.perf_counter()
        reestimate_batch_norms(network, [self.calibration])
        seconds = time.perf_counter() - start
        with self.run(REESTIMATED, fraction=1.0) as logger:
            self.results.append(self.test(REESTIMATED, network, seconds, logger))

    def train_from_scratch(self, plan: PruningPlan) -> None:
        classifier = self.new_classifier(self.seed + 1000)
        # Which filters go does not matter in a network that has learned nothing yet; how many go does.
        apply_plan(classifier, plan, self.example_inputs)
        with self.run(SCRATCH, fraction=1.0) as logger:
            epochs = self.options.epochs + self.options.finetune_epochs
            seconds = self.fit(SCRATCH, classifier, epochs, 1.0, logger)
            self.results.append(self.test(SCRATCH, classifier, seconds, logger))

    @contextlib.contextmanager
    def run(
        self, network: str, *, criterion: str = "none", repair: str = "none", fraction: float = 0.0
    ) -> Iterator[Any]:
        """An offline W&B run of one network, where that is asked for; else ``False``, a Trainer without a logger."""
        if not self.options.wandb:
            yield False
            return
        logger = SafeWandbLogger(
            name=f"{network}, seed {self.seed}", project=PROJECT, save_dir=self.options.out, offline=True
        )
        setting = {"network": network, "criterion": criterion, "repair": repair, "data/fraction": fraction}
        logger.log_hyperparams({**setting, "seed": self.seed, "scenes": scenes_name(self.options)})
        try:
            yield logger
        finally:
            logger.finish()

    def new_classifier(self, seed: int) -> SceneClassifier:
        pl.seed_everything(seed, verbose=False)
        _, bands, frames = self.scenes.feature_shape
        network = NETWORKS[self.options.network](len(self.scenes.scene_labels), bands, frames)
        return SceneClassifier(
            network, len(self.scenes.scene_labels), self.scenes.devices, scene_labels=self.scenes.scene_labels
        )

    def fit(
        self,
        name: str,
        classifier: SceneClassifier,
        epochs: int,
        fraction: float,
        logger: Any,
        callbacks: Iterable[pl.Callback] = (),
    ) -> float:
        pl.seed_everything(self.seed, verbose=False)
        trainer = new_trainer(logger, max_epochs=epochs, callbacks=[NamedProgress(name), *callbacks])
        start = time.perf_counter()
        trainer.fit(classifier, datamodule=open_scenes(self.options, fraction, self.seed))
        return time.perf_counter() - start

    def test(
        self, network: str, classifier: SceneClassifier, training_seconds: float | None, logger: Any = False
    ) -> Result:
        trainer = new_trainer(logger, enable_progress_bar=False)
        (metrics,) = trainer.test(classifier, datamodule=self.scenes, verbose=False)
        by_device, by_scene = (
            {
                name.removeprefix(f"test/accuracy_{kind}_"): value
                for name, value in metrics.items()
                if name.startswith(f"test/accuracy_{kind}_")
            }
            for kind in ("device", "scene")
        )
        complexity = measure_complexity(classifier, self.example_inputs)
        if logger:
            dense = self.results[0].complexity.macs if self.results else complexity.macs
            costs = {f"pruning/{cost}": getattr(complexity, cost) for cost in ("macs", "params", "bytes")}
            logger.log_metrics({**costs, "pruning/macs_removed": 1 - complexity.macs / dense}, step=0)
        measured = metrics["test/accuracy"], metrics["test/log_loss"], by_device, by_scene, complexity
        return Result(self.seed, network, *measured, training_seconds)


def unlabelled_clips(scenes: DCASEScenes, clips: int, seed: int) -> torch.Tensor:
    """Features of so many training clips, drawn by chance; their labels are not looked at."""
    loader = scenes.train_dataloader()
    dataset: Any = loader.dataset
    drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:clips]
    features: torch.Tensor = loader.collate_fn(dataset.__getitems__(drawn.tolist()))[0]
    return features


def new_trainer(logger: Any = False, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )


class NamedProgress(pl.callbacks.TQDMProgressBar):
    """Lightning's progress bar, with the name of the network that is trained."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=5)
        self.name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(
            f"{self.name:<23} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        )


def open_scenes(options: argparse.Namespace, fraction: float, seed: int) -> DCASEScenes:
    settings = {
        "validation_fraction": 0,
        "train_fraction": fraction,
        "cache_dir": options.out / "features",
        "seed": seed,
    }
    if is_synthetic(options):
        # One second has 50 frames of hop length and, with the centred one at its end, the 51 of the DCASE 2022
        # baseline.
        root, features = options.out / "synthetic-scenes", LogMel(num_frames=51)
        SyntheticScenes(root, features=features, cache_dir=options.out / "features").prepare_data()
        scenes = DCASEScenes(root, fold=options.fold, features=features, **settings)
    else:
        scenes = real_scenes(options, features=LogMel(), **settings)
    scenes.prepare_data()
    scenes.setup()
    return scenes


def is_synthetic(options: argparse.Namespace) -> bool:
    return options.data is None and options.esc10 is None


def real_scenes(options: argparse.Namespace, **settings: Any) -> DCASEScenes:
    """The set that the options name."""
    if options.esc10 is not None:
        return ESC10(options.esc10, download=True, fold=options.fold, **settings)
    return DCASEScenes(options.data, fold=options.fold, **settings)


def describe(options: argparse.Namespace, scenes: DCASEScenes) -> str:
    tables = scenes.tables()
    bands, frames = scenes.feature_shape[1:]
    return (
        f"{scenes_name(options)}, fold {options.fold}: {len(tables['train'])} training and {len(tables['test'])} test "
        f"clips as {bands}x{frames} log-mel features, {len(scenes.scene_labels)} classes. Network {options.network}: "
        f"{options.epochs} epochs; repaired on {options.clips} unlabelled training clips; or {options.finetune_epochs} "
        f"epochs of fine-tuning on {options.fraction:.0%} of the training clips. Mean +- standard deviation over "
        f"{options.seeds} seed{'s' if options.seeds > 1 else ''}."
    )


def scenes_name(options: argparse.Namespace) -> str:
    if options.esc10 is not None:
        return "ESC-10"
    return "SYNTHETIC scenes" if is_synthetic(options) else options.data.resolve().name


def paired_differences(results: list[Result]) -> list[list[str]]:
    """How much better or worse than the pruned and fine-tuned network each rival of the same seed is."""
    reference = {
        result.seed: result.accuracy for result in results if result.network == TUNED.format(CRITERIA["cosine"])
    }
    rows = [["", "mean", *(f"seed {seed}" for seed in reference)]]
    rivals = [
        "dense",
        REESTIMATED,
        *(REPAIRED.format(label) for label in CRITERIA.values()),
        *(TUNED.format(label) for name, label in CRITERIA.items() if name != "cosine"),
        SCRATCH,
    ]
    for rival in rivals:
        points = [100 * (result.accuracy - reference[result.seed]) for result in results if result.network == rival]
        rows.append([rival, spread(points, 1, sign="+"), *(f"{value:+.1f}" for value in points)])
    return rows


def accuracy_by_device(results: list[Result]) -> list[list[str]]:
    devices = list(results[0].by_device)
    rows = [["", *devices]]
    for network in networks_of(results):
        mine = [result.by_device for result in results if result.network == network]
        rows.append([network, *(f"{100 * statistics.mean(run[device] for run in mine):.1f}" for device in devices)])
    return rows


def networks_of(results: list[Result]) -> list[str]:
    return list(dict.fromkeys(result.network for result in results))


def machine() -> str:
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{torch.get_num_threads()} threads of {platform.machine()}, {versions}"


def quieten() -> None:
    """Hide what Lightning says of each of the trainers; the progress bars stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")


def last_fold(options: argparse.Namespace) -> int:
    """The highest there is."""
    if options.data is None:
        return 1 if is_synthetic(options) else 5
    setup = options.data / "evaluation_setup"
    folds = (re.fullmatch(r"fold(\d+)_train\.csv", path.name) for path in setup.glob("fold*"))
    return max((int(fold[1]) for fold in folds if fold), default=1)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quickstart", description=str(__doc__).split("\n\n")[0])
    add = parser.add_argument
    add_scenes(parser.add_mutually_exclusive_group())
    add("--fold", type=positive, help="of the data set (default: the highest there is)")
    add("--network", choices=NETWORKS, default="dcase2021", help="default: dcase2021")
    add("--epochs", type=positive, help="of the dense network (default: 10 on synthetic scenes, else 30)")
    add("--finetune-epochs", type=positive, help="after the cut (default: 4 on synthetic scenes, else 15)")
    add("--clips", type=positive, default=16, help="unlabelled training clips to repair with (default: 16)")
    add("--fraction", type=float, default=0.75, help="of the training clips to fine-tune on (default: 0.75)")
    add(
        "--pruning-ratio",
        type=ratio,
        default="redundant",
        help='of each layer, or "redundant" for the published rule (default)',
    )
    add("--seeds", type=positive, default=3, help="how often all is repeated (default: 3)")
    add("--wandb", action="store_true", help="leave an offline W&B run of each network too")
    add("--out", type=Path, default=Path("runs/quickstart"), help="where everything goes (default: runs/quickstart)")
    options = parser.parse_args(arguments)
    synthetic = is_synthetic(options)
    options.fold = options.fold or last_fold(options)
    options.epochs = options.epochs or (10 if synthetic else 30)
    options.finetune_epochs = options.finetune_epochs or (4 if synthetic else 15)
    return options


def add_scenes(group: Any) -> None:
    """The arguments that name a set of real recordings."""
    group.add_argument("--data", type=Path, help="folder in DCASE layout")
    group.add_argument("--esc10", type=Path, help="folder of ESC-10; where it is absent 40 MB are fetched to it")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return number


def ratio(text: str) -> float | str:
    return text if text == "redundant" else float(text)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
