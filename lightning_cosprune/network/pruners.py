"""How a layer loses channels, where Torch-Pruning's own way is not enough; with `channels`, all that imports it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_cosprune.network.norms import channels_of_norm, last_axis, resized, size_names

__all__ = [
    "ConvPruner",
    "InstanceNormPruner",
    "NormPruner",
    "RecurrentPruner",
    "RefusedError",
    "Replacement",
    "as_one_node",
    "as_one_step",
    "careful_slicing",
    "replaced",
    "slices",
]


class RefusedError(Exception):
    """A cut that cannot be made, or cannot be shown to be right; its message is the reason for the user."""


@dataclass(frozen=True)
class Replacement:
    """A parameter that took the place of another: its slices ``kept`` along dimension ``dim``.

    A table of two axes in ``kept`` has one row for each group of a grouped convolution.
    """

    old: nn.Parameter
    new: nn.Parameter
    kept: Tensor
    dim: int


def slices(tensor: Tensor, kept: Tensor, dim: int) -> Tensor:
    """The slices ``kept`` of ``tensor`` along ``dim``, in the memory format that ``tensor`` has.

    Where ``kept`` has two axes, dimension 0 falls into as many blocks, and each keeps the slices of its own row.

    Returns:
        A new tensor.
    """
    kept = kept.to(tensor.device)
    if not tensor.ndim:
        return tensor.clone()
    if kept.ndim == 1:
        sliced = tensor.index_select(dim, kept)
    else:
        blocks = zip(tensor.chunk(len(kept)), kept, strict=True)
        sliced = torch.cat([block.index_select(dim, row) for block, row in blocks])
    for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.ndim == ndim and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=memory_format):
            return sliced.contiguous(memory_format=memory_format)
    return sliced.contiguous()


def replaced(old: nn.Parameter, kept: Tensor, dim: int) -> Replacement:
    """A new parameter of the slices ``kept``, with all that belongs to the old one.

    Returns:
        Both.
    """
    new = nn.Parameter(slices(old.detach(), kept, dim), requires_grad=old.requires_grad)
    if old.grad is not None:
        new.grad = slices(old.grad, kept, dim)
    new.__dict__.update(old.__dict__)
    for hook in (old._backward_hooks or {}).values():
        new.register_hook(hook)
    for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values():
        new.register_post_accumulate_grad_hook(hook)
    return Replacement(old, new, kept, dim)


class ConvPruner(tp.pruner.function.ConvPruner):  # type: ignore[misc]
    """Slices the filters and inputs of a convolution, and of a grouped one those that each group keeps."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        """Remove filters."""
        keep = _kept(layer.out_channels, idxs)
        layer.weight = self._prune_parameter_and_grad(layer.weight, *_along(layer, keep, layer.transposed))
        if layer.bias is not None:
            layer.bias = self._prune_parameter_and_grad(layer.bias, keep, 0)
        layer.out_channels = len(keep)
        return layer  # type: ignore[no-any-return]

    def prune_in_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        """Remove what reads some channels."""
        keep = _kept(layer.in_channels, idxs)
        layer.weight = self._prune_parameter_and_grad(layer.weight, *_along(layer, keep, not layer.transposed))
        layer.in_channels = len(keep)
        return layer  # type: ignore[no-any-return]


def _kept(channels: int, idxs: Sequence[int]) -> list[int]:
    return sorted(set(range(channels)).difference(idxs))


def _along(layer: Any, keep: list[int], within_groups: bool) -> tuple[Any, int]:
    """What to keep along which axis of the weight: axis 1 counts the channels of each group by itself."""
    if not within_groups:
        return keep, 0
    size = layer.weight.shape[1]
    groups = [[idx % size for idx in keep if idx // size == group] for group in range(layer.groups)]
    return (groups if layer.groups > 1 else keep), 1


class InstanceNormPruner(tp.pruner.function.InstanceNormPruner):  # type: ignore[misc]
    """Cuts the running statistics too, which Torch-Pruning leaves as they are."""

    def prune_out_channels(self, layer: Any, idxs: Sequence[int]) -> nn.Module:
        """Remove what belongs to some channels."""
        keep = _kept(layer.num_features, idxs)
        for name in ("running_mean", "running_var"):
            if getattr(layer, name) is not None:
                setattr(layer, name, getattr(layer, name)[keep])
        return super().prune_out_channels(layer, idxs)  # type: ignore[no-any-return]

    prune_in_channels = prune_out_channels


class RecurrentPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]
    """Lets an LSTM, GRU or RNN lose inputs; its own units are not filters and stay."""

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        """Remove what reads some channels."""
        keep = _kept(layer.input_size, idxs)
        for name in [name for name in layer._parameters if name.startswith("weight_ih_l0")]:
            setattr(layer, name, self._prune_parameter_and_grad(getattr(layer, name), keep, 1))
        layer.input_size = len(keep)
        return layer

    def prune_out_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        """Refuse."""
        raise RefusedError(f"a {type(layer).__name__}'s units cannot be removed, {len(idxs)} would have to be")

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Number of channels that it reads."""
        return layer.input_size

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """Number of channels that it makes."""
        return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)


