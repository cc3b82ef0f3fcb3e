"""The lowest rung of repair: a removed channel's mean goes into the biases of the layers that read it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lightning_cosprune.calibration.batches import as_batches, check_runs, num_samples
from lightning_cosprune.network.rectifiers import find_sequels
from lightning_cosprune.network.rollback import whole_or_not_at_all
from lightning_cosprune.repair.kept import check_networks, kept_filters
from lightning_cosprune.repair.reading import (
    add_bias,
    channels_left,
    cut_groups,
    example_of,
    mean_response,
    pass_norms,
    place_of_bias,
    readers_to_change,
    reading_of,
)
from lightning_cosprune.repair.report import RepairedLayer, RepairReport
from lightning_cosprune.repair.told import channel_view, listen, told_by_norms
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["compensate_constants"]


def compensate_constants(
    pruned: nn.Module,
    dense: nn.Module,
    report: PruningReport | None = None,
    *,
    example_inputs: Any = None,
    calibration: Iterable[Any] | None = None,
) -> RepairReport:
    r"""Change ``pruned`` in place: biases take over the means of removed channels; no other weight is touched.

    For every layer that reads removed channels :math:`j`, with :math:`m_j` their means,

    .. math:: b' = b + \sum_j \sum_t W_{\cdot j t} \, m_j, \quad t \text{ a tap of the kernel.}

    No data are needed where batch norms tell the means: behind a batch norm a channel is spread about as a normal
    variable with mean :math:`\beta` and standard deviation :math:`|\gamma|`, and its mean behind a ReLU is

    .. math:: m = \gamma \varphi(\beta / \gamma) + \beta \Phi(\beta / \gamma) .

    For other activations, and with pooling or a depthwise convolution in between, it is found by running the network on
    such values.

    Conventions:
        - With zero padding a reader sees less of a channel at the borders: its bias is given the average over all
          places of its output. So the mean of the output comes back, each border a little too high or too low.
        - Behind a max pooling the mean counts as if all values of a window were equal: too little is given back then.
        - A layer without a bias has its share subtracted from the running mean of the batch norm behind it.
        - Channels of which no batch norm tells are left out; a layer that reads no others is skipped.

    Args:
        pruned: The network after the cut.
        dense: The network before it; left as it was found.
        report: What was cut, as ``apply_plan`` returned it. Where ``None``, it is told from the weights, which works as
            long as ``pruned`` was not trained since.
        example_inputs: Inputs of one forward pass, whose values do not matter; where ``None``, the network's
            ``example_input_array``.
        calibration: Unlabelled inputs, one entry a forward pass, to measure the means on instead: for networks without
            batch norms.

    Returns:
        Which layers were given other biases, and which were not and why.

    Raises:
        ValueError: The two networks do not belong together, no layer reads fewer channels than before, or there are no
            example inputs.

    Example:
        >>> import copy
        >>> from lightning_cosprune import apply_plan, plan_pruning
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
        >>> inputs, dense = torch.zeros(1, 1, 12, 12), copy.deepcopy(model)
        >>> report = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
        >>> [layer.name for layer in compensate_constants(model, dense, report, example_inputs=inputs).layers]
        ['3']
    """
    caller = "compensate_constants"
    check_networks(pruned, dense, caller)
    samples, batches = 0, []
    if calibration is not None:
        batches = as_batches(calibration, caller)
        check_runs(dense, batches, caller)
        samples = sum(map(num_samples, batches))
        example_inputs = batches[0] if example_inputs is None else example_inputs
    example = example_of(dense, example_inputs, caller)
    kept = kept_filters(pruned, dense, report, caller)
    layers, skipped = readers_to_change(pruned, dense, caller)
    groups = cut_groups(dense, example, kept)
    sequels = find_sequels(dense, example, layers)
    told = listen(dense, batches, layers) if batches else told_by_norms(dense, example, layers)

    changed: list[str] = []
    with whole_or_not_at_all(pruned):
        for name, layer in layers.items():
            place, read = place_of_bias(pruned, name, sequels[name]), reading_of(groups, name)
            removed = [channel for group in read for channel in group.removed_inputs(name)]
            if isinstance(place, str):
                skipped[name] = place
            elif channels_left(layer, pruned.get_submodule(name), read, name) is None:
                skipped[name] = "which of its inputs were removed cannot be told"
            elif name not in told:
                skipped[name] = "not reached, or with inputs of several shapes"
            elif not batches and pass_norms(read, report):
                skipped[name] = "what it reads passes a norm over channels, behind which no batch norm tells a mean"
            elif not bool(told[name].known[removed].any()):
                skipped[name] = "no batch norm tells the means of the channels that it reads"
            else:
                gone = torch.zeros_like(told[name].known)
                gone[removed] = True
                lost = told[name].means * channel_view(layer, gone & told[name].known)
                add_bias(place, mean_response(layer, lost)[kept[name]])
                changed.append(name)
    return RepairReport("constant", tuple(map(RepairedLayer, changed)), skipped, samples)
