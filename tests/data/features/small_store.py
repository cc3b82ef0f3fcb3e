"""A store of a few clips of three bands and five frames, for tests of what is in it and of how it gets there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cosprune.data.features.blocks import Column
from lightning_cosprune.data.features.build_store import build_store
from lightning_cosprune.data.features.store import FeatureStore, band_moments


def extract(item: int) -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(item).normal(loc=item, size=(3, 5)).astype(np.float32)
    return features, band_moments(features)


COLUMNS = {"features": Column((3, 5), "float32"), "moments": Column((2, 3), "float64")}


def build(path: Path, clips: int = 7, extract: Callable[[int], Any] = extract) -> FeatureStore:
    return build_store(path, range(clips), extract, COLUMNS, info={"note": 1}, description="test", progress=False)
