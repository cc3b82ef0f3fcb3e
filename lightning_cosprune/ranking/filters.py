"""From the weights of a layer to one vector per filter."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lightning_cosprune.ranking.directions import (
    BLOCK,
    are_squarable,
    in_full_precision,
    largest_entries,
    leading_directions,
    scaled_rows,
    smaller_gram,
    to_working_precision,
    unit_rows,
)

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Weight", "coupled_layers", "filter_rows", "filter_vectors"]

Weight = Tensor | Sequence[Tensor]
"""Weight of a layer (filters, in_channels, *kernel), or those of layers that can only be pruned together."""

DEAD = 2.0**-23
"""A filter is dead where its norm is at most this times the largest of its layer: float32 cannot tell what it adds."""


@in_full_precision
def filter_vectors(weight: Weight, kind: Literal["prototype", "flat"] = "prototype") -> Float[Tensor, "filters dim"]:
    r"""One vector per filter, whose angles say how alike the filters are.

    ``"prototype"``: filter :math:`i` is a matrix :math:`A_i` of kernel taps by input channels, with singular vectors
    :math:`A_i = \sum_k \sigma_k u_k v_k^\top`. Its prototype is the spatial part of its best approximation of rank one,
    turned to the side of input channel 0; no singular value, centring, bias or batch norm enters:

    .. math:: p_i = u_1 \operatorname{sign}(v_1[0]), \qquad \|p_i\| = 1

    ``"flat"``: the filter's weights in one row, not scaled.

    Conventions:
        - A filter is *dead* where its norm is at most 2**-23 of the largest of its layer, zero included. It has no
          direction: its vector is zero, of either kind.
        - Where :math:`v_1[0]` is zero to rounding, as when channel 0 is all zero, the next channel decides.
        - Where :math:`\sigma_1` is multiple, :math:`p_i` is channel 0 projected on all its :math:`u_k`, scaled to
          length one. For a simple one that is the formula above.
        - With one input channel, :math:`p_i` is the filter itself, scaled to length one.
        - With one tap, as in 1x1 convolutions and linear layers, a spatial vector would be just 1 or -1. There
          :math:`p_i` is the filter's row of weights, scaled to length one.

    Args:
        weight: Weight (filters, in_channels, *kernel), see :func:`layer_weight`. Or a sequence of such weights with the
            same number of filters, of layers that can only be pruned together: they are one layer whose filter ``i`` is
            the concatenation of theirs. Concatenated prototypes are scaled to length one again, so that the cosine of
            two is the mean of the layers' cosines.
        kind: ``"prototype"`` or ``"flat"``.

    Returns:
        The vectors, without gradient, in the dtype of ``weight`` but at least float32.

    Raises:
        ValueError: ``kind`` is unknown, ``weight`` is no weight of filters, or a filter is not finite; its number is
            named.

    Source: Singh and Plumbley, INTERSPEECH 2022, section 2.

    Example:
        >>> stripes = torch.tensor([[1.0, -1.0], [-3.0, 3.0]])  # two filters of two taps
        >>> filter_vectors(stripes[:, None])
        tensor([[ 0.7071, -0.7071],
                [-0.7071,  0.7071]])
    """
    if not isinstance(kind, str) or kind not in ("prototype", "flat"):
        raise ValueError(f'`filter_vectors(kind={kind!r})`: expected "prototype" or "flat". Choose one.')
    parts = []
    for layer in coupled_layers(weight):
        vectors, norms = _prototypes(layer) if kind == "prototype" else _flat(layer)
        dead = norms <= DEAD * norms.max()
        parts.append(vectors.masked_fill(dead[:, None], 0) if bool(dead.any()) else vectors)
    if len(parts) == 1:
        return parts[0]
    joined = torch.cat(parts, dim=1)
    return unit_rows(joined) if kind == "prototype" else joined


def filter_rows(weight: Weight) -> Float[Tensor, "filters dim"]:
    """All weights of each filter in one row, in working precision and not scaled; coupled layers one after the other.

    Raises:
        ValueError: ``weight`` is no weight of filters, or a filter is not finite; its number is named.

    Returns:
        A view of ``weight`` where that is possible.
    """
    rows = [to_working_precision(layer.flatten(1)) for layer in coupled_layers(weight)]
    for row in rows:
        largest_entries(row, "weight")
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


def coupled_layers(weight: Weight) -> list[Float[Tensor, "filters channels taps"]]:
    """The layers in ``weight``, detached and with the taps of a kernel in one row, in the dtype they came in.

    Raises:
        ValueError: A weight is not floating-point, lacks filters or input channels, or the numbers of filters differ.

    Returns:
        One layer for a tensor, one after the other for a sequence; views where that is possible.
    """
    weights = list(weight) if isinstance(weight, Sequence) else [weight]
    if not weights:
        raise ValueError(
            "`weight=[]`: expected a weight, or a sequence of those of coupled layers, found an empty one. Pass "
            "`layer.weight`."
        )
    for layer in weights:
        if not isinstance(layer, Tensor) or not layer.is_floating_point() or layer.ndim < 2 or layer.numel() == 0:
            found = (
                f"{layer.dtype} of shape {tuple(layer.shape)}" if isinstance(layer, Tensor) else type(layer).__name__
            )
            raise ValueError(
                "`weight`: expected a floating-point tensor (filters, in_channels, *kernel) with at least one filter, "
                f"found {found}. `layer_weight(module)` gives the weight of a layer in this layout."
            )
    counts = [len(layer) for layer in weights]
    if len(set(counts)) > 1:
        raise ValueError(
            f"`weight`: expected coupled layers with the same number of filters, found {counts}. Rank layers that can "
            "be pruned apart one by one."
        )
    return [layer.detach().reshape(layer.shape[0], layer.shape[1], -1) for layer in weights]


def _prototypes(layer: Float[Tensor, "filters channels taps"]) -> tuple[Tensor, Tensor]:
    """Prototypes of the filters, dead ones too, and the filters' norms in float64."""
    if layer.shape[2] == 1:
        return scaled_rows(layer.flatten(1), "weight")
    blocks = []
    for block in layer.split(max(1, BLOCK // layer[0].numel())):
        stacks = to_working_precision(block)
        gram = smaller_gram(stacks)
        squares = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
        scales = torch.ones_like(squares)
        if not are_squarable(squares):
            largest_entries(layer.flatten(1), "weight")  # names every filter that is not finite, not this block's alone
            scales = largest_entries(stacks.flatten(1), "weight")
            stacks = stacks / scales[:, None, None]
            gram = smaller_gram(stacks)
            squares = gram.diagonal(dim1=1, dim2=2).sum(dim=1)
        blocks.append((leading_directions(stacks, gram), squares.double().sqrt() * scales))
    return torch.cat([directions for directions, _ in blocks]), torch.cat([norms for _, norms in blocks])


def _flat(layer: Float[Tensor, "filters channels taps"]) -> tuple[Tensor, Tensor]:
    """The filters as rows, and their norms in float64."""
    rows = to_working_precision(layer.flatten(1))
    return rows, scaled_rows(rows, "weight")[1]
