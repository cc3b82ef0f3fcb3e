"""Second moments of pairs of rows, summed batch by batch: all that least squares needs to know of the data."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Moments", "Pool", "pooled"]

Pool = Callable[[list[Tensor]], list[Tensor]]
"""Sums tensors over all processes, each by itself."""


class Moments:
    r"""Count, means and centred second moments of rows :math:`x` and :math:`t`, in float64.

    .. math:: S_{xx} = \sum (x - \bar x)(x - \bar x)^\top, \quad S_{xt} = \sum (x - \bar x)(t - \bar t)^\top, \quad
        s_{tt} = \sum (t - \bar t)^2

    They are sums: what two processes, or two parts of the data, have seen can be :func:`pooled`.

    Args:
        columns: Length of a row :math:`x`.
        targets: Length of a row :math:`t`.
        device: Where the sums are kept.
    """

    def __init__(self, columns: int, targets: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count = 0
        self.mean_x, self.mean_t = zeros(columns), zeros(targets)
        self.xx, self.xt, self.tt = zeros(columns, columns), zeros(columns, targets), zeros(targets)

    def add(self, x: Float[Tensor, "rows columns"], t: Float[Tensor, "rows targets"]) -> None:
        """Take in more pairs."""
        if not len(x):
            return
        part = Moments(x.shape[1], t.shape[1], x.device)
        x, t = x.double(), t.double()
        part.count = len(x)
        part.mean_x, part.mean_t = x.mean(dim=0), t.mean(dim=0)
        x, t = x - part.mean_x, t - part.mean_t
        part.xx, part.xt, part.tt = x.T @ x, x.T @ t, t.square().sum(dim=0)
        self._merge(part)

    def _merge(self, other: Moments) -> None:
        """Take in what ``other`` has seen.

        Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.
        """
        total = self.count + other.count
        if not total:
            return
        share, weight = other.count / total, self.count * other.count / total
        step_x, step_t = other.mean_x - self.mean_x, other.mean_t - self.mean_t
        self.xx = self.xx + other.xx + weight * step_x.outer(step_x)
        self.xt = self.xt + other.xt + weight * step_x.outer(step_t)
        self.tt = self.tt + other.tt + weight * step_t.square()
        self.mean_x = self.mean_x + share * step_x
        self.mean_t = self.mean_t + share * step_t
        self.count = total

    def about_zero(self) -> Moments:
        """The same about zero in place of the means: for maps without a bias."""
        raw = Moments(len(self.mean_x), len(self.mean_t), self.mean_x.device)
        raw.count = self.count
        raw.xx = self.xx + self.count * self.mean_x.outer(self.mean_x)
        raw.xt = self.xt + self.count * self.mean_x.outer(self.mean_t)
        raw.tt = self.tt + self.count * self.mean_t.square()
        return raw

    def pooled_by(self, pool: Pool) -> Moments:
        """The moments of all that the processes have seen whose tensors ``pool`` sums."""
        count, *sums = pool([torch.tensor(self.count), self.count * self.mean_x, self.count * self.mean_t])
        whole = Moments(len(self.mean_x), len(self.mean_t), self.mean_x.device)
        whole.count = int(count)
        whole.mean_x, whole.mean_t = (one / max(whole.count, 1) for one in sums)
        # About the common means, so that the sums of the processes can be added.
        step_x, step_t = self.mean_x - whole.mean_x, self.mean_t - whole.mean_t
        whole.xx, whole.xt, whole.tt = pool(
            [
                self.xx + self.count * step_x.outer(step_x),
                self.xt + self.count * step_x.outer(step_t),
                self.tt + self.count * step_t.square(),
            ]
        )
        return whole

    def error(self, weight: Float[Tensor, "columns targets"], bias: Float[Tensor, " targets"]) -> float:
        r"""Sum of squares of what ``weight`` and ``bias`` leave unexplained.

        .. math:: \sum \| t - W^\top x - b \|^2

        Returns:
            The sum over rows and targets.
        """
        offset = self.mean_t - self.mean_x @ weight - bias
        unexplained = self.tt.sum() - 2 * (weight * self.xt).sum() + (weight * (self.xx @ weight)).sum()
        return float(unexplained.clamp_min(0) + self.count * offset.square().sum())


def pooled(parts: Iterable[Moments]) -> Moments:
    """The moments of all that the parts have seen."""
    parts = list(parts)
    first = parts[0]
    whole = Moments(len(first.mean_x), len(first.mean_t), first.mean_x.device)
    for part in parts:
        whole._merge(part)
    return whole
