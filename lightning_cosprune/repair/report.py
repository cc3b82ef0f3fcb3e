"""What a repair did: numbers, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from lightning_cosprune.surgery.report import format_table

__all__ = ["RepairReport", "RepairedLayer"]


@dataclass(frozen=True)
class RepairedLayer:
    """One layer that reads channels which are no longer all there.

    Attributes:
        name: Its name in the network.
        error_before: What it computed wrongly before the repair, as a part of the variance of what the dense network
            computes there; on calibration data that its weights were not fitted to. ``None`` where no data was used.
        error_after: The same after it.
        ridge: Strength of the pull towards the old weights, relative to the mean variance of its inputs; infinite where
            the bias alone was refitted, ``None`` where the layer was left as it was or no data was used.
    """

    name: str
    error_before: float | None = None
    error_after: float | None = None
    ridge: float | None = None


@dataclass(frozen=True)
class RepairReport:
    """What one repair changed.

    Attributes:
        method: ``"least_squares"``, ``"merge"`` or ``"constant"``.
        layers: The layers that read removed channels and could be repaired, in the order in which the network runs.
        skipped: Name of a layer that reads removed channels -> why it was left as it was.
        samples: How many samples of calibration data were read.
        error_before: Mean squared difference of the network's outputs from the dense network's on the calibration data,
            as a part of the dense outputs' variance, before the repair; ``None`` where no data was used.
        error_after: The same after it; never larger.
        undone: Whether the outputs had come out worse, so that the network was given its old weights back.
    """

    method: str
    layers: tuple[RepairedLayer, ...]
    skipped: Mapping[str, str]
    samples: int = 0
    error_before: float | None = None
    error_after: float | None = None
    undone: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "skipped", MappingProxyType(dict(self.skipped)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A sealed mapping cannot be pickled; a copy is sealed anew.
        whole = (self.method, self.layers, dict(self.skipped), self.samples)
        return type(self), (*whole, self.error_before, self.error_after, self.undone)

    def __str__(self) -> str:
        rows = [
            (layer.name, _percent(layer.error_before), _percent(layer.error_after), _strength(layer.ridge))
            for layer in self.layers
        ]
        rows.append(("the network's output", _percent(self.error_before), _percent(self.error_after), ""))
        table = format_table(("unexplained by the repaired layer", "before", "after", "ridge"), rows)
        skipped = "".join(f"\n  {name}: {reason}" for name, reason in self.skipped.items())
        data = f" on {self.samples:,} unlabelled samples" if self.samples else ", without data"
        undone = "\nThe outputs had come out worse, so the old weights were put back." if self.undone else ""
        return f"Repaired by {self.method.replace('_', ' ')}{data}\n{table}{undone}" + (
            f"\nLayers that read removed channels and were left as they were:{skipped}" if skipped else ""
        )

    def metrics(self) -> dict[str, float]:
        """The numbers for a Trainer's logger.

        Returns:
            ``repair/output_error_before`` and ``..._after``, and ``repair/error/<layer>_before`` and ``..._after``,
            where data was used; ``repair/samples``.
        """
        found = {"repair/samples": float(self.samples)}
        for when, error in (("before", self.error_before), ("after", self.error_after)):
            if error is not None:
                found[f"repair/output_error_{when}"] = error
        for layer in self.layers:
            for when, error in (("before", layer.error_before), ("after", layer.error_after)):
                if error is not None:
                    found[f"repair/error/{layer.name}_{when}"] = error
        return found


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:.2%}"


def _strength(ridge: float | None) -> str:
    return "" if ridge is None else "bias only" if ridge == float("inf") else f"{ridge:g}"
