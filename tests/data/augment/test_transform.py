"""Augmentations in a real Trainer: none of them reaches validation or test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from data.augment.batches import responses
from torch import Tensor, nn

from lightning_cosprune.data import (
    Augmentation,
    DCASEScenes,
    DeviceImpulseResponse,
    FreqMixStyle,
    FrequencyMask,
    Mixup,
    SceneBatch,
    TimeMask,
    TimeRoll,
)
from lightning_cosprune.models import SceneClassifier

Folder = Any


class Record(nn.Module):
    """Keeps what it was shown."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 3)
        self.seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def forward(self, x: Tensor) -> Tensor:
        self.seen[self.training].append(x.detach().clone())
        return self.layer(x.flatten(1))


def run(folder: Folder, **options: Any) -> tuple[Record, dict[str, Any]]:
    pl.seed_everything(0, verbose=False)
    scenes, net = folder.scenes(**options), Record(400)
    classifier = SceneClassifier(net, 3, scenes.devices)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, **quiet)
    trainer.fit(classifier, datamodule=scenes)
    trainer.test(classifier, datamodule=scenes, verbose=False)
    trainer.predict(classifier, datamodule=scenes)
    return net, dict(classifier.state_dict())


def test_training_meets_augmentation_and_nothing_else_does(folder: Folder, tmp_path: Path) -> None:
    responses(tmp_path / "responses")

    def augment() -> list[Augmentation]:
        sound = [DeviceImpulseResponse(tmp_path / "responses", p=1.0), TimeRoll(domain="waveform")]
        return [Mixup(), *sound, FreqMixStyle(), FrequencyMask(8), TimeMask(3)]

    net, weights = run(folder, cache="waveforms", augment=augment())
    _, same_weights = run(folder, cache="waveforms", augment=augment())
    plain, _ = run(folder, cache="waveforms")
    cached, _ = run(folder)
    torch.testing.assert_close(weights, same_weights, rtol=0, atol=0)
    torch.testing.assert_close(net.seen[False], plain.seen[False], rtol=0, atol=0)
    torch.testing.assert_close(cached.seen, plain.seen, rtol=1e-4, atol=1e-4)
    for one, other in zip(net.seen[True], plain.seen[True], strict=True):
        assert (one != other).flatten(1).any(1).all()


def test_a_module_of_ones_own_fits_in(folder: Folder) -> None:
    class Louder(Augmentation):
        def augment(self, batch: SceneBatch) -> SceneBatch:
            return batch._replace(features=batch.features + 1)

    louder, _ = run(folder, augment=Louder())
    plain, _ = run(folder)
    torch.testing.assert_close(louder.seen[True][0], plain.seen[True][0] + 1)


def test_what_is_not_an_augmentation_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`DCASEScenes\(augment=...\)`: expected Augmentation modules, found ReLU"):
        DCASEScenes("nowhere", augment=nn.ReLU())  # type: ignore[arg-type]
