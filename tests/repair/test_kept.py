import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import CASES, SPECTROGRAM, Case, conv, conv_bn

from lightning_cosprune import PruningPlan, apply_plan, plan_pruning
from lightning_cosprune.network.layers import prunable_layers
from lightning_cosprune.repair.kept import kept_filters, readers_of_removed
from lightning_cosprune.surgery.report import LayerReport, PruningReport

PRUNED = [case for case in CASES if case.pruned]


def cut(model: nn.Module, plan: PruningPlan, inputs: Any = SPECTROGRAM) -> tuple[nn.Module, PruningReport]:
    """The network before the cut, and what was cut from it."""
    dense = copy.deepcopy(model)
    return dense, apply_plan(model, plan, inputs)


def kept_of(report: PruningReport, dense: nn.Module) -> dict[str, list[int]]:
    removed = {layer.name: layer.pruned_idxs for layer in report.layers}
    filters = {
        name: getattr(layer, "out_channels", getattr(layer, "out_features", 0))
        for name, layer in prunable_layers(dense).items()
    }
    return {name: [idx for idx in range(count) if idx not in removed.get(name, ())] for name, count in filters.items()}


@pytest.mark.parametrize("case", PRUNED, ids=lambda case: case.name)
def test_what_was_kept_is_told_by_the_report_or_the_weights(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    torch.manual_seed(0)
    dense = case.build()  # some cannot be copied
    dense.load_state_dict(model.state_dict())
    report = apply_plan(model, plan_pruning(model, case.inputs, pruning_ratio=0.5), case.inputs)
    expected = kept_of(report, dense)
    assert set(case.pruned) == {layer.name for layer in report.layers}
    assert kept_filters(model, dense, report, "f") == expected
    assert kept_filters(model, dense, None, "f") == expected


@pytest.mark.parametrize("seed", range(5))
def test_in_half_precision_equal_weights_do_not_deceive(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Conv2d(*sizes, 1) for sizes in [(1, 64), (64, 64), (64, 64), (64, 4)])).bfloat16()
    inputs = torch.randn(2, 1, 4, 4).bfloat16()
    dense, report = cut(model, plan_pruning(model, inputs, pruning_ratio=0.9), inputs)
    assert len(report.layers) == 3
    assert kept_filters(model, dense, None, "f") == kept_of(report, dense)


def test_of_equal_filters_the_one_with_the_same_bias_was_kept() -> None:
    model = nn.Sequential(conv(1, 6), nn.ReLU(), conv(6, 2))
    with torch.no_grad():
        model[0].weight[2] = model[0].weight[4] = model[0].weight[1]
    dense, _ = cut(model, PruningPlan({"0": [1, 4]}, {"0": 6}))
    assert kept_filters(model, dense, None, "f")["0"] == [0, 2, 3, 5]


def test_a_report_is_believed_where_the_weights_were_trained_since() -> None:
    model = nn.Sequential(conv(1, 6), nn.ReLU(), conv(6, 4), nn.ReLU(), conv(4, 2))
    dense, report = cut(model, PruningPlan({"0": [1, 4], "2": [0]}, {"0": 6, "2": 4}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter)
    assert kept_filters(model, dense, report, "f") == {"0": [0, 2, 3, 5], "2": [1, 2, 3], "4": [0, 1]}
    message = (
        r"`f\(pruned=..., dense=...\)`: expected layer '0' to have 4 of the dense network's 6 filters, found 0 that "
        "are the same. If it was trained since the cut, pass `report=`"
    )
    with pytest.raises(ValueError, match=message):
        kept_filters(model, dense, None, "f")


def another() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 6, 3), nn.ReLU(), conv(6, 4))


def wider(filters: Sequence[int] = (9, 4)) -> nn.Module:
    return nn.Sequential(conv(1, filters[0]), nn.ReLU(), conv(filters[0], filters[1]))


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        (another(), r"`f\(dense=...\)`: expected the network before the cut, with a Conv2d '0', found a Conv1d. Keep"),
        (wider(), "expected layer '0' to have 4 of the dense network's 9 filters, found 0 that are the same"),
        (wider((2, 4)), "expected layer '0' to have 4 of the dense network's 2 filters, found 0"),
    ],
)
def test_another_network_is_refused(dense: nn.Module, message: str) -> None:
    model = nn.Sequential(conv(1, 6), nn.ReLU(), conv(6, 4))
    cut(model, PruningPlan({"0": [1, 4]}, {"0": 6}))
    with pytest.raises(ValueError, match=message):
        kept_filters(model, dense, None, "f")


def test_a_network_without_the_layer_is_refused() -> None:
    model = nn.Sequential(conv(1, 6), nn.ReLU(), conv(6, 4))
    dense, report = cut(model, PruningPlan({"0": [1, 4]}, {"0": 6}))
    message = "with a Conv2d '2', found none of that name. Keep a copy of the network before pruning it"
    with pytest.raises(ValueError, match=message):
        kept_filters(model, dense[:2], report, "f")


def test_a_report_of_another_cut_is_refused() -> None:
    model = nn.Sequential(conv(1, 6), nn.ReLU(), conv(6, 4))
    dense, report = cut(model, PruningPlan({"0": [1, 4]}, {"0": 6}))
    other = replace(report, layers=(LayerReport("0", 6, 5, (1,)),))
    with pytest.raises(ValueError, match="expected layer '0' to have 4 of the dense network's 6 filters, found 5"):
        kept_filters(model, dense, other, "f")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = conv_bn(1, 8), conv(8, 8, groups=8)
        self.second, self.recurrent, self.head = conv(8, 6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.depthwise(self.first(x)).relu()).relu()
        return self.head(self.recurrent(y.mean(2).transpose(1, 2))[0][:, -1])


def test_readers_are_those_that_have_fewer_inputs() -> None:
    model = Recurrent()
    dense, _ = cut(model, PruningPlan({"first.0": [1, 4], "second": [0]}, {"first.0": 8, "second": 6}))
    readers = readers_of_removed(model, dense)
    assert list(readers) == ["second", "recurrent"]
    assert readers["second"] is None
    assert "GRU" in str(readers["recurrent"])
    model = copy.deepcopy(dense)
    cut(model, PruningPlan({"second": [0]}, {"second": 6}))
    assert list(readers_of_removed(model, dense)) == ["recurrent"]
    assert readers_of_removed(dense, dense) == {}
