"""A budget that is reached step by step: what the network may cost after each step of a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_cosprune.network.complexity import measure_complexity
from lightning_cosprune.planning.budget import DTYPES, check_with_budget, parse_budget
from lightning_cosprune.planning.costs import count_costs

__all__ = ["BudgetInSteps"]


class BudgetInSteps:
    """The limits of a callback.

    Args:
        caller: Name that an error is about.
        pruning_ratio: What the user asked for beside it.
        **limits: ``budget``, ``deployed_as`` and ``max_macs``, ``max_params``, ``max_bytes``, ``max_latency``.

    Attributes:
        dense: Name of a cost -> that of the dense network, once the first step has come.

    Raises:
        ValueError: A limit is not understood, or does not go with the ratio.
    """

    def __init__(self, caller: str, pruning_ratio: Any, **limits: Any) -> None:
        self._parsed = parse_budget(caller, **limits)
        check_with_budget(self._parsed, pruning_ratio, limits.get("deployed_as"), caller)
        self._budget, self._deployed_as = limits.get("budget"), limits.get("deployed_as")
        self.dense: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._parsed)

    def arguments(self, network: nn.Module, example_inputs: Any, share: float, before: float) -> dict[str, Any]:
        """What ``plan_pruning`` is asked for in one step.

        Args:
            network: As it is now; in the first step the dense one.
            example_inputs: What its costs hold for.
            share: How much of the way from the dense network to the budget is to be gone after this step.
            before: How much of it was gone after the step before.

        Returns:
            Keyword arguments; none where there is no budget.
        """
        if not self:
            return {}
        if not self.dense:
            itemsize = DTYPES[self._parsed.deployed_as] if self._parsed.deployed_as else None
            complexity = measure_complexity(network, example_inputs)
            self.dense = count_costs(network, complexity, itemsize, self._parsed.buffers)
        found: dict[str, Any] = {"budget": self._budget, "deployed_as": self._deployed_as}
        for limit in self._parsed.limits:
            if limit.cost == "latency":
                # Of time only the ratio to the network of now can be measured.
                gone, way = 1 - before * (1 - limit.at_most), 1 - share * (1 - limit.at_most)
                found["max_latency"] = way / gone if way < gone else None
                continue
            dense = self.dense[limit.cost]
            target = min(limit.units(dense), dense)
            found[f"max_{limit.cost}"] = int(dense - share * (dense - target) + 1e-6)
        return found

    def in_the_end(self, network: nn.Module, example_inputs: Any) -> dict[str, Any]:
        """What ``plan_pruning`` is asked for after the last step, but for time; nothing is remembered.

        Returns:
            Keyword arguments; none where there is no budget, or one of time alone.
        """
        before, found = self.dense, self.arguments(network, example_inputs, 1.0, 0.0)
        self.dense = before  # it may be pruned by others until the first step comes
        counted = any(limit.cost != "latency" for limit in self._parsed.limits)
        return {**found, "max_latency": None} if counted else {}

    def load(self, dense: Mapping[str, float]) -> None:
        """Take up what a checkpoint says of the dense network."""
        self.dense = dict(dense)
