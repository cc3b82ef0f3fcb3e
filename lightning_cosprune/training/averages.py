"""Averaged copies of the network (EMA, SWA): a prune must cut the same filters from them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_cosprune.network.forward import as_call, eager, evaluating, same_random_state, unchanged
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.surgery.apply import apply_plan
from lightning_cosprune.surgery.report import PruningReport
from lightning_cosprune.training.example_input import to_device

__all__ = ["Average", "averaged_modules", "averaged_parts", "find_averages", "prune_averages"]


@dataclass(frozen=True, eq=False)
class Average:
    """An averaged copy of the network, or of a part of it.

    Attributes:
        name: Who holds it, for messages.
        network: A network of the LightningModule's layout in which the averaged weights stand at their places.
        part: Name of the part whose weights are averages; empty for all of it.
    """

    name: str
    network: LightningModule
    part: str = ""


def averaged_modules(trainer: Trainer | None) -> list[LightningModule]:
    """The averaged copies that callbacks of the Trainer hold, of the whole LightningModule.

    Returns:
        Those of Lightning's ``WeightAveraging`` and ``StochasticWeightAveraging``, and of any callback that holds an
        ``AveragedModel`` of a LightningModule.
    """
    return [network for _, network in _held_by_callbacks(trainer)]


def find_averages(trainer: Trainer, pl_module: LightningModule, target: nn.Module, inputs: Any) -> list[Average]:
    """All averaged copies that have to follow a prune, told from the dense network.

    Args:
        trainer: Its callbacks are searched.
        pl_module: It is searched too, attributes that are no submodules included.
        target: What will be pruned, with all that its forward pass reaches.
        inputs: The example input of the prune.

    Raises:
        ValueError: It cannot be told what an ``AveragedModel`` averages, or the forward pass goes through it.

    Returns:
        Copies that callbacks hold, and every ``AveragedModel`` of the LightningModule.
    """
    averages = [Average(name, network) for name, network in _held_by_callbacks(trainer)]
    modules = dict(pl_module.named_modules())
    held = {name: module for name, module in modules.items() if isinstance(module, AveragedModel)}
    _check_unused({name: average for name, average in held.items() if _has_filters(average)}, target, inputs)
    beside = dict(_held_beside(trainer, pl_module, {id(module) for module in modules.values()}))
    for name, average in {**held, **beside}.items():
        if not _has_filters(average):
            continue
        sources = [
            source
            for source, module in modules.items()
            if type(module) is type(average.module)
            and _shapes(module) == _shapes(average.module)
            and not any(source == other or source.startswith(f"{other}.") for other in held)
        ]
        if name in beside and not sources:
            continue  # the average of something else is its holder's own affair
        if len(sources) != 1:
            found = f"found {' and '.join(map(repr, sources))}" if sources else "found none"
            raise ValueError(
                f"`CosineFilterPruning` with the AveragedModel {name!r}: expected one part of "
                f"{type(pl_module).__name__} of its class and shapes, whose prune it would follow, {found}. Keep the "
                "average in Lightning's `WeightAveraging` callback instead."
            )
        if not sources[0]:
            averages.append(Average(name, cast(LightningModule, average.module)))
            continue
        network = copy.deepcopy(pl_module)
        parent, _, child = sources[0].rpartition(".")
        setattr(network.get_submodule(parent), child, average.module)
        averages.append(Average(name, network, sources[0]))
    return averages


def averaged_parts(averages: Sequence[Average], module: str | None) -> list[nn.Module]:
    """Of each averaged copy what corresponds to the part of the LightningModule that is pruned."""
    return [average.network if module is None else average.network.get_submodule(module) for average in averages]


def prune_averages(
    averages: Sequence[Average], module: str | None, plan: PruningPlan, report: PruningReport, inputs: Any
) -> None:
    """Change averaged copies in place: remove the filters that were removed from the network.

    Args:
        averages: What :func:`find_averages` found before the network was pruned.
        module: Name of the part of the LightningModule that was pruned, or ``None`` for all of it.
        plan: What was planned.
        report: What was done.
        inputs: The example input of the prune.

    Raises:
        RuntimeError: A copy could not be cut like the network.
    """
    removed = {layer.name for layer in report.layers}
    done = PruningPlan(
        {name: idxs for name, idxs in plan.pruned.items() if name in removed},
        {name: plan.filters[name] for name in plan.pruned if name in removed},
        norms=plan.norms,
    )
    if not done.pruned:
        return
    for average, network in zip(averages, averaged_parts(averages, module), strict=True):
        device = next(network.parameters()).device  # averages may be kept on another device than the network
        found = apply_plan(network, done, to_device(inputs, device), allow_unpruned=True)
        if _cuts(found) != _cuts(report):
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in found.skipped.items())
            raise RuntimeError(
                f"The averaged weights of {average.name} could not be cut like the network:{reasons}\nTraining on "
                "would average different filters. Please report this network as a bug of lightning_cosprune."
            )


def _held_by_callbacks(trainer: Trainer | None) -> list[tuple[str, LightningModule]]:
    found = []
    for callback in getattr(trainer, "callbacks", ()):
        for value in vars(callback).values():
            network = value.module if isinstance(value, AveragedModel) else value
            is_average = isinstance(value, AveragedModel) or "StochasticWeightAveraging" in {
                cls.__name__ for cls in type(callback).__mro__
            }
            # Averages of other modules are their callback's own affair.
            if is_average and hasattr(network, "training_step"):
                found.append((type(callback).__name__, cast(LightningModule, network)))
    return found


def _held_beside(trainer: Trainer, pl_module: LightningModule, seen: set[int]) -> Iterator[tuple[str, AveragedModel]]:
    """Averages that callbacks or plain attributes of the LightningModule hold, containers looked into.

    Yields:
        Name and average, without the submodules in ``seen`` and what :func:`averaged_modules` finds.
    """
    seen |= {id(network) for network in averaged_modules(trainer)}
    for holder in (*trainer.callbacks, pl_module):  # type: ignore[attr-defined]
        for key, value in vars(holder).items():
            names = {f"{type(holder).__name__}.{key}": value}
            if isinstance(value, Mapping | list | tuple):
                pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
                names = {f"{type(holder).__name__}.{key}[{place!r}]": one for place, one in pairs}
            for name, one in names.items():
                if isinstance(one, AveragedModel) and not {id(one), id(one.module)} & seen:
                    seen.add(id(one))
                    yield name, one


def _check_unused(held: Mapping[str, AveragedModel], target: nn.Module, inputs: Any) -> None:
    """Refuse averages that evaluation mode uses: the trace would follow them, and not the layers that are trained."""
    if not held:
        return
    used: list[str] = []
    args, kwargs = as_call(inputs)
    with unchanged(target), evaluating(target), torch.no_grad(), same_random_state(), eager():
        hooks = [
            module.register_forward_hook(lambda *_, name=name: used.append(name))
            for name, average in held.items()
            for module in (average, average.module)
        ]
        try:
            target(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
    if used:
        raise ValueError(
            f"`CosineFilterPruning` with the AveragedModel {used[0]!r}: expected a forward pass through the trained "
            "layers in evaluation mode too, found one through the average. Call the average in `validation_step` "
            "instead, or keep it in Lightning's `WeightAveraging` callback."
        )


def _has_filters(average: AveragedModel) -> bool:
    return any(isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) for layer in average.modules())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _cuts(report: PruningReport) -> dict[str, tuple[int, ...]]:
    return {layer.name: layer.pruned_idxs for layer in report.layers}
