"""What a prune did: numbers, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from lightning_cosprune.network.complexity import Complexity
from lightning_cosprune.ranking.filters import filter_vectors
from lightning_cosprune.ranking.partners import find_partners

__all__ = ["LayerReport", "PruningReport", "format_table"]


_TOLD = "partners", "explained", "together"


@dataclass(frozen=True)
class LayerReport:
    """One pruned layer.

    Who stands for the removed filters is worked out from the dense weight when it is asked for; the weight is held
    until then.

    Args:
        weight: Weight (filters, in_channels, *kernel) before the cut, where partners can be told from it.

    Attributes:
        name: Its name in the network.
        filters_before: How many filters it had.
        filters_after: How many are left.
        pruned_idxs: The numbers of those removed, ascending, counted as before the removal.
        partners: For each of them the most similar kept filter, by the cosine of their prototypes; counted likewise.
            Empty for depthwise layers, whose filters go with those of the layer that feeds them.
        explained: What the partner says of it: the squared cosine.
        together: What all kept filters together say of it: the squared multiple correlation of the prototypes.
    """

    name: str
    filters_before: int
    filters_after: int
    pruned_idxs: tuple[int, ...]
    partners: tuple[int, ...] = field(default_factory=tuple)
    explained: tuple[float, ...] = field(default_factory=tuple)
    together: tuple[float, ...] = field(default_factory=tuple)
    weight: InitVar[Tensor | None] = None

    def __post_init__(self, weight: Tensor | None) -> None:
        if weight is not None:
            vars(self).update(_weight=weight, _version=weight._version)
            for name in _TOLD:
                del vars(self)[name]

    def __getattr__(self, name: str) -> Any:
        if name not in _TOLD or "_weight" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.settle()
        return vars(self)[name]

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return dict(vars(self))

    def settle(self) -> None:
        """Work out who stands for the removed filters, and let go of the dense weight.

        Raises:
            RuntimeError: Somebody has written into the dense weight since.
        """
        if "_weight" in vars(self):
            vars(self).update(zip(_TOLD, self._tell(vars(self)["_weight"]), strict=True))
            del vars(self)["_weight"]

    def _tell(self, weight: Tensor) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
        if weight._version != vars(self)["_version"]:
            raise RuntimeError(
                f"`LayerReport.partners`: expected the weight that {self.name} had before it was pruned, found it "
                "written into since. Call `settle()` of the layer's report right after the prune."
            )
        if not bool(weight.isfinite().all()):
            return (), (), ()
        found = find_partners(filter_vectors(weight), self.pruned_idxs)
        explained, together = (
            tuple(round(share, 4) for share in part.tolist()) for part in (found.explained, found.together)
        )
        return tuple(found.idxs.tolist()), explained, together


@dataclass(frozen=True)
class PruningReport:
    """What one prune removed and saved.

    Attributes:
        before: Costs of the dense network.
        after: Costs of the pruned network, at the same input.
        layers: The layers that lost filters, in the order of the network.
        skipped: Layer name -> why it kept all its filters.
        epoch: The epoch at whose start it happened, where a Trainer ran; else ``None``.
        notes: Layer name -> what else is to be known of its width.
        norms: Norm over channels that now ranges over fewer of them, so that the kept channels behind it are not
            exactly what they were -> the layers that made those that went.
        refused: Of ``skipped`` those that cannot be cut as a trial showed, now or when the plan was made; as they are
            they are what :func:`plan_pruning` takes, which then does not try them again.
    """

    before: Complexity
    after: Complexity
    layers: tuple[LayerReport, ...]
    skipped: Mapping[str, str]
    epoch: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    norms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "skipped", MappingProxyType(dict(self.skipped)))
        object.__setattr__(self, "notes", MappingProxyType(dict(self.notes)))
        object.__setattr__(self, "norms", MappingProxyType(dict(self.norms)))
        object.__setattr__(self, "refused", MappingProxyType(dict(self.refused)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A sealed mapping cannot be pickled; a copy is sealed anew.
        sealed = dict(self.skipped), self.epoch, dict(self.notes), dict(self.norms), dict(self.refused)
        return type(self), (self.before, self.after, self.layers, *sealed)

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.before.input_shape)
        when = "" if self.epoch is None else f" at the start of epoch {self.epoch}"
        costs = [
            ("parameters", self.before.params, self.after.params),
            ("  weights", self.before.trainable_params, self.after.trainable_params),
            (f"MACs at {shapes}", self.before.macs, self.after.macs),
            ("bytes", self.before.bytes, self.after.bytes),
        ]
        filters = [(f"filters of {layer.name}", layer.filters_before, layer.filters_after) for layer in self.layers]
        rows = [
            (what, f"{dense:,}", f"{pruned:,}", f"{1 - pruned / dense:.1%}" if dense else "")
            for what, dense, pruned in costs + filters
        ]
        table = format_table(("", "before", "after", "removed"), rows)
        skipped = "".join(f"\n  {name}: {reason}" for name, reason in self.skipped.items())
        notes = "".join(f"\n  {name}: {note}" for name, note in self.notes.items())
        norms = "".join(
            f"\n  {name}: over fewer channels of {', '.join(layers)}" for name, layers in self.norms.items()
        )
        return (
            f"Pruned{when}\n{table}"
            + (f"\nOf their widths:{notes}" if notes else "")
            + (f"\nNorms that scale the kept channels otherwise than before:{norms}" if norms else "")
            + (f"\nLayers that kept all their filters:{skipped}" if skipped else "")
        )

    def metrics(self) -> dict[str, float]:
        """The numbers for a Trainer's logger.

        Returns:
            ``pruning/<cost>_before`` and ``pruning/<cost>_after`` for ``params``, ``macs`` and ``bytes``, and
            ``pruning/filters/<layer>_before`` and ``..._after``.
        """
        costs = {
            f"pruning/{cost}_{when}": float(getattr(complexity, cost))
            for cost in ("params", "trainable_params", "macs", "bytes")
            for when, complexity in (("before", self.before), ("after", self.after))
        }
        filters = {
            f"pruning/filters/{layer.name}_{when}": float(number)
            for layer in self.layers
            for when, number in (("before", layer.filters_before), ("after", layer.filters_after))
        }
        return costs | filters


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns as wide as their widest cell, the first to the left and the others to the right.

    Returns:
        The lines, joined.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])
