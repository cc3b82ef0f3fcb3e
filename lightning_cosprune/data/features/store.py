"""Feature store: memory-mapped arrays with a row a clip, there as a whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Item = TypeVar("Item")

_log = logging.getLogger(__name__)

# A band whose standard deviation is below this many natural-log units carries nothing; dividing by it would only raise
# noise.
_FLAT_BAND = 1e-6

# What a killed run loses, and how much waits in memory; a block is no longer than either.
_BLOCK_CLIPS = 32
_BLOCK_BYTES = 8 * 2**20


class Column(NamedTuple):
    """One array of a store.

    Attributes:
        shape: Shape of a clip's row.
        dtype: NumPy's name of the stored numbers, ``"float32"`` for one.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Size of a clip's row."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class FeatureStore:
    """Arrays of a list of clips, such as their features and the moments of every band.

    Processes share the files through the page cache. Pickling copies the path, never the data.

    Args:
        path: Folder that :func:`build_store` has written.
    """

    path: Path

    def __getitem__(self, column: str) -> NDArray[Any]:
        """An array, read only, one row a clip."""
        return self._arrays[column]

    @cached_property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {column: np.load(self.path / f"{column}.npy", mmap_mode="r") for column in self.info["columns"]}

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the builder wrote down about the store."""
        return json.loads((self.path / "info.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]

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
        return _intact_blocks(self.path, _plan(self.info)) == len((self.path / "blocks.jsonl").read_bytes().split())

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
        plan = _plan(store.info)
        whole = all(
            (store[name].shape, store[name].dtype) == ((plan.clips, *column.shape), np.dtype(column.dtype))
            for name, column in plan.columns.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if whole else None


def build_store(
    path: Path,
    items: Sequence[Item],
    extract: Callable[[Item], Sequence[NDArray[Any]]],
    columns: Mapping[str, Column],
    *,
    info: dict[str, Any],
    description: str,
    progress: bool = True,
) -> FeatureStore:
    """Write the arrays of ``items`` below ``path`` unless they are there, and open them.

    Whoever holds the lock beside ``path`` writes ``<path>.partial`` block by block, forces each to the disk, notes its
    checksum, and renames the folder at the end: ``path`` exists only as a whole. What a killed process has left is
    checked and continued by the next one, so that at most two blocks are extracted again; the bytes are the same
    whatever happened in between.

    Args:
        path: Folder to write. Its name has to change with anything that changes the rows.
        items: What to extract, one item a clip.
        extract: Gives the rows of one item, in the order of ``columns``. Called from several threads.
        columns: Name, shape and type of the arrays.
        info: Kept with the store, as JSON.
        description: Label of the progress bar.
        progress: Whether to show one.

    Returns:
        The store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path, description):
        # Another process may have built it while this one waited for the lock.
        store = open_store(path)
        if store is not None:
            return store
        partial = path.with_name(path.name + ".partial")
        info = {**info, "clips": len(items), "columns": {name: list(column) for name, column in columns.items()}}
        plan = _plan(info)
        done = _prepare(partial, info, plan)
        with (
            tqdm(total=len(items), initial=done, desc=description, unit="clip", disable=not progress) as bar,
            _appended(partial, [*map(_array_file, columns), "blocks.jsonl"]) as (*arrays, journal),
        ):
            for rows in _in_threads(extract, items, done, plan.block):
                checksums = []
                # Through files, not through writable memory maps: a full disk is then an OSError, not a SIGBUS.
                for file, column, parts in zip(arrays, columns.values(), zip(*rows, strict=True), strict=True):
                    block = np.ascontiguousarray(np.stack(parts), dtype=column.dtype)
                    file.write(block.data)
                    checksums.append(zlib.crc32(block.data))
                    _to_disk(file)
                # Noted last: what is noted is on the disk.
                journal.write(_journal_line(len(rows), checksums))
                _to_disk(journal)
                bar.update(len(rows))
        if path.exists():  # one that `open_store` has refused
            shutil.rmtree(path)
        partial.replace(path)
    return FeatureStore(path)


