"""Ranges of bands or frames blotted out."""

from __future__ import annotations

from typing import ClassVar

import torch

from lightning_cosprune.arguments import real_number, whole_number
from lightning_cosprune.data.augment.augmentation import Augmentation
from lightning_cosprune.data.dataset import SceneBatch


class _Mask(Augmentation):
    axis: ClassVar[int]

    def __init__(self, max_width: int, num_masks: int = 1, fill: float = 0.0) -> None:
        super().__init__()
        name = type(self).__name__
        self.max_width = whole_number(max_width, f"`{name}(max_width={{}})`", 1)
        self.num_masks = whole_number(num_masks, f"`{name}(num_masks={{}})`", 1)
        self.fill = real_number(fill, f"`{name}(fill={{}})`", "a finite number", finite=True)

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The masked batch.

        Returns:
            With masks of its own for each clip.
        """
        features = batch.features
        size = features.shape[self.axis]
        if self.max_width >= size:
            raise ValueError(
                f"`{type(self).__name__}(max_width={self.max_width})`: expected less than the {size} that features of "
                f"shape {tuple(features.shape)} have there. A quarter of it is a common choice."
            )
        width = torch.randint(self.max_width + 1, (len(features), self.num_masks, 1))
        # Rounded down from a uniform number: every position at which the mask fits is equally likely.
        start = (torch.rand(width.shape, dtype=torch.float64) * (size - width + 1)).long()
        position = torch.arange(size)
        masked = ((position >= start) & (position < start + width)).any(dim=1).to(features.device)
        shape = [len(features), 1, 1, 1]
        shape[self.axis] = size
        return batch._replace(features=features.masked_fill(masked.reshape(shape), self.fill))


class FrequencyMask(_Mask):
    """A random range of neighbouring bands of each clip is blotted out.

    The width is uniform on 0 to ``max_width``, then the position is uniform among those where it fits.

    Args:
        max_width: Most bands a mask covers, fewer than there are.
        num_masks: Masks for each clip; they may overlap.
        fill: What covered values become. 0 is a band's mean where bands are normalised; where they are not, as with
            ``features="dcase2024"``, write ``math.log(1e-5)``, which is silence there.

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", INTERSPEECH
    2019, section 2. The DCASE 2024 baseline covers up to 48 of its 256 bands.
    """

    axis = 2


class TimeMask(_Mask):
    """A random range of neighbouring frames of each clip is blotted out.

    The width is uniform on 0 to ``max_width``, then the position is uniform among those where it fits.

    Args:
        max_width: Most frames a mask covers, fewer than there are.
        num_masks: Masks for each clip; they may overlap.
        fill: What covered values become, as for :class:`FrequencyMask`.

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", INTERSPEECH
    2019, section 2.
    """

    axis = 3
