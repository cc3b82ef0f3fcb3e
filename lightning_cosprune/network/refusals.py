"""Why channels cannot be cut, by the kind of a layer or norm that has them."""

from __future__ import annotations

from torch import nn

from lightning_cosprune.network.computed import computed_weight, is_computed
from lightning_cosprune.network.pruners import RefusedError

__all__ = ["CutError", "refusal_of_layer", "refusal_of_norm"]


class CutError(Exception):
    """Slicing failed half way.

    Attributes:
        module: Name of the module that could not be sliced, empty where it is none of the network's.
    """

    def __init__(self, module: str, error: Exception) -> None:
        reason = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
        super().__init__(reason)
        self.module = module


def refusal_of_layer(module: nn.Module, name: str) -> list[str]:
    """Why a layer of this kind cannot be cut, if so."""
    if isinstance(module, nn.modules.conv._ConvNd) and module.in_channels != module.out_channels == module.groups > 1:
        return [f"{name} has one filter in each of its {module.groups} groups"]  # no depthwise one, as it may seem
    if isinstance(module, (nn.MultiheadAttention, nn.Embedding)):
        return [f"{name} is a {type(module).__name__}, whose channels cannot be removed"]
    if is_computed(module):
        computed = computed_weight(module)
        if computed is None or computed.refusal:
            why = (computed and computed.refusal) or "is computed in a way that cannot be cut"
            return [f"the weight of {name} {why}; remove the parametrization first"]
    return []


def refusal_of_norm(module: nn.Module, name: str, strict: bool) -> list[str]:
    """Why channels that a norm normalises are kept, if so."""
    groups = "groups of " if isinstance(module, nn.GroupNorm) and module.num_groups > 1 else ""
    if strict:
        return [f"{name} normalises over {groups}channels, and `strict` keeps what that computes"]
    if len(getattr(module, "normalized_shape", ())) > 1:
        return [f"{name} normalises over channels and positions at once, each with a weight of its own"]
    return []
