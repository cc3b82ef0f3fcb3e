"""Ways to meet the same budget: uniform widths, one common error for all layers, and ours; in one step or more."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cosprune import PruningPlan, apply_plan, measure_complexity, measure_latency, plan_pruning
from lightning_cosprune import refit_least_squares as least_squares
from lightning_cosprune.network.channels import ChannelGroup, channel_groups
from lightning_cosprune.planning.costs import CostModel
from lightning_cosprune.planning.curves import ErrorCurve, allowed_widths, first_to_go, response_curves
from lightning_cosprune.planning.rehearsal import as_plan

CHOICES = ("uniform", "common error", "ours", "ours, 3 steps")


@dataclass(frozen=True)
class Budgeted:
    """One network within one budget, calibrated on one draw of clips and looked at on test clips."""

    network: str
    fold: int
    seed: int
    cost: str
    share: float
    choice: str
    clips: int
    accuracy: float
    agreement: float
    correlation: float
    params_removed: float
    macs_removed: float
    latency_ratio: float
    plan_seconds: float
    repair_seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.cost, self.share, self.choice, self.clips


class Rivals:
    """Networks within budgets, all from the same dense one, the same clips, the same order of filters and one repair.

    Args:
        dense: The network; left as it is.
        example: What its costs hold for.
        calibration: Unlabelled inputs, one entry a forward pass.
    """

    def __init__(self, dense: nn.Module, example: Tensor, calibration: Sequence[Tensor]) -> None:
        self.dense, self.example, self.calibration = dense, example, list(calibration)
        self._curves: dict[ChannelGroup, ErrorCurve] = {}

    def make(self, cost: str, share: float, choice: str) -> tuple[nn.Module, float, float]:
        """A network that costs at most ``share`` of the dense one, and the seconds of planning and of repairing it."""
        network = copy.deepcopy(self.dense)
        steps = 3 if choice.endswith("3 steps") else 1
        dense = getattr(measure_complexity(network, self.example), cost)
        planning = repairing = 0.0
        for step in range(1, steps + 1):
            start, before = time.process_time(), copy.deepcopy(network)
            limit = int(dense - step / steps * (1 - share) * dense + 1e-6)
            plan = self._plan(network, cost, limit, choice)
            planning += time.process_time() - start
            report = apply_plan(network, plan, self.example)
            assert getattr(report.after, cost) <= limit
            start = time.process_time()
            least_squares(network, before, self.calibration, report=report)
            repairing += time.process_time() - start
        return network, planning, repairing

    def ratio(self, network: nn.Module) -> float:
        """Measured time of a network, as a part of the dense one's."""
        found = measure_latency(network, self.example, beside=self.dense, backend="channels_last", seconds=1.0).ratio
        assert found is not None
        return found

    def _plan(self, network: nn.Module, cost: str, limit: int, choice: str) -> PruningPlan:
        if choice.startswith("ours"):
            return plan_pruning(
                network, self.example, criterion="response", calibration=self.calibration, **{f"max_{cost}": limit}
            )
        curves = self._of_layers(network)
        costs = CostModel(network, self.example, list(curves))
        rows = _uniform(curves) if choice == "uniform" else _common_error(curves)
        fits = np.flatnonzero(costs(rows)[cost] <= limit)
        widths = rows[fits[0]].tolist()  # from the largest on
        return as_plan(
            {
                group: sorted(first_to_go(curve.order, group, group.filters - width).tolist())
                for (group, curve), width in zip(curves.items(), widths, strict=True)
                if width < group.filters
            }
        )

    def _of_layers(self, network: nn.Module) -> dict[ChannelGroup, ErrorCurve]:
        """Errors of the layers alone, on held-out clips, at every width."""
        if not self._curves:
            groups = [
                group
                for group in channel_groups(network, self.example)
                if group.refusal is None and isinstance(network.get_submodule(group.layers[0]), nn.Conv2d)
            ]
            widths = {group: allowed_widths(group, 1, 1, options=group.filters) for group in groups}
            self._curves = response_curves(network, self.example, widths, self.calibration, by_output=False)
        return self._curves


def _uniform(curves: dict[ChannelGroup, ErrorCurve]) -> np.ndarray:
    filters = np.array([group.filters for group in curves])
    shares = np.linspace(1, 0, 1001)[:, None]
    rows: np.ndarray = np.maximum(1, np.floor(shares * filters + 1e-9)).astype(int)
    return rows


def _common_error(curves: dict[ChannelGroup, ErrorCurve]) -> np.ndarray:
    """For each level the fewest filters of every layer whose error is below it."""
    levels = np.unique(np.concatenate([curve.errors for curve in curves.values()]))
    rows = [[int(curve.widths[np.argmax(curve.errors <= level)]) for curve in curves.values()] for level in levels]
    return np.array(rows)


def agreement(scores: Tensor, dense: Tensor) -> float:
    """Share of the clips of which both say the same."""
    return (scores.argmax(dim=1) == dense.argmax(dim=1)).double().mean().item()


def correlation(scores: Tensor, dense: Tensor) -> float:
    """Pearson correlation over clips and classes together."""
    return torch.corrcoef(torch.stack([scores.flatten(), dense.flatten()]).double())[0, 1].item()


def each(costs: Sequence[str], shares: Sequence[float], choices: Sequence[str], do: Callable[..., None]) -> None:
    """Every cell, all choices of one budget one after the other."""
    for cost in costs:
        for share in shares:
            for choice in choices:
                do(cost, share, choice)
