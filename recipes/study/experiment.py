"""One run of a study: train, or prune and train on, then test, and leave a row."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from filelock import FileLock
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from lightning_cosprune import (
    AtomicCheckpointIO,
    CosineFilterPruning,
    KnowledgeDistillation,
    apply_plan,
    compensate_constants,
    load_pruned,
    measure_complexity,
    merge_removed,
    plan_pruning,
    refit_least_squares,
)
from lightning_cosprune.models import SceneClassifier
from lightning_cosprune.network.layers import is_depthwise, prunable_layers
from recipes.cells import read, write
from recipes.study import networks
from recipes.study.cli import Distillation, Study, StudyCLI, config_file
from recipes.study.grid import lineage
from recipes.study.row import Point, Row, commit, machine, slug, versions
from recipes.study.rule import rule_counts
from recipes.study.scenes import name_of
from recipes.study.watch import Clock, Curve, Energy

PART = "network"
"""What of the LightningModule is pruned."""


class Experiment:
    """A run; what it leaves is below ``out/<study>``: ``rows``, ``networks``, ``curves``, ``partial``.

    Args:
        command: ``fit``, ``prune`` or ``test``.
        cli: What the files and arguments say.
        arguments: The arguments themselves, for the row.
    """

    def __init__(self, command: str, cli: StudyCLI, arguments: Sequence[str]) -> None:
        self.command, self.cli, self.arguments = command, cli, list(arguments)
        self.study: Study = cli.config_init["study"]
        self.pruning: CosineFilterPruning = cli.config_init["pruning"]
        self.distillation: Distillation | None = cli.config_init["distillation"]
        self.scenes: Any = cli.datamodule
        self.seed: int = cli.config["seed_everything"]
        self.fold: int = cli.config["data"]["fold"]
        file = config_file(arguments)
        self.study.name = self.study.name or (file.resolve().parent.name if file else "study")
        self.study.run = self.study.run or (file.stem if file else command)
        self.folder = Path(self.study.out) / self.study.name / slug(name_of(cli.config["data"]["root"]))
        self.settings = _digest(cli.config)
        self.yaml = file or Path("config.yaml")
        self.example = torch.zeros(1, *self.scenes.feature_shape)
        self.clock = Clock()
        self.before = (0, 0.0, 0.0)
        epochs = cli.config["trainer"]["max_epochs"]
        if epochs is None or epochs < 0:
            raise ValueError(
                f"`trainer.max_epochs={epochs}` of {self.study.run}: expected a number of epochs, 0 for a network as "
                "it is cut. Write it into the YAML file."
            )
        self.epochs: int = epochs

    # Where things are

    def key(self, run: str | None = None, variant: str | None = None) -> str:
        """File name of a run of this fold and seed."""
        name = self.study.run if run is None else run
        return slug(name, self.study.variant if variant is None else variant, f"fold{self.fold}", f"seed{self.seed}")

    def row_of(self, key: str) -> Row | None:
        found = read(self.folder / "rows" / f"{key}.csv", Row)
        return found[0] if found else None

    def network_of(self, run: str) -> nn.Module:
        """The network that another run of this study has left: of this variant, or of what it is a case of."""
        keys = [self.key(run, variant) for variant in lineage(self.study.variant)]
        key = next((key for key in keys if (self.folder / "networks" / f"{key}.pt").is_file()), keys[-1])
        path = self.folder / "networks" / f"{key}.pt"
        if not path.is_file():
            config = self.yaml.with_name(f"{run}.yaml")
            raise ValueError(
                f"`{self.study.run}` of {self.study.name}: expected the network of the run {run!r} at {path}, found "
                f"none. Run `python -m recipes.main fit --config {config}` for fold {self.fold} and seed {self.seed} "
                "first; `python -m recipes.main run` does so by itself."
            )
        content = torch.load(path, weights_only=True)
        made = content["made"]
        network = load_pruned(lambda: networks.build(made["network"], self.scenes, made["options"]), content)
        row = self.row_of(key)
        if row is not None and self.before == (0, 0.0, 0.0):
            self.before = (row.clips_in_all, row.seconds_in_all, row.kwh)
        return network.eval()

    # What is done

    def run(self) -> Row:
        """The row, made now or before."""
        rank_zero = int(os.environ.get("LOCAL_RANK", 0)) == 0
        if self.command == "test":
            return self.test()
        done = self._done()
        if done is not None:
            return done
        work = self.fit if self.command == "fit" else self.prune
        if not rank_zero:  # the first process holds the lock for all
            return work()
        lock = self.folder / "locks" / f"{self.key()}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            return self._done() or work()

    def _done(self) -> Row | None:
        """The row of this run, if it was made by the same settings."""
        row = self.row_of(self.key())
        if row is not None and row.settings != self.settings:
            path = self.folder / "rows" / f"{self.key()}.csv"
            raise ValueError(
                f"{self.study.run}: expected no result yet or one of these settings, found one of other settings at "
                f"{path}. Delete it to do the run again, or write elsewhere with `--study.out`."
            )
        return row

    def fit(self) -> Row:
        """Train from what ``model`` says."""
        classifier = self.cli.model
        self._train(classifier, self._teaching())
        return self._finish(classifier, weights="own", cut=False)

    def prune(self) -> Row:
        """Cut the network of the run ``study.dense``, then train it, or one of its size from random weights."""
        dense = self.network_of(self.study.dense)
        self.pruning.module, self.pruning.example_inputs = PART, self.example
        if self.study.weights == "scratch":
            # How many filters go is an outcome of the dense network's weights; which ones, is the same for random ones.
            plan = self._plan(dense)
            pl.seed_everything(self.seed + 1000, verbose=False)
            fresh = self._fresh()
            apply_plan(fresh, plan, self.example)
            classifier = self._module(fresh)
            # What taught nothing and gave no weights took no part.
            self.before = self.before if self.distillation else (0, 0.0, 0.0)
            callbacks = self._teaching(dense)
        elif self.epochs == 0:
            classifier = self._module(dense)
            self._cut(classifier.network, copy.deepcopy(dense))
            callbacks = []
        else:
            classifier = self._module(dense)
            callbacks = [self.pruning, *self._teaching()]
        self._train(classifier, callbacks)
        return self._finish(classifier, weights=self.study.weights, cut=True)

    def test(self) -> Row:
        """Measure the network that this run has left, on the scenes that are named."""
        network, done = self.network_of_this_run(), self.row_of(self.key())
        assert done is not None, "the row is written with the network"
        self.before = (done.clips_in_all, done.seconds_in_all, done.kwh)
        self.energy = Energy(wanted=False)
        row = self._row(self._module(network), weights=done.weights, cut=bool(done.criterion))
        write(self.folder / "tests" / f"{slug(self.key(), row.data)}.csv", Row, [row])
        return row

    def network_of_this_run(self) -> nn.Module:
        path = self.folder / "networks" / f"{self.key()}.pt"
        if not path.is_file() or self.row_of(self.key()) is None:
            raise ValueError(
                f"`test` of {self.study.run}: expected its network at {path}, found none. Run `fit` or `prune` with "
                "the same file, fold and seed first."
            )
        content = torch.load(path, weights_only=True)
        made = content["made"]
        return load_pruned(lambda: networks.build(made["network"], self.scenes, made["options"]), content)

    def _teaching(self, teacher: nn.Module | None = None) -> list[Callback]:
        if self.distillation is None or self.epochs == 0:
            return []
        told = dict(vars(self.distillation))
        run = told.pop("teacher")
        if run is None and self.command == "fit":
            raise ValueError(
                "`distillation.teacher` of a network that is not pruned: expected the name of the run that teaches, "
                "found none. Write it into the YAML file."
            )
        return [KnowledgeDistillation(self.network_of(run) if run else teacher, module=PART, **told)]

    def _module(self, network: nn.Module) -> SceneClassifier:
        model = self.cli.config["model"]
        return SceneClassifier(
            network,
            len(self.scenes.scene_labels),
            self.scenes.devices,
            model["learning_rate"],
            model["weight_decay"],
        )

    def _fresh(self) -> nn.Module:
        made = self._made()
        return networks.build(made["network"], self.scenes, made["options"])

    def _made(self) -> dict[str, Any]:
        model = self.cli.config["model"]
        return {"network": model["network"], "options": dict(model["options"] or {})}

    def _plan(self, network: nn.Module) -> Any:
        settings = self.pruning
        return plan_pruning(
            network,
            self.example,
            criterion=settings.criterion,
            pruning_ratio=settings.pruning_ratio,
            layers=settings.layers,
            ignored_layers=settings.ignored_layers,
            round_to=settings.round_to,
            seed=settings.seed,
            calibration=self._clips() if settings.criterion == "response" else None,
        )

    def _cut(self, network: nn.Module, dense: nn.Module) -> None:
        """Change ``network`` in place: cut and repaired, without an epoch."""
        start = time.perf_counter()
        report = apply_plan(network, self._plan(network), self.example)
        if self.pruning.repair == "least_squares":
            refit_least_squares(network, dense, self._clips(), report=report)
        elif self.pruning.repair == "merge":
            merge_removed(network, dense, report, example_inputs=self.example)
        elif self.pruning.repair == "constant":
            compensate_constants(network, dense, report, example_inputs=self.example)
        self.clock.seconds += time.perf_counter() - start

    def _clips(self) -> list[Tensor]:
        """Features of so many training clips, drawn by the seed; their labels are not looked at."""
        loader = self.scenes.train_dataloader()
        dataset: Any = loader.dataset
        drawn = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(1000 + self.seed))
        if not isinstance(self.pruning.calibration, int):
            raise ValueError(
                f"`pruning.calibration={self.pruning.calibration!r}`: expected a number of training clips. Write one."
            )
        wanted = drawn[: self.pruning.calibration].tolist()
        features: Tensor = loader.collate_fn(dataset.__getitems__(wanted))[0]
        return list(features.split(32))

    def _train(self, classifier: SceneClassifier, callbacks: Sequence[Callback]) -> None:
        self.curve = Curve(self.study.curve_every, self.clock, self.scenes) if self.study.curve_every else None
        self.energy = Energy(self.study.energy and self.epochs > 0)
        if not self.epochs:
            return
        pl.seed_everything(self.seed, verbose=False)
        classifier.train()
        # The clock starts before and stops before the others, so that it counts prunes and no looks at the test clips.
        watching = [self.clock, *callbacks, *([self.curve] if self.curve else [])]
        partial = self.folder / "partial" / self.key()
        options: dict[str, Any] = {}
        if self.study.checkpoint_every:
            watching.append(
                ModelCheckpoint(
                    partial,
                    "run",
                    every_n_epochs=self.study.checkpoint_every,
                    save_on_train_epoch_end=True,
                    enable_version_counter=False,
                )
            )
            options = {"enable_checkpointing": True, "plugins": [AtomicCheckpointIO()]}
        own = self.cli.config_init["trainer"]["callbacks"] or []
        trainer = self.cli.instantiate_trainer(callbacks=[*watching, *own], **options)
        begun = partial / "run.ckpt"
        fit: Callable[[], None] = lambda: trainer.fit(  # noqa: E731
            classifier, datamodule=self.scenes, ckpt_path=begun if begun.is_file() else None
        )
        self.energy.of(fit)

    def _finish(self, classifier: SceneClassifier, *, weights: str, cut: bool) -> Row:
        row = self._row(classifier, weights=weights, cut=cut)
        if int(os.environ.get("LOCAL_RANK", 0)):
            return row
        network = self.folder / "networks" / f"{self.key()}.pt"
        network.parent.mkdir(parents=True, exist_ok=True)
        part = network.with_suffix(".part")
        torch.save({"state_dict": classifier.network.state_dict(), "made": self._made()}, part)
        part.replace(network)
        if self.curve:
            write(self.folder / "curves" / f"{self.key()}.csv", Point, [self._point(one) for one in self.curve.points])
        # The row comes last: where it is, all is.
        write(self.folder / "rows" / f"{self.key()}.csv", Row, [row])
        shutil.rmtree(self.folder / "partial" / self.key(), ignore_errors=True)
        return row

    def _point(self, point: dict[str, Any]) -> Point:
        share = point["seconds"] / self.clock.seconds if self.clock.seconds else 0.0
        return Point(
            self.study.run,
            self.study.variant,
            self.fold,
            self.seed,
            point["epoch"],
            self.before[0] + point["clips"],
            self.before[1] + point["seconds"],
            self.before[2] + share * self.energy.kwh,
            point["accuracy"],
        )

    def _row(self, classifier: SceneClassifier, *, weights: str, cut: bool) -> Row:
        # One process tests all clips, however many have trained: samplers for several would give some clips twice.
        tester = self.cli.instantiate_trainer(callbacks=[], strategy="auto", devices=1, num_nodes=1)
        (metrics,) = tester.test(classifier, datamodule=self.scenes, verbose=False)
        network = classifier.network.cpu().eval()
        costs = measure_complexity(network, self.example)
        rule_bytes, rule_macs = rule_counts(network, self.example)
        pruning, distillation = self.pruning, self.distillation
        data = self.cli.config["data"]
        return Row(
            study=self.study.name,
            run=self.study.run,
            variant=self.study.variant,
            network=self.cli.config["model"]["network"],
            data=name_of(data["root"]),
            fold=self.fold,
            seed=self.seed,
            fraction=float(data["train_fraction"]) if self.epochs else 0.0,
            epochs=self.epochs,
            weights=weights,
            criterion=str(pruning.criterion) if cut else "",
            ratio=str(pruning.pruning_ratio) if cut else "",
            repair=(pruning.repair or "") if cut else "",
            distillation="" if distillation is None else f"alpha {distillation.alpha:g}",
            kept="/".join(str(count) for count in _filters(network)),
            params=costs.params,
            macs=costs.macs,
            input="x".join(map(str, self.example.shape)),
            rule_bytes=rule_bytes,
            rule_macs=rule_macs,
            accuracy=metrics["test/accuracy"],
            class_averaged_accuracy=metrics["test/class_averaged_accuracy"],
            log_loss=metrics["test/log_loss"],
            accuracy_real_devices=metrics.get("test/accuracy_real_devices", math.nan),
            accuracy_seen_devices=metrics.get("test/accuracy_seen_devices", math.nan),
            accuracy_unseen_devices=metrics.get("test/accuracy_unseen_devices", math.nan),
            clips_seen=self.clock.clips,
            clips_in_all=self.before[0] + self.clock.clips,
            seconds=self.clock.seconds,
            seconds_in_all=self.before[1] + self.clock.seconds,
            kwh=self.energy.kwh,
            machine=machine(str(tester.strategy.root_device)),
            versions=versions(),
            commit=commit(),
            settings=self.settings,
            command=self._command(),
        )

    def _command(self) -> str:
        """The command without what is this machine's own: places are left out, names of folders and files are not."""
        shown = [self.command]
        for argument in self.arguments:
            key, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
            place = Path(value).expanduser()
            if place.is_absolute():
                value = f"recipes/{place.parent.name}/{place.name}" if place.suffix == ".yaml" else place.name
            shown.append(f"{key}{equals}{value}")
        return "python -m recipes.main " + shlex.join(shown)


_OF_THE_MACHINE = {
    "data": ("root", "cache_dir", "num_workers"),
    "study": ("out", "checkpoint_every", "energy"),
    "trainer": ("accelerator", "strategy", "devices", "num_nodes", "enable_progress_bar", "default_root_dir"),
}


def _digest(config: Any) -> str:
    """What a run is asked for in a few characters, without what differs from machine to machine."""
    told = config.as_dict()
    told.pop("config", None)
    for group, keys in _OF_THE_MACHINE.items():
        told[group] = {key: value for key, value in told[group].items() if key not in keys}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _filters(network: nn.Module) -> list[int]:
    """Filters of each convolution that is not depthwise, in the order of the network."""
    return [
        layer.out_channels
        for layer in prunable_layers(network).values()
        if isinstance(layer, nn.modules.conv._ConvNd) and not is_depthwise(layer)
    ]
