"""What a store holds, and the statistics it gives."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
from data.features.small_store import COLUMNS, build, extract

from lightning_cosprune.data.features.blocks import Column
from lightning_cosprune.data.features.build_store import build_store
from lightning_cosprune.data.features.store import band_moments


def test_holds_what_was_extracted(tmp_path: Path) -> None:
    store = build(tmp_path / "store", clips=77)
    assert store["features"].dtype == np.float32
    assert isinstance(store["features"], np.memmap)
    np.testing.assert_array_equal(store["features"], np.stack([extract(item)[0] for item in range(77)]))
    np.testing.assert_array_equal(store["moments"], np.stack([extract(item)[1] for item in range(77)]))
    assert store.info["note"] == 1
    assert store.is_intact()


def test_half_precision_rounds_features_and_not_their_moments(tmp_path: Path) -> None:
    columns = COLUMNS | {"features": Column((3, 5), "float16")}
    half = build_store(tmp_path / "half", range(7), extract, columns, info={}, description="test", progress=False)
    whole = build(tmp_path / "whole")
    assert half["features"].dtype == np.float16
    np.testing.assert_array_equal(half["features"], whole["features"].astype(np.float16))
    np.testing.assert_array_equal(half["moments"], whole["moments"])


def test_statistics_are_those_of_the_chosen_clips(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    chosen = np.array([1, 4, 6])
    mean, std = store.band_statistics(chosen)
    features = store["features"][chosen].astype(np.float64)
    np.testing.assert_allclose(mean, features.mean(axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, features.std(axis=(0, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_statistics_keep_their_digits_far_from_zero(tmp_path: Path) -> None:
    """Sums of squares in single precision would lose the variance altogether."""

    def far(item: int) -> tuple[np.ndarray, np.ndarray]:
        features = (4096 + np.random.default_rng(item).normal(scale=0.1, size=(3, 5))).astype(np.float32)
        return features, band_moments(features)

    store = build(tmp_path / "store", clips=200, extract=far)
    expected = store["features"].astype(np.float64).std(axis=(0, 2))
    np.testing.assert_allclose(store.band_statistics(np.arange(200))[1], expected, rtol=1e-6)


def test_a_band_that_does_not_vary_is_divided_by_one(tmp_path: Path) -> None:
    def flat(item: int) -> tuple[np.ndarray, np.ndarray]:
        features = np.stack([np.full(5, -36.04), np.arange(5.0), np.zeros(5)]).astype(np.float32)
        return features, band_moments(features)

    _, std = build(tmp_path / "store", extract=flat).band_statistics(np.arange(3))
    np.testing.assert_allclose(std, [1.0, np.std(range(5)), 1.0], rtol=1e-6)


def test_pickles_as_a_path(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    assert store["features"].shape == (7, 3, 5)  # opened, so that there would be something to pickle
    blob = pickle.dumps(store)
    assert len(blob) < 400
    np.testing.assert_array_equal(pickle.loads(blob)["features"], store["features"])


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    store = build(tmp_path / "store", clips=100)
    with (store.path / "features.npy").open("r+b") as file:
        file.seek(-700, os.SEEK_END)
        file.write(b"?")
    assert not store.is_intact()
