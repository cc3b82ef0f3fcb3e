"""Where the example input comes from, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from fits import UsersModule, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_cosprune import CosineFilterPruning, plan_pruning


class Stream(IterableDataset):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        return iter((torch.randn(3, 8, 8), number % 4) for number in range(self.samples))


def trainer(folder: Path, callback: pl.Callback, epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[callback],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_stream_without_samples_is_told(tmp_path: Path) -> None:
    module = UsersModule()
    with pytest.raises(
        ValueError, match=r"example_inputs=None\)`: expected training data.*the Stream gave no batch\. Let"
    ):
        trainer(tmp_path, CosineFilterPruning()).fit(module, DataLoader(Stream(0), batch_size=4))
    assert module.stem.out_channels == 16


def test_of_a_stream_the_first_batch_serves(tmp_path: Path) -> None:
    module = UsersModule()
    trainer(tmp_path, CosineFilterPruning(0.5)).fit(module, DataLoader(Stream(8), batch_size=4))
    assert module.stem.out_channels == 8


class Transferring(UsersModule):
    """Its hook is told which training data a batch is from, as Lightning tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.told.append(dataloader_idx)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def test_the_sample_goes_through_the_hooks_of_a_training_batch(tmp_path: Path) -> None:
    module = Transferring()
    trainer(tmp_path, CosineFilterPruning(0.5)).fit(module, DataLoader(Stream(8), batch_size=4))
    assert module.told == [0] * 3  # that sample, and two batches


def test_of_a_stream_nothing_is_taken_only_to_see_whether_a_later_prune_can_be_done(tmp_path: Path) -> None:
    module = Transferring()
    trainer(tmp_path, CosineFilterPruning(0.5, at_epoch=1), 2).fit(module, DataLoader(Stream(8), batch_size=4))
    assert module.stem.out_channels == 8
    assert len(module.told) == 5  # two batches an epoch, and one to prune on
    with pytest.raises(ValueError, match="will remove nothing at any epoch"):
        trainer(tmp_path, CosineFilterPruning(0.01, at_epoch=1, example_inputs=torch.zeros(1, 3, 8, 8)), 2).fit(
            UsersModule(), DataLoader(Stream(8), batch_size=4)
        )


class Parts(pl.LightningModule):
    """A LightningModule as many are: no forward, and the networks in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = nn.MSELoss()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.encoder(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def test_a_module_without_forward_is_pointed_to_its_parts(tmp_path: Path) -> None:
    message = (
        r"The forward pass of Parts on the example input failed: it has no `forward`\. Prune the part that has one, "
        r"such as 'encoder': .*`CosineFilterPruning\(module=\.\.\.\)`"
    )
    with pytest.raises(ValueError, match=message):
        fit(Parts(), CosineFilterPruning(at_epoch=1), tmp_path)
    with pytest.raises(ValueError, match=message):
        plan_pruning(Parts(), torch.zeros(1, 3, 8, 8))
    module = Parts()
    fit(module, CosineFilterPruning(0.5, module="encoder"), tmp_path)
    assert module.encoder[0].out_channels == 4
