"""A run on two processes, for tests/training/test_distillation.py: `python ddp_distillation.py FOLDER`."""

import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from ddp_run import Interleaved
from fits import UsersModule
from lightning.pytorch.strategies import DDPStrategy

from lightning_cosprune import CosineFilterPruning, KnowledgeDistillation

HELD_OUT = [torch.ones(4, 3, 8, 8)]


def students():
    """A module whose steps are plain, and callbacks that prune it and teach it from another network."""
    torch.manual_seed(0)
    module, teacher = UsersModule(), UsersModule()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1e-2)
    distillation = KnowledgeDistillation(teacher, held_out=HELD_OUT, frozen=["blocks.0"])
    return module, [distillation, CosineFilterPruning(0.5, at_epoch=1)]


def fit(devices, batch_size, **options):
    module, callbacks = students()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        max_epochs=2,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    if trainer.global_rank == 1:  # a file that was read wrongly
        torch.nn.init.zeros_(callbacks[0].teacher.head.weight)
    trainer.fit(module, datamodule=Interleaved(batch_size))
    return trainer, module


def main():
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    trainer, module = fit(2, 4, strategy=DDPStrategy(process_group_backend="gloo"))
    torch.save(module.state_dict(), Path(sys.argv[1]) / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
