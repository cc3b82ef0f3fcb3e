"""Arrays full of ties, and the order in which NumPy 1's default argsort leaves each, as recorded in numpy1_orders.json.

To record them again, with any NumPy 1 up to 1.24 (later ones sort by AVX-512 where the CPU has it):

    python -m venv old && old/bin/pip install "numpy==1.24.4" && old/bin/python tests/numpy1_orders.py
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

RECORDS = Path(__file__).with_suffix(".json")
SIZES = range(2, 601)


def noise(size: int, values: int) -> list[float]:
    """``size`` draws from ``values`` different numbers; ``random.Random.random`` gives the same on every Python."""
    draw = random.Random(1000 * size + values).random
    return [int(draw() * values) / 7 for _ in range(size)]


def pairs(size: int, _: int) -> list[float]:
    """Every number twice at random places, as mutual nearest neighbours have the same distance."""
    numbers = [i // 2 / 7 for i in range(size)]
    draw = random.Random(size).random
    return sorted(numbers, key=lambda _: draw())


def median_killer(size: int, ties: int) -> list[float]:
    """Musser's sequence that makes the median of three the worst pivot, so that quicksort gives way to heapsort."""
    half = size // 2
    numbers = [i + 1 if i % 2 == 0 else half + i for i in range(half)] + [2 * (i + 1) for i in range(size - half)]
    return [number // ties / 7 for number in numbers]


def pipe(size: int, ties: int) -> list[float]:
    """Rising, then falling."""
    return [min(i, size - i) // ties / 7 for i in range(size)]


FAMILIES = {
    "one value": (noise, 1),
    "two values": (noise, 2),
    "five values": (noise, 5),
    "forty values": (noise, 40),
    "pairs": (pairs, 0),
    "pipe": (pipe, 1),
    "pipe in steps": (pipe, 5),
    "median killer": (median_killer, 1),
    "median killer with ties": (median_killer, 3),
}


def arrays(family: str) -> Iterator[list[float]]:
    make, ties = FAMILIES[family]
    for size in SIZES:
        yield make(size, ties)


def fingerprint(order: Sequence[int]) -> str:
    """Eight hexadecimal digits that any other order would have with a chance of one in four thousand million."""
    return f"{zlib.crc32(struct.pack(f'<{len(order)}H', *order)):08x}"


if __name__ == "__main__":
    import numpy as np

    assert np.__version__ < "1.25", np.__version__
    recorded = {
        family: "".join(fingerprint(np.argsort(np.array(values)).tolist()) for values in arrays(family))
        for family in FAMILIES
    }
    RECORDS.write_text(json.dumps({"numpy": np.__version__, **recorded}, indent=1) + "\n", encoding="utf-8")
