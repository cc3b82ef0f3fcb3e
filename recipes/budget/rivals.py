"""Ways to meet the same budget: uniform widths, one common error for all layers, and ours; in one step or more."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from lightning_cosprune import PruningPlan, apply_plan, measure_complexity, measure_latency, plan_pruning
from lightning_cosprune import refit_least_squares as least_squares
from lightning_cosprune.network.channels import ChannelGroup, channel_groups
from lightning_cosprune.planning.costs import CostModel
from lightning_cosprune.planning.curves import RELIEF, ErrorCurve, allowed_widths, first_to_go, response_curves
from lightning_cosprune.planning.rehearsal import as_plan
from lightning_cosprune.planning.widths import EVENNESS, choose_widths

CHOICES = ("uniform", "common error", "ours", "ours, 3 steps")


class Rivals:
    """Networks within budgets, all from the same dense one, the same clips, the same order of filters and one repair.

    Args:
        dense: The network; left as it is.
        example: What its costs hold for.
        calibration: Unlabelled inputs, one entry a forward pass.
    """

    def __init__(self, dense: nn.Module, example: Tensor, calibration: Sequence[Tensor]) -> None:
        self.dense, self.example, self.calibration = dense, example, list(calibration)
        self._curves: dict[bool, tuple[dict[ChannelGroup, ErrorCurve], float]] = {}

    def make(self, cost: str, share: float, choice: str) -> tuple[nn.Module, float, float]:
        """A network that costs at most ``share`` of the dense one, and the seconds of planning and of repairing it."""
        network = copy.deepcopy(self.dense)
        steps = 3 if choice.endswith("3 steps") else 1
        dense = getattr(measure_complexity(network, self.example), cost)
        planning = repairing = 0.0
        for step in range(1, steps + 1):
            before = copy.deepcopy(network)
            limit = int(dense - step / steps * (1 - share) * dense + 1e-6)
            plan, seconds = self._plan(network, cost, limit, choice)
            planning += seconds
            report = apply_plan(network, plan, self.example)
            assert getattr(report.after, cost) <= limit
            start = time.process_time()
            least_squares(network, before, self.calibration, report=report)
            repairing += time.process_time() - start
        return network, planning, repairing

    def ratio(self, network: nn.Module) -> float:
        """Measured time of a network, as a part of the dense one's."""
        found = measure_latency(network, self.example, beside=self.dense, backend="channels_last", seconds=0.5).ratio
        assert found is not None
        return found

    def _plan(self, network: nn.Module, cost: str, limit: int, choice: str) -> tuple[PruningPlan, float]:
        """What one choice removes, and the seconds that takes, its error curves included."""
        start = time.process_time()
        if choice.endswith("steps"):
            plan = plan_pruning(
                network, self.example, criterion="response", calibration=self.calibration, **{f"max_{cost}": limit}
            )
            return plan, time.process_time() - start
        curves, measuring = self._measured(by_output=choice == "ours")
        start = time.process_time()
        costs = CostModel(network, self.example, list(curves))
        if choice == "ours":
            # As plan_pruning does from here on, but that curves are measured once for all budgets.
            options, errors = zip(*((curve.widths, curve.errors) for curve in curves.values()), strict=True)
            found = choose_widths(options, errors, costs, {cost: limit}, evenness=EVENNESS)
            assert found is not None
            widths = found.tolist()
        else:
            rows = _uniform(curves) if choice == "uniform" else _common_error(curves)
            widths = rows[np.flatnonzero(costs(rows)[cost] <= limit)[0]].tolist()  # from the largest on
        plan = as_plan(
            {
                group: sorted(first_to_go(curve.order, group, group.filters - width).tolist())
                for (group, curve), width in zip(curves.items(), widths, strict=True)
                if width < group.filters
            }
        )
        return plan, measuring + time.process_time() - start

    def _measured(self, by_output: bool) -> tuple[dict[ChannelGroup, ErrorCurve], float]:
        """Curves of the errors of the outputs, or of layers alone at every width; and the seconds they took."""
        if by_output not in self._curves:
            start = time.process_time()
            groups = [
                group
                for group in channel_groups(self.dense, self.example)
                if group.refusal is None and isinstance(self.dense.get_submodule(group.layers[0]), nn.Conv2d)
            ]
            widths = {
                group: allowed_widths(group, 1, 1) if by_output else allowed_widths(group, 1, 1, options=group.filters)
                for group in groups
            }
            curves = response_curves(
                self.dense,
                self.example,
                widths,
                self.calibration,
                by_output=by_output,
                relief=RELIEF if by_output else 0.0,
            )
            self._curves[by_output] = curves, time.process_time() - start
        return self._curves[by_output]


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
