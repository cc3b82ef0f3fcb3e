"""Trained parameters beside a network that read its features by a hook: no prune of the network can follow them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_cosprune.network.forward import call, evaluating, float_tensors, same_random_state, unchanged
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["warning_of_readers_outside"]


def warning_of_readers_outside(
    pl_module: LightningModule,
    target: nn.Module,
    inputs: Any,
    report: PruningReport,
    optimizers: Iterable[Optimizer],
) -> str | None:
    """What to say of trained parameters that the forward pass does not reach and that fit a layer as it was.

    Projections of features, as distillation of features has them, are called in ``training_step`` on what a hook has
    caught. Whether they do read the channels that were cut cannot be seen without a training step; shapes tell.

    Args:
        pl_module: The LightningModule.
        target: The part of it that was pruned, as it is now.
        inputs: The example input of the prune.
        report: What was done.
        optimizers: Those of the Trainer; what they do not hold is not trained.

    Returns:
        Names and shapes, and what can be done; ``None`` where there are none.
    """
    widths: dict[int, list[str]] = {}
    given = _widths_of_outputs(target, inputs)  # whoever reads those reads what the part gave before
    for layer in report.layers:
        if layer.filters_before not in given:
            widths.setdefault(layer.filters_before, []).append(f"{layer.name} ({layer.filters_after} now)")
    held = {id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}
    twins = [part for part in pl_module.modules() if type(part) is type(target) and part is not target]
    passed = {id(one) for part in twins for one in part.parameters() if target is not pl_module}
    fitting = {}
    for module_name, module in pl_module.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad and id(parameter) in held - passed:
                sizes = [size for size in _inputs_of(module, key, parameter) if size in widths]
                if sizes:
                    fitting[f"{module_name}.{key}" if module_name else key] = (parameter, sizes[0])
    reached = _reached(target, inputs, [parameter for parameter, _ in fitting.values()]) if fitting else set()
    lines = [
        f"\n  {name}, of shape {tuple(parameter.shape)}: as many inputs as {' or '.join(widths[size])} had filters"
        for name, (parameter, size) in fitting.items()
        if id(parameter) not in reached
    ]
    if not lines:
        return None
    return (
        "Filters were removed, and these parameters are trained but not reached by the forward pass of "
        f"{type(target).__name__}, so that they could not be cut with them:{''.join(lines)}\nIf they read those "
        "features in `training_step`, its next call will fail with an error about shapes. Keep the filters of layers "
        "whose features are read with `ignored_layers=[...]`, or return the features from `forward`."
    )


def _inputs_of(module: nn.Module, key: str, parameter: Tensor) -> list[int]:
    """How many channels a parameter may read."""
    if key == "bias":
        return []
    if isinstance(module, nn.modules.conv._ConvNd):
        return [module.in_channels] if key == "weight" else []
    if isinstance(module, (nn.Linear, nn.RNNBase)):
        return [parameter.shape[1]] if parameter.ndim == 2 and "_hh" not in key else []
    return list(parameter.shape)


def _widths_of_outputs(target: nn.Module, inputs: Any) -> set[int]:
    with torch.no_grad(), unchanged(target), evaluating(target), same_random_state():
        return {size for leaf in float_tensors(call(target, inputs)) for size in leaf.shape[1:]}


def _reached(target: nn.Module, inputs: Any, parameters: list[nn.Parameter]) -> set[int]:
    """Of ``parameters``, those that an output depends on in evaluation or training mode."""
    found: set[int] = set()
    for training in (False, True):
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            unchanged(target),
            evaluating(target),
            same_random_state(),
            contextlib.suppress(Exception),  # such as a batch norm that is given a single value
        ):
            target.train(training)
            outputs = [leaf.sum() for leaf in float_tensors(call(target, inputs)) if leaf.requires_grad]
            if outputs:
                gradients = torch.autograd.grad(outputs, parameters, allow_unused=True)
                found |= {id(one) for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return found
