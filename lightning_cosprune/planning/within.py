"""A plan within a budget: what can be cut at all, what it would cost, how much of each group, and a rehearsal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup
from lightning_cosprune.network.latency import FAST_BLOCK
from lightning_cosprune.planning.budget import DTYPES, Budget
from lightning_cosprune.planning.costs import CostModel, count_costs
from lightning_cosprune.planning.curves import (
    RELIEF,
    ErrorCurve,
    allowed_widths,
    first_to_go,
    response_curves,
    similarity_curve,
)
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.planning.ranked import FilterRanking
from lightning_cosprune.planning.rehearsal import as_plan, rehearse
from lightning_cosprune.planning.speed import Stopwatch, TimeAim
from lightning_cosprune.planning.widths import EVENNESS, Costs, choose_widths
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["UNREAD", "kept_whole", "plan_within"]

_KEPT = "the budget is met without it: the filters of other layers save more for less error"
_MET = "the network meets the budget as it is"
UNREAD = "no convolution or linear layer that the calibration data reach reads its filters"
_SINGLE = "too few filters to remove one"
_SHOWN = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}


def kept_whole(group: ChannelGroup, reason: str) -> dict[str, str]:
    """Layer name -> why it keeps all its filters, of a group and the depthwise layers that follow it."""
    follows = f"depthwise: it follows {group.layers[0]}, which keeps its filters"
    return dict.fromkeys(group.layers, reason) | dict.fromkeys(group.followers, follows)


class _Planner:
    """One plan in the making: groups leave ``groups`` for ``skipped``, with the reason."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        budget: Budget,
        groups: Sequence[ChannelGroup],
        ranking: FilterRanking,
        skipped: Mapping[str, str],
        latency_on: str,
    ) -> None:
        self.model, self.inputs, self.budget, self.ranking = model, example_inputs, budget, ranking
        self.itemsize = DTYPES[budget.deployed_as] if budget.deployed_as else None
        self.groups = list(groups)
        self.skipped = dict(skipped)
        self.refused: dict[str, None] = {}
        self.curves: dict[ChannelGroup, ErrorCurve] = {}
        self.limits: dict[str, float] = {}
        self.timed: dict[tuple[int, ...], float] = {}
        self.stopwatch = Stopwatch(model, example_inputs, latency_on) if budget.of("latency") else None

    def widths(self, group: ChannelGroup) -> np.ndarray:
        """How many of its filters may be kept; where time is limited whole blocks, unless the user asked otherwise."""
        multiple = self.ranking.multiple(group)
        if self.stopwatch and multiple == group.blocks and group.filters > FAST_BLOCK:
            multiple = math.lcm(multiple, FAST_BLOCK)
        return allowed_widths(group, multiple, self.ranking.at_least(group))

    def leave_out(self, groups: Sequence[ChannelGroup], reason: str) -> None:
        for group in groups:
            self.skipped.update(kept_whole(group, reason))
        self.groups = [group for group in self.groups if group not in groups]

    def rehearse(
        self, pruned: Mapping[ChannelGroup, Sequence[int]], timed: bool = False
    ) -> tuple[dict[str, float], bool]:
        """The true costs after a cut, and whether all of it could be made; what could not be cut is left out."""

        def look(report: PruningReport) -> dict[str, float]:
            if self.stopwatch and timed:
                self.stopwatch.remember()
            return count_costs(self.model, report.after, self.itemsize, self.budget.buffers)

        spent, refused = rehearse(self.model, self.inputs, pruned, look)
        failed = list(refused)
        for group, reason in refused.items():
            self.leave_out([group], reason)
            self.refused.update(dict.fromkeys(group.layers))
        if self.stopwatch:
            spent["latency"] = self.stopwatch.ratio() if timed and not failed else 1.0
        return spent, not failed

    def costs(self) -> Costs:
        counts = CostModel(self.model, self.inputs, self.groups, itemsize=self.itemsize, buffers=self.budget.buffers)
        return self.stopwatch.beside(counts) if self.stopwatch else counts

    def check_feasible(self, costs: Costs, limits: Mapping[str, float]) -> None:
        least = np.array([self.widths(group)[0] for group in self.groups], dtype=np.int64)
        reached = {name: values[0] for name, values in costs(least).items()}
        beyond = [name for name in limits if reached[name] > limits[name]]
        if not beyond:
            return
        if self.timed and beyond == ["latency"]:  # an aim of our own by now
            raise self.too_slow(self.limits["latency"])
        told = " and ".join(_in_words(name, reached[name]) for name in limits)
        asked = " and ".join(f"at most {_in_words(name, limits[name])}" for name in beyond)
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in self.skipped.items())
        raise ValueError(
            f"`plan_pruning(max_{beyond[0]}=...)`: expected a budget that can be met, found {asked}; the smallest that "
            f"can be reached is {told}. Raise the limit, or allow more with `layers`, `ignored_layers`, `round_to` and "
            f"`min_filters`. Layers that keep all their filters:{reasons or ' none'}"
        )

    def too_slow(self, limit: float) -> ValueError:
        return ValueError(
            f"`plan_pruning(max_latency={limit:g})`: expected a network that takes that part of the dense one's time, "
            f"found {min(self.timed.values()):.2f} at best, in {len(self.timed)} attempts. Raise the limit, or "
            "limit the multiply-accumulates with `max_macs` instead."
        )

    def notes(self, pruned: Mapping[ChannelGroup, Sequence[int]]) -> dict[str, str]:
        """Which widths were chosen for speed."""
        if self.stopwatch is None:
            return {}
        found = {}
        for group, idxs in pruned.items():
            left = group.filters - len(idxs)
            if left % FAST_BLOCK == 0 and self.ranking.multiple(group) == group.blocks:
                text = f"{left} filters, a multiple of {FAST_BLOCK}, chosen by time measured on this machine"
                found.update(dict.fromkeys(group.layers, text))
        return found

    def measure_curves(self, calibration: Iterable[Any] | None) -> None:
        widths = {group: self.widths(group) for group in self.groups}
        order, by_response = self.ranking.order, self.ranking.criterion == "response"
        if calibration is None:
            self.curves = {
                group: similarity_curve(self.ranking.weight(group), order(group), group, options)
                for group, options in widths.items()
            }
            return
        ranked = None if by_response else order
        self.curves = response_curves(self.model, self.inputs, widths, calibration, ranked, relief=RELIEF)
        self.leave_out([group for group in self.groups if group not in self.curves], UNREAD)


