import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from zoo import Net, conv
from zoo.plain import Outputs

from lightning_cosprune.network.rectifiers import Sequel, find_sequels

INPUT = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
NOTHING, RELU, RELU6 = Sequel(), Sequel(None, 0.0, math.inf), Sequel(None, 0.0, 6.0)


def behind(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(conv(1, 4), *modules, nn.Flatten(), nn.LazyLinear(2))


def sequel_of(model: nn.Module, name: str = "0", inputs: Any = INPUT) -> Sequel:
    return find_sequels(model, inputs, {name: model.get_submodule(name)})[name]


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([nn.ReLU()], RELU),
        ([nn.ReLU(inplace=True)], RELU),
        ([nn.ReLU6()], RELU6),
        ([nn.Hardtanh(-2, 3)], Sequel(None, -2.0, 3.0)),
        ([nn.Dropout(0.5), nn.ReLU()], RELU),  # does nothing in evaluation mode
        ([nn.BatchNorm2d(4), nn.ReLU()], Sequel("1", 0.0, math.inf)),
        ([nn.BatchNorm2d(4), nn.ReLU(inplace=True)], Sequel("1", 0.0, math.inf)),
        ([nn.BatchNorm2d(4), nn.ReLU6()], Sequel("1", 0.0, 6.0)),
        ([nn.BatchNorm2d(4), nn.SiLU()], Sequel("1")),
        ([nn.BatchNorm2d(4)], Sequel("1")),
        ([nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()], NOTHING),
        ([nn.BatchNorm2d(4, affine=False), nn.ReLU()], Sequel("1", 0.0, math.inf)),
        ([nn.ReLU(), nn.BatchNorm2d(4)], RELU),
        ([nn.MaxPool2d(2), nn.ReLU()], NOTHING),
        ([nn.Tanh()], NOTHING),
        ([nn.GELU()], NOTHING),
        ([nn.LeakyReLU(0.1)], NOTHING),
        ([nn.PReLU()], NOTHING),
        ([], NOTHING),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_range_is_known_where_an_activation_cuts_off(modules: list[nn.Module], expected: Sequel) -> None:
    model = behind(*modules)
    model(INPUT)
    found = sequel_of(model)
    assert found == expected
    assert found.rectifies == (expected.low > -math.inf or expected.high < math.inf)


def through(run: Callable[..., Any], **modules: nn.Module) -> nn.Module:
    return Net(run, first=conv(1, 4), **modules)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (through(lambda net, x: net.first(x).relu()), RELU),
        (through(lambda net, x: functional.relu(net.first(x))), RELU),
        (through(lambda net, x: functional.relu_(net.first(x))), RELU),
        (through(lambda net, x: functional.relu6(net.first(x))), RELU6),
        (through(lambda net, x: {"map": net.first(x).relu()}), RELU),
        (through(lambda net, x: net.bn(input=net.first(input=x)), bn=nn.BatchNorm2d(4)), Sequel("bn")),
        # Others read it too
        (through(lambda net, x: (y := net.first(x)).relu() + y), NOTHING),
        (through(lambda net, x: [(y := net.first(x)).relu(), y]), NOTHING),
        (through(lambda net, x: (net.bn(y := net.first(x)).relu(), y), bn=nn.BatchNorm2d(4)), NOTHING),
        (through(lambda net, x: net.bn(y := net.first(x)) + y.relu(), bn=nn.BatchNorm2d(4)), NOTHING),
        (through(lambda net, x: net.one(y := net.first(x)) + net.two(y), one=conv(4, 2), two=conv(4, 2)), NOTHING),
        # Others read what the batch norm makes of it
        (through(lambda net, x: (y := net.bn(net.first(x))).relu() + y, bn=nn.BatchNorm2d(4)), Sequel("bn")),
        (through(lambda net, x: ((y := net.bn(net.first(x))).relu(), y), bn=nn.BatchNorm2d(4)), Sequel("bn")),
        # Called several times, the layer or the batch norm
        (through(lambda net, x: net.first(net.first(x).relu().mean(1, True)).relu()), NOTHING),
        (through(lambda net, x: net.bn(net.bn(net.first(x)).relu()), bn=nn.BatchNorm2d(4)), NOTHING),
        # Not on the way to an output
        (through(lambda net, x: (net.first(x).relu(), x)[1]), NOTHING),
        (through(lambda net, x: x), NOTHING),
    ],
)
def test_what_others_read_or_the_network_returns_is_left_as_it_is(model: nn.Module, expected: Sequel) -> None:
    assert sequel_of(model, "first") == expected


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()), torch.zeros(3, 5), Sequel("1", 0.0, math.inf)),
        # It normalises the second axis: here the frames.
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3), nn.ReLU()), torch.zeros(2, 3, 5), NOTHING),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()), torch.zeros(2, 4, 5), NOTHING),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU()), torch.zeros(2, 4, 5), RELU),
        (nn.Sequential(nn.Conv1d(1, 4, 1), nn.BatchNorm1d(4), nn.ReLU()), torch.zeros(2, 1, 9), Sequel("1", 0.0)),
        (nn.Sequential(nn.Conv1d(1, 4, 1), nn.BatchNorm1d(4), nn.ReLU()), torch.zeros(1, 4), NOTHING),  # no batch axis
        (nn.Sequential(nn.ConvTranspose2d(1, 4, 2), nn.BatchNorm2d(4)), torch.zeros(2, 1, 3, 3), Sequel("1")),
        (nn.Sequential(nn.ConvTranspose3d(1, 4, 2), nn.ReLU()), torch.zeros(2, 1, 3, 3, 3), RELU),
    ],
)
def test_a_batch_norm_of_other_axes_is_none_of_the_filters(model: nn.Module, inputs: Tensor, expected: Sequel) -> None:
    assert sequel_of(model, inputs=inputs) == expected


def test_frozen_networks_and_dataclass_outputs_are_followed_too() -> None:
    model = through(lambda net, x: Outputs(net.first(x).relu())).requires_grad_(False)
    assert sequel_of(model, "first") == RELU


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_network_is_left_as_it_was_found(context: Any) -> None:
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.past: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += torch.rand(())
            self.past = x
            return x

    model = nn.Sequential(conv(1, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(4, 2), Streaming()).train()
    model[1].eval()
    random_state = torch.get_rng_state()
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with context():
        found = find_sequels(model, INPUT, {"0": model[0], "3": model[3]})
    assert found == {"0": Sequel("1", 0.0, math.inf), "3": NOTHING}
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert model[4].past is None
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
