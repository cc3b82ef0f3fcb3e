"""Costs at any widths are those that surgery leaves."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from zoo import CASES, SPECTROGRAM, Case, Residual, separable

from lightning_cosprune import apply_plan, measure_complexity, plan_pruning
from lightning_cosprune.network.channels import channel_groups
from lightning_cosprune.planning.costs import CostModel
from lightning_cosprune.planning.rehearsal import as_plan


def groups_of(case: Case, model: nn.Module):
    """Those that a prune of half of all filters cuts."""
    plan = plan_pruning(model, case.inputs, pruning_ratio=0.5)
    copied = case.build()
    copied.load_state_dict(model.state_dict())
    cut = {layer.name for layer in apply_plan(copied, plan, case.inputs, allow_unpruned=True).layers}
    groups = channel_groups(model, case.inputs)
    return [group for group in groups if group.layers[0] in cut and group.refusal is None]


@pytest.mark.parametrize("case", [case for case in CASES if case.pruned], ids=lambda case: case.name)
def test_every_cost_is_the_true_count_after_surgery(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    groups = groups_of(case, model)
    costs = CostModel(model, case.inputs, groups)
    dense = measure_complexity(model, case.inputs)
    at_full = costs(costs.filters)
    assert (at_full["params"][0], at_full["bytes"][0], at_full["macs"][0]) == (dense.params, dense.bytes, dense.macs)
    generator = np.random.default_rng(0)
    for _ in range(3):
        widths = [group.blocks * int(generator.integers(1, group.filters // group.blocks + 1)) for group in groups]
        pruned = {}
        for group, width in zip(groups, widths, strict=True):
            size, left = group.filters // group.blocks, width // group.blocks
            pruned[group] = [block * size + idx for block in range(group.blocks) for idx in range(left, size)]
        torch.manual_seed(0)
        copied = case.build()
        copied.load_state_dict(model.state_dict())
        after = apply_plan(copied, as_plan(pruned), case.inputs, allow_unpruned=True).after
        found = {name: values[0] for name, values in costs(np.array(widths)).items()}
        assert found == {"params": after.params, "bytes": after.bytes, "macs": after.macs}, widths


def test_coupled_and_depthwise_layers_are_counted_once() -> None:
    model = Residual()
    groups = [group for group in channel_groups(model, SPECTROGRAM) if group.layers == ("stem", "block1.1.0")]
    costs = CostModel(model, SPECTROGRAM, groups)
    found = costs(np.array([[7], [8]]))["params"]
    # One filter of the stem (9 + 1) and of block1.1 (12 x 9 + 1, batch norm 4), and an input of each reader: block1.0
    # (12 x 9), block2.0 (10 x 9), projection (16).
    assert found[1] - found[0] == 10 + 113 + 12 * 9 + 10 * 9 + 16
    model = separable()
    groups = channel_groups(model, SPECTROGRAM)[:1]
    found = CostModel(model, SPECTROGRAM, groups)(np.array([[7], [8]]))["params"]
    assert found[1] - found[0] == (9 + 1 + 4) + (9 + 1 + 4) + 12 * 9


def test_counts_by_the_data_type_that_is_deployed_and_with_or_without_buffers() -> None:
    model = separable()
    groups = channel_groups(model, SPECTROGRAM)[:1]
    dense = measure_complexity(model, SPECTROGRAM)
    int8 = CostModel(model, SPECTROGRAM, groups, itemsize=1)(np.array([8]))
    assert int8["bytes"][0] == dense.params
    bare = CostModel(model, SPECTROGRAM, groups, itemsize=2, buffers=False)(np.array([8]))
    assert bare["params"][0] == dense.trainable_params
    assert bare["bytes"][0] == 2 * dense.trainable_params


def test_the_model_is_left_as_it_was() -> None:
    model = separable().train()
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    CostModel(model, SPECTROGRAM, channel_groups(model, SPECTROGRAM)[:2])
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
