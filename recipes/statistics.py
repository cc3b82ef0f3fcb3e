"""Means, intervals of means, and how near two networks' scores are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from scipy import stats
from torch import Tensor


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its interval at 95 %, from Student's t; infinite for a single value."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, math.inf
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(half)


def agreement(scores: Tensor, dense: Tensor) -> float:
    """Share of the clips, ``(clips, classes)``, of which both say the same."""
    return (scores.argmax(dim=1) == dense.argmax(dim=1)).double().mean().item()


def correlation(scores: Tensor, dense: Tensor) -> float:
    """Pearson correlation over clips and classes together."""
    return torch.corrcoef(torch.stack([scores.flatten(), dense.flatten()]).double())[0, 1].item()
