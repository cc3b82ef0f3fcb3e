"""Error curves: what it costs, in error, to keep fewer and fewer filters of a group of layers."""

# ruff: noqa: F722 - jaxtyping writes the axes of an array in a string

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.calibration.batches import as_batches, check_runs, num_samples
from lightning_cosprune.calibration.effects import OutputEffects, some_samples
from lightning_cosprune.calibration.moments import Moments, pooled
from lightning_cosprune.calibration.readings import input_moments, readings_of
from lightning_cosprune.network.channels import ChannelGroup, graph_of_groups
from lightning_cosprune.network.layers import is_layer
from lightning_cosprune.ranking.filters import filter_vectors
from lightning_cosprune.ranking.similarity import cosine_similarity
from lightning_cosprune.ranking.subset import rank_by_response
from lightning_cosprune.ranking.unsaid import unsaid

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["RELIEF", "ErrorCurve", "allowed_widths", "first_to_go", "response_curves", "similarity_curve"]

RELIEF = 0.3
"""How much each later group that is re-solved relieves an error; recipes/budget/README.md has what was tried."""

_MEASURED = 10
"""Widths at which an error is measured; between them it is interpolated."""

_LEVELS = (0.02, 0.08, 0.3)
"""Errors of a layer near which the error of the network's outputs is measured."""

_RUN = 96
"""Samples that the network is run on for it."""

_OPTIONS = 64
"""Widths of a group that a search may choose among."""


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """What one group of layers loses with its filters.

    Attributes:
        order: Its filters, the one to remove first first, int64.
        widths: Numbers of filters that may be kept, ascending; the last is all of them.
        errors: Error at each of them, not rising; 0 at the last.
        kind: ``"response"`` or ``"similarity"``.
    """

    order: Int[Tensor, " filters"]
    widths: Int[np.ndarray, " widths"]
    errors: Float[np.ndarray, " widths"]
    kind: str


