"""The least squares of one layer: from what it is given now to what it computed in the dense network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.calibration.batches import num_samples
from lightning_cosprune.calibration.moments import Moments, Pool, pooled
from lightning_cosprune.network.rectifiers import Sequel
from lightning_cosprune.network.rows import input_rows, set_weight_rows, weight_rows
from lightning_cosprune.repair.activation import Activation
from lightning_cosprune.repair.report import RepairedLayer
from lightning_cosprune.repair.ridge import Affine, choose_ridge, factor, solve
from lightning_cosprune.repair.targets import Targets

__all__ = ["refit_layer"]

_PARTS = 4
"""Into how many parts calibration data fall, one held out at a time while the ridge is chosen."""

_RUNS = 16
"""Neighbours are held out together, in so many runs: they may be pieces of one recording."""

_ROUNDS = 2
"""How often targets are moved to where the activation makes no difference; each round lowers the error."""


def refit_layer(
    pruned: nn.Module,
    name: str,
    inputs: Sequence[Sequence[Tensor]],
    targets: Targets,
    batches: Sequence[Any],
    pool: Pool | None,
    *,
    hold_out: bool = False,
    told: RepairedLayer | None = None,
) -> RepairedLayer:
    """Change one layer of ``pruned`` in place, unless data that are held out say that it is best as it is.

    Args:
        pruned: The network after the cut, repaired up to this layer.
        name: The layer.
        inputs: For each batch what the layer is given now, at each of its calls.
        targets: What the dense network computes.
        batches: Calibration data, as ``targets`` were made from.
        pool: Sums tensors over all processes.
        hold_out: Whether one part of the data is held out of the solution, too. Where each layer is told so, that part
            reaches the last one as new data would.
        told: What was found so, whose ridge is taken; then all data are solved for.

    Returns:
        The layer's errors on data that were held out.
    """
    refit = _Refit(pruned, name, inputs, targets, batches, pool)
    parts = refit.moments(1 if told is not None else _PARTS)
    if told is None:
        held_out = choose_ridge(parts, refit.old, refit.has_bias, turns=1 if hold_out else _PARTS)
        total = max(held_out.total, 1e-300)
        told = RepairedLayer(name, held_out.old / total, held_out.best / total, held_out.ridge)
    ridge = told.ridge
    if ridge is None:
        return told
    left_out = 0 if hold_out else None
    whole = [
        pooled(part[group] for number, part in enumerate(parts) if number != left_out)
        for group in range(len(refit.old))
    ]
    found = [solve(moments, ridge, old, refit.has_bias) for moments, old in zip(whole, refit.old, strict=True)]
    solved = [fit for fit in found if fit is not None]
    if len(solved) < len(found):
        return RepairedLayer(name, told.error_before, told.error_before)
    if targets.sequels[name].rectifies and ridge < math.inf:
        solved = refit.rectified(whole, ridge, solved, left_out)
    refit.write(solved)
    return told


class _Refit:
    """A layer, what it is given in the pruned network, and what it is to compute.

    Attributes:
        old: The weights and bias of each group of filters as they are. A bias that cannot be written counts as zero
            here, and is taken off the targets.
        has_bias: Whether there is a place for a bias: in the layer, or in the running mean of the batch norm behind it.
    """

    def __init__(
        self,
        pruned: nn.Module,
        name: str,
        inputs: Sequence[Sequence[Tensor]],
        targets: Targets,
        batches: Sequence[Any],
        pool: Pool | None,
    ) -> None:
        self._layer = pruned.get_submodule(name)
        self._batches, self._pool = batches, pool
        self._seen = [seen.get(name, []) for seen in targets.seen]
        self._inputs = inputs
        own = self._layer._parameters.get("bias")
        self._place, self._sign = _place_of_bias(own, pruned, targets.sequels[name])
        self.has_bias = self._place is not None
        rows = weight_rows(self._layer).double()
        groups, filters = rows.shape[:2]
        bias = rows.new_zeros(groups * filters) if own is None else own.detach().double()
        self._fixed = rows.new_zeros(groups, filters) if self.has_bias else bias.unflatten(0, (groups, filters))
        biases = bias.unflatten(0, (groups, filters)) - self._fixed
        self.old = [Affine(*pair) for pair in zip(rows.transpose(1, 2), biases, strict=True)]
        self._activation = Activation(pruned, targets.sequels[name], groups * filters, rows.device)

    def moments(self, number_of_parts: int) -> list[list[Moments]]:
        """For each part of the data the second moments of each group's inputs and targets."""
        sizes = [(old.weight.shape[0], old.weight.shape[1]) for old in self.old]
        device = self.old[0].weight.device
        parts = [[Moments(columns, filters, device) for columns, filters in sizes] for _ in range(number_of_parts)]
        for x, t, part in self._pairs():
            for number, moments in enumerate(parts):
                chosen = part % number_of_parts == number
                for group, sums in enumerate(moments):
                    sums.add(x[chosen, group], t[chosen, group] - self._fixed[group])
        if self._pool is not None:
            parts = [[sums.pooled_by(self._pool) for sums in part] for part in parts]
        return parts if self.has_bias else [[sums.about_zero() for sums in part] for part in parts]

    def rectified(
        self, whole: Sequence[Moments], ridge: float, found: Sequence[Affine], left_out: int | None
    ) -> list[Affine]:
        """Solve again for targets that are moved to where the activation makes no difference.

        Moving them never raises the error behind the activation, and leaves the inputs' moments as they are. The part
        ``left_out`` is not in ``whole``, and is not looked at.

        Returns:
            The solution of each group.
        """
        factors = [factor(moments, ridge) for moments in whole]
        for _ in range(_ROUNDS):
            cross, total = self._moved_targets(whole, found, left_out)
            found = []
            for group, (moments, old) in enumerate(zip(whole, self.old, strict=True)):
                factored = factors[group]
                assert factored is not None  # it was solved before
                lower, strength = factored
                weight = torch.cholesky_solve(cross[group] + strength * old.weight, lower)
                bias = total[group] / moments.count - moments.mean_x @ weight if self.has_bias else old.bias
                found.append(Affine(weight, bias))
        return list(found)

    def _moved_targets(
        self, whole: Sequence[Moments], found: Sequence[Affine], left_out: int | None
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Of each group the sums of centred inputs times moved targets, and of moved targets."""
        cross = [torch.zeros_like(old.weight) for old in self.old]
        total = [torch.zeros_like(old.bias) for old in self.old]
        for x, t, part in self._pairs():
            if left_out is not None:
                x, t = x[part != left_out], t[part != left_out]
            rows = x.double()
            computed = (
                torch.stack([rows[:, group] @ fit.weight + fit.bias for group, fit in enumerate(found)], dim=1)
                + self._fixed
            )
            moved = self._activation.moved(t.double().flatten(1), computed.flatten(1)).reshape(t.shape) - self._fixed
            for group, moments in enumerate(whole):
                cross[group] += (rows[:, group] - moments.mean_x).T @ moved[:, group]
                total[group] += moved[:, group].sum(dim=0)
        if self._pool is None:
            return cross, total
        summed = self._pool([*cross, *total])
        return summed[: len(cross)], summed[len(cross) :]

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows of inputs (rows, groups, columns), of targets (rows, groups, filters), and the part that each is in."""
        start, samples_in_all = 0, sum(map(num_samples, self._batches))
        for batch, inputs, seen in zip(self._batches, self._inputs, self._seen, strict=True):
            count = num_samples(batch)
            for given, wanted in zip(inputs, seen, strict=True):
                x = input_rows(self._layer, given, wanted.positions, wanted.shape)
                t = wanted.rows.unflatten(2, (len(self.old), -1))
                samples, positions = x.shape[:2]
                # Where a network folds other axes into the batch, neighbours belong to one sample.
                number = start + torch.arange(samples, device=x.device)[:, None] * count // samples
                if samples_in_all < _PARTS:
                    number = number + torch.arange(positions, device=x.device)
                part = (number * min(samples_in_all, _RUNS) // samples_in_all % _PARTS).expand(samples, positions)
                yield x.flatten(0, 1), t.flatten(0, 1), part.flatten()
            start += count

    @torch.no_grad()
    def write(self, found: Sequence[Affine]) -> None:
        """Change the layer in place."""
        set_weight_rows(self._layer, torch.stack([fit.weight.T for fit in found]))
        if self._place is not None:
            bias = torch.cat([fit.bias for fit in found])
            self._place.copy_(bias if self._sign > 0 else self._place.double() - bias)


def _place_of_bias(own: nn.Parameter | None, pruned: nn.Module, sequel: Sequel) -> tuple[Tensor | None, int]:
    """Where a bias can be written, and with which sign: a running mean is subtracted."""
    if own is not None:
        return (own if own.requires_grad else None), 1
    if sequel.batch_norm is None:
        return None, 1
    norm: Any = pruned.get_submodule(sequel.batch_norm)
    frozen = any(not parameter.requires_grad for parameter in norm.parameters())
    return (None if frozen else norm.running_mean), -1
