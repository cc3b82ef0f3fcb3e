"""Batches of noise and what goes with them, for tests of augmentations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from lightning_cosprune.data import Augmentation, SceneBatch

DEVICES = ["a", "b"]


def features(clips: int = 16, bands: int = 12, frames: int = 30) -> SceneBatch:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clips, 1, bands, frames, generator=generator)
    scale, shift = torch.rand(2, clips, 1, bands, 1, generator=generator)
    index = torch.arange(clips)
    return SceneBatch(noise * (0.5 + scale) + 3 * shift, index % 3, index % 2, index % 5, index)


def waveforms(clips: int = 8, samples: int = 3000) -> SceneBatch:
    index = torch.arange(clips)
    sound = torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
    return SceneBatch(sound, index % 3, index % 2, index % 5, index)


def prepared(augmentation: Augmentation) -> Augmentation:
    augmentation.prepare(num_classes=3, devices=DEVICES, sample_rate=8000)
    return augmentation


def responses(folder: Path, count: int = 3, rate: int = 8000) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    made = [generator.normal(size=200 + 40 * number) * 0.98 ** np.arange(200 + 40 * number) for number in range(count)]
    for number, response in enumerate(made):
        soundfile.write(str(folder / f"{number}.wav"), 0.1 * response, rate, subtype="FLOAT")
    return [(0.1 * response).astype(np.float32) for response in made]
