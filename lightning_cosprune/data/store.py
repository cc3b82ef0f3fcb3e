"""Feature store: the features of a list of clips in one memory-mapped array, there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Item = TypeVar("Item")

# A band whose standard deviation is below this many natural-log units carries nothing; dividing by it would only raise
# noise.
_FLAT_BAND = 1e-6


@dataclass(frozen=True)
class FeatureStore:
    """Features of a list of clips, and the per-clip moments of every band.

    Processes share the file through the page cache. Pickling copies the path, never the data.

    Args:
        path: Folder that :func:`build_store` has written.
    """

    path: Path

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """Features, read only, shape ``(clips, bands, frames)``, float32."""
        return np.load(self.path / "features.npy", mmap_mode="r")  # type: ignore[no-any-return]

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the builder wrote down about the store."""
        return json.loads((self.path / "info.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    def band_statistics(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and standard deviation of every band over some clips, without reading the features.

        A band that does not vary has the standard deviation 1, so that dividing by it is harmless.

        Args:
            rows: Positions of the clips, shape ``(clips,)``.

        Returns:
            Mean and standard deviation, float32, shape ``(bands,)`` each.
        """
        mean, variance = np.load(self.path / "moments.npy")[:, rows]
        # All clips have the same number of frames: total variance = mean of variances + variance of means.
        std = np.sqrt(variance.mean(axis=0) + mean.var(axis=0))
        return mean.mean(axis=0).astype(np.float32), np.where(std > _FLAT_BAND, std, 1.0).astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def open_store(path: Path) -> FeatureStore | None:
    """Store at ``path``, if there is a whole one.

    Args:
        path: Folder of the store.

    Returns:
        The store, or ``None`` where there is none, or a disk fault has left one that cannot be opened.
    """
    store = FeatureStore(path)
    try:
        shape = tuple(store.info["shape"])
        whole = store.features.shape == shape and (path / "moments.npy").is_file()
    except (OSError, ValueError, KeyError):
        return None
    return store if whole else None


def build_store(
    path: Path,
    items: Sequence[Item],
    extract: Callable[[Item], NDArray[np.float32]],
    shape: tuple[int, int],
    *,
    info: dict[str, Any],
    description: str,
    progress: bool = True,
) -> FeatureStore:
    """Write the features of ``items`` below ``path`` unless they are there, and opens them.

    Whoever holds the lock beside ``path`` writes ``<path>.partial``, forces it to the disk and renames it: ``path``
    exists only as a whole. What a killed process has left is removed by the next builder in the same folder.

    Args:
        path: Folder to write.
        items: What to extract, one item a clip.
        extract: Gives the features of one item, float32, shape ``(bands, frames)``. Called from several threads.
        shape: ``(bands, frames)``.
        info: Kept with the store, as JSON.
        description: Label of the progress bar.
        progress: Whether to show one.

    Returns:
        The store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock_path(path)):
        # Another process may have built it while this one waited for the lock.
        store = open_store(path)
        if store is not None:
            return store
        _remove_leftovers(path.parent, own=path)
        partial = _partial_path(path)
        partial.mkdir()
        full_shape = (len(items), *shape)
        moments = np.empty((2, len(items), shape[0]))
        with (
            (partial / "features.npy").open("wb") as file,
            tqdm(total=len(items), desc=description, unit="clip", disable=not progress) as bar,
        ):
            # Written in order through a file, not through a writable memory map: a full disk is then an OSError, not a
            # SIGBUS.
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": full_shape})
            for row, features in enumerate(_in_threads(extract, items)):
                file.write(np.ascontiguousarray(features, dtype="<f4").data)
                moments[0, row] = features.mean(axis=1, dtype=np.float64)
                moments[1, row] = features.var(axis=1, dtype=np.float64)
                bar.update()
            _to_disk(file.fileno())
        with (partial / "moments.npy").open("wb") as file:
            np.save(file, moments)
            _to_disk(file.fileno())
        with (partial / "info.json").open("w", encoding="utf-8") as text:
            json.dump({**info, "shape": full_shape}, text, indent=2)
            text.flush()
            _to_disk(text.fileno())
        if path.exists():  # one that `open_store` has refused
            shutil.rmtree(path)
        partial.replace(path)
    return FeatureStore(path)


def _in_threads(extract: Callable[[Item], NDArray[np.float32]], items: Sequence[Item]) -> Iterator[NDArray[np.float32]]:
    # In order, by one thread a core: decoding and the Fourier transform release the interpreter lock, so threads do and
    # nothing has to be pickled.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads_before = torch.get_num_threads()
    # One clip a thread is all the parallelism there is; PyTorch's own threads would only compete for the cores.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            # In blocks: a failure or Ctrl-C waits for no more than one of them, and few results wait in memory.
            block = 32 * workers
            for start in range(0, len(items), block):
                yield from pool.map(extract, items[start : start + block])
    finally:
        torch.set_num_threads(threads_before)


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _partial_path(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _remove_leftovers(folder: Path, own: Path) -> None:
    # Those that no living process is writing; the caller holds the lock of `own`.
    for partial in folder.glob("*.partial"):
        path = partial.with_suffix("")
        if path == own:
            shutil.rmtree(partial)
            continue
        with contextlib.suppress(Timeout), FileLock(_lock_path(path), timeout=0):
            shutil.rmtree(partial, ignore_errors=True)


def _to_disk(file_descriptor: int) -> None:
    os.fsync(file_descriptor)
