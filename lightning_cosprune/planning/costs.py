"""What a network costs at any widths, without cutting it for each: counted once, true after surgery."""

# ruff: noqa: F722 - jaxtyping writes the axes of an array in a string

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup, graph_of_groups
from lightning_cosprune.network.complexity import Complexity, measure_complexity
from lightning_cosprune.network.computed import PlainWeights, plain_weights
from lightning_cosprune.network.forward import call, evaluating, same_random_state, unchanged
from lightning_cosprune.network.layers import is_layer
from lightning_cosprune.network.rollback import Snapshot

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["CostModel", "count_costs"]

STATISTICS = ("running_mean", "running_var")


class CostModel:
    r"""Parameters, bytes and multiply-accumulates as functions of how many filters each group keeps.

    Every tensor of the network has :math:`\prod_d (s_d - \sum_g b_{dg} r_g)` elements after :math:`r_g` filters of each
    group were removed: a layer's own filters, its readers' inputs, what is coupled to it and what passes its channels
    on, each once. How many slices :math:`b_{dg}` go with a filter is read from one trial cut of each group, which is
    undone. Multiply-accumulates are those elements times the places at which each weight is used; products that belong
    to no layer's weight, such as those of attention, count as they are now.

    Args:
        model: The network; left as it was found.
        example_inputs: As for ``plan_pruning``.
        groups: Those that may lose filters; each has more filters than ``blocks``.
        itemsize: Bytes of one number, or ``None`` for that of each tensor's data type.
        buffers: Whether the statistics of batch norms count among parameters and bytes.

    Attributes:
        dense: What the network costs now.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        groups: Sequence[ChannelGroup],
        *,
        itemsize: int | None = None,
        buffers: bool = True,
    ) -> None:
        self.groups = list(groups)
        self.filters = np.array([group.filters for group in groups], dtype=np.int64)
        self.dense: Complexity = measure_complexity(model, example_inputs)
        tensors = _stored(model, buffers)
        with plain_weights(model) as plain:
            uses = _uses(model, example_inputs, plain)
            lost = _lost_slices(model, example_inputs, self.groups, plain)
        most = max((tensor.ndim for tensor, _ in tensors.values()), default=1)
        self._sizes = np.ones((len(tensors), most))
        self._lost = np.zeros((len(groups), len(tensors), most))
        self._counts = np.zeros((len(tensors), 3))
        self._rows = {key: row for row, key in enumerate(tensors)}
        for row, (key, (tensor, stored)) in enumerate(tensors.items()):
            self._sizes[row, : tensor.ndim] = tensor.shape
            for (number, dim), slices in lost.get(key, {}).items():
                self._lost[number, row, dim] = slices
            size = itemsize or tensor.element_size()
            self._counts[row] = (stored, stored * size, uses.get(key, 0))
        whole = self._evaluate(self.filters[None])[0]
        self._rest = self.dense.macs - whole[2]

    def __call__(self, widths: Int[np.ndarray, "candidates groups"]) -> dict[str, Float[np.ndarray, " candidates"]]:
        """Costs with so many filters of each group left.

        Returns:
            ``params``, ``bytes`` and ``macs``.
        """
        found = np.rint(self._evaluate(np.atleast_2d(widths)))
        return {"params": found[:, 0], "bytes": found[:, 1], "macs": found[:, 2] + self._rest}

    def shapes(
        self, weight: Tensor, widths: Int[np.ndarray, "candidates groups"]
    ) -> Float[np.ndarray, "candidates axes"]:
        """Shape of a parameter of the network with so many filters of each group left."""
        row = self._rows[id(weight)]
        removed = self.filters - np.atleast_2d(widths)
        found: np.ndarray = np.rint(self._sizes[row] - removed @ self._lost[:, row])
        return found[:, : weight.ndim]

    def _evaluate(self, widths: Int[np.ndarray, "candidates groups"]) -> Float[np.ndarray, "candidates 3"]:
        removed = self.filters - widths
        sizes = self._sizes - np.tensordot(removed, self._lost, axes=1)
        elements: np.ndarray = np.rint(sizes).prod(axis=2) @ self._counts
        return elements


def count_costs(model: nn.Module, complexity: Complexity, itemsize: int | None, buffers: bool) -> dict[str, float]:
    """What a network costs as it is, counted as :class:`CostModel` counts.

    Args:
        model: The network.
        complexity: What :func:`measure_complexity` found for it.
        itemsize: Bytes of one number, or ``None`` for that of each tensor's data type.
        buffers: Whether the statistics of batch norms count.

    Returns:
        ``params``, ``bytes`` and ``macs``.
    """
    stored = [tensor for tensor, counted in _stored(model, buffers).values() if counted]
    return {
        "params": sum(tensor.numel() for tensor in stored),
        "bytes": sum(tensor.numel() * (itemsize or tensor.element_size()) for tensor in stored),
        "macs": complexity.macs,
    }


def _stored(model: nn.Module, buffers: bool) -> dict[Any, tuple[Tensor, int]]:
    """Key of a tensor -> it, and whether it is counted; a shared parameter is there once."""
    found: dict[Any, tuple[Tensor, int]] = {id(tensor): (tensor, 1) for tensor in model.parameters()}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            for key in STATISTICS:
                buffer = getattr(module, key)
                if buffer is not None and id(buffer) not in seen:
                    seen.add(id(buffer))
                    found[name, key] = (buffer, int(buffers))
    return found


def _lost_slices(
    model: nn.Module, example_inputs: Any, groups: Sequence[ChannelGroup], plain: PlainWeights
) -> dict[Any, dict[tuple[int, int], float]]:
    """Key of a tensor -> (number of a group, dimension) -> slices that go with one filter of the group."""
    lost: dict[Any, dict[tuple[int, int], float]] = {}
    graph = graph_of_groups(model, example_inputs, groups)
    owners = {id(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}
    for number, group in enumerate(groups):
        size = group.filters // group.blocks
        removal = graph.removal(group, [block * size for block in range(group.blocks)])
        for name, channels in removal.outputs.items():
            if isinstance(model.get_submodule(name), nn.modules.batchnorm._NormBase):
                for statistic in STATISTICS:
                    lost.setdefault((name, statistic), {})[number, 0] = len(set(channels)) / group.blocks
        concerned = {*removal.outputs, *removal.inputs, *(owners[id(parameter)] for parameter in removal.parameters)}
        concerned |= graph.dividing
        before = Snapshot(model, concerned)
        try:
            replacements = graph.cut([removal])
        finally:
            before.restore()
        origin = {id(replaced.new): replaced.old for replaced in replacements}
        for replaced in replacements:
            first = replaced.old
            while id(first) in origin:  # some lose slices of two dimensions, one after the other
                first = origin[id(first)]
            fewer = replaced.old.shape[replaced.dim] - replaced.new.shape[replaced.dim]
            computed = plain.computed(first)
            for stored in [first] if computed is None else computed.lost_with(replaced.dim):
                of_tensor = lost.setdefault(id(stored), {})
                place = (number, replaced.dim)
                of_tensor[place] = of_tensor.get(place, 0) + fewer / group.blocks
    return lost


def _uses(model: nn.Module, example_inputs: Any, plain: PlainWeights) -> dict[int, int]:
    """Id of a weight, or of what it is computed from, -> at how many places each of its elements multiplies."""
    uses: dict[int, int] = {}

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs["input"]
        if isinstance(module, nn.RNNBase):
            data = given.data if isinstance(given, nn.utils.rnn.PackedSequence) else given
            times = data.shape[:-1].numel()
            weights = [weight for key, weight in module._parameters.items() if key.startswith("weight_")]
        elif isinstance(module, nn.Linear):
            times, weights = output.shape[:-1].numel(), [module._parameters.get("weight")]
        else:
            dimensions = len(module.kernel_size)
            counted = given if module.transposed else output
            samples = len(counted) if counted.ndim > dimensions + 1 else 1
            times, weights = samples * counted.shape[-dimensions:].numel(), [module._parameters.get("weight")]
        for weight in weights:
            if weight is not None:
                computed = plain.computed(weight)
                stored = weight if computed is None else computed.main
                uses[id(stored)] = uses.get(id(stored), 0) + times

    handles = [
        module.register_forward_hook(note, with_kwargs=True)
        for module in model.modules()
        if is_layer(module) or isinstance(module, nn.RNNBase)
    ]
    try:
        with unchanged(model), evaluating(model), torch.no_grad(), same_random_state():
            call(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return uses
