"""A fit with W&B in a process of its own: ``wandb_fit.py online|offline|disabled|full folder [plain]``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fits import UsersModule, fit
from lightning.pytorch.loggers import WandbLogger

from lightning_cosprune import CosineFilterPruning, EnergyMonitor, SafeWandbLogger


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
    trainer = fit(module, callback, Path(folder), *monitors, logger=logger)
    sys.stdout.write(f"ended {trainer.current_epoch} {module.stem.out_channels}\n")
    if plain:
        logger.experiment.finish()
    else:
        logger.finish()
    sys.stdout.write("finished\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
