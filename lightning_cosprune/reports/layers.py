"""The filters of a layer before the cut: how alike they are, and which kept one stands for each removed one."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cosprune.network.channels import channel_groups
from lightning_cosprune.network.layers import has_filters, layer_weight, num_filters
from lightning_cosprune.ranking.filters import filter_vectors
from lightning_cosprune.ranking.partners import find_partners
from lightning_cosprune.ranking.similarity import cosine_similarity
from lightning_cosprune.reports.record import LayerPicture, Pair, RunRecord, Width
from lightning_cosprune.reports.viz import import_viz

__all__ = ["CELLS", "MOST_FILTERS", "MOST_PAIRS", "in_cells", "picture_layer", "widths_before", "with_pictures"]

CELLS = 128
"""Cells along a side of the heat-map, at most."""

MOST_FILTERS = 4096
"""Of a wider layer as many filters are compared, evenly spread."""

MOST_PAIRS = 24
"""Pairs that are drawn of a layer, at most."""

_MOST_JOINTS = 127
_MOST_TAPS = 256


@torch.no_grad()
def picture_layer(module: nn.Module, name: str, pruned_idxs: Sequence[int]) -> LayerPicture:
    """What a page shows of a layer whose filters ``pruned_idxs`` are removed.

    Filters are compared by the cosine of their prototypes, and of all their weights. The heat-map is in the order of
    the leaves of a dendrogram (average linkage of 1 minus the cosine), its cells are means.

    Args:
        module: A convolution or linear layer, before the cut.
        name: Its name.
        pruned_idxs: Numbers of the filters that are removed; not all of them.

    Returns:
        A picture whose size does not grow with the number of filters beyond 4,096.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    weight = layer_weight(module).detach().float().cpu()
    vectors = filter_vectors(weight).float()
    filters = len(weight)
    removed = sorted(pruned_idxs)
    found = find_partners(vectors, removed)
    partners, cosines = found.idxs.tolist(), found.cosine.tolist()
    flat = torch.nn.functional.normalize(weight.flatten(1), dim=1)
    by_weights = (flat[removed] * flat[partners]).sum(dim=1).clamp_min(0).square()

    shown = np.linspace(0, filters - 1, min(filters, MOST_FILTERS)).round().astype(int)
    similarity = cosine_similarity(vectors[shown]).numpy()
    order, tree = _dendrogram(similarity)
    heat = in_cells(similarity[np.ix_(order, order)])
    ranks = np.argsort([-cosine for cosine in cosines], kind="stable")
    drawn = ranks[np.unique(np.linspace(0, len(ranks) - 1, min(len(ranks), MOST_PAIRS)).round().astype(int))]
    shape, pictures = _pictures(weight, vectors)
    pairs = tuple(
        Pair(
            removed[place],
            partners[place],
            round(cosines[place], 4),
            round(float(by_weights[place]), 4),
            tuple(np.round(pictures[removed[place]].numpy(), 3).tolist()),
            tuple(np.round(pictures[partners[place]].numpy(), 3).tolist()),
            shape,
        )
        for place in drawn.tolist()
    )
    return LayerPicture(
        name=name,
        filters=filters,
        kernel=tuple(weight.shape[2:]),
        order=tuple(shown[order].tolist()),
        tree=tree,
        cells=len(heat),
        similarity=base64.b64encode((heat * 127).round().clip(-127, 127).astype(np.int8).tobytes()).decode(),
        explained=tuple(round(share, 4) for share in found.explained.tolist()),
        by_weights=tuple(round(share, 4) for share in by_weights.tolist()),
        together=tuple(round(share, 4) for share in found.together.tolist()),
        pairs=pairs,
    )


def widths_before(network: nn.Module, example_inputs: Any = None) -> tuple[Width, ...]:
    """How many filters each layer of a network has, and which lose the same, as far as an example input tells."""
    number: dict[str, int] = {}
    if example_inputs is not None:
        for place, group in enumerate(channel_groups(network, example_inputs)):
            number |= dict.fromkeys(group.layers if len(group.layers) > 1 else (), place)
    return tuple(
        Width(name, num_filters(module), num_filters(module), number.get(name))
        for name, module in network.named_modules()
        if has_filters(module)
    )


def with_pictures(record: RunRecord, dense: nn.Module, example_inputs: Any = None) -> RunRecord:
    """The record with pictures of the filters that its first prune removed.

    Args:
        record: Of prunes that were made without a Trainer.
        dense: The network before the first prune.
        example_inputs: Inputs of one forward pass; where they are given, coupled layers are joined.

    Returns:
        Another record.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    first = record.prunes[0]
    modules = dict(dense.named_modules())
    after = {layer.name: layer.filters_after for layer in first.report.layers}
    widths = [
        replace(width, after=after.get(width.name, width.before)) for width in widths_before(dense, example_inputs)
    ]
    drawn = tuple(picture_layer(modules[layer.name], layer.name, layer.pruned_idxs) for layer in first.report.layers)
    return replace(record, prunes=(replace(first, layers=drawn, widths=tuple(widths)), *record.prunes[1:]))


def _dendrogram(similarity: Any) -> tuple[Any, tuple[tuple[float, ...], ...]]:
    """The order of the leaves, and the topmost joints."""
    filters = len(similarity)
    if filters == 1:
        return np.zeros(1, dtype=int), ()
    hierarchy = import_viz("scipy.cluster.hierarchy")
    distance = np.clip(1 - (similarity + similarity.T) / 2, 0, 2)
    joints = hierarchy.linkage(distance[np.triu_indices(filters, 1)], "average")
    order = hierarchy.leaves_list(joints)
    place = np.empty(filters)
    place[order] = np.arange(filters)
    places = np.concatenate([place, np.zeros(filters - 1)])
    heights = np.concatenate([np.zeros(filters), joints[:, 2]])
    tree = []
    for number, (left, right, height, _) in enumerate(joints):
        ends = sorted((int(left), int(right)), key=lambda node: places[node])
        places[filters + number] = places[ends].mean()
        tree.append(tuple(round(float(x), 3) for x in (*places[ends], *heights[ends], height)))
    return order, tuple(tree[-_MOST_JOINTS:])


def in_cells(values: Any, cells: int = CELLS) -> Any:
    """Means over stretches of equal length along each axis, so many that an axis has at most ``cells``."""
    for axis in range(values.ndim):
        length = values.shape[axis]
        if length > cells:
            edges = np.linspace(0, length, cells + 1).astype(int)
            sizes = np.expand_dims(np.diff(edges), tuple(other for other in range(values.ndim) if other != axis))
            values = np.add.reduceat(values, edges[:-1], axis=axis) / sizes
    return values


def _pictures(weight: Tensor, vectors: Tensor) -> tuple[tuple[int, int], Tensor]:
    """Each filter as a row of taps, scaled to a largest of one, and rows and columns of its picture.

    A kernel of one tap has no spatial picture; its weights are shown in rows, the first ones where there are many.

    Returns:
        The rows and columns of a picture, and the taps.
    """
    kernel = weight.shape[2:]
    if kernel.numel() > 1:
        pictures, columns = vectors, kernel[-1]
    else:
        pictures = weight.flatten(1)[:, :_MOST_TAPS]
        columns = min(pictures.shape[1], 16)
        pictures = pictures[:, : pictures.shape[1] // columns * columns]
    scaled = pictures / pictures.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    return (pictures.shape[1] // columns, columns), scaled
