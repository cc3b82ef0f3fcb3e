"""Repair without data: the kept filter that is most like a removed one speaks for it."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_cosprune.calibration.batch_norm import fold_batch_norms
from lightning_cosprune.network.rectifiers import find_sequels
from lightning_cosprune.network.rollback import whole_or_not_at_all
from lightning_cosprune.repair.between import Between, steps_between
from lightning_cosprune.repair.kept import check_networks, kept_filters
from lightning_cosprune.repair.likeness import Likeness, likeness
from lightning_cosprune.repair.reading import (
    CutGroup,
    add_bias,
    add_rows,
    channels_left,
    cut_groups,
    example_of,
    mapped_rows,
    mean_response,
    pass_norms,
    place_of_bias,
    readers_to_change,
    reading_of,
)
from lightning_cosprune.repair.report import RepairedLayer, RepairReport
from lightning_cosprune.repair.told import Told, told_by_norms
from lightning_cosprune.surgery.report import PruningReport

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

__all__ = ["merge_removed"]

_COPY = 1 - 1e-9
"""From this cosine on a filter counts as a multiple of another."""


def merge_removed(
    pruned: nn.Module,
    dense: nn.Module,
    report: PruningReport | None = None,
    *,
    example_inputs: Any = None,
) -> RepairReport:
    r"""Change ``pruned`` in place: of each removed filter the kept one most like it takes over what was read of it.

    Needs no data. In every layer that reads removed channels :math:`j`, with :math:`i` the partner of :math:`j`,

    .. math:: W'_{\cdot i} = W_{\cdot i} + \sum_j s_j W_{\cdot j}, \qquad
        b' = b + \sum_j (m_j - s_j m_i) \sum_t W_{\cdot j t},

    where :math:`m` are the means that batch norms tell (:func:`compensate_constants` has the formulas) and :math:`t` is
    a tap of the kernel. A filter that is a multiple of a kept one loses nothing by it, bias and batch norm included.

    Conventions:
        - Filters are compared as flat vectors by cosine, the batch norm behind them folded in; those of layers that
          feed one residual sum as one vector. The depthwise filters that they pass through are compared likewise, and
          the cosines multiplied.
        - Where batch norms tell how channels are spread, :math:`s_j` is the slope of channel :math:`j` on channel
          :math:`i` as they reach the reader, both driven by one normal variable: scale and shift of the batch norm
          count, and where the activation sets in. The partner is the kept filter that explains most by it. So the
          factor keeps the variance, not the least squared error: that would be smaller by the cosine, and repairs less.
        - Where they do not, :math:`s_j` is the ratio of the norms times the root of the cosine, and the bias is left
          as it is unless all in between is linear: then it takes over :math:`b_j - s_j b_i`.
        - Behind a ReLU a filter that points the other way cannot be spoken for: if none has a positive cosine only the
          mean is given back. Where all in between is linear, :math:`s_j` may be negative.
        - ReLU6 counts as a ReLU. Through a sigmoid and the like no factor passes; the layer behind it is skipped unless
          a batch norm tells where on it the values lie.
        - In grouped convolutions a partner is in the same block of channels.
        - For zero padding, and for layers without a bias, see :func:`compensate_constants`.

    Args:
        pruned: The network after the cut; what it learned since stays.
        dense: The network before it; left as it was found.
        report: What was cut, as ``apply_plan`` returned it. Where ``None``, it is told from the weights, which works as
            long as ``pruned`` was not trained since.
        example_inputs: Inputs of one forward pass, whose values do not matter; where ``None``, the network's
            ``example_input_array``.

    Returns:
        Which layers were changed, and which were not and why.

    Raises:
        ValueError: The two networks do not belong together, no layer reads fewer channels than before, or there are no
            example inputs.

    Source: after Kim, Kim, Park and Jeon, "Neuron merging: compensating for pruned neurons", NeurIPS 2020, where the
    partner is chosen by cosine and bias and the factor is the ratio of the norms. Slopes and means are ours.

    Example:
        >>> import copy
        >>> from lightning_cosprune import apply_plan, plan_pruning
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        >>> with torch.no_grad():
        ...     for tensor in model[0].parameters():
        ...         _ = tensor[2:].copy_(2 * tensor[:2])
        >>> inputs, dense = torch.randn(1, 1, 12, 12), copy.deepcopy(model)
        >>> report = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5, criterion="l1"), inputs)
        >>> torch.allclose(model(inputs), dense(inputs), atol=1e-5)
        False
        >>> _ = merge_removed(model, dense, report, example_inputs=inputs)
        >>> torch.allclose(model(inputs), dense(inputs), atol=1e-5)
        True
    """
    caller = "merge_removed"
    check_networks(pruned, dense, caller)
    example = example_of(dense, example_inputs, caller)
    kept = kept_filters(pruned, dense, report, caller)
    layers, skipped = readers_to_change(pruned, dense, caller)
    folded = fold_batch_norms(dense, example)
    groups = {group: likeness(group, folded) for group in cut_groups(dense, example, kept)}
    sequels = find_sequels(dense, example, layers)
    between = steps_between(dense, example, layers)
    norms = {layer.batch_norm for layer in folded.values() if layer.batch_norm is not None}
    told = told_by_norms(dense, example, layers, folded=norms, together=True)

    changed: list[str] = []
    with whole_or_not_at_all(pruned):
        for name, layer in layers.items():
            read = reading_of(groups, name)
            left = channels_left(layer, pruned.get_submodule(name), read, name)
            if name not in between or name not in told:
                skipped[name] = "not reached, or with inputs of several shapes"
            elif left is None:
                skipped[name] = "which of its inputs were removed cannot be told"
            elif not between[name].homogeneous and pass_norms(read, report):
                skipped[name] = "what it reads passes a norm over channels, through which no channel speaks for another"
            elif any(_is_lost(group, name, between[name], told[name]) for group in read):
                skipped[name] = (
                    f"{between[name].obstacle} lies before it, and no batch norm tells where on it the values lie"
                )
            else:
                to_left = torch.zeros(len(told[name].known), len(left), dtype=torch.float64)
                offset = torch.zeros_like(told[name].means)
                place_of = {channel: place for place, channel in enumerate(left)}
                for group in read:
                    found = _partners(group, groups[group], name, between[name], told[name])
                    for j, i, share, is_copy in zip(group.removed, *(column.tolist() for column in found), strict=True):
                        copies = group.inputs[name][[j, i]]
                        to_left[copies[0], [place_of[channel] for channel in copies[1].tolist()]] += share
                        if not is_copy:
                            unsaid = _unsaid(groups[group], between[name], told[name], copies, (j, i), share)
                            offset[:, copies[0]] = unsaid
                add_rows(pruned.get_submodule(name), mapped_rows(layer, kept[name], left, to_left))
                place = place_of_bias(pruned, name, sequels[name])
                if not isinstance(place, str):
                    add_bias(place, mean_response(layer, offset)[kept[name]])
                changed.append(name)
    return RepairReport("merge", tuple(map(RepairedLayer, changed)), skipped)


def _is_told(told: Told, between: Between, channels: Tensor) -> bool:
    return between.normed and bool(told.known[channels].all())


def _is_lost(group: CutGroup, reader: str, between: Between, told: Told) -> bool:
    """Whether nothing says by which factor a channel speaks for another."""
    return not between.homogeneous and not _is_told(told, between, group.inputs[reader])


def _partners(
    group: CutGroup, alike: Likeness, reader: str, between: Between, told: Told
) -> tuple[Int[Tensor, " removed"], Float[Tensor, " removed"], Bool[Tensor, " removed"]]:
    """The kept filter that speaks for each removed one in a layer, by which factor, and whether nothing is lost."""
    channels = group.inputs[reader]
    pairs = torch.meshgrid(torch.tensor(group.removed), torch.tensor(group.kept), indexing="ij")
    cosine = (alike.cosines if between.linear else alike.cosines.clamp_min(0)).prod(dim=0)[pairs]
    cosine = cosine.where(alike.together[pairs], 0)
    ratio, is_told = alike.ratios[pairs], _is_told(told, between, channels)
    if is_told:
        curves = told.curves[:, channels].mean(dim=2).cpu()
        curves = curves - curves.mean(dim=0)
        variance = curves.square().mean(dim=0)
        covariance = (curves.T @ curves / len(curves))[pairs]
        slope = covariance / variance[group.kept].clamp_min(1e-300)
        gain, factor = cosine.square() * covariance * slope, cosine.sign() * slope
    else:
        gain, factor = cosine.abs(), cosine.sign() * cosine.abs().sqrt() * ratio
    # Of a multiple all is known from the weights, whatever the statistics of the batch norms say.
    shift = alike.biases[pairs[0]] - cosine.sign() * ratio * alike.biases[pairs[1]]
    is_near = shift.abs() <= 1e-6 * alike.biases.abs().amax()
    copy = (cosine.abs() >= _COPY) & is_near & ((alike.folded or not is_told) and not alike.follows)
    gain, factor = gain.where(~copy, torch.inf), factor.where(~copy, cosine.sign() * ratio)
    best = gain.argmax(dim=1)
    rows = torch.arange(len(best))
    return torch.tensor(group.kept)[best], factor[rows, best], copy[rows, best]


def _unsaid(
    alike: Likeness,
    between: Between,
    told: Told,
    copies: Int[Tensor, "2 copies"],
    pair: tuple[int, int],
    factor: float,
) -> Tensor:
    """What the partner leaves unsaid on average, of each channel at each place."""
    j, i = pair
    if _is_told(told, between, copies):
        return told.means[:, copies[0]] - factor * told.means[:, copies[1]]
    unsaid = float(alike.biases[j] - factor * alike.biases[i]) if between.linear else 0.0
    return torch.full_like(told.means[:, copies[0]], unsaid)
