"""Layers that are read in parts: which of their filters go together, and what the network's own code is told of it."""

import copy
from typing import Any

import pytest
import torch
from asserts import assert_equals_masked_dense, outputs_of
from torch import Tensor, nn
from zoo import SPECTROGRAM, Net, conv, conv_bn
from zoo.case import pooled
from zoo.parts import Ghost, PartialBlock, Scales, by_chunk, by_width, classifier

from lightning_cosprune import PruningPlan, apply_plan, measure_complexity, plan_pruning
from lightning_cosprune.network.channels import ChannelGraph, ChannelGroup
from lightning_cosprune.network.structure import describe_structure, restore_structure
from lightning_cosprune.network.watch import find_origins


def groups(model: nn.Module, name: str) -> tuple[ChannelGroup, ...]:
    return ChannelGraph(model, SPECTROGRAM).groups_of(name)


def scaled(divide: Any) -> nn.Module:
    torch.manual_seed(0)
    return classifier(nn.Sequential(conv_bn(1, 8), Scales(8, 4, 4, divide)), 8).eval()


def test_parts_are_coupled_with_what_is_added_to_them() -> None:
    (group,) = groups(scaled(by_chunk), "0.1.reduce")
    assert group.layers == ("0.1.reduce", "0.1.convs.0", "0.1.convs.1")
    assert (group.filters, group.blocks) == (16, 4)
    assert group.filters_of("0.1.reduce", range(4)) == [0, 1, 2, 3]
    assert group.filters_of("0.1.convs.0", range(4)) == []
    assert group.filters_of("0.1.convs.0", range(4, 8)) == [0, 1, 2, 3]
    assert group.filters_of("0.1.convs.1", range(8, 12)) == [0, 1, 2, 3]
    assert group.units_of({"0.1.convs.1": [2]}) == [10]
    assert group.width("0.1.reduce") == 16
    assert group.name == "0.1.reduce + 0.1.convs.0 + 0.1.convs.1"


def test_rows_of_units_are_zero_where_a_layer_has_none() -> None:
    model = scaled(by_chunk)
    (group,) = groups(model, "0.1.reduce")
    weight = model[0][1].convs[0].weight.detach()
    rows = group.rows("0.1.convs.0", weight)
    assert torch.equal(rows[4:8], weight)
    assert not rows[:4].any()
    assert not rows[8:].any()


def test_an_attribute_goes_with_the_parts_and_is_kept_with_the_structure() -> None:
    model, dense = scaled(by_width), scaled(by_width)
    apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert model[0][1].width == 2
    again = scaled(by_width)
    restore_structure(again, model.state_dict(), describe_structure(model))
    again.load_state_dict(model.state_dict())
    assert again[0][1].width == 2
    (found,), (wanted,) = outputs_of(again, SPECTROGRAM), outputs_of(model, SPECTROGRAM)
    assert torch.equal(found, wanted)
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert "0.1.reduce" in {layer.name for layer in report.layers}
    assert (model[0][1].width, dense[0][1].width) == (1, 4)


def test_a_structure_with_another_attribute_is_refused() -> None:
    model = scaled(by_width)
    apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    structure = describe_structure(model)
    structure["modules"]["0.1"]["parts"] = {"breadth": 2}
    with pytest.raises(ValueError, match=r"expected an attribute 'breadth' of layer '0\.1' like 2, found none"):
        restore_structure(scaled(by_width), model.state_dict(), structure)


def test_a_plan_that_names_parts_unevenly_is_refused_untouched() -> None:
    model = scaled(by_chunk)
    (before,) = outputs_of(model, SPECTROGRAM)
    uneven = PruningPlan({"0.1.reduce": [0]}, {"0.1.reduce": 16})
    report = apply_plan(model, uneven, SPECTROGRAM, allow_unpruned=True)
    assert "each of the 4 blocks of 4 filters must lose the same number" in report.skipped["0.1.reduce"]
    alone = PruningPlan({"0.1.reduce": [0, 4, 8, 12]}, {"0.1.reduce": 16})
    report = apply_plan(model, alone, SPECTROGRAM, allow_unpruned=True)
    assert report.skipped["0.1.reduce"].startswith("coupled: the plan must name the same filters for 0.1.reduce, 0.1.")
    (after,) = outputs_of(model, SPECTROGRAM)
    assert torch.equal(before, after)


