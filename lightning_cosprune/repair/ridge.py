"""Least squares that are pulled towards old weights, and how strongly, told by data that they were not fitted to."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cosprune.calibration.moments import Moments, pooled

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["RIDGES", "Affine", "HeldOut", "choose_ridge", "factor", "solve"]

RIDGES = (1e-8, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths that are tried, relative to the mean variance of a layer's inputs; beside them the bias alone.

The least is for removed channels that the kept ones can say exactly: with 1e-4 outputs come back to 4e-3 of their size,
with 1e-8 to 4e-7 (tests/repair/test_exact.py).
"""

_ALL_PARTS = 600
"""With more columns than this one part of the data is held out, not each in turn: solving is what takes the time."""


@dataclass(frozen=True, eq=False)
class Affine:
    """A matrix of weights and a bias: ``x @ weight + bias``."""

    weight: Float[Tensor, "columns targets"]
    bias: Float[Tensor, " targets"]


@dataclass(frozen=True)
class HeldOut:
    """Squared errors on data that the weights were not fitted to.

    Attributes:
        total: Sum of squares of what is to be computed, about its mean.
        old: Error of the old weights.
        best: The least error.
        ridge: The strength that has it; infinite where it is the bias alone that is fitted, ``None`` where it is the
            old weights as they are.
    """

    total: float
    old: float
    best: float
    ridge: float | None


def factor(moments: Moments, ridge: float) -> tuple[Float[Tensor, "columns columns"], float] | None:
    """Cholesky factor of the inputs' second moments with the ridge on their diagonal, and the ridge in their units.

    Returns:
        ``None`` where rounding leaves no positive definite matrix.
    """
    strength = ridge * float(moments.xx.diagonal().mean())
    held = moments.xx.clone()
    held.diagonal().add_(strength)
    lower, failed = torch.linalg.cholesky_ex(held)
    return None if int(failed) or not bool(lower.isfinite().all()) or strength == 0 else (lower, strength)


def solve(moments: Moments, ridge: float, old: Affine, with_bias: bool) -> Affine | None:
    r"""The weights that explain the targets best, pulled towards the old ones.

    .. math:: W = (S_{xx} + \lambda I)^{-1} (S_{xt} + \lambda W_{old}), \quad
        \lambda = \rho \operatorname{tr}(S_{xx}) / n, \quad b = \bar t - W^\top \bar x

    An infinite ``ridge`` fits the bias alone. Without a bias the moments must be about zero.

    Returns:
        ``None`` where the system cannot be solved in float64.
    """
    weight = old.weight
    if ridge < math.inf:
        factored = factor(moments, ridge)
        if factored is None:
            return None
        weight = torch.cholesky_solve(moments.xt + factored[1] * old.weight, factored[0])
    return Affine(weight, moments.mean_t - moments.mean_x @ weight if with_bias else old.bias)


def choose_ridge(
    parts: Sequence[Sequence[Moments]], old: Sequence[Affine], with_bias: bool, turns: int | None = None
) -> HeldOut:
    """Try each strength on data that are held out: every part in turn, or the first where there are many columns.

    Args:
        parts: For each part of the data the moments of each group of filters.
        old: The old weights of each group.
        with_bias: Whether the layer has a bias to fit.
        turns: How many parts take their turn, at most; all where ``None``.

    Returns:
        The best strength and its error.
    """
    strengths = (*RIDGES, math.inf) if with_bias else RIDGES
    errors = dict.fromkeys(strengths, 0.0)
    total = unchanged = 0.0
    columns = len(old[0].weight)
    for held_out in range(turns or len(parts) if columns <= _ALL_PARTS else 1):
        for group, before in enumerate(old):
            test = parts[held_out][group]
            if not test.count:
                continue
            train = pooled(part[group] for number, part in enumerate(parts) if number != held_out)
            total += float(test.tt.sum())
            unchanged += test.error(before.weight, before.bias)
            for strength in strengths:
                found = solve(train, strength, before, with_bias) if train.count else None
                errors[strength] += math.inf if found is None else test.error(found.weight, found.bias)
    ridge = min(errors, key=lambda strength: errors[strength])
    if not errors[ridge] < unchanged:
        return HeldOut(total, unchanged, unchanged, None)
    return HeldOut(total, unchanged, errors[ridge], ridge)
