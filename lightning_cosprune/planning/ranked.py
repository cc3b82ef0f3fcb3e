"""How the filters of each group are ranked, and in what numbers they may be kept: what a user asked, group by group."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup
from lightning_cosprune.network.layers import layer_weight
from lightning_cosprune.ranking.redundancy import rank_filters

__all__ = ["Criterion", "FilterRanking"]

Criterion = str | Callable[..., Tensor]


class FilterRanking:
    """What is asked of every group.

    Args:
        modules: Layer name -> layer.
        criterion: A name that :func:`rank_filters` knows, a callable, or ``"response"``, which is ranked elsewhere.
        round_to: Layer name -> the multiple of filters that it keeps; 1 where it is missing.
        min_filters: Layer name -> the fewest filters that it keeps; 1 where it is missing.
        seed: Start of the draws of ``criterion="random"``.
        vectors: Layer name -> one row per filter, in place of the layer's weights.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        criterion: Criterion,
        *,
        round_to: Mapping[str, int],
        min_filters: Mapping[str, int],
        seed: int,
        vectors: Mapping[str, Tensor] | None,
    ) -> None:
        self._modules, self.criterion, self._vectors, self._seed = modules, criterion, vectors, seed
        self._round_to, self._min_filters = round_to, min_filters

    def weight(self, group: ChannelGroup) -> Tensor | list[Tensor]:
        """What its filters are ranked and compared by.

        Raises:
            ValueError: The vectors lack a layer or do not fit it.

        Returns:
            Of a single layer one tensor, of coupled ones a list.
        """
        if self._vectors is None:
            weights = [group.rows(name, layer_weight(self._modules[name])) for name in group.layers]
        else:
            weights = [group.rows(name, _vectors_of(name, group.width(name), self._vectors)) for name in group.layers]
        return weights[0] if len(weights) == 1 else weights

    def order(self, group: ChannelGroup, removals: int | None = None) -> Tensor:
        """In which order its filters go.

        Args:
            group: The group.
            removals: How many are wanted; all where ``None``.

        Raises:
            ValueError: A weight is not finite; the layer is named.

        Returns:
            Their numbers, the first to go first.
        """
        options: dict[str, Any] = {}
        if self.criterion == "random":
            options["seed"] = self._seed + zlib.crc32((group.name if group.places else group.layers[0]).encode())
        try:
            return rank_filters(self.weight(group), self.criterion, removals=removals, **options)
        except ValueError as error:
            raise ValueError(f"layer {group.name}: {error}") from error

    def multiple(self, group: ChannelGroup) -> int:
        """What the number of filters kept is a multiple of; blocks of a grouped convolution lose as many each."""
        return math.lcm(group.blocks, *(self._round_to.get(name, 1) for name in group.layers))

    def at_least(self, group: ChannelGroup) -> int:
        """The fewest filters to keep."""
        return max(self._min_filters.get(name, 1) for name in group.layers)


def _vectors_of(name: str, filters: int, vectors: Mapping[str, Tensor]) -> Tensor:
    found = vectors.get(name)
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != filters:
        shown = f"only {', '.join(map(str, vectors)) or 'an empty mapping'}"
        if found is not None:
            shown = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"`plan_pruning(vectors=...)`: expected one row for each of the {filters} filters of {name!r}, found "
            f"{shown}. Measure it too, or name it in `ignored_layers`."
        )
    return found