def test_parts_of_one_layer_are_ranked_and_counted_by_themselves() -> None:
    """The first two channels go to a convolution of their own: another price, another group."""
    torch.manual_seed(0)
    model = classifier(nn.Sequential(conv_bn(1, 8), PartialBlock(8, 2)), 8).eval()
    found = groups(model, "0.0.0")
    assert [(group.layers, group.filters, group.blocks) for group in found] == [
        (("0.0.0", "0.1.mlp.3"), 2, 1),
        (("0.0.0", "0.1.mlp.3"), 6, 1),
    ]
    assert [group.name for group in found] == [
        "0.0.0 [0 to 1] + 0.1.mlp.3 [0 to 1]",
        "0.0.0 [2 to 7] + 0.1.mlp.3 [2 to 7]",
    ]
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    assert sum(idx < 2 for idx in plan.pruned["0.0.0"]) == 1
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan, SPECTROGRAM)
    assert (model[0][1].part, model[0][1].rest) == (1, 3)
    assert_equals_masked_dense(
        dense, model, {layer.name: list(layer.pruned_idxs) for layer in report.layers}, SPECTROGRAM
    )


def test_slices_up_to_an_attribute_and_from_it_on_lose_what_the_plan_says() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(
            pooled(torch.cat([net.a((y := net.stem(x))[:, : net.first]), y[:, net.first :] * 2], 1))
        ),
        stem=conv_bn(1, 8),
        a=conv(4, 4),
        head=nn.Linear(8, 5),
    ).eval()
    model.first = 4
    dense = copy.deepcopy(model)
    plan = PruningPlan({"stem.0": [0, 5, 6]}, {"stem.0": 8})
    report = apply_plan(model, plan, SPECTROGRAM)
    assert model.first == 3
    assert_equals_masked_dense(dense, model, {"stem.0": [0, 5, 6]}, SPECTROGRAM)
    assert [layer.pruned_idxs for layer in report.layers] == [(0, 5, 6)]


def test_a_channel_that_is_kept_once_and_read_twice_is_another_unit() -> None:
    """Ghost modules of an odd number of channels leave one copy out."""
    torch.manual_seed(0)
    model = classifier(nn.Sequential(conv_bn(1, 8), Ghost(8, 7), conv_bn(7, 6)), 6).eval()
    dense = copy.deepcopy(model)
    assert [group.filters for group in groups(model, "0.1.primary.0")] == [3, 1]
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.7), SPECTROGRAM)
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert len(removed["0.1.primary.0"]) == 2
    assert model[0][1].filters == 3
    assert_equals_masked_dense(dense, model, removed, SPECTROGRAM)


@pytest.mark.parametrize("divide", [by_width, by_chunk])
def test_a_budget_is_met_by_parts_too(divide: Any) -> None:
    model = scaled(divide)
    half = measure_complexity(model, SPECTROGRAM).macs // 2
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, max_macs=half), SPECTROGRAM)
    assert report.after.macs <= half
    assert "0.1.reduce" in {layer.name for layer in report.layers}


def test_a_step_that_nobody_knows_leaves_its_channels_doubtful() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(pooled(net.last(torch.fft.ifft(torch.fft.fft(net.body(x), dim=1), dim=1).real)))

    model = Net(run, body=conv_bn(1, 8), last=conv_bn(8, 6), head=nn.Linear(6, 5)).eval()
    origins = find_origins(model, SPECTROGRAM, frozenset())
    assert origins is not None
    assert set(origins.of(("written", "body.0")).tolist()) <= origins.doubtful
    assert not set(origins.of(("written", "last.0")).tolist()) & origins.doubtful


def test_a_network_that_does_not_take_to_being_watched_is_followed_by_its_graph_alone() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.times = 2

        def forward(self, x: Tensor) -> Tensor:
            if type(self.times) is not int:
                raise TypeError("times")
            return x * self.times

    model = nn.Sequential(conv_bn(1, 8), Strict(), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    assert find_origins(model, SPECTROGRAM, frozenset()) is None
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert {layer.name for layer in report.layers} == {"0.0", "2.0"}
