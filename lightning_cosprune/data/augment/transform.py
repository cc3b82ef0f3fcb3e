"""Several augmentations as a data module uses them: checked, in order, around the front end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_cosprune.data.augment.augmentation import Augmentation
from lightning_cosprune.data.dataset import SceneBatch


def check_augment(augment: Any, cache: str, owner: str) -> tuple[Augmentation, ...]:
    """The augmentations of a data module.

    Args:
        augment: One, several or ``None``.
        cache: What the data module keeps, ``"features"`` or ``"waveforms"``.
        owner: Name of the data module, the beginning of the error.

    Returns:
        All of them.

    Raises:
        TypeError: One is no :class:`Augmentation`.
        ValueError: One works on waveforms, and features are kept.
    """
    alone = isinstance(augment, nn.Module) or not isinstance(augment, Iterable) or getattr(augment, "shape", None) == ()
    several = () if augment is None else (augment,) if alone else tuple(augment)
    for one in several:
        if not isinstance(one, Augmentation):
            raise TypeError(
                f"`{owner}(augment=...)`: expected Augmentation modules, found {one!r}. Subclass Augmentation and "
                "write its augment method."
            )
        if one.domain == "waveform" and cache != "waveforms":
            raise ValueError(
                f"`{owner}(augment=..., cache={cache!r})`: expected augmentations of features, found "
                f"{type(one).__name__}, which changes the sound itself. Write cache='waveforms'."
            )
    return several


class BatchTransform(nn.Module):
    """All that happens to a batch on the training device: augmentation of sound, front end, augmentation of features.

    Args:
        front_end: From waveforms to features; ``None`` where batches hold features already.
        augment: In the order in which they are applied. Those of the waveform come first, whatever the order.
    """

    def __init__(self, front_end: nn.Module | None, augment: Sequence[Augmentation]) -> None:
        super().__init__()
        self.waveform = nn.Sequential(*(one for one in augment if one.domain == "waveform"))
        self.front_end = front_end
        self.features = nn.Sequential(*(one for one in augment if one.domain == "features"))

    def forward(self, batch: SceneBatch) -> SceneBatch:
        """Features, augmented in training mode.

        Args:
            batch: As its loader gave it, on any device.

        Returns:
            The batch for the network.
        """
        batch = self.waveform(batch)
        if self.front_end is not None:
            with torch.no_grad():
                batch = batch._replace(features=self.front_end(batch.features))
        augmented: SceneBatch = self.features(batch)
        return augmented
