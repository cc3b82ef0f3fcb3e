"""What a feature store is on the disk: an array a column, in blocks of clips whose checksums are noted."""

from __future__ import annotations

import json
import zlib
from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

INFO = "info.json"
JOURNAL = "blocks.jsonl"

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


class Blocks(NamedTuple):
    """Where the bytes of a store are.

    Attributes:
        clips: Rows of every array.
        columns: The arrays by name.
    """

    clips: int
    columns: dict[str, Column]

    @classmethod
    def of(cls, info: dict[str, Any]) -> Blocks:
        """Those of a store.

        Args:
            info: What its ``info.json`` says.

        Returns:
            Its blocks.
        """
        columns = {name: Column(tuple(shape), dtype) for name, (shape, dtype) in info["columns"].items()}
        return cls(info["clips"], columns)

    @property
    def length(self) -> int:
        """Clips in a block; the same in every run, since it decides where checksums begin and end."""
        row_bytes = sum(column.row_bytes for column in self.columns.values())
        return max(1, min(_BLOCK_CLIPS, _BLOCK_BYTES // max(1, row_bytes)))

    def header(self, column: Column) -> bytes:
        """What an array's file begins with.

        Args:
            column: The array.

        Returns:
            NumPy's header of the whole array, however much of it is there.
        """
        buffer = BytesIO()
        descr = np.lib.format.dtype_to_descr(np.dtype(column.dtype))
        np.lib.format.write_array_header_1_0(
            buffer, {"descr": descr, "fortran_order": False, "shape": (self.clips, *column.shape)}
        )
        return buffer.getvalue()

    def count_intact(self, folder: Path) -> int:
        """How many blocks from the start are on the disk as they were written, by reading them.

        Args:
            folder: Of the store.

        Returns:
            The number, 0 where an array has another header.
        """
        with ExitStack() as opened:
            arrays = [
                (opened.enter_context(array_file(folder, name).open("rb")), column)
                for name, column in self.columns.items()
            ]
            for file, column in arrays:
                header = self.header(column)
                if file.read(len(header)) != header:
                    return 0
            blocks = 0
            for line in (folder / JOURNAL).read_bytes().splitlines(keepends=True):
                clips = min(self.length, self.clips - blocks * self.length)
                checksums = [zlib.crc32(file.read(clips * column.row_bytes)) for file, column in arrays]
                if line != journal_line(clips, checksums):
                    break
                blocks += 1
        return blocks


def array_file(folder: Path, column: str) -> Path:
    """Where an array is.

    Args:
        folder: Of the store.
        column: Name of the array.

    Returns:
        Its file, which ``numpy.load`` reads.
    """
    return folder / f"{column}.npy"


def journal_line(clips: int, checksums: list[int]) -> bytes:
    """What is noted of a block once it is on the disk.

    Args:
        clips: How many are in it.
        checksums: CRC-32 of its part of each array.

    Returns:
        A line of JSON.
    """
    return json.dumps({"clips": clips, "crc32": checksums}, separators=(",", ":")).encode() + b"\n"
