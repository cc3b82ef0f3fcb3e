"""A fit with W&B in a process of its own: ``wandb_fit.py MODE FOLDER [plain]``.

MODE is online, offline, disabled, full (a disk is), or what a server of ``wandb_server.py`` does at the second epoch:
hang or refuse.
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fits import UsersModule, fit
from lightning.pytorch import Callback
from lightning.pytorch.loggers import WandbLogger

from lightning_cosprune import CosineFilterPruning, EnergyMonitor, SafeWandbLogger


class LosesTheServer(Callback):
    """Lets the server go away, and says how long what follows took."""

    def __init__(self, how: str) -> None:
        self.how = how

    def on_train_epoch_start(self, trainer: object, pl_module: object) -> None:
        if trainer.current_epoch == 1:
            urllib.request.urlopen(f"{os.environ['WANDB_BASE_URL']}/{self.how}", data=b"{}").close()
            self.since = time.perf_counter()

    def on_fit_end(self, trainer: object, pl_module: object) -> None:
        sys.stdout.write(f"went on for {time.perf_counter() - self.since:.1f} s\n")


def main(mode: str, folder: str, *plain: str) -> None:
    offline = mode in ("offline", "full")
    if plain:
        logger = WandbLogger(project="p", save_dir=folder, offline=offline)
    else:
        logger = SafeWandbLogger(project="p", save_dir=folder, offline=offline, init_timeout=5, finish_timeout=10)
    if mode == "full":
        _ = logger.experiment
        try:
            with (Path(folder) / "all that is left").open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 1024)
        except OSError as error:
            sys.stdout.write(f"filled {error}\n")
    module = UsersModule()
    callback = CosineFilterPruning(0.5, at_epoch=1, repair="merge")
    monitors = [] if mode == "full" else [EnergyMonitor("GBR")]
    monitors += [LosesTheServer(mode)] if mode in ("hang", "refuse") else []
    trainer = fit(module, callback, Path(folder), *monitors, logger=logger)
    sys.stdout.write(f"ended {trainer.current_epoch} {module.stem.out_channels}\n")
    since = time.perf_counter()
    if plain:
        logger.experiment.finish()
    else:
        logger.finish()
    sys.stdout.write(f"finished after {time.perf_counter() - since:.1f} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
