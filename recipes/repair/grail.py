# Question: how good is GRAIL's published map from kept to all channels, beside this package's repair?
# Command:  none of its own; the studies of this folder call `grail_map`.
"""GRAIL's map, as published, for any network: the rival of ``refit_least_squares``.

Our own code after the description in Tang, Wang, Thiele and Saukh, "GRAIL: Post-hoc compensation by linear
reconstruction for compressed networks", CPAL 2026, arXiv 2602.23795. What the map is not given here it does not have
there: inputs of the pruned network, a bias, taps with maps of their own, a ridge that is chosen, a pull towards the old
weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune import PruningReport, RepairReport
from lightning_cosprune.calibration.batches import as_batches, num_samples
from lightning_cosprune.calibration.observe import observe
from lightning_cosprune.network.rows import set_weight_rows
from lightning_cosprune.repair.kept import kept_filters
from lightning_cosprune.repair.reading import (
    CutGroup,
    channels_left,
    cut_groups,
    example_of,
    mapped_rows,
    readers_to_change,
    reading_of,
)
from lightning_cosprune.repair.report import RepairedLayer
from lightning_cosprune.repair.told import channels_first

RIDGE = 1e-3


def grail_map(
    pruned: nn.Module,
    dense: nn.Module,
    report: PruningReport | None,
    calibration: Iterable[Any],
    example_inputs: Any = None,
) -> RepairReport:
    r"""Change ``pruned`` in place: layers that read removed channels are given what kept channels predict of these.

    With :math:`G = X^\top X / n` of the dense network's inputs to the layer, channels as columns and the places of the
    feature map as rows, and :math:`K` the kept channels,

    .. math:: B = G_{:K} (G_{KK} + \lambda I)^{-1}, \quad \lambda = 10^{-3} \operatorname{tr}(G_{KK}) / |K|, \quad
        W' = W B,

    with one :math:`B` for all taps of a kernel. Behind a flatten the places that were flattened count as taps.

    Args:
        pruned: The network after the cut.
        dense: The network before it; left as it was found.
        report: What was cut; where ``None``, it is told from the weights.
        calibration: Unlabelled inputs, one entry a forward pass.
        example_inputs: Inputs of one forward pass; where ``None``, the first of the calibration data.

    Returns:
        The layers that were changed, and those that were not and why; its ``method`` is ``"grail"``.
    """
    batches = as_batches(calibration, "grail_map")
    example = example_of(dense, batches[0] if example_inputs is None else example_inputs, "grail_map")
    kept = kept_filters(pruned, dense, report, "grail_map")
    layers, skipped = readers_to_change(pruned, dense, "grail_map")
    groups = cut_groups(dense, example, kept)
    folds = {name: flattened(layer, reading_of(groups, name), name) for name, layer in layers.items()}
    grams = gram_matrices(dense, batches, layers, folds)

    changed = []
    for name, layer in layers.items():
        left = channels_left(layer, pruned.get_submodule(name), reading_of(groups, name), name)
        if left is None or name not in grams:
            skipped[name] = "which of its inputs were removed cannot be told" if name in grams else "not reached"
            continue
        order, still = folds[name], set(left)
        keep = [place for place, columns in enumerate(order.tolist()) if columns[0] in still]
        by_channel = map_from_kept(grams[name], keep, getattr(layer, "groups", 1))
        place_of = {channel: place for place, channel in enumerate(left)}
        to_left = torch.zeros(order.numel(), len(left), dtype=torch.float64)
        for tap in range(order.shape[1]):
            columns = torch.tensor([place_of[channel] for channel in order[keep, tap].tolist()])
            to_left[order[:, tap, None], columns] = by_channel
        set_weight_rows(pruned.get_submodule(name), mapped_rows(layer, kept[name], left, to_left))
        changed.append(RepairedLayer(name, ridge=RIDGE))
    return RepairReport("grail", tuple(changed), skipped, sum(map(num_samples, batches)))


def flattened(layer: nn.Module, groups: Sequence[CutGroup], name: str) -> Tensor:
    """Columns of a layer's input that are one channel before a flatten, ``(channels, places)``; one place without."""
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert isinstance(inputs, int)
    if len(groups) == 1 and groups[0].inputs[name].numel() == inputs:
        return groups[0].inputs[name]
    return torch.arange(inputs)[:, None]


def gram_matrices(
    dense: nn.Module, batches: Sequence[Any], layers: Mapping[str, nn.Module], folds: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Layer name -> sums of products of its input's channels in float64, ``(channels, channels)``, from one pass."""
    grams: dict[str, Tensor] = {}

    def note(name: str, given: Tensor, _: Tensor) -> None:
        rows = channels_first(layers[name], given).transpose(0, 1).flatten(1).double()
        columns = rows[folds[name].to(rows.device)].flatten(1)
        grams[name] = grams.get(name, 0) + columns @ columns.T

    for batch in batches:
        observe(dense, batch, list(layers), note)
    return {name: gram.cpu() for name, gram in grams.items()}


def map_from_kept(gram: Tensor, kept: Sequence[int], groups: int = 1) -> Tensor:
    """The map from kept channels to all, ``(channels, kept)``; each group of a grouped layer has a map of its own."""
    found = gram.new_zeros(len(gram), len(kept))
    size = len(gram) // groups
    for group in range(groups):
        places = [place for place, channel in enumerate(kept) if channel // size == group]
        own = torch.tensor([kept[place] for place in places])
        among = gram[own][:, own]
        ridge = RIDGE * among.diagonal().mean().clamp_min(1e-300) * torch.eye(len(own), dtype=gram.dtype)
        inside = slice(group * size, (group + 1) * size)
        found[inside, places] = torch.linalg.solve(among + ridge, gram[own][:, inside]).T
    return found