def plan_within(
    model: nn.Module,
    example_inputs: Any,
    budget: Budget,
    groups: Sequence[ChannelGroup],
    ranking: FilterRanking,
    calibration: Iterable[Any] | None,
    skipped: Mapping[str, str],
    latency_on: str = "eager",
) -> PruningPlan:
    """Choose how many filters each group keeps, and which, so that the true costs after surgery meet the budget.

    Args:
        model: The network; left as it was found.
        example_inputs: As for ``plan_pruning``.
        budget: The limits.
        groups: Those that may be cut as far as is known.
        ranking: In which order their filters go, and in what numbers they may be kept.
        calibration: Inputs to measure error curves on; the similarity of filters is used where ``None``.
        skipped: Layer name -> why it keeps all its filters already.
        latency_on: Backend of :func:`measure_latency` that a limit of time holds for.

    Returns:
        The plan.

    Raises:
        ValueError: The budget cannot be met; with the smallest that can be reached, and the layers in the way.
    """
    planner = _Planner(model, example_inputs, budget, groups, ranking, skipped, latency_on)
    planner.leave_out([group for group in planner.groups if len(planner.widths(group)) < 2], _SINGLE)
    spent, _ = planner.rehearse({})
    limits = planner.limits = {limit.cost: limit.units(spent[limit.cost]) for limit in budget.limits}
    if _meets(spent, limits):
        planner.leave_out(planner.groups, _MET)
        return as_plan({}, planner.skipped)
    # A layer that fails its trial fails it for one filter too; that is better known before any work than after.
    planner.rehearse({group: _first(torch.arange(group.filters), group, group.blocks) for group in planner.groups})
    planner.check_feasible(planner.costs(), limits)
    planner.measure_curves(calibration)
    aim = TimeAim(limits.get("latency", math.inf))
    met: dict[ChannelGroup, list[int]] | None = None
    while True:
        aims = limits | ({"latency": aim.value} if "latency" in limits else {})
        costs = planner.costs()
        if met is None:
            planner.check_feasible(costs, aims)
        groups, curves = planner.groups, planner.curves
        chosen = choose_widths(
            [curves[group].widths for group in groups],
            [curves[group].errors for group in groups],
            costs,
            aims,
            evenness=EVENNESS,
        )
        assert chosen is not None, "the least widths meet the limits, and so does what met them before"
        widths = tuple(chosen.tolist())
        pruned = {
            group: _first(curves[group].order, group, group.filters - width)
            for group, width in zip(groups, widths, strict=True)
            if width < group.filters
        }
        if widths not in planner.timed:
            spent, whole = planner.rehearse(pruned, timed=True)
            if not whole:  # other groups, another search
                met, aim = None, TimeAim(aim.limit)
                planner.timed.clear()
                continue
            planner.timed[widths] = spent.pop("latency", 0.0)
            if not _meets(spent, limits):
                raise RuntimeError(
                    f"`plan_pruning`: the network would cost {spent} after surgery, more than the {limits} that were "
                    "asked for and counted on. Please report this network as a bug of lightning_cosprune."
                )
        if planner.timed[widths] <= aim.limit:
            met = pruned
        if aim.reached(planner.timed[widths]):
            break
    if met is None:
        raise planner.too_slow(aim.limit)
    planner.leave_out([group for group in planner.groups if group not in met], _KEPT)
    plan = as_plan(met, planner.skipped)
    refused = tuple(name for name in planner.refused if name in plan.skipped)
    return replace(plan, notes=planner.notes(met), refused=refused)


def _in_words(cost: str, value: float) -> str:
    return f"{value:.2f} of the dense network's time" if cost == "latency" else f"{value:,.0f} {_SHOWN[cost]}"


def _meets(spent: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    return all(spent[name] <= most for name, most in limits.items() if name in spent)


def _first(order: Tensor, group: ChannelGroup, removals: int) -> list[int]:
    return sorted(first_to_go(order, group, removals).tolist())
