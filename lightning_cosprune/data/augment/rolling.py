"""Clips shifted in time, in a circle."""

from __future__ import annotations

import torch

from lightning_cosprune.arguments import one_of, real_number
from lightning_cosprune.data.augment.augmentation import Augmentation, Domain
from lightning_cosprune.data.dataset import SceneBatch


class TimeRoll(Augmentation):
    """Each clip is shifted in time by a random amount, and what leaves at one end comes in at the other.

    Args:
        max_fraction: Farthest shift, either way, as a fraction of the clip, in (0, 1]. The DCASE 2024 baseline rolls
            one-second waveforms by up to 0.1 s.
        domain: ``"features"`` rolls frames, ``"waveform"`` samples.

    Source: Schmid et al., "Data-Efficient Low-Complexity Acoustic Scene Classification in the DCASE 2024 Challenge",
    DCASE Workshop 2024.
    """

    def __init__(self, max_fraction: float = 0.1, domain: Domain = "features") -> None:
        super().__init__()
        expected = "a fraction of the clip in (0, 1]; a tenth of it is 0.1"
        self.max_fraction = real_number(max_fraction, "`TimeRoll(max_fraction={})`", expected, above=0, most=1)
        one_of(domain, "`TimeRoll(domain={})`", ("features", "waveform"))
        self.domain = domain

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The rolled batch.

        Returns:
            With a shift of its own for each clip.
        """
        features = batch.features
        length = features.shape[-1]
        farthest = int(self.max_fraction * length)
        shift = torch.randint(-farthest, farthest + 1, (len(features), 1))
        source = ((torch.arange(length) - shift) % length).to(features.device)
        source = source.reshape(len(features), *[1] * (features.ndim - 2), length).expand_as(features)
        return batch._replace(features=features.gather(-1, source))
