"""What a page takes for granted: the code and the files that it says its reader has, by the names it uses for them.

A comment before a block, ``<!-- the reader has: model, dense.ckpt -->``, asks for them; each is made anew then.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from lightning_cosprune import CosineFilterPruning
from lightning_cosprune.data import LogMel, SyntheticScenes
from lightning_cosprune.models import Cnn14, DCASE2021Baseline, SceneClassifier

Names = dict[str, Any]
TINY = LogMel(num_frames=51)


class UsersModule(L.LightningModule):
    """With the layers that the pages name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=4)
        self.conv1 = nn.Conv2d(8, 16, 3)
        self.blocks = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.head = nn.Linear(8, 10)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.blocks(self.conv1(torch.relu(self.stem(features))).relu()).mean(dim=(2, 3)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def scenes(names: Names) -> SyntheticScenes:
    return SyntheticScenes(
        "scenes", num_recordings=100, recording_seconds=1, features=TINY, cache_dir="cache", progress=False
    )


def trainer(names: Names, **options: Any) -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, **options)


def write_dense(names: Names) -> None:
    run = trainer(names)
    run.strategy.connect(UsersModule())
    run.save_checkpoint("dense.ckpt")


def write_pruned(names: Names) -> None:
    run = trainer(names, max_epochs=1, callbacks=[CosineFilterPruning(0.5)], limit_train_batches=1, limit_val_batches=0)
    run.fit(UsersModule(), datamodule=scenes(names))
    run.save_checkpoint("pruned.ckpt")


def write_set(names: Names, root: str = "TAU-urban-acoustic-scenes-2020-mobile-development") -> str:
    SyntheticScenes(root, num_recordings=100, recording_seconds=1, layout="tau2020").prepare_data()
    return root


def write_responses(names: Names) -> None:
    Path("MicIRP").mkdir(exist_ok=True)
    soundfile.write("MicIRP/one.wav", np.array([1.0, 0.5, 0.25]), 44_100)


def write_tagger(names: Names) -> None:
    """As narrow as a page's example may be."""
    torch.save({"model": Cnn14(527, [8] * 12).state_dict()}, "Cnn14_mAP=0.431.pth")


HAS: dict[str, Callable[[Names], Any]] = {
    "MyLightningModule": lambda names: UsersModule,
    "model": lambda names: UsersModule(),
    "example_inputs": lambda names: torch.zeros(1, 1, 40, 51),
    "optimizer": lambda names: torch.optim.Adam(names["model"].parameters()),
    "scenes": scenes,
    "classifier": lambda names: SceneClassifier(DCASE2021Baseline(num_frames=51)),
    "trainer": trainer,
    "root": lambda names: write_set(names, "set"),
    "dense.ckpt": write_dense,
    "pruned.ckpt": write_pruned,
    "MicIRP": write_responses,
    "Cnn14_mAP=0.431.pth": write_tagger,
    "TAU-urban-acoustic-scenes-2020-mobile-development": write_set,
}
