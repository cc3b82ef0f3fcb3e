"""Which filters of the dense network the pruned one still has, and which of its layers read fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lightning_cosprune.network.layers import is_depthwise, is_layer, layer_weight, num_filters
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["kept_filters", "readers_of_removed"]


def kept_filters(
    pruned: nn.Module, dense: nn.Module, report: PruningReport | None, caller: str
) -> dict[str, list[int]]:
    """Layer name -> the numbers that its filters have in the dense network, ascending.

    Args:
        pruned: The network after the cut.
        dense: The network before it.
        report: What was cut; where ``None`` it is told from the weights, which must be those of the dense network then.
        caller: Name that an error is about.

    Raises:
        ValueError: The two are not one network before and after a cut; the layer is named.

    Returns:
        Every convolution and linear layer of ``pruned``.
    """
    layers = {name: module for name, module in dense.named_modules() if is_layer(module)}
    known = {} if report is None else {layer.name: layer.pruned_idxs for layer in report.layers}
    kept: dict[str, list[int]] = {}
    for name, module in pruned.named_modules():
        if not is_layer(module):
            continue
        before = layers.get(name)
        kind = type_before_parametrizations(module)  # a parametrized layer has a class of its own
        if before is None or type_before_parametrizations(before) is not kind:
            found = "none of that name" if before is None else f"a {type(before).__name__}"
            raise ValueError(
                f"`{caller}(dense=...)`: expected the network before the cut, with a {kind.__name__} "
                f"{name!r}, found {found}. Keep a copy of the network before pruning it: `copy.deepcopy(model)`."
            )
        filters, left = num_filters(before), num_filters(module)
        if name in known:
            kept[name] = sorted(set(range(filters)).difference(known[name]))
        elif left == filters:
            kept[name] = list(range(filters))
        else:
            kept[name] = _told_from_weights(layer_weight(module).detach(), layer_weight(before).detach())
        if len(kept[name]) != left:
            raise ValueError(
                f"`{caller}(pruned=..., dense=...)`: expected layer {name!r} to have {left} of the dense network's "
                f"{filters} filters, found {len(kept[name])} that are the same. If it was trained since the cut, pass "
                "`report=`, what `apply_plan` returned."
            )
    return kept


def _told_from_weights(pruned: Tensor, dense: Tensor) -> list[int]:
    """Numbers of the dense filters that hold every weight of some pruned filter, whichever inputs were cut."""
    pruned, dense = pruned.flatten(1).cpu(), dense.flatten(1).cpu()
    found: list[int] = []
    first = 0
    for row in pruned:
        largest = row[row.abs().argmax()]
        candidates = (dense[first:] == largest).any(dim=1).nonzero()[:, 0].tolist()
        match = next((first + idx for idx in candidates if bool(torch.isin(row, dense[first + idx]).all())), None)
        if match is None:
            return found
        found.append(match)
        first = match + 1  # a cut keeps the order of the filters
    return found


def readers_of_removed(pruned: nn.Module, dense: nn.Module) -> dict[str, str | None]:
    """Layers of ``pruned`` that read fewer channels than in ``dense``, in the order of the network.

    Returns:
        Layer name -> ``None``, or why its weights cannot be solved for. Depthwise layers, which end no channel, are
        left out.
    """
    before: Mapping[str, Any] = dict(dense.named_modules())
    readers: dict[str, str | None] = {}
    for name, module in pruned.named_modules():
        if isinstance(module, nn.RNNBase):
            if module.input_size != before[name].input_size:
                readers[name] = f"recurrent ({type(module).__name__}): its inputs enter gates at every step"
        elif is_layer(module) and not is_depthwise(before[name]):
            size = "in_features" if isinstance(module, nn.Linear) else "in_channels"
            if getattr(module, size) != getattr(before[name], size):
                readers[name] = None
    return readers
