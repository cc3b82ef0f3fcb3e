"""A prune that is carried out and undone: what of a plan can be cut, and what the network costs then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from lightning_cosprune.network.channels import ChannelGroup
from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.surgery.apply import apply_plan
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["as_plan", "rehearse"]

Found = TypeVar("Found")


def as_plan(pruned: Mapping[ChannelGroup, Sequence[int]], skipped: Mapping[str, str] | None = None) -> PruningPlan:
    """The plan that takes these filters of these groups."""
    named: dict[str, list[int]] = {}
    for group, idxs in pruned.items():
        for name in group.layers:
            named[name] = sorted({*named.get(name, ()), *group.filters_of(name, idxs)})
    return PruningPlan(
        named,
        {name: group.width(name) for group in pruned for name in group.layers},
        {name: reason for name, reason in (skipped or {}).items() if not named.get(name)},
        norms=tuple(sorted({norm for group, idxs in pruned.items() if len(idxs) for norm in group.norms})),
    )


def rehearse(
    model: nn.Module,
    example_inputs: Any,
    pruned: Mapping[ChannelGroup, Sequence[int]],
    look: Callable[[PruningReport], Found],
) -> tuple[Found, dict[ChannelGroup, str]]:
    """Cut ``model``, look at it, and put it back as it was to the last bit.

    Args:
        model: The network.
        example_inputs: As for ``plan_pruning``.
        pruned: Filters to remove of each group.
        look: Is called while ``model`` is cut.

    Returns:
        What ``look`` returned; and the reason of every group that could not be cut though it was asked for.
    """
    before = Snapshot(model)
    try:
        report = apply_plan(model, as_plan(pruned), example_inputs, allow_unpruned=True)
        found = look(report)
    finally:
        before.restore()
    removed = {layer.name: set(layer.pruned_idxs) for layer in report.layers}
    refused = {}
    for group, idxs in pruned.items():
        for name in group.layers:
            if not set(group.filters_of(name, idxs)) <= removed.get(name, set()):
                refused[group] = report.skipped.get(name) or report.notes[name]
                break
    return found, refused
