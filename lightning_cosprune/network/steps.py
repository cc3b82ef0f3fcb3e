"""Which step of a forward pass reads which, as autograd records it: from a layer to what is done with its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_map

from lightning_cosprune.network.forward import (
    call,
    evaluating,
    float_tensors,
    forward_failed,
    same_random_state,
    unchanged,
)

__all__ = ["Steps", "record_steps"]


@dataclass(frozen=True)
class Steps:
    """One forward pass as autograd recorded it; nodes are its steps.

    Attributes:
        outputs: Layer name -> the node and the number of axes of each output, one for every call.
        inputs: Batch norm name -> the node of each input, one for every call.
        readers: Node -> the nodes that read its result, on the way to an output of the model.
        sources: Node -> the nodes whose results it reads.
        ends: The nodes whose results the model returns.
    """

    outputs: Mapping[str, list[tuple[Node | None, int]]]
    inputs: Mapping[str, list[Node | None]]
    readers: Mapping[Node, list[Node]]
    sources: Mapping[Node, list[Node]]
    ends: tuple[Node, ...]


def record_steps(
    model: nn.Module, example_inputs: Any, layers: Mapping[str, nn.Module], norms: Mapping[str, nn.Module]
) -> Steps:
    """Run ``model`` once in evaluation mode and note which step reads which.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        layers: Layers whose outputs are looked for, by name.
        norms: Modules whose inputs are looked for, by name.

    Returns:
        The record.

    Raises:
        ValueError: The forward pass fails.
    """
    outputs: dict[str, list[tuple[Node | None, int]]] = {name: [] for name in layers}
    inputs: dict[str, list[Node | None]] = {name: [] for name in norms}
    handles = [
        layer.register_forward_hook(
            lambda _, __, output, name=name: outputs[name].append((output.grad_fn, output.ndim))
        )
        for name, layer in layers.items()
    ] + [
        norm.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: inputs[name].append((args[0] if args else kwargs["input"]).grad_fn),
            with_kwargs=True,
        )
        for name, norm in norms.items()
    ]
    try:
        # Inputs that require grad are followed through frozen layers too; a clone may be changed in place.
        with torch.inference_mode(False), torch.enable_grad(), unchanged(model), evaluating(model), same_random_state():
            try:
                leaves = float_tensors(call(model, tree_map(_followed, example_inputs)))
            except Exception as error:  # a network may fail in any way
                raise forward_failed(model, error) from error
    finally:
        for handle in handles:
            handle.remove()
    ends = tuple(leaf.grad_fn for leaf in leaves if leaf.grad_fn is not None)
    return Steps(outputs, inputs, *_edges(ends), ends)


def _followed(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        return leaf.detach().clone().requires_grad_().clone()
    return leaf


def _edges(ends: Iterable[Node]) -> tuple[dict[Node, list[Node]], dict[Node, list[Node]]]:
    """Who reads whom in autograd's graph, both ways, as far as ``ends`` depend on it."""
    readers: dict[Node, list[Node]] = {}
    sources: dict[Node, list[Node]] = {}
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node in sources:
            continue
        sources[node] = [source for source, _ in node.next_functions if source is not None]
        for source in sources[node]:
            readers.setdefault(source, []).append(node)
        waiting += sources[node]
    return readers, sources
