"""Layers whose filters go together, and what goes with some of them, as values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.pruners import RefusedError

__all__ = ["ChannelGroup", "Removal"]


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose filters must be removed together, such as those that feed one residual sum.

    Attributes:
        layers: Their names, in the order in which the model registers them.
        filters: How many filters each of them has; where they are coupled in parts, how many units.
        refusal: Why none of these filters may be removed, or ``None``.
        blocks: Into how many blocks of equal size the filters fall, each of which must lose the same number. More than
            one where a grouped convolution has or reads these channels, a group norm normalises them, or they are
            divided into parts that must be of one size.
        followers: Depthwise convolutions that lose the same channels.
        norms: Norms over channels that range over fewer of them then.
        places: Of each layer the filters that each unit is, none or several where layers are coupled in parts; empty
            where filter ``i`` of each layer is unit ``i``.
        widths: How many filters each layer has in all, where there are ``places``.
    """

    layers: tuple[str, ...]
    filters: int
    refusal: str | None = None
    blocks: int = 1
    followers: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    places: tuple[tuple[tuple[int, ...], ...], ...] = field(default=(), repr=False)
    widths: tuple[int, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Names of the layers, with the filters where it is only some."""
        shown = []
        for number, layer in enumerate(self.layers):
            own = sorted(filter_ for unit in self.places[number] for filter_ in unit) if self.places else []
            part = self.places and len(own) < self.widths[number]
            shown.append(f"{layer} [{own[0]} to {own[-1]}]" if part else layer)
        return " + ".join(shown)

    def width(self, layer: str) -> int:
        """How many filters one of the layers has in all."""
        return self.widths[self.layers.index(layer)] if self.places else self.filters

    def filters_of(self, layer: str, units: Iterable[int]) -> list[int]:
        """The filters of one of the layers that some units are, ascending."""
        if not self.places:
            return sorted(units)
        of_units = self.places[self.layers.index(layer)]
        return sorted(one for unit in units for one in of_units[unit])

    def units_of(self, filters: Mapping[str, Iterable[int]]) -> list[int]:
        """The units that some filters of the layers belong to, ascending."""
        found: set[int] = set()
        for layer in self.layers:
            going = set(filters.get(layer, ()))
            if not self.places:
                found |= going
            elif going:
                of_units = self.places[self.layers.index(layer)]
                found.update(unit for unit, own in enumerate(of_units) if not going.isdisjoint(own))
        return sorted(found)

    def rows(self, layer: str, weight: Tensor) -> Tensor:
        """One row for each unit of what has one for each filter of a layer; zeros where a unit is none of them."""
        if not self.places:
            return weight
        of_units = self.places[self.layers.index(layer)]
        most = max(map(len, of_units))
        parts = []
        for place in range(most):
            chosen = torch.tensor([own[place] if place < len(own) else -1 for own in of_units], device=weight.device)
            part = weight[chosen]
            part[chosen < 0] = 0
            parts.append(part)
        return torch.cat(parts, dim=1)

    def check(self, idxs: Sequence[int]) -> None:
        """Refuse filters that cannot be removed from these layers.

        Raises:
            RefusedError: With the reason.
        """
        if self.refusal is not None:
            raise RefusedError(self.refusal)
        size = self.filters // self.blocks
        counts = [0] * self.blocks
        for idx in idxs:
            counts[idx // size] += 1
        if len(set(counts)) > 1:
            raise RefusedError(
                f"grouped: each of the {self.blocks} blocks of {size} filters must lose the same number, found "
                f"{', '.join(map(str, counts))}"
            )


@dataclass(frozen=True)
class Removal:
    """What goes with some filters of one group of layers.

    Attributes:
        outputs: Name of a module -> channels of its output that go, of the layers themselves and of the norms and
            depthwise convolutions that pass the channels on.
        inputs: Name of a layer that reads the channels and ends them -> channels of its input that go.
        parameters: Parameters that are no layer's weight and lose slices, such as a learned scale.
        reached: Name of such a layer -> all channels of its input that the layers make, removed or kept.
        steps: Torch-Pruning's nodes that lose channels, the function that removes them, and which.
        sets: Numbers of the sets of channels that go, where attributes of modules say how many there are.
    """

    outputs: Mapping[str, list[int]]
    inputs: Mapping[str, list[int]]
    parameters: tuple[nn.Parameter, ...]
    reached: Mapping[str, list[int]] = field(default_factory=dict, repr=False)
    steps: tuple[tuple[Any, Callable[..., Any], list[int]], ...] = field(default=(), repr=False, compare=False)
    sets: frozenset[int] = field(default=frozenset(), repr=False)
