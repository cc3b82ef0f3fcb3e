"""The plan as a value: which filters of which layer go, and why the other layers keep all of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

from lightning_cosprune.arguments import as_whole, check_kind, read_json

__all__ = ["PruningPlan"]


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """The filters that are to be removed, and the layers that are left alone, with the reason.

    Attributes:
        pruned: Layer name -> numbers of the filters to remove, ascending.
        filters: Layer name -> how many filters the layer has before, for every layer in ``pruned``.
        skipped: Layer name -> why it keeps all its filters.
        notes: Layer name -> what else is to be known of its width, such as that it was chosen for speed.
        norms: Names of the norms over channels that range over fewer of them once the filters are gone.
        refused: Names of those in ``skipped`` that keep all because a trial showed that they cannot be cut.

    Raises:
        TypeError: A number of a filter, or of filters, is no whole number, or ``norms`` or ``refused`` are no names.
        ValueError: A filter number is repeated or outside the layer, or none would be left.
    """

    pruned: Mapping[str, list[int]]
    filters: Mapping[str, int]
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    norms: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for parameter in ("pruned", "filters", "skipped", "notes"):
            value = getattr(self, parameter)
            if not isinstance(value, Mapping):
                raise TypeError(
                    f"`PruningPlan({parameter}=...)`: expected a mapping from layer name, found a "
                    f"{type(value).__name__}. Write a dict, such as {{'stem': ...}}."
                )
        for parameter in ("norms", "refused"):
            names = getattr(self, parameter)
            if (
                isinstance(names, str)
                or not isinstance(names, Sequence)
                or not all(isinstance(name, str) for name in names)
            ):
                raise TypeError(
                    f"`PruningPlan({parameter}={names!r:.60})`: expected names of modules, found a "
                    f"{type(names).__name__}. Write such as ('blocks.0.norm',), and () for none."
                )
        pruned = {name: _whole(f"pruned[{name!r}]", idxs) for name, idxs in self.pruned.items()}
        filters_of = {name: _whole(f"filters[{name!r}]", [filters])[0] for name, filters in self.filters.items()}
        for name, idxs in pruned.items():
            if name not in self.filters:
                raise ValueError(
                    f"`PruningPlan.filters`: expected the number of filters of layer {name!r}, found none. Give that "
                    "of each layer in `pruned`."
                )
            filters = filters_of[name]
            if len(set(idxs)) != len(idxs) or any(not 0 <= idx < filters for idx in idxs):
                raise ValueError(
                    f"`PruningPlan.pruned[{name!r}]`: expected distinct filter numbers in [0, {filters}), found {idxs}."
                    " Give each filter of this layer once."
                )
            if len(idxs) >= filters:
                raise ValueError(
                    f"`PruningPlan.pruned[{name!r}]`: expected at least one of {filters} filters to be left, found all "
                    "of them named for removal. A layer without filters cannot compute anything."
                )
        # The mappings are copied and sealed, so that a plan that was checked stays the plan that was checked.
        object.__setattr__(self, "pruned", MappingProxyType({name: sorted(idxs) for name, idxs in pruned.items()}))
        object.__setattr__(self, "filters", MappingProxyType(filters_of))
        object.__setattr__(self, "skipped", MappingProxyType(dict(self.skipped)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))
        object.__setattr__(self, "norms", tuple(self.norms))
        object.__setattr__(self, "refused", tuple(self.refused))

    def __reduce__(self) -> tuple[Any, ...]:
        # Sealed mappings cannot be pickled; a copy is checked and sealed anew.
        sealed = (dict(getattr(self, name)) for name in ("pruned", "filters", "skipped", "notes"))
        return type(self), (*sealed, self.norms, self.refused)

    def __repr__(self) -> str:
        counts = {name: (len(idxs), self.filters[name]) for name, idxs in self.pruned.items() if idxs}
        first = f"PruningPlan: {len(counts)} layers lose filters, {len(self.skipped)} keep all"
        lost = [f"{name}: {removed} of {filters} filters go" for name, (removed, filters) in counts.items()]
        kept = [f"{name}: keeps all, {reason}" for name, reason in self.skipped.items()]
        return "\n  ".join([first, *lost, *kept])

    def _hold(self, graph: Any) -> None:
        """Keep what was found out about the network, so that it need not be found out again to carry out the plan.

        Only the last plan does, for with its graph it holds the network; and no copy of a plan.

        Args:
            graph: It; ``None`` to let go of it.
        """
        for plan in (_HOLDER.pop("last", None), self):
            if plan is not None:
                object.__setattr__(plan, "_graph", None)
        if graph is not None:
            object.__setattr__(self, "_graph", graph)
            _HOLDER["last"] = self

    @property
    def kept(self) -> dict[str, list[int]]:
        """Layer name -> numbers of the filters that stay, ascending."""
        return {name: sorted(set(range(self.filters[name])).difference(idxs)) for name, idxs in self.pruned.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """Layer name -> fraction of its filters that is removed; a ``pruning_ratio`` that asks for the same counts."""
        return {name: len(idxs) / self.filters[name] for name, idxs in self.pruned.items()}

    def to_dict(self) -> dict[str, Any]:
        """The plan in plain dicts, lists, strings and ints.

        Returns:
            What :meth:`from_dict` reads.
        """
        return {
            "version": 1,
            "pruned": {name: list(idxs) for name, idxs in self.pruned.items()},
            "filters": dict(self.filters),
            "skipped": dict(self.skipped),
            "notes": dict(self.notes),
            "norms": list(self.norms),
            "refused": list(self.refused),
        }

    @classmethod
    def from_dict(cls, plan: Mapping[str, Any]) -> PruningPlan:
        """Read what :meth:`to_dict` wrote.

        Raises:
            TypeError: It is no mapping.
            ValueError: It is no plan, or one of a version that this release does not know.

        Returns:
            An equal plan.
        """
        check_kind(plan, Mapping, "`PruningPlan.from_dict(plan=...)`", "`PruningPlan.to_dict` makes one.")
        if plan.get("version") != 1 or not {"pruned", "filters", "skipped"} <= set(plan):
            raise ValueError(
                "`PruningPlan.from_dict(plan=...)`: expected the keys version (1), pruned, filters and skipped, found "
                f"{dict(plan)!r:.200}. Write plans with `PruningPlan.to_dict` or `PruningPlan.to_json`."
            )
        known = {name: plan[name] for name in ("notes", "norms", "refused") if name in plan}
        return cls(pruned=plan["pruned"], filters=plan["filters"], skipped=plan["skipped"], **known)

    def to_json(self) -> str:
        """The plan as JSON text.

        Returns:
            What :meth:`from_json` reads.
        """
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> PruningPlan:
        """Read what :meth:`to_json` wrote.

        Raises:
            TypeError: It is no text.
            ValueError: It is no plan, or one of a version that this release does not know.

        Returns:
            An equal plan.
        """
        return cls.from_dict(read_json(text, "`PruningPlan.from_json(text={})`", "`PruningPlan.to_json` makes one."))


_HOLDER: WeakValueDictionary[str, PruningPlan] = WeakValueDictionary()
"""The plan that holds the graph that it was made with."""


def _whole(where: str, numbers: Any) -> list[int]:
    found = list(numbers) if isinstance(numbers, Iterable) and not isinstance(numbers, str) else [numbers]
    whole = [as_whole(number) for number in found]
    if None in whole or isinstance(numbers, str):
        wrong = numbers if isinstance(numbers, str) else found[whole.index(None)]
        raise TypeError(
            f"`PruningPlan.{where}`: expected whole numbers, found a {type(wrong).__name__}, {wrong!r:.60}. Write "
            "numbers such as 3, without quotes and without a point."
        )
    return [number for number in whole if number is not None]
