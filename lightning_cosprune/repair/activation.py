"""What comes after a layer, as far as repair must know it: where its outputs make no difference any more."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.rectifiers import Sequel

if TYPE_CHECKING:
    from jaxtyping import Float

    from lightning_cosprune.repair.targets import Targets

__all__ = ["Activation", "as_pruned"]


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
            self.scale, self.shift = _scale_and_shift(pruned.get_submodule(sequel.batch_norm))

    def moved(
        self, wanted: Float[Tensor, "rows filters"], computed: Float[Tensor, "rows filters"]
    ) -> Float[Tensor, "rows filters"]:
        """Targets that are cut off, moved to what is computed if that is cut off too, else to where the cut begins."""
        target, now = wanted * self.scale + self.shift, computed * self.scale + self.shift
        target = torch.where(target < self.low, now.clamp(max=self.low), target)
        target = torch.where(target > self.high, now.clamp(min=self.high), target)
        # A batch norm may have switched a filter off; then nothing tells its outputs apart.
        return torch.where(self.scale != 0, (target - self.shift) / self.scale, wanted)


def as_pruned(targets: Targets, pruned: nn.Module, dense: nn.Module, kept: Mapping[str, list[int]]) -> None:
    """Change ``targets`` to what must come out of a layer for the batch norm behind it to give what the dense one gave.

    A batch norm of the pruned network is not that of the dense one any more where it has taken up a bias in an earlier
    repair, or where the network was trained since the cut.
    """
    for name, sequel in targets.sequels.items():
        if sequel.batch_norm is None:
            continue
        scale, shift = _scale_and_shift(pruned.get_submodule(sequel.batch_norm))
        before = [part[kept[name]] for part in _scale_and_shift(dense.get_submodule(sequel.batch_norm))]
        if torch.equal(scale, before[0]) and torch.equal(shift, before[1]):
            continue
        for call in (call for seen in targets.seen for call in seen.get(name, ())):
            wanted = (call.rows.double() * before[0] + before[1] - shift) / scale
            call.rows = torch.where(scale != 0, wanted, call.rows.double()).to(call.rows.dtype)


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a batch norm with running statistics multiplies each channel by, and what it then adds."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale * norm.weight.detach().double() if norm.affine else scale
    shift = -norm.running_mean.double() * scale
    return scale, shift + norm.bias.detach().double() if norm.affine else shift
