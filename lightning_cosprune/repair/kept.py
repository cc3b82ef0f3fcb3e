"""Which filters of the dense network the pruned one still has, and which of its layers read fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import type_before_parametrizations

from lightning_cosprune.arguments import check_kind
from lightning_cosprune.network.layers import check_model, is_depthwise, is_layer, layer_weight, num_filters
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["check_networks", "kept_filters", "readers_of_removed"]


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
    check_networks(pruned, dense, caller)
    if report is not None:
        check_kind(report, PruningReport, f"`{caller}(report=...)`", "`apply_plan` returns one.")
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
            kept[name] = _told_from_weights(module, before)
        if len(kept[name]) != left:
            raise ValueError(
                f"`{caller}(pruned=..., dense=...)`: expected layer {name!r} to have {left} of the dense network's "
                f"{filters} filters, found {len(kept[name])} that are the same. If it was trained since the cut, pass "
                "`report=`, what `apply_plan` returned."
            )
    return kept


def check_networks(pruned: nn.Module, dense: nn.Module, caller: str) -> None:
    """Refuse what are no two networks.

    Raises:
        TypeError: One of them is no network.
    """
    check_model(pruned, caller, "pruned")
    check_model(dense, caller, "dense")


def _told_from_weights(pruned: nn.Module, dense: nn.Module) -> list[int]:
    """Numbers of the dense filters that hold every weight of some pruned filter, whichever inputs were cut."""
    rows, wide = (layer_weight(layer, stored=True).detach().flatten(1).cpu() for layer in (pruned, dense))
    biases = [layer._parameters.get("bias") for layer in (pruned, dense)]
    found: list[int] = []
    first = 0
    for number, row in enumerate(rows):
        largest = row[row.abs().argmax()]
        candidates = ((wide[first:] == largest).any(dim=1).nonzero()[:, 0] + first).tolist()
        matches = [idx for idx in candidates if bool(torch.isin(row, wide[idx]).all())]
        if not matches:
            return found
        if len(matches) > 1:  # by chance, as happens in half precision, or because filters are equal
            matches = [idx for idx in matches if _in_order(row.tolist(), wide[idx].tolist())] or matches
            if biases[0] is not None and biases[1] is not None:
                matches = [idx for idx in matches if biases[0][number] == biases[1][idx]] or matches
        found.append(matches[0])
        first = matches[0] + 1  # a cut keeps the order of the filters
    return found


def _in_order(some: list[float], all_of_them: list[float]) -> bool:
    """Whether ``some`` is left when others are taken out of the second list."""
    remaining = iter(all_of_them)
    return all(any(one == other for other in remaining) for one in some)


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
