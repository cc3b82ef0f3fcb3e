"""The criteria that cosine similarity is compared with: one score per filter, and the lowest goes first."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cosprune.arguments import whole_number
from lightning_cosprune.ranking.directions import (
    BLOCK,
    in_full_precision,
    leading_directions,
    smaller_gram,
    to_working_precision,
)
from lightning_cosprune.ranking.draws import seeded_generator
from lightning_cosprune.ranking.filters import Weight, coupled_layers, filter_rows

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["SCORES", "geometric_mean", "geometric_median", "l1", "l2", "operator_norm", "random"]


def l1(weight: Weight) -> Float[Tensor, " filters"]:
    r"""Sum of magnitudes, :math:`\sum_k |w_{fk}|`.

    Returns:
        One score per filter; the smallest filter goes first.

    Source: Li et al., "Pruning filters for efficient ConvNets", ICLR 2017.

    Example:
        >>> l1(torch.tensor([[[3.0, -4.0]], [[0.5, 0.5]]]))
        tensor([7., 1.])
    """
    score: Tensor = torch.linalg.vector_norm(filter_rows(weight), 1, dim=1)
    return score


def l2(weight: Weight) -> Float[Tensor, " filters"]:
    r"""Euclidean norm, :math:`(\sum_k w_{fk}^2)^{1/2}`.

    Returns:
        One score per filter; the smallest filter goes first.

    Example:
        >>> l2(torch.tensor([[[3.0, -4.0]], [[0.0, 0.5]]]))
        tensor([5.0000, 0.5000], dtype=torch.float64)
    """
    rows = filter_rows(weight)
    scale = _scale(rows)
    score: Tensor = torch.linalg.vector_norm(rows / scale, dim=1).double() * scale
    return score


@in_full_precision
def geometric_median(weight: Weight) -> Float[Tensor, " filters"]:
    r"""Sum of the Euclidean distances to all other filters, :math:`\sum_g \|w_f - w_g\|`.

    The filter with the lowest sum is nearest to the geometric median: the others can best stand in for it.

    Returns:
        One score per filter; the filter most in the middle goes first.

    Source: He et al., "Filter pruning via geometric median" (FPGM), CVPR 2019.

    Example:
        >>> geometric_median(torch.tensor([[[0.0]], [[1.0]], [[5.0]]])).round()
        tensor([6., 5., 9.], dtype=torch.float64)
    """
    rows = filter_rows(weight)
    scale = _scale(rows)
    rows = rows / scale
    rows -= rows.mean(dim=0)  # distances stay, and the difference of squares below loses fewer digits
    squares = rows.square().sum(dim=1)
    sums = []
    for block in torch.arange(len(rows), device=rows.device).split(max(1, BLOCK // len(rows))):
        both = squares[block, None] + squares
        squared = both - 2 * rows[block] @ rows.T
        # Where two filters nearly coincide no digits are left: those pairs are measured directly.
        near, far = (squared < 1e-2 * both).nonzero(as_tuple=True)
        pairs = max(1, BLOCK // rows.shape[1])
        for i, j in zip(near.split(pairs), far.split(pairs), strict=True):
            squared[i, j] = (rows[block[i]] - rows[j]).square().sum(dim=1)
        sums.append(squared.clamp_min_(0).sqrt_().sum(dim=1, dtype=torch.float64))
    return torch.cat(sums) * scale


def geometric_mean(weight: Weight) -> Float[Tensor, " filters"]:
    r"""Squared difference of a filter's geometric mean magnitude from the layer's, :math:`(g(|W|) - g(|w_f|))^2`.

    Here :math:`g(x) = \exp \operatorname{mean} \log x`, which is 0 as soon as one weight is. The published scripts call
    this GM; it is not the geometric median.

    Returns:
        One score per filter; the filter most like the layer's average goes first.

    Example:
        >>> geometric_mean(torch.tensor([[[1.0, 1.0]], [[4.0, 4.0]]])).round()
        tensor([1., 4.], dtype=torch.float64)
    """
    logs = filter_rows(weight).abs().log_().mean(dim=1, dtype=torch.float64)
    return (logs.mean().exp() - logs.exp()).square()


@in_full_precision
def operator_norm(weight: Weight) -> Float[Tensor, " filters"]:
    r"""What a filter shares with the leading direction of each input channel's slices, summed and squared.

    For input channel :math:`c` the rows of :math:`A^{(c)}` (filters by taps) are the slices of all filters minus their
    mean, and :math:`v^{(c)}` is its leading right singular vector, turned to the side of filter 0:

    .. math:: s_f = \Bigl(\sum_c \langle A^{(c)}_f, v^{(c)} \rangle \Bigr)^2

    Turned to filter 0, as published, the score of a filter depends on which one comes first. Coupled layers add up.

    Returns:
        One score per filter; the filter that contributes least goes first.

    Source: arXiv 2304.02319.

    Example:
        >>> operator_norm(torch.tensor([[[1.0]], [[2.0]], [[6.0]]])).round()
        tensor([4., 1., 9.], dtype=torch.float64)
    """
    filter_rows(weight)  # refuses filters that are not finite
    layers = coupled_layers(weight)
    shares = torch.zeros(len(layers[0]), dtype=torch.float64, device=layers[0].device)
    for layer in layers:
        scale = _scale(layer)
        for channels in layer.split(max(1, BLOCK // layer[:, 0].numel()), dim=1):
            slices = (to_working_precision(channels) / scale).transpose(0, 1).contiguous()
            slices -= slices.mean(dim=1, keepdim=True)
            directions = leading_directions(slices, smaller_gram(slices))
            shares += (slices @ directions[..., None]).sum(dim=(0, 2), dtype=torch.float64) * scale
    return shares.square()


def random(weight: Weight, seed: int = 0) -> Float[Tensor, " filters"]:
    """A random order, the same on every device for the same ``seed`` and number of filters.

    Args:
        weight: Only its number of filters counts.
        seed: Start of the draws; the generator of the caller is not touched.

    Raises:
        TypeError: ``seed`` is no whole number.
        ValueError: It is less than -2**63.

    Returns:
        One score per filter, all different.
    """
    layer = coupled_layers(weight)[0]
    seed = whole_number(seed, "`random(seed={})`", -(2**63))
    return torch.randperm(len(layer), generator=seeded_generator(seed)).to(layer.device, torch.float64)


SCORES: dict[str, Callable[..., Tensor]] = {
    "l1": l1,
    "l2": l2,
    "geometric_median": geometric_median,
    "geometric_mean": geometric_mean,
    "operator_norm": operator_norm,
    "random": random,
}
"""Name of a criterion -> its scores."""


def _scale(weights: Tensor) -> float:
    """The largest magnitude, 1 where all are zero. Divided by it, no square overflows and none that counts vanishes."""
    return float(torch.linalg.vector_norm(weights, torch.inf)) or 1.0