def allowed_widths(
    group: ChannelGroup, round_to: int, at_least: int, options: int = _OPTIONS
) -> Int[np.ndarray, " widths"]:
    """How many filters of a group may be kept: multiples of ``round_to``, not fewer than ``at_least``, or all.

    Returns:
        Ascending; at most ``options`` and all filters, evenly spread, where there are more.
    """
    multiple = math.lcm(round_to, group.blocks)
    lowest = max(1, math.ceil(at_least / multiple))
    steps = np.arange(lowest, (group.filters - 1) // multiple + 1)
    thinned = steps[steps % max(1, math.ceil(len(steps) / options)) == 0]
    lower = [lowest] if len(steps) and (not len(thinned) or thinned[0] != lowest) else []
    return np.array([*(multiple * step for step in (*lower, *thinned)), group.filters], dtype=np.int64)


def first_to_go(order: Int[Tensor, " filters"], group: ChannelGroup, removals: int) -> Int[Tensor, " removals"]:
    """The first ``removals`` filters of ``order``; where they fall into blocks, as many of each block."""
    of_block = (order // (group.filters // group.blocks)).argsort(stable=True)
    by_block: Tensor = order[of_block].unflatten(0, (group.blocks, -1))
    return by_block[:, : removals // group.blocks].flatten()


def similarity_curve(
    weight: Tensor | Sequence[Tensor], order: Int[Tensor, " filters"], group: ChannelGroup, widths: np.ndarray
) -> ErrorCurve:
    r"""How far the removed filters are from their nearest kept one, without data.

    .. math:: E = \frac{1}{d} \sum_{i \text{ removed}} \Bigl(1 - \max_{j \text{ kept}} S_{ij}\Bigr)

    with :math:`S` the cosine similarity of the :math:`d` filters' prototypes, by which the papers call one redundant.

    Args:
        weight: Weight of the layer, or those of coupled ones.
        order: The filter to remove first first.
        group: The layers.
        widths: What :func:`allowed_widths` gives.

    Returns:
        The curve.

    Source: Singh and Plumbley, INTERSPEECH 2022: distances to the nearest filter, sorted.
    """
    similarity = cosine_similarity(filter_vectors(weight)).double().cpu()
    errors = []
    for width in widths.tolist():
        gone = torch.zeros(group.filters, dtype=torch.bool)
        gone[first_to_go(order.cpu(), group, group.filters - width)] = True
        nearest = similarity[gone][:, ~gone].max(dim=1).values if bool(gone.any()) else torch.zeros(0)
        errors.append(float((1 - nearest).clamp_min(0).sum()) / group.filters)
    return ErrorCurve(order.cpu(), widths, _falling(np.array(errors)), "similarity")


def response_curves(
    model: nn.Module,
    example_inputs: Any,
    widths: Mapping[ChannelGroup, np.ndarray],
    calibration: Iterable[Any],
    ranked: Callable[[ChannelGroup], Tensor] | None = None,
    *,
    by_output: bool = True,
    relief: float = 0.0,
) -> dict[ChannelGroup, ErrorCurve]:
    """What the layers that read the filters cannot say any more, on data that they were not fitted to.

    The samples fall into four parts, or two where there are fewer than eight; each part is held out once. What a layer
    computes says little of how much the network needs it, so the curve is scaled to the error of the network's outputs,
    which is measured at three widths with the removed channels guessed from the kept ones, on a part held out.

    That is what one cut does to a network that is whole behind it. Where all layers are cut and re-solved, each later
    one is fitted to what the dense network computed and takes back part of the errors that reach it. With ``relief`` an
    error that :math:`k` later groups follow is divided by :math:`1 + r k`.

    Args:
        model: The network; left as it was found.
        example_inputs: As for ``plan_pruning``.
        widths: For each group the widths that may be chosen.
        calibration: Inputs, one entry a forward pass; labels are not looked at.
        ranked: The order in which a group's filters go; that of criterion ``"response"`` where ``None``.
        by_output: Scale to the error of the network's outputs. Otherwise the errors are those of the layers alone.
        relief: :math:`r`; 0 for each group cut by itself, :data:`RELIEF` for all of them together.

    Returns:
        The curves; a group that no layer reads which the data reach has none.
    """
    batches = as_batches(calibration, "plan_pruning")
    check_runs(model, batches, "plan_pruning")
    graph = graph_of_groups(model, example_inputs, widths)
    readers = {
        group: {
            name: channels for name, channels in graph.readers(group).items() if is_layer(model.get_submodule(name))
        }
        for group in widths
    }
    samples = sum(map(num_samples, batches))
    parts = 4 if samples >= 8 else 2 if samples >= 2 else 1
    moments = input_moments(model, batches, sorted({name for read in readers.values() for name in read}), parts)
    whole = {name: [_covariance(pooled(parts)) for parts in zip(*held, strict=True)] for name, held in moments.items()}
    folds = [_split(moments, part) for part in range(parts)] if parts > 1 else [(whole, whole)]
    # Held out is the first part; of a single sample nothing can be.
    held_out = some_samples(batches, 1 / parts, _RUN) if by_output else []
    effects = OutputEffects(model, held_out) if by_output else None
    others = {
        name: [pooled(held[group] for held in of_parts[min(1, parts - 1) :]) for group in range(len(of_parts[0]))]
        for name, of_parts in moments.items()
    }
    called = {name: place for place, name in enumerate(moments)}  # in the order of the forward pass
    first_read = {
        group: min(called[name] for name in read if name in called)
        for group, read in readers.items()
        if any(name in called for name in read)
    }
    curves = {}
    for group in tqdm(widths, desc="Measuring error curves", unit="layer", delay=2, leave=False):
        readings = readings_of(model, readers[group], whole)
        if not readings:
            continue
        order = rank_by_response(readings, group.filters)[0] if ranked is None else ranked(group).cpu()
        options = widths[group]
        measured = np.unique(np.linspace(0, len(options) - 1, _MEASURED).round().astype(int))[:-1]
        kept = torch.ones(len(measured), group.filters, dtype=torch.bool)
        for row, place in enumerate(measured):
            kept[row, first_to_go(order, group, group.filters - int(options[place]))] = False
        pairs = [tuple(readings_of(model, readers[group], side) for side in fold) for fold in folds]
        losses = unsaid(pairs, kept).numpy() if len(measured) else np.zeros(0)  # type: ignore[arg-type]
        errors = _between(options[measured], losses, options)
        if effects is not None:

            def at(width: int, group: ChannelGroup = group, order: Tensor = order) -> float | None:
                gone = torch.zeros(group.filters, dtype=torch.bool)
                gone[first_to_go(order, group, group.filters - width)] = True
                return effects.error(readers[group], others, gone)

            errors = _scaled(options, errors, at)
        errors = errors / (1 + relief * sum(place > first_read[group] for place in first_read.values()))
        curves[group] = ErrorCurve(order, options, _falling(errors), "response")
    return curves


def _covariance(moments: Moments) -> Tensor:
    return moments.xx / max(moments.count, 1)


Covariances = dict[str, list[Tensor]]


def _split(moments: Mapping[str, list[list[Moments]]], part: int) -> tuple[Covariances, Covariances]:
    """Covariances of all but one part, and second moments of that part about the means of the others."""
    fit: Covariances = {}
    test: Covariances = {}
    for name, held in moments.items():
        for group, own in enumerate(held[part]):
            others = pooled(parts[group] for number, parts in enumerate(held) if number != part)
            step = own.mean_x - others.mean_x
            fit.setdefault(name, []).append(_covariance(others))
            # Not divided by the count: parts weigh by what they hold.
            test.setdefault(name, []).append(own.xx + own.count * step.outer(step))
    return fit, test


def _between(at: np.ndarray, losses: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Errors at all widths: between two of them on a straight line of their logarithms, near the last their own."""
    if not len(at):
        return np.zeros(len(widths))
    found: np.ndarray = np.exp(np.interp(widths, at, np.log(losses.clip(1e-12))))
    last, full = at[-1], widths[-1]
    beyond = widths > last
    found[beyond] = losses[-1] * (full - widths[beyond]) / (full - last)
    return found


def _scaled(widths: np.ndarray, errors: np.ndarray, at: Callable[[int], float | None]) -> np.ndarray:
    """Errors of a layer turned into errors of the network's outputs, by the ratio of the two at some widths."""
    known: dict[float, float] = {}
    for level in _LEVELS:
        place = int(np.abs(np.log(errors[:-1].clip(1e-6)) - math.log(level)).argmin()) if len(errors) > 1 else -1
        if place < 0 or errors[place] < 1e-6 or float(errors[place]) in known:
            continue
        found = at(int(widths[place]))
        if found is not None:
            known[float(errors[place])] = max(found, 1e-9) / float(errors[place])
    if not known:
        return errors
    levels = sorted(known)
    ratios = np.exp(np.interp(np.log(errors.clip(1e-12)), np.log(levels), np.log([known[level] for level in levels])))
    scaled: np.ndarray = errors * ratios
    return scaled


def _falling(errors: np.ndarray) -> np.ndarray:
    """With more filters never more error, and none with all of them."""
    found: np.ndarray = np.maximum.accumulate(errors[::-1])[::-1]
    return np.append(found[:-1], 0.0)
