"""What Torch-Pruning fails at costs the layers around it, not the network, and is told as what it is."""

import copy
from typing import Any

import pytest
import torch
from asserts import assert_equals_masked_dense
from torch import Tensor, nn
from torch_pruning.dependency import index_mapping
from zoo import SPECTROGRAM, Net, conv, conv_bn
from zoo.case import pooled

from lightning_cosprune import apply_plan, plan_pruning
from lightning_cosprune.network import channels
from lightning_cosprune.network.graph import DependencyGraph


def shuffled(x: Tensor) -> Tensor:
    """ShuffleNet's, as it is published."""
    batch, channels, height, width = x.size()
    return (
        x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, channels, height, width)
    )


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNetV2 that halves the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(conv_bn(half, half), conv_bn(half, half, groups=half), conv_bn(half, half))

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, dim=1)
        return shuffled(torch.cat([one, self.branch(other)], 1))


class ShuffleDown(nn.Module):
    """The unit that halves the picture and has two branches."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        half = filters // 2
        self.left = nn.Sequential(conv(channels, channels, stride=2, groups=channels), conv_bn(channels, half))
        self.right = nn.Sequential(
            conv_bn(channels, half), conv(half, half, stride=2, groups=half), conv_bn(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        return shuffled(torch.cat([self.left(x), self.right(x)], 1))


def shuffle_net() -> nn.Module:
    units = nn.Sequential(ShuffleDown(8, 16), ShuffleUnit(16), ShuffleUnit(16), ShuffleDown(16, 32), ShuffleUnit(32))
    return Net(
        lambda net, x: net.head(pooled(net.last(net.units(net.stem(x))))),
        stem=conv_bn(1, 8),
        units=units,
        last=conv_bn(32, 6),
        head=nn.Linear(6, 5),
    )


def uneven() -> nn.Module:
    """A split into parts of different widths, joined in another order; then two halves that change places."""

    def run(net: Any, x: Tensor) -> Tensor:
        first, second, third = net.first(x).split(4, dim=1)
        left, right = net.middle(torch.cat([first, third, second], 1)).chunk(2, dim=1)
        return net.head(pooled(net.last(torch.cat([right, left * 1], 1))))

    return Net(run, first=conv_bn(1, 10), middle=conv_bn(10, 8), last=conv_bn(8, 6), head=nn.Linear(6, 5))


@pytest.mark.parametrize(
    ("build", "pruned"),
    [(shuffle_net, {"stem.0", "last.0"}), (uneven, {"last.0"})],
    ids=["shuffle", "split"],
)
def test_a_step_that_fails_costs_the_layers_around_it(
    build: Any, pruned: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "find_origins", lambda *_: None)
    torch.manual_seed(0)
    model = build().eval()
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert pruned <= set(removed)
    failed = [reason for reason in report.skipped.values() if "cannot be followed" in reason]
    assert failed
    assert all("Error" in reason and ("behind" in reason or "before" in reason) for reason in failed)
    assert_equals_masked_dense(dense, model, removed, SPECTROGRAM)


@pytest.mark.parametrize(("build", "kept"), [(shuffle_net, set()), (uneven, {"first.0"})])
def test_where_channels_come_from_is_known_beyond_such_a_step(build: Any, kept: set[str]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert set(report.skipped) == {"head", *kept}
    assert_equals_masked_dense(dense, model, removed, SPECTROGRAM)


def test_whatever_fails_at_one_step_is_that_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("odd")

    monkeypatch.setattr(index_mapping, "update_concat_index_mapping", fail)
    monkeypatch.setattr(channels, "find_origins", lambda *_: None)
    model = Net(
        lambda net, x: net.head(pooled(net.last(torch.cat([net.left(net.stem(x)), net.right(net.stem(x))], 1)))),
        stem=conv(1, 8),
        left=conv(8, 4),
        right=conv(8, 4),
        last=conv(8, 6),
        head=nn.Linear(6, 5),
    )
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    assert set(plan.pruned) == {"stem", "last"}
    reason = "its channels meet a step (Cat) behind left and before last that cannot be followed: KeyError: 'odd'"
    assert {plan.skipped[name] for name in ("left", "right")} <= {reason, reason.replace("left", "right")}


def test_a_network_that_runs_is_not_said_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise IndexError("of their own")

    monkeypatch.setattr(DependencyGraph, "_build_dependency", fail)
    with pytest.raises(ValueError, match=r"Sequential runs, but which layer reads which .*: IndexError: of their own"):
        plan_pruning(nn.Sequential(conv(1, 8), conv(8, 4)), SPECTROGRAM, pruning_ratio=0.5)


class ComplexConv(nn.Module):
    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.real, self.imag = conv(channels, filters), conv(channels, filters)

    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(self.real(x.real) - self.imag(x.imag), self.real(x.imag) + self.imag(x.real))


def test_complex_networks_are_pruned() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ComplexConv(1, 8), ComplexConv(8, 6), ComplexConv(6, 2)).eval()
    inputs = torch.complex(SPECTROGRAM, SPECTROGRAM.flip(-1))
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert set(removed) == {"0.real", "0.imag", "1.real", "1.imag"}
    assert_equals_masked_dense(dense, model, removed, inputs)
