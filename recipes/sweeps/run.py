# Question: what does one cell of a sweep find: criterion x ratio or budget x repair x share of the data x seed?
# Command:  .venv/bin/python -m recipes.sweeps.run --criterion l1 --pruning-ratio 0.5 --repair least_squares --offline
#           wandb sweep recipes/sweeps/synthetic.yaml, then `wandb agent` on as many machines as there are
# Hardware: two cores; a minute a cell on synthetic scenes, after the dense network of its seed.
"""Prune a dense network, repair it, fine-tune it on a part of the data, test it; one W&B run.

The dense network of a seed is trained once on each machine and kept in ``--out``; agents on one machine wait for each
other. It is trained on everything; only fine-tuning sees the fraction. Nothing is chosen on the test clips.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from filelock import FileLock

from lightning_cosprune import CosineFilterPruning, EnergyMonitor, SafeWandbLogger
from lightning_cosprune.models import SceneClassifier
from recipes.collect import guarded
from recipes.quickstart import (
    CRITERIA,
    NETWORKS,
    add_scenes,
    is_synthetic,
    last_fold,
    new_trainer,
    open_scenes,
    positive,
    quieten,
    scenes_name,
    unlabelled_clips,
)

REPAIRS = ("none", "least_squares", "merge", "constant")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quieten()
    scenes = open_scenes(options, options.fraction, options.seed)
    classifier = dense_network(options)
    pruning = CosineFilterPruning(
        "redundant" if options.max_macs else options.pruning_ratio,
        max_macs=options.max_macs,
        criterion=options.criterion,
        seed=options.seed,
        repair=None if options.repair == "none" else options.repair,
        calibration=[unlabelled_clips(scenes, options.clips, options.seed)],
    )
    how_much = f"{options.max_macs:g} of the MACs" if options.max_macs else f"{options.pruning_ratio:g}"
    name = f"{options.criterion} {how_much} {options.repair} {options.fraction:g} seed {options.seed}"
    logger = SafeWandbLogger(name=name, project=options.project, save_dir=options.out, offline=options.offline)
    told = (
        "criterion",
        "max_macs" if options.max_macs else "pruning_ratio",
        "repair",
        "seed",
        "network",
        "epochs",
        "finetune_epochs",
        "clips",
    )
    logger.log_hyperparams({key: getattr(options, key) for key in told} | {"data/fraction": options.fraction})
    logger.log_hyperparams({"scenes": scenes_name(options)})
    pl.seed_everything(options.seed, verbose=False)
    callbacks = [pruning, *([EnergyMonitor(options.country)] if options.country else [])]
    trainer = new_trainer(
        logger, max_epochs=options.finetune_epochs, callbacks=callbacks, enable_progress_bar=False, log_every_n_steps=1
    )
    trainer.test(classifier, datamodule=scenes, verbose=False)  # the dense network, for the page
    trainer.fit(classifier, datamodule=scenes)
    (metrics,) = trainer.test(classifier, datamodule=scenes, verbose=False)
    logger.finish()
    print(f"{name}: {metrics['test/accuracy']:.1%} of the test clips")


def dense_network(options: argparse.Namespace) -> SceneClassifier:
    """The dense network of a seed, trained by the first who asks for it."""
    everything = open_scenes(options, 1.0, options.seed)
    _, bands, frames = everything.feature_shape
    pl.seed_everything(options.seed, verbose=False)
    labels = everything.scene_labels
    network = NETWORKS[options.network](len(labels), bands, frames)
    classifier = SceneClassifier(network, len(labels), everything.devices, scene_labels=labels)
    what = [scenes_name(options), options.fold, options.network, options.epochs, options.seed]
    path = options.out / f"dense-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.pt"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            trainer = new_trainer(max_epochs=options.epochs, enable_progress_bar=False)
            trainer.fit(classifier, datamodule=everything)
            partial = path.with_suffix(f".{os.getpid()}.partial")
            torch.save(classifier.state_dict(), partial)
            partial.replace(path)
    classifier.load_state_dict(torch.load(path, weights_only=True))
    return copy.deepcopy(classifier)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sweeps.run", description=str(__doc__).split("\n\n")[0])
    add: Any = parser.add_argument
    add_scenes(parser.add_mutually_exclusive_group())
    add("--criterion", choices=CRITERIA, default="cosine", help="default: cosine")
    add("--pruning-ratio", "--pruning_ratio", type=float, default=0.5, help="of each layer (default: 0.5)")
    add(
        "--max-macs",
        "--max_macs",
        type=fraction,
        help="at most this part of the MACs, in place of a ratio of each layer",
    )
    add("--repair", choices=REPAIRS, default="none", help="default: none")
    add("--fraction", type=float, default=1.0, help="of the training clips to fine-tune on (default: 1)")
    add("--seed", type=int, default=0, help="default: 0")
    add("--network", choices=NETWORKS, default="dcase2021", help="default: dcase2021")
    add("--epochs", type=positive, help="of the dense network (default: 10 on synthetic scenes, else 30)")
    add("--finetune-epochs", "--finetune_epochs", type=positive, help="default: 4 on synthetic scenes, else 15")
    add("--clips", type=positive, default=16, help="unlabelled training clips to repair with (default: 16)")
    add("--fold", type=positive, help="of the data set (default: the highest there is)")
    add("--project", default="lightning_cosprune-sweep", help="default: lightning_cosprune-sweep")
    add("--country", help='count the energy, of this country\'s electricity, such as "GBR"')
    add("--offline", action="store_true", help="keep the run here, without an account")
    add("--out", type=Path, default=Path("runs/sweep"), help="where everything goes (default: runs/sweep)")
    options = parser.parse_args(arguments)
    synthetic = is_synthetic(options)
    options.fold = options.fold or last_fold(options)
    options.epochs = options.epochs or (10 if synthetic else 30)
    options.finetune_epochs = options.finetune_epochs or (4 if synthetic else 15)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def fraction(text: str) -> float:
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a fraction between 0 and 1, found {text}")
    return number


if __name__ == "__main__":
    guarded(main)
