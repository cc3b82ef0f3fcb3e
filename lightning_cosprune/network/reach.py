"""Where the filters of a layer arrive: Torch-Pruning's graph, followed once for all filters and in bounded time.

Torch-Pruning itself follows lists of numbers and goes on wherever a list is new; between reshapes, as of the windows of
a transformer, they grow without end. Here it is pairs of a channel and the filter it belongs to that are new or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch_pruning import _helpers
from torch_pruning.dependency import index_mapping as mappings

__all__ = ["Arrival", "UnfollowedError", "follow"]

_MOST = 2**20
"""At how many channels of one step a layer's filters may arrive; beyond that, nobody follows them."""

_SPREAD = 2**24
"""More filters than any layer has."""

Pairs = tuple[np.ndarray, np.ndarray]
"""Channels, and the filter that each of them belongs to."""


class UnfollowedError(Exception):
    """Channels go where they cannot be followed.

    Attributes:
        node: The step where, if it is one; the message then says what went wrong there.
    """

    def __init__(self, reason: str = "", node: Any = None) -> None:
        super().__init__(reason)
        self.node = node


@dataclass
class Arrival:
    """A step of the network that loses channels with the filters of a layer, at its inputs or its outputs.

    Attributes:
        node: Torch-Pruning's node.
        handler: Its function that removes channels there.
        parts: The channels and their filters, in the order in which they were found; no pair is there twice.
    """

    node: Any
    handler: Callable[..., Any]
    parts: list[Pairs] = field(default_factory=list)

    def pairs(self) -> Pairs:
        """All channels, and the filter that each of them belongs to."""
        if len(self.parts) > 1:
            channels, filters = zip(*self.parts, strict=True)
            self.parts = [(np.concatenate(channels), np.concatenate(filters))]
        return self.parts[0]

    def first(self) -> Pairs:
        """The same, where a channel that several filters reach counts as that of the first."""
        channels, filters = self.pairs()
        _, places = np.unique(channels, return_index=True)
        places.sort()
        return channels[places], filters[places]

    def of(self, filters: np.ndarray) -> list[int]:
        """The channels that some filters reach."""
        channels, owners = self.pairs()
        return [int(channel) for channel in dict.fromkeys(channels[np.isin(owners, filters)].tolist())]

    def add(self, found: Pairs) -> Pairs:
        """Note pairs, and return those that are new."""
        if not self.parts:
            self.parts.append(found)
            return found
        if any(part[0] is found[0] and part[1] is found[1] for part in self.parts):
            return found[0][:0], found[1][:0]
        new = ~np.isin(_codes(found), np.concatenate([_codes(part) for part in self.parts]))
        if not new.any():
            return found[0][:0], found[1][:0]
        fresh = found if new.all() else (found[0][new], found[1][new])
        self.parts.append(fresh)
        return fresh


def _codes(pairs: Pairs) -> np.ndarray:
    codes: np.ndarray = pairs[0] * _SPREAD + pairs[1]
    return codes


def follow(
    node: Any,
    handler: Callable[..., Any],
    filters: int,
    channels_of: Callable[..., int | None],
    troubles: Mapping[Any, str],
) -> list[Arrival]:
    """All steps that lose channels with the filters of one layer.

    Args:
        node: Torch-Pruning's node of the layer.
        handler: The function that removes its filters.
        filters: How many it has.
        channels_of: For a node and a function how many channels that function can remove from, where it is known.
        troubles: Node of a step where nothing can be followed -> what went wrong there.

    Returns:
        The steps, the layer itself first, in the order in which Torch-Pruning finds them.

    Raises:
        UnfollowedError: The channels meet more places than can be followed, or a step that cannot be worked out.
    """
    numbers = np.arange(filters)
    start = Arrival(node, handler)
    waiting = [(start, start.add((numbers, numbers)))]
    found = {(node, handler): start}
    while waiting:
        step, pairs = waiting.pop()
        for dependency in step.node.dependencies:
            if dependency.trigger != step.handler:
                continue
            if dependency.target in troubles:
                raise UnfollowedError(troubles[dependency.target], dependency.target)
            mapped = pairs
            try:
                for mapping in dependency.index_mapping:
                    if mapping is not None:
                        mapped = _mapped(mapping, mapped)
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a mapping that lacks something
                raise UnfollowedError(f"{type(error).__name__}: {error}", dependency.target) from error
            if not len(mapped[0]):
                continue
            key = dependency.target, dependency.handler
            arrival = found.get(key)
            if arrival is None:
                arrival = found[key] = Arrival(*key)
            fresh = arrival.add(mapped)
            if sum(len(part[0]) for part in arrival.parts) > _MOST:
                raise UnfollowedError
            most = channels_of(*key)
            if most is not None and len(fresh[0]) and int(fresh[0].max()) >= most:
                within = fresh[0] < most  # there are no such channels: whoever cuts them is told
                fresh = fresh[0][within], fresh[1][within]
            if len(fresh[0]):
                waiting.append((arrival, fresh))
    return list(found.values())


def _mapped(mapping: Any, pairs: Pairs) -> Pairs:
    """Where channels are behind a reshape, a concatenation or a split."""
    channels, filters = pairs
    kind = type(mapping)
    if kind is mappings._FlattenIndexMapping:
        stride = mapping._stride
        if not mapping.reverse:
            if len(channels) * stride > _MOST:
                raise UnfollowedError
            return (channels[:, None] * stride + np.arange(stride)).ravel(), np.repeat(filters, stride)
        channels = channels // stride
        _, places = np.unique(_codes((channels, filters)), return_index=True)
        places.sort()
        return channels[places], filters[places]
    if kind in (mappings._ConcatIndexMapping, mappings._SplitIndexMapping):
        start, end = mapping.offset
        if mapping.reverse == (kind is mappings._SplitIndexMapping):
            return channels + start, filters
        within = (channels >= start) & (channels < end)
        return channels[within] - start, filters[within]
    if kind is mappings._SliceIndexMapping:
        if mapping.reverse:
            return channels * mapping.step + mapping.start, filters
        within = (channels >= mapping.start) & (channels < mapping.end)
        within &= (channels - mapping.start) % mapping.step == 0
        return (channels[within] - mapping.start) // mapping.step, filters[within]
    theirs = mapping([_helpers._HybridIndex(*pair) for pair in zip(channels.tolist(), filters.tolist(), strict=True)])
    return np.array([index.idx for index in theirs], int), np.array([index.root_idx or 0 for index in theirs], int)
