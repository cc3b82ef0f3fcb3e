"""A user's network, data and Trainers, as callback tests take them: nothing in it is ours."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from asserts import assert_optimizers_hold
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

# What Lightning asks how a checkpoint is to be read, where it does: from 2.6 on.
SAFELY = {"weights_only": True} if "weights_only" in inspect.signature(pl.Trainer.predict).parameters else {}
# Lightning 2.4 gives the batch after which it was saved once more when it resumes within an epoch.
BATCH_TWICE = version("lightning").startswith("2.4.")


class Block(nn.Module):
    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Conv2d(channels, filters, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class UsersModule(pl.LightningModule):
    """A plain LightningModule with a ResNet-like network, as a user may have it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Recorder(pl.Callback):
    """Notes the parameters' number, and each parameter's value, at the start and end of every epoch."""

    def __init__(self) -> None:
        self.params: list[int] = []
        self.moved: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert_optimizers_hold(module, trainer.optimizers)
        self.params.append(sum(parameter.numel() for parameter in module.parameters()))
        self.moved.append(
            {name: not torch.equal(parameter, self.before[name]) for name, parameter in module.named_parameters()}
        )


def loader(width: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 3, width, width, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(24) % 4), batch_size=8)


def fit(
    module: pl.LightningModule,
    callback: pl.Callback,
    tmp_path: Path,
    *others: pl.Callback,
    data: Any = None,
    **options: Any,
) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        **{
            "max_epochs": 3,
            "accelerator": "cpu",
            "callbacks": [callback, *others],
            "logger": CSVLogger(tmp_path),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            **options,
        }
    )
    trainer.fit(module, loader() if data is None else data)
    return trainer


def trainer_for(tmp_path: Path, *callbacks: pl.Callback, max_epochs: int = 4, **options: Any) -> pl.Trainer:
    """Without a logger, so that checkpoints go where they are told."""
    return pl.Trainer(
        **{
            "max_epochs": max_epochs,
            "accelerator": "cpu",
            "callbacks": list(callbacks),
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
            **options,
        }
    )
