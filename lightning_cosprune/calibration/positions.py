"""How many of a layer's positions are looked at, and which: more of them say little that is new."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["chosen_positions", "positions_a_sample"]

_ROWS = 2**14
_ROWS_A_COLUMN = 4


def positions_a_sample(columns: int, samples: int) -> int:
    """How many positions of each sample are enough for a layer with so many inputs to a filter."""
    return math.ceil(max(_ROWS, _ROWS_A_COLUMN * columns) / max(samples, 1))


def chosen_positions(available: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Numbers of ``wanted`` positions, or of all there are, ascending; drawn without regard to where they lie."""
    if wanted >= available:
        return torch.arange(available)
    return torch.randperm(available, generator=generator)[:wanted].sort().values
