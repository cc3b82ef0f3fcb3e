"""What would go wrong at a prune and can be told when training starts, epochs before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_cosprune.network.layers import prunable_layers
from lightning_cosprune.network.norms import declared_norms
from lightning_cosprune.planning.choose import plan_pruning
from lightning_cosprune.planning.ratios import match_layers, resolve_counts, resolve_ratios
from lightning_cosprune.training.averages import find_averages
from lightning_cosprune.training.budget import BudgetInSteps
from lightning_cosprune.training.calibration import calibration_batches
from lightning_cosprune.training.example_input import find_example_inputs
from lightning_cosprune.training.repair import check_fits

__all__ = ["check_names", "rehearse_plan"]


def check_names(target: nn.Module, settings: Mapping[str, Any]) -> None:
    """Refuse names and patterns that no layer has.

    Args:
        target: What will be pruned.
        settings: Arguments of :func:`plan_pruning`: ``pruning_ratio``, ``layers``, ``ignored_layers``, ``round_to``,
            ``min_filters``, ``normalising`` and ``strict``.

    Raises:
        ValueError: The parameter and the pattern are named, with the layers that there are.
    """
    modules = prunable_layers(target)
    resolve_ratios(modules, settings["pruning_ratio"], settings["layers"])
    match_layers("ignored_layers", settings["ignored_layers"], modules)
    declared_norms(target, settings["normalising"], "CosineFilterPruning")
    for parameter in ("round_to", "min_filters"):
        resolve_counts(parameter, settings[parameter], modules)


def rehearse_plan(
    trainer: Trainer,
    pl_module: LightningModule,
    target: nn.Module,
    given: Any,
    settings: Mapping[str, Any],
    *,
    budget: BudgetInSteps,
    calibration: Any,
) -> str | None:
    """Plan as at the prune to come, only to see whether it can be done and remove anything.

    Args:
        trainer: With its training data loaded.
        pl_module: The LightningModule.
        target: What will be pruned.
        given: The example input that the user gave, or ``None``.
        settings: As for :func:`check_names`.
        budget: The limits, if there are some; that of time is not looked at.
        calibration: Data that the prune will read, or ``None``.

    Returns:
        Each layer's reason in a line of its own where no layer can lose a filter and no training changes that; else
        ``None``.

    Raises:
        ValueError: As :func:`plan_pruning`, :func:`find_averages` and :func:`calibration_batches`.
    """
    loader = trainer.train_dataloader
    shown = given is not None or getattr(target, "example_input_array", None) is not None
    # A look at a stream may take a sample from it, and that is not worth a rehearsal.
    if not shown and (not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset)):
        return None
    if any(nn.parameter.is_lazy(parameter) for parameter in target.parameters()):
        return None
    inputs = find_example_inputs(trainer, pl_module, target, given)
    find_averages(trainer, pl_module, target, inputs)
    counted = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    if calibration is not None and (counted or not isinstance(calibration, int)):
        with isolate_rng():
            batches = calibration_batches(trainer, calibration, "CosineFilterPruning", 0, trainer.world_size)
        check_fits(target, batches[0])
    limits = budget.in_the_end(target, inputs)
    # How many are redundant changes with the weights, and what is frozen now may not be then.
    if budget and (not limits or not all(parameter.requires_grad for parameter in target.parameters())):
        return None
    plan = plan_pruning(target, inputs, criterion="l1", **settings, **limits)
    if budget or plan.pruned or any(reason.startswith(_PASSING) for reason in plan.skipped.values()):
        return None
    return "".join(f"\n  {name}: {reason}" for name, reason in plan.skipped.items())


_PASSING = ("frozen", "no filter of it is redundant")
