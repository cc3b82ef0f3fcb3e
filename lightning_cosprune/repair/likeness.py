"""How alike the filters of coupled layers are, in all that shapes their channels on the way to a reader."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_cosprune.calibration.batch_norm import FoldedLayer
from lightning_cosprune.ranking.similarity import cosine_similarity
from lightning_cosprune.repair.reading import CutGroup

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Likeness", "likeness"]


@dataclass(frozen=True, eq=False)
class Likeness:
    """Every filter of a group of coupled layers beside every other; the first axis is the one that is spoken for.

    Attributes:
        cosines: Of the folded weights of the coupled layers as one vector, then of each depthwise convolution behind.
        ratios: Norm of the one filter over that of the other; that of the depthwise filters is multiplied in.
        biases: Folded biases of the layers, summed; zero where a depthwise convolution makes something else of them.
        together: Whether one may speak for the other at all: in grouped convolutions within a block of channels only.
        folded: Whether each of these layers has a batch norm that is folded in.
        follows: Whether depthwise convolutions come behind.
    """

    cosines: Float[Tensor, "layers filters filters"]
    ratios: Float[Tensor, "filters filters"]
    biases: Float[Tensor, " filters"]
    together: Bool[Tensor, "filters filters"]
    folded: bool
    follows: bool


def likeness(group: CutGroup, folded: Mapping[str, FoldedLayer]) -> Likeness:
    """Compare the filters of coupled layers.

    Args:
        group: The layers.
        folded: Layer name -> its weights as the network behind it sees them.

    Returns:
        On the CPU, in float64.
    """
    layers = [folded[name] for name in group.group.layers]
    passing = [folded[name] for name in group.followers]
    rows = [group.group.rows(name, _flat(folded[name])) for name in group.group.layers]
    vectors = [torch.cat(rows, dim=1)]
    vectors += [_flat(layer)[channels] for layer, channels in zip(passing, group.followers.values(), strict=True)]
    norms = torch.stack([rows.norm(dim=1) for rows in vectors]).prod(dim=0)
    of_layers = zip(group.group.layers, layers, strict=True)
    biases = torch.cat([group.group.rows(name, layer.bias.double().cpu()[:, None]) for name, layer in of_layers], dim=1)
    biases = biases.sum(dim=1)
    number = torch.arange(group.group.filters) // (group.group.filters // group.group.blocks)
    return Likeness(
        torch.stack([cosine_similarity(rows) for rows in vectors]),
        norms[:, None] / norms.clamp_min(1e-300),
        torch.zeros_like(biases) if passing else biases,
        number[:, None] == number,
        all(layer.batch_norm is not None for layer in [*layers, *passing]),
        bool(passing),
    )


def _flat(layer: FoldedLayer) -> Tensor:
    return layer.weight.double().flatten(1).cpu()
