"""Random streams: every seed its own."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["seeded_generator"]


def seeded_generator(seed: int) -> torch.Generator:
    """A generator on the CPU.

    Args:
        seed: Any whole number. PyTorch's generator reads 32 bits of it; of seeds that have more all 64 bits count.

    Returns:
        It; for seeds of 32 bits PyTorch's own.
    """
    if not 0 <= seed < 2**32:
        (seed,) = np.random.SeedSequence(seed % 2**64).generate_state(1).tolist()
    return torch.Generator().manual_seed(seed)