class NormPruner(tp.pruner.function.BasePruningFunc):  # type: ignore[misc]
    """Cuts every tensor of a norm along its last axis that is longer than one, and what it says of its size."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Remove what belongs to some channels.

        Returns:
            The norm.

        Raises:
            RefusedError: Its tensors have different numbers of channels.
        """
        channels = channels_of_norm(layer)
        if channels is None:
            if any(last_axis(tensor.shape) is not None for tensor in (*layer.parameters(), *layer.buffers())):
                raise RefusedError("its tensors do not have one number of channels")
            return layer
        going = set(idxs)
        keep = [channel for channel in range(channels) if channel not in going]
        for module in layer.modules():
            sizes = {name: resized(getattr(module, name), len(keep)) for name in size_names(module, channels)}
            for name, parameter in module._parameters.items():
                if parameter is not None and (axis := last_axis(parameter.shape)) is not None:
                    module._parameters[name] = self._prune_parameter_and_grad(parameter, keep, axis)
            for name, buffer in module._buffers.items():
                if buffer is not None and (axis := last_axis(buffer.shape)) is not None:
                    module._buffers[name] = slices(buffer, torch.tensor(keep), axis)
            for name, size in sizes.items():
                setattr(module, name, size)
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Module) -> int | None:
        """How many channels it has, where it says so."""
        return channels_of_norm(layer)

    def get_in_channels(self, layer: nn.Module) -> int | None:
        """The same."""
        return channels_of_norm(layer)


@contextlib.contextmanager
def careful_slicing() -> Iterator[list[Replacement]]:
    """Let Torch-Pruning slice parameters our way: with all that belongs to them, and on record.

    All its layer types pass through one method; as it stands, that method forgets ``requires_grad``, hooks, attributes
    and the memory format.

    Yields:
        A list that fills with what is replaced.
    """
    replacements: list[Replacement] = []
    pruner = tp.pruner.function.BasePruningFunc
    theirs = pruner._prune_parameter_and_grad

    def ours(_: Any, old: nn.Parameter, keep: Any, dim: int) -> nn.Parameter:
        if not isinstance(old, nn.Parameter):
            raise RefusedError("its weight is computed at each call, from tensors that cannot be cut with it")
        kept = torch.as_tensor(keep, dtype=torch.long, device=old.device)
        replacements.append(replaced(old, kept, dim % old.ndim))
        return replacements[-1].new

    pruner._prune_parameter_and_grad = ours
    try:
        yield replacements
    finally:
        pruner._prune_parameter_and_grad = theirs


class _OneNode(torch.autograd.Function):
    """Gives ``values`` one common node in autograd's graph that leads straight to ``source``."""

    @staticmethod
    def forward(_: Any, source: Tensor, *values: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return tuple(value.clone() for value in values)


def as_one_node(forward: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer's outputs as one step of the traced graph, where its loop over time would leave hundreds.

    Returns:
        What ``forward`` returns.
    """
    with torch.no_grad():
        outputs = forward(inputs, *args, **kwargs)
    leaves, structure = tree_flatten(outputs)
    moving = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    source = inputs.data if isinstance(inputs, nn.utils.rnn.PackedSequence) else inputs
    moved = _OneNode.apply(source, *(leaves[place] for place in moving))  # type: ignore[no-untyped-call]
    for place, leaf in zip(moving, moved, strict=True):
        leaves[place] = leaf
    return tree_unflatten(leaves, structure)


def as_one_step(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same for a norm, which may be given nothing by position; such a call is traced as it is.

    Returns:
        What ``forward`` returns.
    """
    return as_one_node(forward, *args, **kwargs) if args else forward(**kwargs)
