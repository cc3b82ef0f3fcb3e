"""What lies between the filters of one layer and the layer that reads them: how far a factor passes through it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.autograd.graph import Node

from lightning_cosprune.network.layers import has_filters, prunable_layers
from lightning_cosprune.network.steps import Steps, record_steps

__all__ = ["Between", "steps_between"]

_LINEAR = re.compile(
    r"(Unsafe)?View|Reshape|Permute|Transpose|T$|Squeeze|Unsqueeze|Clone|Alias|Expand|Mean|Sum$|Add|Sub|Cat|Slice|"
    r"Select|ConstantPad|(Mkldnn|Adaptive)*AvgPool|Upsample|ToCopy|Copy|.*BatchNorm|.*Convolution|Split|Flatten|Stack"
)
_HOMOGENEOUS = re.compile(r"Relu|LeakyRelu|Hardtanh|MaxPool|AdaptiveMaxPool|Amax|Max$|Max\d")


@dataclass(frozen=True)
class Between:
    """The steps on all ways from other layers to a layer's input.

    Attributes:
        linear: Whether the reader's input is a linear function of what the layers compute.
        homogeneous: Whether a positive factor passes through: a ReLU may lie between, a sigmoid may not. A ReLU6 counts
            as one that does, though it cuts off at 6.
        normed: Whether every way passes through a batch norm, so that it is known how the values there are spread.
        obstacle: A step through which no factor passes, or ``None``.
    """

    linear: bool
    homogeneous: bool
    normed: bool
    obstacle: str | None


def steps_between(dense: nn.Module, example_inputs: Any, readers: Mapping[str, nn.Module]) -> dict[str, Between]:
    """Reader -> what lies before it, back to the layers whose filters it reads.

    Args:
        dense: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments.
        readers: The layers, by name.

    Returns:
        One for each of ``readers`` that the forward pass reaches.
    """
    layers = prunable_layers(dense)
    steps = record_steps(dense, example_inputs, layers, readers)
    produced = {node for name, calls in steps.outputs.items() if has_filters(layers[name]) for node, _ in calls if node}
    return {name: _before(steps, nodes, produced) for name, nodes in steps.inputs.items() if nodes}


def _before(steps: Steps, ends: list[Node | None], produced: set[Node]) -> Between:
    kinds: set[str] = set()
    normed = True
    waiting = [(node, False) for node in ends if node is not None]
    seen: set[tuple[Node, bool]] = set()
    while waiting:
        node, behind_norm = waiting.pop()
        if (node, behind_norm) in seen:
            continue
        seen.add((node, behind_norm))
        if node in produced:
            normed &= behind_norm
            continue
        kind = re.sub(r"Backward\d*$", "", type(node).__name__)
        sources = steps.sources.get(node, [])
        if not sources:  # a parameter, or an input of the network
            continue
        kinds.add(kind)
        waiting += [(source, behind_norm or "BatchNorm" in kind) for source in sources]
    linear = all(_LINEAR.match(kind) for kind in kinds)
    others = sorted(kind for kind in kinds if not _LINEAR.match(kind) and not _HOMOGENEOUS.match(kind))
    return Between(linear, not others, normed, others[0].lower() if others else None)
