"""From which filters each value comes: numbers of filters go through a forward pass beside the values.

Torch-Pruning's graph knows which step follows which, and guesses from sizes where channels lie behind a reshape. Here
the steps that move values move the numbers too, so wherever a channel ends up it is known whose it is: behind splits,
slices, concatenations, transpositions and flattening in any order. Where a step is not known, its channels are said to
be doubtful, and the graph alone is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "FIXED",
    "HELD",
    "LARGEST",
    "READ",
    "WRITTEN",
    "Even",
    "Ledger",
    "Origins",
    "Place",
    "Size",
    "compact",
    "flat",
]

READ, WRITTEN, HELD, FIXED = "read", "written", "held", "fixed"

Place = tuple[str, str]
"""Where numbers of channels belong: ``READ`` by a layer or ``WRITTEN`` by a module, with its name; ``HELD`` by a tensor
of the network with its name; ``FIXED`` as units of a recurrent layer."""

LARGEST = 2**22
"""How many numbers one tensor may have at most where they cannot be kept by channel."""


_MANY = 2**12
"""How many pairs of numbers are looked through for those that are there twice, which takes longer than to keep few."""


@dataclass(frozen=True)
class Even:
    """Parts of a tensor's channels that must lose the same number each, such as those of a chunk.

    Attributes:
        parts: The numbers of each of them.
    """

    parts: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Size:
    """An attribute of a module of the user's own that says how many channels a part has.

    Attributes:
        module: Name of the module.
        attribute: Its attribute.
        entry: Which entry, where that is a sequence.
        channels: The numbers of the part.
    """

    module: str
    attribute: str
    entry: int | None
    channels: np.ndarray


@dataclass
class Origins:
    """What a forward pass says of channels. Each has a number of its own, from 1 on.

    Attributes:
        places: Place -> number of its first channel, and how many it has.
        shapes: Name of a tensor that is ``HELD`` -> its shape.
        owner: For each number, that of the set of channels that can only go together; 0 for number 0.
        doubtful: Sets of which not all is known.
        outputs: Sets that the network returns.
        evens: Parts that lose the same.
        sizes: Attributes that say how large parts are.
    """

    places: dict[Place, tuple[int, int]] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    owner: np.ndarray = field(default_factory=lambda: np.zeros(1, int))
    doubtful: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    evens: list[Even] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)

    def of(self, place: Place) -> np.ndarray:
        """The set of each channel of a place."""
        first, count = self.places[place]
        return self.owner[first : first + count]


class Ledger:
    """The numbers that go with the tensors of one forward pass, of length one on axes where all are the same."""

    def __init__(self) -> None:
        self._result = Origins()
        self._next = 1
        self._numbers = WeakTensorKeyDictionary()
        self._pairs: list[np.ndarray] = []
        self._doubts: list[np.ndarray] = []
        self._ends: list[np.ndarray] = []

    def _numbered(self, place: Place, count: int) -> int:
        known = self._result.places.get(place)
        if known is None:
            known = self._result.places[place] = self._next, count
            self._next += count
        elif known[1] != count:
            raise ValueError  # another number of channels at each call
        return known[0]

    def _channels(self, place: Place) -> np.ndarray:
        first, count = self._result.places[place]
        return np.arange(first, first + count)

    def _set(self, tensor: Any, numbers: Tensor) -> None:
        if isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            if numbers.ndim != tensor.ndim:
                raise ValueError
            self._numbers[tensor] = numbers

    def _join(self, some: Tensor, others: Tensor) -> None:
        """Numbers at the same place of two tables belong together. NumPy, because most tables are small."""
        tables = some.numpy(), others.numpy()
        both = (tables[0] != 0) & (tables[1] != 0) & (tables[0] != tables[1])
        if both.any():
            pairs = np.stack([np.broadcast_to(table, both.shape)[both] for table in tables], axis=1).astype(np.int64)
            self._pairs.append(np.unique(pairs, axis=0) if len(pairs) > _MANY else pairs)

    def _even(self, parts: Sequence[np.ndarray]) -> None:
        if len(parts) > 1:
            self._result.evens.append(Even(tuple(parts)))

    def _doubt(self, tensor: Any) -> None:
        numbers = self._numbers.get(tensor) if isinstance(tensor, Tensor) else None
        if numbers is not None:
            self._doubts.append(flat(numbers))

    def _doubt_layer(self, name: str) -> None:
        for place in ((READ, name), (WRITTEN, name)):
            if place in self._result.places:
                self._doubts.append(self._channels(place))

    def end(self, outputs: Sequence[Tensor]) -> None:
        """Note what the network returns."""
        for tensor in outputs:
            numbers = self._numbers.get(tensor)
            if numbers is not None:
                self._ends.append(flat(numbers))

    def found(self) -> Origins:
        """What there is to know."""
        result = self._result
        result.owner = _components(self._next, self._pairs)
        held = [self._channels(place) for place in result.places if place[0] == FIXED]
        result.doubtful = _sets(result.owner, [*self._doubts, *held])
        result.outputs = _sets(result.owner, self._ends)
        result.evens = [Even(tuple(result.owner[part] for part in even.parts)) for even in result.evens]
        result.sizes = [
            Size(size.module, size.attribute, size.entry, result.owner[size.channels]) for size in result.sizes
        ]
        return result


def compact(numbers: Tensor) -> Tensor:
    """The same, of length one along each axis on which nothing changes."""
    for axis in range(numbers.ndim):
        if numbers.shape[axis] > 1:
            one = numbers.narrow(axis, 0, 1)
            if numbers.stride(axis) == 0 or bool((numbers == one).all()):
                numbers = one
    return numbers.clone() if numbers.numel() < 2**12 else numbers


def flat(numbers: Tensor) -> np.ndarray:
    """The numbers that occur, ascending, each once and without 0."""
    all_of_them: np.ndarray = numbers.flatten().numpy().astype(np.int64)
    return np.unique(all_of_them[all_of_them != 0])


def _components(count: int, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """For each number the smallest that it is joined to, over any number of others."""
    owner = np.arange(count)
    if not pairs:
        return owner
    some, others = np.concatenate(pairs).T
    while True:
        least = np.minimum(owner[some], owner[others])
        before = owner.copy()
        np.minimum.at(owner, owner[some], least)
        np.minimum.at(owner, owner[others], least)
        owner = owner[owner]
        if (owner == before).all():
            return owner


def _sets(owner: np.ndarray, numbers: Sequence[np.ndarray]) -> frozenset[int]:
    return frozenset(owner[np.concatenate(numbers)].tolist()) if numbers else frozenset()
