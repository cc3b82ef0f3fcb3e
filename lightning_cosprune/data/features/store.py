"""Feature store: memory-mapped arrays with a row a clip, there as a whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cosprune.data.features.blocks import INFO, JOURNAL, Blocks, array_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# A band whose standard deviation is below this many natural-log units carries nothing; dividing by it would only raise
# noise.
_FLAT_BAND = 1e-6


@dataclass(frozen=True)
class FeatureStore:
    """Arrays of a list of clips, such as their features and the moments of every band.

    Processes share the files through the page cache. Pickling copies the path, never the data.

    Args:
        path: Folder that :func:`~lightning_cosprune.data.features.build_store.build_store` has written.
    """

    path: Path

    def __getitem__(self, column: str) -> NDArray[Any]:
        """An array, read only, one row a clip."""
        return self._arrays[column]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {column: np.load(array_file(self.path, column), mmap_mode="r") for column in self.info["columns"]}

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the builder wrote down about the store."""
        return json.loads((self.path / INFO).read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def band_statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of every band over some clips, from their moments alone.

        A band that does not vary has the standard deviation 1, so that dividing by it is harmless.

        Args:
            rows: Positions of the clips, shape ``(clips,)``.

        Returns:
            Mean and standard deviation, float32, shape ``(bands,)`` each.
        """
        mean, variance = self["moments"][rows].swapaxes(0, 1)
        # All clips have the same number of frames: total variance = mean of variances + variance of means.
        std = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
        return mean.mean(axis=0).astype(np.float32), np.where(std > _FLAT_BAND, std, 1.0).astype(np.float32)

    def is_intact(self) -> bool:
        """Whether every byte is the one that was written, by reading all of them.

        Returns:
            ``False`` after a disk fault or a change by hand. Delete the folder then, and it is built anew.
        """
        return Blocks.of(self.info).count_intact(self.path) == len((self.path / JOURNAL).read_bytes().split())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def band_moments(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean and variance of every band of a clip, summed in double precision.

    Args:
        features: ``(bands, frames)``.

    Returns:
        ``(2, bands)``.
    """
    precise = features.astype(np.float64)
    mean = precise.mean(axis=1)
    return np.stack([mean, np.square(precise - mean[:, None]).mean(axis=1)])


def open_store(path: Path) -> FeatureStore | None:
    """Store at ``path``, if there is a whole one.

    Args:
        path: Folder of the store.

    Returns:
        The store, or ``None`` where there is none, or a disk fault has left one that cannot be opened.
    """
    store = FeatureStore(path)
    try:
        blocks = Blocks.of(store.info)
        whole = all(
            (store[name].shape, store[name].dtype) == ((blocks.clips, *column.shape), np.dtype(column.dtype))
            for name, column in blocks.columns.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if whole else None
