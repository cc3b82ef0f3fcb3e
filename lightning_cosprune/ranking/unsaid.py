"""What the kept filters cannot say, measured on data that their readers' weights were not fitted to."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cosprune.ranking.directions import in_full_precision
from lightning_cosprune.ranking.subset import Reading

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["RIDGES", "unsaid"]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the pull towards the old weights that are tried, relative to the mean variance of the inputs."""


@in_full_precision
def unsaid(
    folds: Sequence[tuple[Sequence[Reading], Sequence[Reading]]], kept: Bool[Tensor, "sets filters"]
) -> Float[Tensor, " sets"]:
    r"""Share of what the readers compute that is lost with filters, on held-out data, their weights solved for anew.

    With :math:`G` the covariance of a reader's inputs on the data it is fitted to, :math:`T` their second moments about
    the same means on other data, and :math:`W` its weights, the readers of kept inputs :math:`K` and removed ones
    :math:`R` are given :math:`W'`, which is zero on :math:`R` and else

    .. math:: W'_K = W_K + (G_{KK} + \lambda I)^{-1} G_{KR} W_R, \qquad
        E = \frac{\sum_\text{folds} \operatorname{tr} (W - W')^\top T (W - W')}
        {\sum_\text{folds} \operatorname{tr} W^\top T W} .

    Few samples fit a wide layer too well, and an error that is measured on them is too low where the layer is widest;
    this one is not. :math:`\lambda` is the one of :data:`RIDGES` that does best for the middle one of the sets.

    Args:
        folds: For each split of the data the readings that are fitted and those that are held out, the same readers in
            the same order.
        kept: Which filters are kept, one row a set.

    Returns:
        For each set the sum over readers, float64, on the CPU.
    """
    readers = len(folds[0][0])
    losses = torch.zeros(len(kept), dtype=torch.float64)
    for reader in range(readers):
        pairs = [_Pair(fit[reader], test[reader]) for fit, test in folds]
        total = sum(pair.total for pair in pairs)
        if total <= 0:
            continue

        def loss(mask: Tensor, ridge: float, pairs: list[_Pair] = pairs, total: float = total) -> float:
            return sum(pair.loss(mask, ridge) for pair in pairs) / total

        middle = kept[len(kept) // 2]
        best = min(RIDGES, key=lambda ridge: loss(middle, ridge))
        losses += torch.tensor([loss(mask, best) for mask in kept], dtype=torch.float64)
    return losses


class _Pair:
    """One reader on one split of the data."""

    def __init__(self, fit: Reading, test: Reading) -> None:
        self.gram, self.test = fit.gram.double(), test.gram.double()
        self.weight = _narrowed(fit.weight.double())
        self.total = float((self.weight * (self.test @ self.weight)).sum())
        self.scale = self.gram.diagonal().mean().clamp_min(1e-300)
        self.read, self.columns = fit.filters.cpu(), fit.columns.to(fit.gram.device)

    def loss(self, kept: Tensor, ridge: float) -> float:
        """What is lost with all filters but those ``kept``."""
        gone_filters = ~kept[self.read].to(self.columns.device)
        gone = torch.zeros(len(self.gram), dtype=torch.bool, device=self.gram.device)
        gone[self.columns[gone_filters].flatten()] = True
        if not bool(gone.any()):
            return 0.0
        held = ~gone
        lost = torch.zeros_like(self.weight)
        lost[gone] = self.weight[gone]
        if bool(held.any()):
            inner = self.gram[held][:, held]
            inner.diagonal().add_(ridge * self.scale)
            across = self.gram[held][:, gone] @ self.weight[gone]
            lost[held] = -torch.cholesky_solve(across, torch.linalg.cholesky(inner))
        return float((lost * (self.test @ lost)).sum())


def _narrowed(weight: Float[Tensor, "columns outputs"]) -> Float[Tensor, "columns fewer"]:
    """Weights of the same second moments with no more outputs than inputs: all that a sum of squares asks for."""
    if weight.shape[1] <= weight.shape[0]:
        return weight
    values, vectors = torch.linalg.eigh(weight @ weight.T)
    narrowed: Tensor = vectors * values.clamp_min(0).sqrt()
    return narrowed
