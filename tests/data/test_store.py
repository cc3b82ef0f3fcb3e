"""The feature store: whole or not there, the same bytes whatever happened before."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from lightning_cosprune.data.store import FeatureStore, build_store, open_store

# Builds the same store as `build_slowly`, in another process.
SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from lightning_cosprune.data.store import build_store

def extract(item):
    time.sleep(0.01)
    return np.full((4, 50), item, dtype=np.float32) * np.arange(50, dtype=np.float32)

build_store(Path(sys.argv[1]), range(200), extract, (4, 50), info={}, description="test", progress=False)
"""


def build_slowly(path: Path) -> FeatureStore:
    def extract(item: int) -> np.ndarray:
        time.sleep(0.002)
        return np.full((4, 50), item, dtype=np.float32) * np.arange(50, dtype=np.float32)

    return build_store(path, range(200), extract, (4, 50), info={}, description="test", progress=False)


def extract(item: int) -> np.ndarray:
    return np.random.default_rng(item).normal(loc=item, size=(3, 5)).astype(np.float32)


def build(path: Path, clips: int = 7) -> FeatureStore:
    return build_store(path, range(clips), extract, (3, 5), info={"note": 1}, description="test", progress=False)


def files(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(store.iterdir())}


def test_holds_what_was_extracted(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    assert store.features.dtype == np.float32
    assert isinstance(store.features, np.memmap)
    np.testing.assert_array_equal(store.features, np.stack([extract(item) for item in range(7)]))
    assert store.info == {"note": 1, "shape": [7, 3, 5]}


def test_statistics_are_those_of_the_chosen_clips(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    chosen = np.array([1, 4, 6])
    mean, std = store.band_statistics(chosen)
    features = store.features[chosen].astype(np.float64)
    np.testing.assert_allclose(mean, features.mean(axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, features.std(axis=(0, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_a_band_that_does_not_vary_is_divided_by_one(tmp_path: Path) -> None:
    def flat(item: int) -> np.ndarray:
        return np.stack([np.full(5, -36.04), np.arange(5.0)]).astype(np.float32)

    store = build_store(tmp_path / "store", range(3), flat, (2, 5), info={}, description="test", progress=False)
    _, std = store.band_statistics(np.arange(3))
    np.testing.assert_allclose(std, [1.0, np.std(range(5))], rtol=1e-6)


def test_is_built_once(tmp_path: Path) -> None:
    first = build(tmp_path / "store")
    before = (first.path / "features.npy").stat().st_mtime_ns

    def never(item: int) -> np.ndarray:
        raise AssertionError("extracted again")

    build_store(first.path, range(7), never, (3, 5), info={}, description="test", progress=False)
    assert (first.path / "features.npy").stat().st_mtime_ns == before


def test_pickles_as_a_path(tmp_path: Path) -> None:
    store = build(tmp_path / "store")
    assert store.features.shape == (7, 3, 5)  # opened, so that there would be something to pickle
    blob = pickle.dumps(store)
    assert len(blob) < 400
    np.testing.assert_array_equal(pickle.loads(blob).features, store.features)


def test_there_is_no_store_where_none_was_finished(tmp_path: Path) -> None:
    assert open_store(tmp_path / "store") is None

    def fails(item: int) -> np.ndarray:
        if item == 5:
            raise RuntimeError("clip 5")
        return extract(item)

    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="clip 5"):
        build_store(tmp_path / "store", range(7), fails, (3, 5), info={}, description="test", progress=False)
    assert open_store(tmp_path / "store") is None
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(build(tmp_path / "store").features[5], extract(5))


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_store_is_built_again(tmp_path: Path, damage: str) -> None:
    store = build(tmp_path / "store")
    whole = files(store.path)
    features = store.path / "features.npy"
    if damage == "truncate":
        os.truncate(features, 200)
    else:
        features.unlink()
    assert open_store(store.path) is None
    build(store.path)
    assert files(store.path) == whole


def test_leftovers_of_dead_runs_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    for name in ("dead", "living", "mine"):
        (tmp_path / f"{name}.partial").mkdir()
        (tmp_path / f"{name}.partial" / "features.npy").write_bytes(b"half")
    with FileLock(tmp_path / "living.lock"):
        build(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == ["living.partial"]
    assert open_store(tmp_path / "mine") is not None


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a thing of POSIX")
def test_a_killed_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "killed" / "store"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, path])
    partial = path.with_name("store.partial") / "features.npy"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    assert partial.exists()
    assert open_store(path) is None

    build_slowly(path)
    build_slowly(tmp_path / "undisturbed" / "store")
    assert files(path) == files(tmp_path / "undisturbed" / "store")
    assert not partial.parent.exists()


def test_two_processes_build_one_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, path])
    partial = path.with_name("store.partial")
    deadline = time.monotonic() + 60
    while not partial.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    # Waits for the lock that the other process holds, and finds what it has built.
    store = build_slowly(path)
    assert process.wait() == 0
    np.testing.assert_array_equal(store.features[:, 0, 1], np.arange(200))
