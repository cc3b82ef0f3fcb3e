"""A layer as one matrix product: a row of inputs for each output position, a row of weights for each filter.

The row of a convolution holds the patch that the position sees, channel by channel and tap by tap; that of a linear
layer its inputs. So one formula serves all of them, and what is solved for rows of weights is a layer again.
"""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_cosprune.network.computed import effective_weight, write_weight
from lightning_cosprune.network.layers import layer_weight

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["input_rows", "num_positions", "output_rows", "set_weight_rows", "weight_rows"]


def num_positions(layer: nn.Module, output: Tensor) -> int:
    """How many places each sample of a layer's output has: those of the feature map, or of the axes between."""
    if isinstance(layer, nn.Linear):
        return output.shape[1:-1].numel()
    return output.shape[-_dimensions(layer) :].numel()


def output_rows(
    layer: nn.Module, output: Tensor, positions: Int[Tensor, " positions"]
) -> Float[Tensor, "samples positions filters"]:
    """What the layer computes at some places of every sample.

    Args:
        layer: A convolution, a transposed one, or a linear layer.
        output: What it returned; a sample without a batch axis counts as a batch of one.
        positions: Numbers of the places, counted over the flattened feature map.

    Returns:
        Filters last.
    """
    if isinstance(layer, nn.Linear):
        flat = output.unsqueeze(0) if output.ndim == 1 else output
        return flat.flatten(1, -2)[:, positions] if flat.ndim > 2 else flat[:, None]
    dimensions = _dimensions(layer)
    flat = output.unsqueeze(0) if output.ndim == dimensions + 1 else output
    return flat.flatten(2)[:, :, positions].transpose(1, 2)


def input_rows(
    layer: nn.Module, inputs: Tensor, positions: Int[Tensor, " positions"], output_shape: Sequence[int] = ()
) -> Float[Tensor, "samples positions groups columns"]:
    """What the layer sees at some places of every sample; ``rows @ weight_rows + bias`` is what it computes there.

    Only the asked places are copied: the patches of a whole feature map are never held.

    Args:
        layer: A convolution, a transposed one, or a linear layer.
        inputs: What it is given.
        positions: Numbers of the places, counted over the flattened feature map of its output.
        output_shape: Shape of its output; asked of a transposed convolution that may be called with ``output_size``.

    Returns:
        For each group of a grouped convolution its own channels, channel by channel and tap by tap.
    """
    if isinstance(layer, nn.Linear):
        return output_rows(layer, inputs, positions)[:, :, None]
    assert isinstance(layer, nn.modules.conv._ConvNd)
    dimensions = _dimensions(layer)
    inputs = inputs.unsqueeze(0) if inputs.ndim == dimensions + 1 else inputs
    stride: Sequence[int] = layer.stride
    if layer.transposed:
        inputs, stride = _spread(layer, inputs, output_shape[-dimensions:]), (1,) * dimensions
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = functional.pad(inputs, _around(layer), mode=mode)
    patches = inputs
    for axis, (size, step, gap) in enumerate(zip(layer.kernel_size, stride, layer.dilation, strict=True), start=2):
        patches = patches.unfold(axis, (size - 1) * gap + 1, step)[..., ::gap]
    if layer.transposed:  # the tap that a transposed convolution adds last is the first of the window
        patches = patches.flip(tuple(range(-dimensions, 0)))
    places: Any = torch.unravel_index(positions, patches.shape[2 : 2 + dimensions])
    chosen: Tensor = patches[(slice(None), slice(None), *places)]  # samples, channels, positions, *kernel
    by_group: Tensor = chosen.flatten(3).unflatten(1, (layer.groups, -1)).permute(0, 3, 1, 2, 4).flatten(3)
    return by_group


def weight_rows(layer: nn.Module) -> Float[Tensor, "groups filters columns"]:
    """The weights that multiply :func:`input_rows`, of each group's filters."""
    groups = getattr(layer, "groups", 1)
    rows: Tensor = layer_weight(layer).detach().flatten(1).unflatten(0, (groups, -1))
    return rows


@torch.no_grad()
def set_weight_rows(layer: Any, rows: Float[Tensor, "groups filters columns"]) -> None:
    """Change the layer's weight in place, to what :func:`weight_rows` would return."""
    weight = effective_weight(layer)
    if isinstance(layer, nn.Linear) or not layer.transposed:
        write_weight(layer, rows.reshape(weight.shape))
        return
    kernel = weight.shape[2:]
    # Of a transposed convolution the input channels of all groups come first.
    by_input = rows.unflatten(2, (-1, *kernel)).transpose(1, 2)
    write_weight(layer, by_input.reshape(weight.shape))


def _dimensions(layer: Any) -> int:
    return len(tuple(layer.kernel_size))


def _around(layer: Any) -> Sequence[int]:
    """How much is put around the input, last axis first, as the forward pass reads it."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        # Not what the constructor noted: users change the padding of a layer that they have.
        return [around for size in reversed(layer.padding) for around in (size, size)]
    sizes: Sequence[int] = layer._reversed_padding_repeated_twice
    return sizes


def _spread(layer: Any, inputs: Tensor, output_size: Sequence[int]) -> Tensor:
    """The input of an ordinary convolution with stride 1 that computes what the transposed one does."""
    for axis, step in enumerate(layer.stride, start=2):
        if step > 1:
            size = inputs.shape[axis]
            spread = inputs.new_zeros(*inputs.shape[:axis], (size - 1) * step + 1, *inputs.shape[axis + 1 :])
            spread.narrow(axis, 0, spread.shape[axis]).index_copy_(
                axis, torch.arange(size, device=inputs.device) * step, inputs
            )
            inputs = spread
    pads: list[int] = []
    for axis, (size, padding, gap) in enumerate(zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)):
        around = (size - 1) * gap - padding
        extra = layer.output_padding[axis]
        if output_size:
            extra = output_size[axis] - (inputs.shape[axis + 2] + around - padding)
        pads = [around, around + extra, *pads]
    return functional.pad(inputs, pads)
