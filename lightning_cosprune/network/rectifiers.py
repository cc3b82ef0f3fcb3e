"""What is done with a layer's output at once: a batch norm, and an activation that cuts off what is out of range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cosprune.network.layers import layer_weight
from lightning_cosprune.network.steps import Steps, record_steps

__all__ = ["Sequel", "find_sequels"]


@dataclass(frozen=True)
class Sequel:
    """What alone reads a layer's output.

    Attributes:
        batch_norm: Name of the batch norm with running statistics that reads it, or ``None``.
        low: What lies below is the same to all that comes after: 0 behind a ReLU; minus infinity where nothing is cut.
        high: What lies above is, likewise.
    """

    batch_norm: str | None = None
    low: float = -math.inf
    high: float = math.inf

    @property
    def rectifies(self) -> bool:
        """Whether anything is cut off."""
        return self.low > -math.inf or self.high < math.inf


def find_sequels(model: nn.Module, example_inputs: Any, layers: Mapping[str, nn.Module]) -> dict[str, Sequel]:
    """Layer name -> its sequel, from one forward pass in evaluation mode.

    A layer that is called several times, read by several steps or returned by the model has an empty one: nothing is
    known to be the same.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        layers: The layers, by name.

    Returns:
        One for each layer.
    """
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    steps = record_steps(model, example_inputs, layers, norms)
    return {name: _sequel(steps, name, layer, norms) for name, layer in layers.items()}


def _sequel(steps: Steps, name: str, layer: nn.Module, norms: Mapping[str, _BatchNorm]) -> Sequel:
    calls = steps.outputs[name]
    node, axes = calls[0] if len(calls) == 1 else (None, 0)
    reader = None if node is None else _only_reader(steps, node)
    if reader is None:
        return Sequel()
    # A batch norm takes axis 1 for the channels, whatever the layer has there.
    filters_second = axes == (2 if isinstance(layer, nn.Linear) else layer_weight(layer).ndim)
    for norm, inputs in steps.inputs.items():
        if len(inputs) == 1 and inputs[0] is node and norms[norm].running_mean is not None:
            if not filters_second:
                return Sequel()
            return Sequel(norm, *_range_let_through(_only_reader(steps, reader)))
    return Sequel(None, *_range_let_through(reader))


def _only_reader(steps: Steps, node: Node) -> Node | None:
    readers = steps.readers.get(node, [])
    return readers[0] if len(readers) == 1 and node not in steps.ends else None


def _range_let_through(node: Any) -> tuple[float, float]:
    """Within which bounds an activation passes its input on as it is; no activation has none."""
    kind = type(node).__name__
    if kind.startswith("ReluBackward"):
        return 0.0, math.inf
    if kind.startswith("HardtanhBackward"):  # ReLU6 too
        return float(node._saved_min_val), float(node._saved_max_val)
    return -math.inf, math.inf
