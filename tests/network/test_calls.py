"""Parts of a network into which no graph of layers reaches cost those parts, and the reason says which."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from asserts import assert_same
from torch import Tensor, nn

from lightning_cosprune import PruningReport, apply_plan, measure_complexity, plan_pruning, refit_least_squares

EXAMPLE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


def scripted() -> nn.Module:
    return torch.jit.script(Part())


def traced() -> nn.Module:
    return torch.jit.trace(Part().eval(), torch.randn(2, 8, 10, 10))


def network(part: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    return nn.Sequential(*convolutions, part, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))


def pruned(model: nn.Module, inputs: Tensor = EXAMPLE) -> PruningReport:
    return apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)


@pytest.mark.parametrize("make", [scripted, traced])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_part_costs_that_part(make: Callable[[], nn.Module]) -> None:
    model = network(make())
    state, attributes = copy.deepcopy(model.state_dict()), sorted(vars(model[5]))
    assert plan_pruning(model, EXAMPLE, pruning_ratio=0.5).skipped == {
        "4": "read by 5, a TorchScript module, whose weights cannot be cut",
        "8": "its filters are outputs of the network",
    }
    assert_same(dict(model.state_dict()), dict(state))
    dense = copy.deepcopy(model).eval()
    report = pruned(model)
    assert {layer.name: layer.filters_after for layer in report.layers} == {"0": 4, "2": 4, "6": 4}
    assert sorted(vars(model[5])) == attributes
    assert_same(
        {name: dict(model.state_dict())[name] for name in state if name.startswith("5.")},
        {name: tensor for name, tensor in state.items() if name.startswith("5.")},
    )
    # What is left is what the dense network computes of the kept filters: a repair brings it nearer.
    repair = refit_least_squares(model, dense, [torch.randn(16, 1, 16, 16)], report=report)
    assert repair.error_after < repair.error_before
    model(EXAMPLE).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert measure_complexity(model, EXAMPLE).macs < measure_complexity(dense, EXAMPLE).macs


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.head, self.unused = nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.third(x)))


def test_layers_under_no_grad_are_told_apart_from_layers_that_are_not_called() -> None:
    report = pruned(WithoutGradients())
    under = "called without gradients, as under `torch.no_grad()`, so that who reads it cannot be told"
    assert report.skipped == {
        "first": under,
        "second": under,
        "head": "its filters are outputs of the network",
        "unused": "not reached by the example input's forward pass",
    }
    assert [layer.name for layer in report.layers] == ["third"]


class Quantised(nn.Module):
    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.beside = nn.Conv2d(8, 4, 1) if beside else None
        head = nn.Sequential(nn.Linear(8, 4))
        self.head = torch.ao.quantization.quantize_dynamic(head, {nn.Linear}, dtype=torch.qint8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        scores: Tensor = self.head(x.mean(dim=(2, 3)))
        return scores if self.beside is None else scores + self.beside(x).mean(dim=(2, 3))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.filterwarnings("ignore:.*quantization:DeprecationWarning", "ignore:.*quantize.*deprecated:UserWarning")
def test_a_quantised_reader_is_named(beside: bool) -> None:
    torch.manual_seed(0)
    report = pruned(Quantised(beside))
    assert report.skipped["second"] == "read by head.0, a quantized Linear, whose weights cannot be cut"
    assert [layer.name for layer in report.layers] == ["first"]
