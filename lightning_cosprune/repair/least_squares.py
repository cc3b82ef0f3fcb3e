"""Re-solving the layers that read removed channels, front to back, against what the dense network computes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.calibration.batches import as_batches, check_runs, merged, num_samples
from lightning_cosprune.calibration.moments import Pool
from lightning_cosprune.calibration.observe import observed_inputs
from lightning_cosprune.network.computed import stored_weight
from lightning_cosprune.network.forward import call, evaluating, float_tensors, same_random_state, unchanged
from lightning_cosprune.network.rollback import whole_or_not_at_all
from lightning_cosprune.repair.activation import as_pruned
from lightning_cosprune.repair.kept import check_networks, kept_filters, readers_of_removed
from lightning_cosprune.repair.one_pass import repair_in_one_pass
from lightning_cosprune.repair.refit import refit_layer
from lightning_cosprune.repair.report import RepairedLayer, RepairReport
from lightning_cosprune.repair.targets import Targets
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["refit_least_squares"]

_TO_HOLD_OUT = 64
"""Samples from which on a quarter of them tells enough for a repair of its own."""


def refit_least_squares(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    report: PruningReport | None = None,
    pool: Pool | None = None,
) -> RepairReport:
    r"""Change ``pruned`` in place: the kept filters say what the removed ones said, without labels or gradients.

    Every layer that reads removed channels, in the order in which the network runs, is given the weights and the bias
    with which it computes, from what the pruned network now gives it, most nearly what it computed in the dense one:

    .. math:: \min_{W, b} \sum_t \| \phi(y(t)) - \phi(W^\top x(t) + b) \|^2 + \lambda \| W - W_{old} \|^2

    with :math:`x` its inputs in the pruned network, :math:`y` its outputs in the dense one and :math:`\phi` the ReLU or
    ReLU6 that follows, at once or behind a batch norm; the identity where neither does. The layers before it were
    solved already, so errors do not add up on the way.

    Conventions:
        - The ridge :math:`\lambda` pulls towards the old weights. Its strength is the one that does best on calibration
          data that were held out, layer by layer; where the old weights do best there, they stay. From 64 samples on
          the held-out ones reach a layer through layers that were not fitted to them either, in a repair that is run
          for this alone: layers that are, make the ones behind them look easier than new sounds will find them.
        - Where :math:`\phi` cuts something off, outputs that are cut off in both networks count as equal: twice the
          targets are moved to where they make no difference, which lowers the error each time.
        - A layer without a bias whose output a batch norm reads gets its bias through the batch norm's running mean.
        - Of each layer 16,384 positions are looked at, or four for each unknown of a filter if these are more, or all
          there are; they are spread evenly over the samples. Sums are kept in float64.
        - Where the network's outputs come out further from the dense network's than before, all is undone, and the
          report says so.

    Args:
        pruned: The network after the cut. Depthwise layers, which pass channels on one by one, keep their weights.
        dense: The network before the cut; left as it was found. A copy made before pruning serves.
        calibration: Inputs, one entry a forward pass: a tensor, or a tuple of positional or a mapping of keyword
            arguments. Labels are not looked at. 16 samples go a long way, 80 further; they are read several times.
        report: What was cut, as ``apply_plan`` returned it. Where ``None``, it is told from the weights, which works as
            long as ``pruned`` was not trained since.
        pool: Sums tensors over all processes where each has a part of the calibration data.

    Returns:
        Each layer's error before and after on data that it was not fitted to, what was left and why, and the error of
        the network's outputs.

    Raises:
        ValueError: There are no calibration data, the two networks do not belong together, or no layer reads fewer
            channels than before.

    Source: He, Zhang and Sun, ICCV 2017 (least squares after channel pruning); Zhang, Zou, He and Sun, TPAMI 2016
    (inputs of the approximated network, and the response behind the ReLU). Measured in docs/repair.md.

    Example:
        >>> from lightning_cosprune import apply_plan, plan_pruning
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> inputs = torch.randn(16, 1, 12, 12)
        >>> dense = copy.deepcopy(model)
        >>> _ = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
        >>> repair = refit_least_squares(model, dense, [inputs])
        >>> repair.error_after < repair.error_before
        True
    """
    check_networks(pruned, dense, "refit_least_squares")
    if pool is not None and not callable(pool):
        raise TypeError(
            f"`refit_least_squares(pool={pool!r:.60})`: expected a function that sums tensors over processes, or None, "
            f"found a {type(pool).__name__}. Leave it out in a single process."
        )
    batches = as_batches(calibration, "refit_least_squares")
    check_runs(dense, batches, "refit_least_squares")
    batches = merged(dense, batches)
    kept = kept_filters(pruned, dense, report, "refit_least_squares")
    readers = readers_of_removed(pruned, dense)
    if not readers:
        raise ValueError(
            "`refit_least_squares(pruned=..., dense=...)`: expected a layer that reads fewer channels than in the "
            "dense network, found none. `dense` must be the network before the cut, and `pruned` the one after it."
        )
    skipped = {name: reason for name, reason in readers.items() if reason is not None}
    solvable = {name: pruned.get_submodule(name) for name in readers if name not in skipped}
    skipped |= {name: reason for name, layer in solvable.items() if (reason := _reason_to_leave(layer))}
    layers = {name: dense.get_submodule(name) for name in readers if name not in skipped}

    with whole_or_not_at_all(pruned):
        targets = Targets(pruned, dense, batches, layers, {name: kept[name] for name in layers}, pool)
        as_pruned(targets, pruned, dense, kept)
        skipped |= {name: "not reached by the calibration data" for name in layers if name not in targets.calls}
        first = _error(pruned, batches, targets.outputs, pool)
        before = copy.deepcopy(pruned.state_dict())
        samples = sum(map(num_samples, batches))
        if pool is not None:
            samples = int(pool([torch.tensor(samples)])[0])
        repair = functools.partial(_front_to_back, pruned, batches, targets, pool)
        if samples < _TO_HOLD_OUT:
            repaired = repair()
        else:
            found = {layer.name: layer for layer in repair(hold_out=True)}
            pruned.load_state_dict(before)
            repaired = repair(found=found)
        last = _error(pruned, batches, targets.outputs, pool)
        undone = not last <= first
        if undone:
            pruned.load_state_dict(before)
    return RepairReport("least_squares", tuple(repaired), skipped, samples, first, first if undone else last, undone)


def _front_to_back(
    pruned: nn.Module,
    batches: Sequence[Any],
    targets: Targets,
    pool: Pool | None,
    *,
    hold_out: bool = False,
    found: Mapping[str, RepairedLayer] | None = None,
) -> list[RepairedLayer]:
    """One repair of all layers, in which each is given what the repaired ones before it compute."""

    def refit(name: str, inputs: Sequence[Sequence[Tensor]]) -> RepairedLayer:
        told = None if found is None else found[name]
        return refit_layer(pruned, name, inputs, targets, batches, pool, hold_out=hold_out, told=told)

    if len(batches) == 1 and set(targets.calls.values()) <= {1}:
        return repair_in_one_pass(pruned, batches[0], targets, refit)
    repaired = []
    # A forward pass up to each layer, whose inputs are held; there are as many of its patches as it has taps.
    for name in tqdm(targets.calls, desc="Repairing", unit="layer", delay=2, leave=False):
        calls = [len(seen.get(name, ())) for seen in targets.seen]
        inputs = [observed_inputs(pruned, batch, name, count) for batch, count in zip(batches, calls, strict=True)]
        repaired.append(refit(name, inputs))
    return repaired


def _reason_to_leave(layer: nn.Module) -> str | None:
    weight = stored_weight(layer)
    if weight is None:
        return "its weight is computed in a way that is not known"
    if not weight.requires_grad:
        return "frozen"
    return None


def _error(
    pruned: nn.Module,
    batches: Sequence[Any],
    outputs: Sequence[list[Tensor]],
    pool: Pool | None,
) -> float:
    """Mean squared difference of the network's outputs from ``outputs``, as a part of their variance."""
    device = outputs[0][0].device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with evaluating(pruned), torch.no_grad(), same_random_state():
        for batch, wanted in zip(batches, outputs, strict=True):
            with unchanged(pruned):
                found = float_tensors(call(pruned, batch))
            for one, other in zip(found, wanted, strict=True):
                exact = other.double()
                sums[0] += (one.double() - exact).square().sum()
                several = exact.ndim > 0 and len(exact) > 1
                sums[1] += (exact - exact.mean(dim=0) if several else exact).square().sum()
    if pool is not None:
        sums = pool([sums])[0]
    return float(sums[0] / sums[1].clamp_min(1e-300))
