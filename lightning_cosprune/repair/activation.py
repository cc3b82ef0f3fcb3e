"""What comes after a layer, as far as repair must know it: where its outputs make no difference any more."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.rectifiers import Sequel

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Activation"]


class Activation:
    """A batch norm, if there is one, and then a range outside of which all values are the same to the network.

    Args:
        pruned: The network that the layer is part of, with the batch norm as it is before the repair of the layer.
        sequel: What was found behind the layer.
        filters: How many the layer has.
        device: Where its outputs are.
    """

    def __init__(self, pruned: nn.Module, sequel: Sequel, filters: int, device: torch.device) -> None:
        self.low, self.high = sequel.low, sequel.high
        self.scale = torch.ones(filters, dtype=torch.float64, device=device)
        self.shift = torch.zeros_like(self.scale)
        if sequel.batch_norm is not None:
            norm: Any = pruned.get_submodule(sequel.batch_norm)
            self.scale = (norm.running_var.double() + norm.eps).rsqrt()
            self.scale = self.scale * norm.weight.detach().double() if norm.affine else self.scale
            self.shift = -norm.running_mean.double() * self.scale
            self.shift = self.shift + norm.bias.detach().double() if norm.affine else self.shift

    def moved(
        self, wanted: Float[Tensor, "rows filters"], computed: Float[Tensor, "rows filters"]
    ) -> Float[Tensor, "rows filters"]:
        """Targets that are cut off, moved to what is computed if that is cut off too, else to where the cut begins."""
        target, now = wanted * self.scale + self.shift, computed * self.scale + self.shift
        target = torch.where(target < self.low, now.clamp(max=self.low), target)
        target = torch.where(target > self.high, now.clamp(min=self.high), target)
        # A batch norm may have switched a filter off; then nothing tells its outputs apart.
        return torch.where(self.scale != 0, (target - self.shift) / self.scale, wanted)
