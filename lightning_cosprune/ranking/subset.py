"""Which filters the others can speak for, all of them together: backward elimination on what reads the filters."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cosprune.ranking.directions import in_full_precision

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["Reading", "rank_by_response"]

RIDGE = 1e-3
"""Relative to the mean variance of the inputs: what a few samples say of nearly silent directions is not believed."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer that reads the filters, or one group of a grouped one.

    Attributes:
        gram: Covariance of its inputs, ``(columns, columns)``: of each channel, and within it of each tap.
        weight: What it multiplies them by, ``(columns, outputs)``.
        filters: Numbers of the filters that it reads.
        columns: The inputs in which each of them arrives, ``(len(filters), columns of one filter)``.
    """

    gram: Float[Tensor, "columns columns"]
    weight: Float[Tensor, "columns outputs"]
    filters: Int[Tensor, " read"]
    columns: Int[Tensor, "read width"]


@in_full_precision
def rank_by_response(
    readings: Sequence[Reading], filters: int, removals: int | None = None
) -> tuple[Int[Tensor, " removals"], Float[Tensor, " removals"]]:
    r"""The order in which filters can be missed, and what it costs to go so far.

    A set :math:`R` of removed filters costs what the layers that read them cannot say any more, with their weights on
    the kept ones solved for anew:

    .. math:: E(R) = \min_{W' : W'_R = 0} \operatorname{tr} (W - W')^\top (G + \epsilon I) (W - W')
        = \operatorname{tr} W_R^\top \bigl[ ((G + \epsilon I)^{-1})_{RR} \bigr]^{-1} W_R

    with :math:`G` the covariance of a reader's inputs and :math:`W` its weights; where there are several readers, the
    sum of each one's share of its outputs' variance. From all filters on, the one whose loss costs least goes first,
    then the one whose loss costs least beside it, and so on. This is the papers' idea taken whole: a filter is
    redundant not only if one other is its near copy, but if the kept ones together can say what it says.

    Args:
        readings: The layers that read the filters; at least one.
        filters: How many there are. One that nobody reads costs nothing.
        removals: How many of them to rank; all where ``None``.

    Returns:
        The filters, the one to remove first first, int64; and the cost after each removal, as a part of the variance
        of what the readers compute, float64. Both on the CPU.

    Source: the elimination step is that of the optimal brain surgeon (Hassibi and Stork, 1992) with a layer's inputs
    for the Hessian and a block of taps for a weight; ours in its use for filters that several layers read.

    Example:
        >>> weight = torch.tensor([[1.0], [1.0], [1.0]])  # one output reads three filters, the first two the same
        >>> gram = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> order, cost = rank_by_response([Reading(gram, weight, torch.arange(3), torch.arange(3)[:, None])], 3)
        >>> order[0].item(), round(float(cost[0]), 2), round(float(cost[1]), 2)
        (0, 0.0, 0.2)
    """
    states = [_State(reading, filters) for reading in readings]
    left = torch.ones(filters, dtype=torch.bool, device=readings[0].gram.device)
    order, costs, cost = [], [], 0.0
    for _ in range(filters if removals is None else removals):
        losses = torch.stack([state.losses() for state in states]).sum(dim=0)
        chosen = int(torch.where(left, losses, torch.inf).argmin())
        cost += float(losses[chosen])
        left[chosen] = False
        order.append(chosen)
        costs.append(cost)
        for state in states:
            state.remove(chosen)
    return torch.tensor(order), torch.tensor(costs, dtype=torch.float64)


class _State:
    """One reader with its weights solved for the filters that are left.

    ``inverse`` is that of the covariance among the inputs that are left; rows and columns of removed ones are those of
    the unit matrix, and their weights zero.
    """

    def __init__(self, reading: Reading, filters: int) -> None:
        gram, self.weight = reading.gram.double(), reading.weight.double().clone()
        held = gram + RIDGE * gram.diagonal().mean().clamp_min(1e-300) * torch.eye(len(gram), device=gram.device)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(held))
        total = float((self.weight * (gram @ self.weight)).sum())
        self.scale = 1 / total if total > 0 else 0.0
        self.columns = reading.columns.to(gram.device)
        self.place = torch.full((filters,), -1, dtype=torch.long)
        self.place[reading.filters.cpu()] = torch.arange(len(reading.filters))
        self.read = reading.filters.to(gram.device)
        self.filters = filters

    def losses(self) -> Tensor:
        """What the removal of each filter would cost now; zero for those that are not read, or not any more."""
        blocks = self.inverse[self.columns[:, :, None], self.columns[:, None, :]]
        weights = self.weight[self.columns]  # filters, width, outputs
        if self.columns.shape[1] == 1:
            found = weights.square().sum(dim=(1, 2)) / blocks[:, 0, 0]
        else:
            found = (
                torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), weights, upper=False).square().sum((1, 2))
            )
        losses = self.weight.new_zeros(self.filters)
        losses[self.read] = found * self.scale
        return losses

    def remove(self, number: int) -> None:
        place = int(self.place[number])
        if place < 0:
            return
        columns = self.columns[place]
        across = self.inverse[:, columns]
        spread = torch.linalg.solve(self.inverse[columns][:, columns], across, left=False)
        self.weight.addmm_(spread, self.weight[columns], alpha=-1)
        self.inverse.addmm_(spread, across.T, alpha=-1)
        self.weight[columns] = 0
        self.inverse[columns] = 0
        self.inverse[:, columns] = 0
        self.inverse[columns, columns] = 1
