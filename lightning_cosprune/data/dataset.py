"""Samples: features with their scene, device and row, a whole batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from lightning_cosprune.data.features.store import FeatureStore


class SceneBatch(NamedTuple):
    """A batch, or one sample without the batch dimension; ``x, y, *_ = batch`` works.

    Attributes:
        features: Normalised log-mel energies, float32, ``(batch, 1, mels, frames)``; where waveforms are cached,
            ``(batch, samples)`` until a Trainer has moved them to its device.
        scene: Numbers of the scenes in ``scene_labels``, int64, ``(batch,)``.
        device: Numbers of the recording devices in ``devices``, int64, ``(batch,)``.
        city: Numbers of the cities in ``cities``, -1 where identifiers name none, int64, ``(batch,)``.
        index: Rows of the samples in the split's table, int64, ``(batch,)``.
    """

    features: Tensor
    scene: Tensor
    device: Tensor
    city: Tensor
    index: Tensor  # type: ignore[assignment]  # hides `tuple.index`, which nobody asks of a batch


class SceneDataset(Dataset[SceneBatch]):
    """Rows of a feature store.

    Args:
        store: Features, ``(clips, mels, frames)``, or waveforms, ``(clips, samples)``.
        rows: Row of the store of each sample.
        scene: Number of the scene of each sample.
        device: Number of the device of each sample.
        city: Number of the city of each sample.
        mean: Mean of each mel band.
        std: Standard deviation of each mel band, nowhere zero.
    """

    def __init__(
        self,
        store: FeatureStore,
        rows: npt.NDArray[np.int64],
        scene: npt.NDArray[np.int64],
        device: npt.NDArray[np.int64],
        city: npt.NDArray[np.int64],
        mean: Tensor,
        std: Tensor,
    ) -> None:
        self.store = store
        self.rows = rows
        self.scene = torch.from_numpy(scene)
        self.device = torch.from_numpy(device)
        self.city = torch.from_numpy(city)
        self.mean = mean
        self.std = std

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> SceneBatch:
        batch = self.__getitems__([range(len(self))[index]])
        return SceneBatch(*(field[0] for field in batch))

    def __getitems__(self, indices: Sequence[int]) -> SceneBatch:
        """A batch in one gather from the store.

        Args:
            indices: Rows of the split's table.

        Returns:
            Their samples, already collated.
        """
        index = torch.as_tensor(indices, dtype=torch.int64)
        rows = self.rows[index.numpy()]
        labels = self.scene[index], self.device[index], self.city[index], index
        if "waveforms" in self.store.info["columns"]:
            return SceneBatch(torch.from_numpy(self.store["waveforms"][rows]).float(), *labels)
        features = torch.from_numpy(self.store["features"][rows]).float()
        features.sub_(self.mean[:, None]).div_(self.std[:, None])
        return SceneBatch(features[:, None], *labels)


def already_collated(batch: Any) -> Any:
    """The ``collate_fn`` of a :class:`SceneDataset`, whose batches come whole.

    Args:
        batch: A batch.

    Returns:
        The same.
    """
    return batch
