"""Which channels of which layers go together, part by part, where layers are read in parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_cosprune.network.origins import WRITTEN, Origins, Place

__all__ = ["Parts", "Units"]


@dataclass(frozen=True, eq=False)
class Units:
    """Filters of some layers that may go: of each unit all or none.

    Attributes:
        layers: Names of the layers.
        sets: Number of the set of channels that each unit is, block after block.
        blocks: Into how many blocks of equal size the units fall, each of which must lose the same number.
        is_output: Whether the network returns some of them.
        refusal: What else speaks against it that any goes, or ``None``.
    """

    layers: tuple[str, ...]
    sets: np.ndarray
    blocks: int
    is_output: bool = False
    refusal: str | None = None


class Parts:
    """Units of the layers of a network.

    Args:
        origins: What is known of its channels.
        layers: Names of the layers with filters of their own, in the order of the model.
    """

    def __init__(self, origins: Origins, layers: Iterable[str]) -> None:
        self._origins = origins
        self._layers = [name for name in layers if (WRITTEN, name) in origins.places]
        self._makers: dict[int, set[int]] = {}
        for number, name in enumerate(self._layers):
            for one in origins.of((WRITTEN, name)).tolist():
                self._makers.setdefault(one, set()).add(number)
        self._found_at = self._count()
        divisions = {tuple(part.tobytes() for part in even.parts): even.parts for even in origins.evens}
        self._divisions = list(divisions.values())
        self._memberships: dict[int, list[tuple[int, int]]] = {}
        self._strange: set[int] = set()  # divisions of channels of which some are of no layer
        for number, parts in enumerate(self._divisions):
            for place, part in enumerate(parts):
                for one in np.unique(part).tolist():
                    if one in self._makers:
                        self._memberships.setdefault(one, []).append((number, place))
                    else:
                        self._strange.add(number)
        self._component = self._connect()
        self._sets: dict[int, list[int]] = {}
        for one, makers in self._makers.items():
            self._sets.setdefault(self._component[min(makers)], []).append(one)
        self._sized = {one for size in origins.sizes for one in size.channels.tolist()}
        self._found: dict[int, list[Units] | None] = {}
        self._numbers = {name: number for number, name in enumerate(self._layers)}

    def together(self, name: str) -> list[Units] | None:
        """All units of a layer and of those that it is connected with.

        Returns:
            ``None`` where not all is known of their channels.
        """
        if name not in self._numbers:
            return None
        key = self._component[self._numbers[name]]
        if key not in self._found:
            self._found[key] = self._units(self._sets[key])
        return self._found[key]

    def sized(self, units: Units) -> bool:
        """Whether attributes of modules say how many of these there are."""
        return not self._sized.isdisjoint(units.sets.tolist())

    def channels(self, units: Units) -> Mapping[Place, tuple[np.ndarray, np.ndarray]]:
        """Where units are found: place -> channels there, and the unit of each."""
        places = list(self._origins.places)
        near = sorted({place for one in units.sets.tolist() for place, _ in self._found_at[one]})
        order = np.argsort(units.sets)
        ascending = units.sets[order]
        found = {}
        for place in near:
            owners = self._origins.of(places[place])
            at = np.searchsorted(ascending, owners).clip(max=len(order) - 1)
            (channels,) = (ascending[at] == owners).nonzero()
            found[places[place]] = channels, order[at[channels]]
        return found

    def _count(self) -> dict[int, list[tuple[int, int]]]:
        """How often each unit is found at each place: what goes with it, and so what it costs."""
        found: dict[int, list[tuple[int, int]]] = {one: [] for one in self._makers}
        made = np.zeros(len(self._origins.owner), bool)
        made[list(found)] = True
        for number, place in enumerate(self._origins.places):
            owners = self._origins.of(place)
            sets, counts = np.unique(owners[made[owners]], return_counts=True)
            for one, count in zip(sets.tolist(), counts.tolist(), strict=True):
                found[one].append((number, count))
        return found

    def _connect(self) -> list[int]:
        parent = list(range(len(self._layers)))

        def root(one: int) -> int:
            while parent[one] != one:
                parent[one] = parent[parent[one]]
                one = parent[one]
            return one

        ties = [list(makers) for makers in self._makers.values()]
        for parts in self._divisions:
            within = {layer for part in parts for one in part.tolist() for layer in self._makers.get(one, ())}
            ties.append(list(within))
        for first, *others in filter(None, ties):
            for other in others:
                parent[root(other)] = root(first)
        return [root(one) for one in range(len(self._layers))]

    def _units(self, sets: Sequence[int]) -> list[Units] | None:
        if not self._origins.doubtful.isdisjoint(sets):
            return None
        cells: dict[tuple[Any, ...], list[int]] = {}
        for one in sets:
            memberships = tuple(self._memberships.get(one, ()))
            key = tuple(self._found_at[one]), memberships, one in self._origins.outputs
            cells.setdefault(key, []).append(one)
        tied: list[tuple[set[int], list[list[int]]]] = []
        for (_, memberships, _), members in cells.items():
            numbers = {number for number, _ in memberships}
            same = [entry for entry in tied if entry[0] & numbers]
            for entry in same:
                tied.remove(entry)
                numbers |= entry[0]
            tied.append((numbers, [*(cell for entry in same for cell in entry[1]), members]))
        return [self._as_units(blocks, bool(numbers & self._strange)) for numbers, blocks in tied]

    def _as_units(self, cells: list[list[int]], strange: bool) -> Units:
        cells.sort(key=min)
        each = math.gcd(*map(len, cells))
        sets = [one for cell in cells for one in sorted(cell)]
        blocks = len(sets) // each if len(cells) > 1 else 1
        layers = {layer for one in sets for layer in self._makers[one]}
        refusal = None
        if strange:
            refusal = "its filters are divided together with channels that no layer makes"
        elif len(sets) == 1:
            refusal = "an operation mixes its own filters"
        elif blocks == len(sets):
            sizes = ", ".join(str(len(cell)) for cell in cells)
            refusal = f"its {len(sets)} filters cannot be removed evenly from parts of {sizes}"
        names = tuple(self._layers[layer] for layer in sorted(layers))
        return Units(names, np.array(sets), blocks, not self._origins.outputs.isdisjoint(sets), refusal)
