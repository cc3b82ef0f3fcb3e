# Question: is a run that is killed again and again, and resumed each time, the run that nobody disturbed?
# Command:  .venv/bin/python -m recipes.benchmarks.crash     (three minutes on two cores; --kills, --seed)
# Measured: README.md one folder up.
"""Kill a training run with SIGKILL at random moments, resume it each time, and compare its end with an undisturbed run.

The run trains for some epochs, prunes and repairs in two steps and writes a checkpoint at the end of each epoch.
Moments are drawn from the seed: so many seconds after training starts, while filters are being removed, while the rest
is being repaired, or while a checkpoint is being written. The next process resumes from the last checkpoint there is.
In the end weights, optimizer, scheduler and the metrics of every epoch must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import AtomicCheckpointIO, CosineFilterPruning, callback
from lightning_cosprune.models import DCASE2021Baseline, SceneClassifier
from lightning_cosprune.surgery.report import format_table
from lightning_cosprune.training import repair

EPOCHS = 8
PRUNE_AT = [2, 5]
MOMENTS = ("training", "pruning", "repairing", "writing a checkpoint")


class History(pl.Callback):
    """Metrics of every epoch, kept in the checkpoints, and in the end all that must be equal, in one file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        end = {
            "weights": pl_module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "metrics": self.epochs,
        }
        torch.save(end, self.folder / "end.partial")
        (self.folder / "end.partial").rename(self.folder / "end.pt")

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = list(state_dict["epochs"])


class Scenes(pl.LightningDataModule):
    """Noise with labels; the order of the clips is decided by the epoch alone, as a seeded sampler would."""

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        generator = torch.Generator().manual_seed(0)
        clips, scenes = torch.randn(96, 1, 40, 51, generator=generator), torch.arange(96) % 10
        order = torch.randperm(96, generator=torch.Generator().manual_seed(self.trainer.current_epoch))
        return DataLoader(TensorDataset(clips[order], scenes[order]), batch_size=16)

    def val_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(1)
        return DataLoader(TensorDataset(torch.randn(32, 1, 40, 51, generator=generator), torch.arange(32) % 10), 16)


class Classifier(SceneClassifier):
    """With a scheduler, whose state must come back too."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.7)]


def train(folder: Path, moment: str, delay: float) -> None:
    """One process: start or resume, and be killed at the moment, if one is given."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    checkpoints = ModelCheckpoint(folder, "{epoch}", save_last=True, save_top_k=-1, save_on_train_epoch_end=True)
    network = DCASE2021Baseline(num_frames=51, dropout=0.0)  # PyTorch does not keep the random stream of dropout
    pruning = CosineFilterPruning(
        0.5, PRUNE_AT, example_inputs=torch.zeros(1, 1, 40, 51), repair="least_squares", calibration=32
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[pruning, History(folder), Armed(moment, delay), checkpoints],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )
    last = folder / "last.ckpt"
    trainer.fit(Classifier(network), Scenes(), ckpt_path=last if last.exists() else None, weights_only=True)


class Armed(pl.Callback):
    """Sets off the kill at its moment."""

    def __init__(self, moment: str, delay: float) -> None:
        self.moment, self.delay = moment, delay

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        if self.moment == "training":
            kill_after(self.delay)
        if self.moment == "pruning":
            callback.apply_plan = set_off_before(callback.apply_plan, self.delay / 20)
        if self.moment == "repairing":
            repair.refit_least_squares = set_off_before(repair.refit_least_squares, self.delay)
        if self.moment == "writing a checkpoint":
            plugin = trainer.strategy.checkpoint_io
            plugin.save_checkpoint = set_off_before(plugin.save_checkpoint, self.delay / 100)  # type: ignore[method-assign]


def kill_after(seconds: float) -> None:
    def kill() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def set_off_before(function: Any, delay: float) -> Any:
    def armed(*args: Any, **kwargs: Any) -> Any:
        kill_after(delay)
        return function(*args, **kwargs)

    return armed


def launch(folder: Path, moment: str = "", delay: float = 0.0) -> int:
    command = [sys.executable, "-m", "recipes.benchmarks.crash", "--child", str(folder), moment, repr(delay)]
    return subprocess.run(command, check=False).returncode


def disturb(folder: Path, expected: Path, kills: int, seed: int) -> list[tuple[str, float, int]]:
    """Start, kill and resume, and begin anew where the run came to its end, until it was killed often enough.

    Every end is compared with the undisturbed one.

    Returns:
        While what it was killed, the number that was drawn, and how many checkpoints it left.
    """
    draw, done = random.Random(seed), list[tuple[str, float, int]]()
    while not ((folder / "end.pt").exists() and len(done) >= kills):
        if (folder / "end.pt").exists():
            for path in [*folder.glob("*.ckpt"), folder / "end.pt"]:
                path.unlink()
        moment, delay = ("", 0.0) if len(done) >= kills else (draw.choice(MOMENTS), draw.uniform(0, 1.5))
        code = launch(folder, moment, delay)
        if code == -signal.SIGKILL:
            done.append((moment, delay, len(list(folder.glob("epoch=*.ckpt")))))
        elif code:
            sys.exit(f"error: the resumed process failed with exit status {code}, after {done}")
        elif wrong := differences(folder, expected):
            sys.exit(f"error: after {len(done)} kills these differ from the undisturbed run: {', '.join(wrong)}")
    return done


def differences(found: Path, expected: Path) -> list[str]:
    """Which parts of the ends differ."""
    ends = [torch.load(folder / "end.pt", weights_only=True) for folder in (found, expected)]
    return [name for name in ends[0] if not equal(ends[0][name], ends[1][name])]


def equal(found: Any, expected: Any) -> bool:
    (mine, my_tree), (other, other_tree) = tree_flatten(found), tree_flatten(expected)
    return my_tree == other_tree and all(
        torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
        for one, two in zip(mine, other, strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="crash", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="how often the run is killed (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        train(Path(options.child[0]), options.child[1], float(options.child[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder, "undisturbed"), Path(folder, "killed")
        undisturbed.mkdir()
        killed.mkdir()
        start = time.perf_counter()
        launch(undisturbed)
        done = disturb(killed, undisturbed, options.kills, options.seed)
        rows = [(str(i), moment, f"{delay:.2f}", str(left)) for i, (moment, delay, left) in enumerate(done, start=1)]
        print(format_table(("kill", "while", "draw", "checkpoints left"), rows))
        print(
            f"{len(done)} kills: weights, optimizer, scheduler, metrics equal to the undisturbed run's, bit for bit; "
            f"{time.perf_counter() - start:.0f} s."
        )


if __name__ == "__main__":
    main()
