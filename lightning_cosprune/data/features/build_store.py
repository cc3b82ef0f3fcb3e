"""A feature store written block by block: by one process, continued where one was killed, there as a whole or not."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from lightning_cosprune.data.disk import writing_to
from lightning_cosprune.data.features.blocks import INFO, JOURNAL, Blocks, array_file, journal_line
from lightning_cosprune.data.features.store import FeatureStore, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lightning_cosprune.data.features.blocks import Column

Item = TypeVar("Item")

_log = logging.getLogger(__name__)


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

    Raises:
        OSError: The disk is full. What is done stays beside ``path`` for the next run.
    """
    needed = len(items) * sum(column.row_bytes for column in columns.values())
    writing = writing_to(path.parent, description, needed, "a rerun goes on where this one stopped")
    with writing, _locked(path, description):
        # Another process may have built it while this one waited for the lock.
        store = open_store(path)
        if store is not None:
            return store
        partial = path.with_name(path.name + ".partial")
        info = {**info, "clips": len(items), "columns": {name: list(column) for name, column in columns.items()}}
        blocks = Blocks.of(info)
        done = _prepare(partial, info, blocks)
        with (
            tqdm(total=len(items), initial=done, desc=description, unit="clip", disable=not progress) as bar,
            ExitStack() as opened,
        ):
            arrays = [opened.enter_context(array_file(partial, name).open("ab")) for name in columns]
            journal = opened.enter_context((partial / JOURNAL).open("ab"))
            for rows in _in_threads(extract, items, done, blocks.length):
                checksums = []
                # Through files, not through writable memory maps: a full disk is then an OSError, not a SIGBUS.
                for file, column, parts in zip(arrays, columns.values(), zip(*rows, strict=True), strict=True):
                    block = np.ascontiguousarray(np.stack(parts), dtype=column.dtype)
                    file.write(block.data)
                    checksums.append(zlib.crc32(block.data))
                    _to_disk(file)
                # Noted last: what is noted is on the disk.
                journal.write(journal_line(len(rows), checksums))
                _to_disk(journal)
                bar.update(len(rows))
        if path.exists():  # one that `open_store` has refused
            shutil.rmtree(path)
        partial.replace(path)
    return FeatureStore(path)


def _prepare(partial: Path, info: dict[str, Any], blocks: Blocks) -> int:
    """The folder of a broken-off run cut back to its last whole block, or a new one; the number of clips in it."""
    text = json.dumps(info, indent=2)
    try:
        same = (partial / INFO).read_text(encoding="utf-8") == text
        intact = blocks.count_intact(partial) if same else 0
    except (OSError, ValueError):
        intact = 0
    if not intact:
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        for name, column in blocks.columns.items():
            array_file(partial, name).write_bytes(blocks.header(column))
        (partial / JOURNAL).touch()
        with (partial / INFO).open("w", encoding="utf-8") as file:
            file.write(text)
            _to_disk(file)
        return 0
    clips = min(intact * blocks.length, blocks.clips)
    for name, column in blocks.columns.items():
        os.truncate(array_file(partial, name), len(blocks.header(column)) + clips * column.row_bytes)
    lines = (partial / JOURNAL).read_bytes().splitlines(keepends=True)
    os.truncate(partial / JOURNAL, sum(map(len, lines[:intact])))
    return clips


def _in_threads(
    extract: Callable[[Item], Sequence[NDArray[Any]]], items: Sequence[Item], start: int, block: int
) -> Iterator[list[Sequence[NDArray[Any]]]]:
    """The rows of the items from ``start`` on, block by block; while one is written, the next is under way."""
    # Decoding and the Fourier transform release the interpreter lock, so a thread a core does, and nothing has to be
    # pickled.
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
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
