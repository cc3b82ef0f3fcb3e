"""What batch norm makes of a layer's filters: weights and biases with it folded in, wherever that can be done."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cosprune.network.layers import check_model, layer_weight, prunable_layers
from lightning_cosprune.network.steps import Steps, record_steps

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FoldedLayer", "fold_batch_norms"]


@dataclass(frozen=True, eq=False)
class FoldedLayer:
    """A convolution or linear layer as the network behind it sees it.

    Attributes:
        weight: Weight (filters, in_channels, *kernel), the batch norm folded in where there is one that can be.
        bias: Bias (filters,), likewise; zero for a layer that has none.
        batch_norm: Name of the batch norm that is folded in, or ``None``.
        reason: Why none is, or ``None``.
    """

    weight: Float[Tensor, "filters channels ..."]
    bias: Float[Tensor, " filters"]
    batch_norm: str | None
    reason: str | None


def fold_batch_norms(model: nn.Module, example_inputs: Any) -> dict[str, FoldedLayer]:
    r"""Weights of every convolution and linear layer, with the batch norm that reads it folded in.

    In evaluation mode a layer and the batch norm behind it are one affine map, whose filter :math:`i` is

    .. math:: w_i' = \frac{\gamma_i}{\sigma_i} w_i, \qquad b_i' = \frac{\gamma_i}{\sigma_i} (b_i - \mu_i) + \beta_i,
        \qquad \sigma_i^2 = \operatorname{var}_i + \epsilon .

    A positive factor leaves the direction of a filter as it is and a negative one turns it round; so the folded weight
    says which filters the network uses with opposite signs, and the folded bias where their activation sets in.
    ``filter_vectors([folded.weight, folded.bias[:, None]], "flat")`` has both.

    Conventions:
        - Nothing is folded unless one forward pass shows that the batch norm reads the layer itself and that nothing
          else does. After an activation or a pooling, even one in place, it is another function, and ``reason`` names
          what lies between.
        - Neither is a batch norm without running statistics, nor one behind a layer that is called more than once, nor
          one that normalises another axis than the filters'.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.

    Returns:
        Layer name -> the folded layer, detached, in the order of the model.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``model`` cannot be run on ``example_inputs``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.ReLU())
        >>> _ = model.append(nn.BatchNorm2d(8))
        >>> for name, folded in fold_batch_norms(model, torch.zeros(1, 1, 8, 8)).items():
        ...     print(name, folded.batch_norm, folded.reason)
        0 1 None
        2 None 4 reads it after relu
    """
    check_model(model, "fold_batch_norms")
    layers = prunable_layers(model)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    run = record_steps(model, example_inputs, layers, norms)
    return {name: _fold(layer, _batch_norm_of(name, layer, run, norms), norms) for name, layer in layers.items()}


def _batch_norm_of(name: str, layer: nn.Module, run: Steps, norms: Mapping[str, _BatchNorm]) -> str:
    """Name of the batch norm that can be folded into the layer, or why there is none."""
    calls = run.outputs[name]
    if len(calls) != 1:
        return f"called {len(calls)} times" if calls else "not reached by the example input's forward pass"
    node, axes = calls[0]
    if node is None or node not in run.sources:
        return "no output of the network depends on it"
    direct = [norm for norm, nodes in run.inputs.items() if any(one is node for one in nodes)]
    if not direct:
        return _reader_further_on(node, run)
    norm = norms[direct[0]]
    if len(direct) > 1 or len(run.inputs[direct[0]]) > 1 or len(run.readers[node]) > 1:
        return f"{direct[0]} is not all that reads it, or reads others too"
    if norm.running_mean is None:
        return f"{direct[0]} has no running statistics"
    if isinstance(layer, nn.Linear) and axes != 2:
        return f"{direct[0]} normalises another axis than the filters'"
    return direct[0]


def _reader_further_on(node: Node, run: Steps) -> str:
    """Which batch norm reads what other steps made of this node's result, and which steps they are."""
    reads = {one: name for name, nodes in run.inputs.items() for one in nodes if one is not None}
    produced = {one for calls in run.outputs.values() for one, _ in calls if one is not node}
    trails = [(reader, [reader]) for reader in run.readers.get(node, [])]
    seen = set()
    while trails:
        reader, steps = trails.pop(0)
        if reader in seen or reader in produced:  # from the next layer on it is that layer's affair
            continue
        seen.add(reader)
        if reader in reads:
            return f"{reads[reader]} reads it after {', '.join(map(_step_name, steps))}"
        trails += [(further, [*steps, further]) for further in run.readers.get(reader, [])]
    return "no batch norm reads it"


def _step_name(node: Node) -> str:
    """``MaxPool2DWithIndicesBackward0`` is "max pool2d with indices"."""
    words = re.findall(r"[A-Z]+[a-z0-9]*(?:D(?=[A-Z]|$))?", re.sub(r"Backward\d*$", "", node.name()))
    return " ".join(words).lower() or node.name()


def _fold(layer: nn.Module, found: str, norms: Mapping[str, _BatchNorm]) -> FoldedLayer:
    """The layer with the batch norm of the name ``found`` folded in, or as it is, where that is a reason instead."""
    weight = layer_weight(layer).detach()
    bias: Tensor = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()  # type: ignore[operator]
    norm = norms.get(found)
    if norm is None:
        return FoldedLayer(weight, bias, None, found)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight.detach()
    bias = (bias - norm.running_mean) * factor
    if norm.affine:
        bias = bias + norm.bias.detach()
    return FoldedLayer(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), bias, found, None)
