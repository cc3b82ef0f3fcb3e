"""A fit on two processes that tells all that it can, for tests/reports/test_processes.py: ``ddp_report.py FOLDER``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from ddp_run import Interleaved
from fits import UsersModule
from lightning.pytorch.strategies import DDPStrategy

from lightning_cosprune import CosineFilterPruning, EnergyMonitor, SafeWandbLogger


class Notes(pl.Callback):
    """What this process has of it."""

    def __init__(self, folder: Path, monitor: EnergyMonitor) -> None:
        self.folder, self.monitor = folder, monitor

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (self.folder / f"counts-{trainer.global_rank}-{self.monitor.running}").touch()


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    monitor = EnergyMonitor("GBR")
    pruning = CosineFilterPruning(0.5, at_epoch=1, repair="merge", report=folder / "report.html")
    logger = SafeWandbLogger(project="p", save_dir=folder, offline=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=2,
        callbacks=[pruning, monitor, Notes(folder, monitor)],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
    module = UsersModule()
    trainer.fit(module, datamodule=Interleaved(4))
    (folder / f"ended-{trainer.global_rank}-{module.stem.out_channels}-{len(monitor.phases) > 0}").touch()
    logger.finish()


if __name__ == "__main__":
    main()
