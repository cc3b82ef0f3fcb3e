"""Means, and intervals of means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from scipy import stats


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its interval at 95 %, from Student's t; infinite for a single value."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, math.inf
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(half)
