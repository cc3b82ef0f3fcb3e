"""What a layer with filters is: which modules have them, how many, and their weight."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from lightning_cosprune.arguments import check_module
from lightning_cosprune.network.computed import effective_weight, stored_weight

__all__ = ["check_model", "has_filters", "is_depthwise", "is_layer", "layer_weight", "num_filters", "prunable_layers"]


def check_model(model: object, caller: str, parameter: str = "model") -> None:
    """Refuse what is no network, and one with layers that a first forward pass would change.

    Raises:
        TypeError: With what was found.
        ValueError: With a lazy layer.
    """
    check_module(model, f"`{caller}({parameter}=...)`")
    for name, module in model.named_modules():  # type: ignore[attr-defined]
        if isinstance(module, LazyModuleMixin) and "_initialize_hook" in vars(module):
            raise ValueError(
                f"`{caller}({parameter}=...)`: expected a network that has seen data, found the lazy layer {name!r}, "
                "which has no size yet. Send one batch through the network first."
            )


def is_layer(module: nn.Module) -> bool:
    """Whether it is a convolution, a transposed convolution or a linear layer."""
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Layer name -> convolution or linear layer, in the order of the model.

    Returns:
        Depthwise convolutions too, though they only follow the layer that feeds them.
    """
    return {name: module for name, module in model.named_modules() if is_layer(module)}


def is_depthwise(module: nn.Module) -> bool:
    """Whether it is a convolution of each channel by itself, one filter a channel."""
    return (
        isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.out_channels == module.in_channels > 1
    )


def num_filters(layer: nn.Module) -> int:
    """How many filters a convolution or linear layer has."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def has_filters(module: nn.Module) -> bool:
    """Whether it has filters of its own, unlike a depthwise convolution, which belongs to the layer it reads."""
    return is_layer(module) and not is_depthwise(module)


def layer_weight(module: nn.Module, *, stored: bool = False) -> Tensor:
    """Weight of a layer as (filters, in_channels, *kernel), where filter ``i`` is all that output channel ``i`` sees.

    - ``Conv1d``, ``Conv2d``, ``Conv3d``: ``weight[i]``.
    - The same with groups: ``weight[i]``. It sees its own group only, so channel 0 is the first of the group; in a
      depthwise layer every filter has one input channel.
    - ``ConvTranspose1d`` to ``3d``: ``weight[:, i]``, for filters lie on axis 1 there. With groups, the input channels
      of the group that ``i`` is in.
    - ``Linear``: ``weight[i]``, like the filter of a convolution whose kernel is one tap.

    Args:
        module: The layer.
        stored: Of a weight that is computed, give the tensor of its shape that it is computed from.

    Returns:
        The weight, or a view or copy of it; not detached from the graph.

    Raises:
        TypeError: The layer has no filters in this sense.

    Example:
        >>> layer_weight(nn.ConvTranspose2d(4, 6, kernel_size=3, groups=2)).shape
        torch.Size([6, 2, 3, 3])
    """
    if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        raise TypeError(
            "`layer_weight(module)`: expected a convolution, a transposed convolution or a linear layer, found "
            f"{type(module).__name__}. For a layer of your own pass its weight, as (filters, in_channels, *kernel), to "
            "`redundant_filters` or `rank_filters`."
        )
    held = stored_weight(module) if stored else None
    weight = effective_weight(module) if held is None else held
    if isinstance(module, nn.Linear) or not module.transposed:
        return weight
    groups = weight.unflatten(0, (module.groups, -1))  # (groups, in_channels / groups, filters / groups, *kernel)
    filters: Tensor = groups.transpose(1, 2).flatten(0, 1)
    return filters
