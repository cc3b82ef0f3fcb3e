"""A seeded order of rows that changes with the epoch and not with the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Sampler

from lightning_cosprune.arguments import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class SeededShuffle(Sampler[int]):
    """The given rows in a new order each epoch.

    The order depends on ``seed`` and the epoch alone. A Lightning ``Trainer`` sets the epoch, so that a resumed run
    goes on with the order that it would have had; anywhere else the epoch counts the passes made.

    It is no ``RandomSampler``: under DDP, Lightning replaces that one by a sampler of *all* rows, while it wraps any
    other sampler and so keeps the choice of rows.

    Args:
        rows: Row numbers to go through.
        seed: Changes the order.
        shuffle: ``False`` keeps the order of ``rows``.

    Example:
        >>> sorted(SeededShuffle([3, 5, 8]))
        [3, 5, 8]
    """

    def __init__(self, rows: Sequence[int], *, seed: int = 0, shuffle: bool = True) -> None:
        self.rows = list(rows)
        self.seed = whole_number(seed, f"`{type(self).__name__}(seed={{}})`", -(2**63), 2**63)
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(self.rows)
        # PyTorch's generator on the CPU reads 32 bits of its seed, so both numbers are mixed into them. They are given
        # to NumPy in words of 32 bits because it runs numbers of any other length together.
        words = [self.seed % 2**32, self.seed // 2**32 % 2**32, self.epoch]
        (mixed,) = np.random.SeedSequence(words).generate_state(1).tolist()
        generator = torch.Generator().manual_seed(mixed)
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        self.epoch += 1
        return iter([self.rows[position] for position in order])

    def __len__(self) -> int:
        return len(self.rows)