class _Plan(NamedTuple):
    clips: int
    columns: dict[str, Column]

    @property
    def block(self) -> int:
        # The same in every run, since it decides where checksums begin and end.
        row_bytes = sum(column.row_bytes for column in self.columns.values())
        return max(1, min(_BLOCK_CLIPS, _BLOCK_BYTES // max(1, row_bytes)))


def _plan(info: dict[str, Any]) -> _Plan:
    columns = {name: Column(tuple(shape), dtype) for name, (shape, dtype) in info["columns"].items()}
    return _Plan(info["clips"], columns)


def _prepare(partial: Path, info: dict[str, Any], plan: _Plan) -> int:
    # The folder of a broken-off run cut back to its last whole block, or a new one. Gives the number of clips in it.
    text = json.dumps(info, indent=2)
    try:
        same = (partial / "info.json").read_text(encoding="utf-8") == text
        blocks = _intact_blocks(partial, plan) if same else 0
    except (OSError, ValueError):
        blocks = 0
    if not blocks:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        for name, column in plan.columns.items():
            (partial / _array_file(name)).write_bytes(_header(column, plan.clips))
        (partial / "blocks.jsonl").touch()
        with (partial / "info.json").open("w", encoding="utf-8") as file:
            file.write(text)
            _to_disk(file)
        return 0
    clips = min(blocks * plan.block, plan.clips)
    for name, column in plan.columns.items():
        os.truncate(partial / _array_file(name), len(_header(column, plan.clips)) + clips * column.row_bytes)
    lines = (partial / "blocks.jsonl").read_bytes().splitlines(keepends=True)
    os.truncate(partial / "blocks.jsonl", sum(map(len, lines[:blocks])))
    return clips


def _intact_blocks(folder: Path, plan: _Plan) -> int:
    # How many blocks from the start are on the disk as they were written.
    with _opened([folder / _array_file(name) for name in plan.columns], "rb") as arrays:
        for file, column in zip(arrays, plan.columns.values(), strict=True):
            header = _header(column, plan.clips)
            if file.read(len(header)) != header:
                return 0
        blocks = 0
        for line in (folder / "blocks.jsonl").read_bytes().splitlines(keepends=True):
            clips = min(plan.block, plan.clips - blocks * plan.block)
            checksums = [
                zlib.crc32(file.read(clips * column.row_bytes))
                for file, column in zip(arrays, plan.columns.values(), strict=True)
            ]
            if line != _journal_line(clips, checksums):
                break
            blocks += 1
    return blocks


def _journal_line(clips: int, checksums: list[int]) -> bytes:
    return json.dumps({"clips": clips, "crc32": checksums}, separators=(",", ":")).encode() + b"\n"


def _array_file(column: str) -> str:
    return f"{column}.npy"


def _header(column: Column, clips: int) -> bytes:
    buffer = BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(column.dtype))
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": descr, "fortran_order": False, "shape": (clips, *column.shape)}
    )
    return buffer.getvalue()


def _in_threads(
    extract: Callable[[Item], Sequence[NDArray[Any]]], items: Sequence[Item], start: int, block: int
) -> Iterator[list[Sequence[NDArray[Any]]]]:
    # Block by block, by one thread a core: decoding and the Fourier transform release the interpreter lock, so threads
    # do and nothing has to be pickled. While one block is written, the next is under way.
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads_before = torch.get_num_threads()
    # One clip a thread is all the parallelism there is; PyTorch's own threads would only compete for the cores.
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers)
    try:
        under_way: deque[list[Any]] = deque()
        for first in range(start, len(items), block):
            under_way.append([pool.submit(extract, item) for item in items[first : first + block]])
            if len(under_way) > 1:
                yield [clip.result() for clip in under_way.popleft()]
        for clips in under_way:
            yield [clip.result() for clip in clips]
    finally:
        # A failure or Ctrl-C waits for the clips in work and for no other.
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)


@contextmanager
def _locked(path: Path, description: str) -> Iterator[None]:
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.info("%s: another process is building %s; waiting for it.", description, path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _opened(paths: Sequence[Path], mode: str) -> Iterator[list[IO[bytes]]]:
    files: list[IO[bytes]] = []
    try:
        for path in paths:
            files.append(path.open(mode))  # noqa: PERF401 - those that are open are closed when the next one fails
        yield files
    finally:
        for file in files:
            file.close()


def _appended(folder: Path, names: Sequence[str]) -> Any:
    return _opened([folder / name for name in names], "ab")


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
