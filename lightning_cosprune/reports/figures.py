"""Pictures of a network that is pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from lightning_cosprune.network.layers import layer_weight
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.ranking.filters import filter_vectors
from lightning_cosprune.ranking.similarity import cosine_similarity
from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_filters"]


def plot_filters(model: nn.Module, plan: PruningPlan, layer: str) -> Figure:
    """Draw one layer's similarities and its filters, those that are kept first.

    Left, the cosine similarity of every two filters, where a line divides the kept from the removed; right, each
    filter's spatial prototype, the removed ones crossed out. A kernel of one tap, or in one or three dimensions, has no
    picture; its similarities are drawn alone.

    Args:
        model: The dense network, as it was when ``plan`` was made.
        plan: What is removed.
        layer: Name of a layer in ``plan.pruned``.

    Returns:
        A matplotlib figure.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    figure_module = import_viz("matplotlib.figure")
    weight = layer_weight(model.get_submodule(layer))
    vectors = filter_vectors(weight).float().cpu()
    kept, pruned = plan.kept[layer], plan.pruned[layer]
    order = kept + list(pruned)
    similarity = cosine_similarity(vectors)[order][:, order]
    pictures = weight.ndim == 4 and weight.shape[2:].numel() > 1

    figure: Figure = figure_module.Figure(figsize=(11.0 if pictures else 4.6, 4.2), layout="constrained")
    figure.suptitle(f"{layer}: {len(kept)} of {len(order)} filters kept", fontsize=11)
    left: Any = figure
    right: Any = None
    if pictures:
        left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(4.4, 6.6)))
    axes = left.subplots()
    image = axes.imshow(similarity.numpy(), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    left.colorbar(image, ax=axes, label="cosine similarity", shrink=0.85)
    for draw in (axes.axhline, axes.axvline):
        draw(len(kept) - 0.5, color="black", linewidth=1.2)
    step = max(1, len(order) // 16)
    axes.set_xticks(range(0, len(order), step), [str(idx) for idx in order[::step]], fontsize=7)
    axes.set_yticks(range(0, len(order), step), [str(idx) for idx in order[::step]], fontsize=7)
    axes.set_xlabel("filter: kept | removed")
    if right is not None:
        _draw_prototypes(right, vectors.reshape(len(order), *weight.shape[2:]).numpy(), kept, list(pruned))
    return figure


def _draw_prototypes(figure: Any, prototypes: Any, kept: list[int], pruned: list[int]) -> None:
    columns = 8 if len(prototypes) <= 32 else 16
    kept_rows, pruned_rows = -(-len(kept) // columns), -(-len(pruned) // columns)
    limit = abs(prototypes).max()
    grid = figure.subplots(kept_rows + pruned_rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, idx in [*enumerate(kept), *enumerate(pruned, start=kept_rows * columns)]:
        axes = grid.flat[place]
        axes.imshow(prototypes[idx], vmin=-limit, vmax=limit, cmap="RdBu_r")
        axes.set_title(str(idx), fontsize=7, pad=2)
        if idx in pruned:
            axes.plot([0, 1], [0, 1], [0, 1], [1, 0], transform=axes.transAxes, color="crimson", linewidth=1)
    figure.suptitle("spatial prototypes: kept, then removed (crossed out)", fontsize=9)
