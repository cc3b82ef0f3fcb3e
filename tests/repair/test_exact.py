"""Where the removed channels are linear combinations of the kept ones, the dense outputs come back."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from asserts import outputs_of
from torch import Tensor, nn
from torch.nn import functional
from zoo import Net
from zoo.case import pooled

from lightning_cosprune import PruningPlan, apply_plan, refit_least_squares
from lightning_cosprune.network.layers import is_layer, layer_weight

REMOVED = [1, 2, 4, 7]
KEPT = [0, 3, 5, 6]


@dataclass(frozen=True)
class Reader:
    """A network whose layers in ``sources`` lose filters, and what reads them.

    Attributes:
        build: Makes it.
        shape: Of one sample.
        readers: Layers that must be repaired, in this order.
        sources: The layers that lose filters; of coupled ones all.
        follow: Depthwise layers and batch norms that pass the channels on one by one.
        mixed: Whether the removed filters are sums of several kept ones; else multiples of one, which pass a ReLU.
        samples: How many are calibrated with.
        groups: How many groups the reader has: a removed channel is a combination of the same group's.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    readers: tuple[str, ...]
    sources: tuple[str, ...] = ("source",)
    follow: tuple[str, ...] = ()
    mixed: bool = True
    samples: int = 24
    groups: int = 1


def net(run: Callable[..., Any], channels: int = 2, dimensions: int = 2, **modules: nn.Module) -> Callable[[], Net]:
    kinds = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    modules = {"source": kinds[dimensions](channels, 8, 3), **modules}
    return lambda: Net(run, **{name: copy.deepcopy(module) for name, module in modules.items()})


def read_by(reader: nn.Module, dimensions: int = 2) -> Callable[[], Net]:
    return net(lambda net, x: net.reader(net.source(x)), dimensions=dimensions, reader=reader)


MAP, SIGNAL, VOLUME = (2, 9, 8), (2, 24), (2, 7, 6, 5)
ONE = ("reader",)

READERS = {
    # Convolutions
    "1-D": Reader(read_by(nn.Conv1d(8, 4, 5, stride=2, padding=3), 1), SIGNAL, ONE),
    "1-D, dilation": Reader(read_by(nn.Conv1d(8, 4, 3, padding="same", dilation=3), 1), SIGNAL, ONE),
    "2-D": Reader(read_by(nn.Conv2d(8, 4, 3)), MAP, ONE),
    "2-D, pointwise": Reader(read_by(nn.Conv2d(8, 4, 1)), MAP, ONE),
    "2-D, stride, padding, dilation": Reader(
        read_by(nn.Conv2d(8, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1))), MAP, ONE
    ),
    "2-D, reflect": Reader(read_by(nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect")), MAP, ONE),
    "2-D, replicate": Reader(read_by(nn.Conv2d(8, 4, 3, padding=2, padding_mode="replicate")), MAP, ONE),
    "2-D, circular": Reader(read_by(nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular")), MAP, ONE),
    "2-D, without bias": Reader(read_by(nn.Conv2d(8, 4, 3, padding=1, bias=False)), MAP, ONE),
    "3-D": Reader(read_by(nn.Conv3d(8, 4, (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 2)), 3), VOLUME, ONE, samples=48),
    "groups": Reader(read_by(nn.Conv2d(8, 6, 3, groups=2, padding=1)), MAP, ONE, groups=2),
    "groups, without bias": Reader(read_by(nn.Conv2d(8, 6, 3, groups=2, padding=1, bias=False)), MAP, ONE, groups=2),
    # Transposed convolutions
    "transposed 1-D": Reader(read_by(nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1), 1), SIGNAL, ONE),
    "transposed 2-D": Reader(
        read_by(nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, dilation=2)), MAP, ONE
    ),
    "transposed 2-D, groups": Reader(
        read_by(nn.ConvTranspose2d(8, 6, (2, 3), stride=(2, 1), groups=2)), MAP, ONE, groups=2
    ),
    "transposed 3-D": Reader(read_by(nn.ConvTranspose3d(8, 4, 2, stride=(1, 2, 1), bias=False), 3), VOLUME, ONE),
    "transposed 2-D, told its output size": Reader(
        net(
            lambda net, x: net.reader(net.source(x), output_size=(14, 12)),
            reader=nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1),
        ),
        MAP,
        ONE,
    ),
    # Linear layers
    "linear behind flatten": Reader(
        net(lambda net, x: net.reader(net.source(x).flatten(1)), reader=nn.Linear(8 * 42, 4)), MAP, ONE, samples=260
    ),
    "linear behind mean": Reader(
        net(lambda net, x: net.reader(pooled(net.source(x))), reader=nn.Linear(8, 4)), MAP, ONE
    ),
    "linear behind average pooling": Reader(
        net(
            lambda net, x: net.reader(functional.adaptive_avg_pool2d(net.source(x), 2).flatten(1)),
            reader=nn.Linear(32, 4),
        ),
        MAP,
        ONE,
        samples=60,
    ),
    "linear behind max pooling": Reader(
        net(
            lambda net, x: net.reader(functional.max_pool2d(net.source(x).relu(), 3).flatten(1)),
            reader=nn.Linear(32, 4),
        ),
        MAP,
        ONE,
        mixed=False,
        samples=60,
    ),
    "linear over frames": Reader(
        net(lambda net, x: net.reader(net.source(x).mean(2).transpose(1, 2)).mean(1), reader=nn.Linear(8, 4)),
        MAP,
        ONE,
    ),
    "linear behind a mean over frames": Reader(
        net(
            lambda net, x: net.reader(net.source(x).flatten(1, 2).mean(2)).relu(),
            reader=nn.Linear(56, 4),
        ),
        MAP,
        ONE,
        samples=120,
    ),
    # What lies between
    "behind ReLU": Reader(
        net(lambda net, x: net.reader(net.source(x).relu()), reader=nn.Conv2d(8, 4, 3)), MAP, ONE, mixed=False
    ),
    "behind leaky ReLU and pooling": Reader(
        net(
            lambda net, x: net.reader(functional.max_pool2d(functional.leaky_relu(net.source(x), 0.1), 2)),
            reader=nn.Conv2d(8, 4, 2),
        ),
        MAP,
        ONE,
        mixed=False,
        samples=48,
    ),
    "behind batch norm": Reader(
        net(lambda net, x: net.reader(net.norm(net.source(x))), norm=nn.BatchNorm2d(8), reader=nn.Conv2d(8, 4, 3)),
        MAP,
        ONE,
        follow=("norm",),
        mixed=False,
    ),
    "behind batch norm and ReLU": Reader(
        net(
            lambda net, x: net.reader(net.norm(net.source(x)).relu()),
            norm=nn.BatchNorm2d(8),
            reader=nn.Conv2d(8, 4, 3, padding=1),
        ),
        MAP,
        ONE,
        follow=("norm",),
        mixed=False,
    ),
    "behind ReLU and batch norm": Reader(
        net(
            lambda net, x: net.reader(net.norm(net.source(x).relu())),
            norm=nn.BatchNorm2d(8),
            reader=nn.Conv2d(8, 4, 3, padding=1),
        ),
        MAP,
        ONE,
        follow=("norm",),
        mixed=False,
    ),
    "behind a depthwise layer": Reader(
        net(
            lambda net, x: net.reader(net.norm(net.depthwise(net.source(x).relu())).relu()),
            depthwise=nn.Conv2d(8, 8, 3, groups=8, padding=1),
            norm=nn.BatchNorm2d(8),
            reader=nn.Conv2d(8, 4, 1),
        ),
        MAP,
        ONE,
        follow=("depthwise", "norm"),
        mixed=False,
    ),
    # What follows the reader
    "before ReLU": Reader(net(lambda net, x: net.reader(net.source(x)).relu(), reader=nn.Conv2d(8, 4, 3)), MAP, ONE),
    "before ReLU6, without bias": Reader(
        net(lambda net, x: functional.relu6(net.reader(net.source(x))), reader=nn.Conv2d(8, 4, 3, bias=False)),
        MAP,
        ONE,
    ),
    "before batch norm, without bias": Reader(
        net(
            lambda net, x: net.after(net.reader(net.source(x))).relu(),
            reader=nn.Conv2d(8, 4, 3, bias=False),
            after=nn.BatchNorm2d(4),
        ),
        MAP,
        ONE,
    ),
    "before tanh": Reader(net(lambda net, x: net.reader(net.source(x)).tanh(), reader=nn.Conv2d(8, 4, 3)), MAP, ONE),
    # Several
    "several readers": Reader(
        net(
            lambda net, x: torch.cat(
                [pooled(net.one(y := net.source(x))), net.two(pooled(y)), pooled(net.three(y).relu())], 1
            ),
            one=nn.Conv2d(8, 4, 3),
            two=nn.Linear(8, 3),
            three=nn.ConvTranspose2d(8, 2, 2),
        ),
        MAP,
        ("one", "two", "three"),
    ),
    "one reader, called twice": Reader(
        net(lambda net, x: net.reader(y := net.source(x)) + net.reader(y.flip(3)).relu(), reader=nn.Conv2d(8, 4, 3)),
        MAP,
        ONE,
    ),
    "residual sum": Reader(
        net(
            lambda net, x: net.reader((net.source(x) + net.source2(x)).relu()),
            source2=nn.Conv2d(2, 8, 3),
            reader=nn.Conv2d(8, 4, 3),
        ),
        MAP,
        ONE,
        sources=("source", "source2"),
        mixed=False,
    ),
    "concatenation": Reader(
        net(
            lambda net, x: net.reader(torch.cat([net.source(x), net.source2(x).relu()], 1)),
            source2=nn.Conv2d(2, 8, 3),
            reader=nn.Conv2d(16, 4, 3),
        ),
        MAP,
        ONE,
        sources=("source", "source2"),
        mixed=False,
    ),
    "one after the other": Reader(
        net(
            lambda net, x: net.last(net.source2(net.source(x).relu()).relu()),
            source2=nn.Conv2d(8, 8, 3),
            last=nn.Conv2d(8, 4, 3),
        ),
        MAP,
        ("source2", "last"),
        sources=("source", "source2"),
        mixed=False,
        samples=48,
    ),
}


@torch.no_grad()
def make_redundant(model: nn.Module, case: Reader) -> None:
    """Change the filters in ``REMOVED`` so that the kept ones of their group say all that they say."""
    groups = [[idx for idx in range(8) if idx * case.groups // 8 == group] for group in range(case.groups)]
    mix = torch.zeros(len(REMOVED), len(KEPT), dtype=torch.float64)
    for row, removed in enumerate(REMOVED):
        group = next(group for group in groups if removed in group)
        partners = [column for column, kept in enumerate(KEPT) if kept in group]
        if case.mixed:
            mix[row, partners] = torch.randn(len(partners), dtype=torch.float64)
        else:
            mix[row, partners[row % len(partners)]] = 0.5 + row
    for name in case.sources:
        source = model.get_submodule(name)
        source.weight[REMOVED] = torch.einsum("rk,k...->r...", mix, source.weight[KEPT])
        source.bias[REMOVED] = mix @ source.bias[KEPT]
    factors, partners = mix.max(dim=1)
    for name in case.follow:
        follower = model.get_submodule(name)
        if isinstance(follower, nn.modules.batchnorm._BatchNorm):
            # It takes the factor out of what it is given, and the shift is multiplied.
            partner = [KEPT[idx] for idx in partners]
            follower.running_mean[REMOVED] = follower.running_mean[partner] * factors
            follower.running_var[REMOVED] = follower.running_var[partner]
            follower.weight[REMOVED] = follower.weight[partner]
            follower.bias[REMOVED] = follower.bias[partner] * factors
        else:
            follower.weight[REMOVED] = follower.weight[[KEPT[idx] for idx in partners]]
            follower.bias[REMOVED] = follower.bias[[KEPT[idx] for idx in partners]] * factors


def drawn(case: Reader, seed: int, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A dense network, what is left of it, inputs to repair with and others."""
    torch.manual_seed(seed)
    dense = case.build().double()
    for module in dense.modules():
        if is_layer(module):
            nn.init.normal_(module.weight, std=layer_weight(module)[0].numel() ** -0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # Not so far off that a channel hardly ever passes the ReLU: of that one nothing could be learnt.
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    make_redundant(dense, case)
    dense = dense.to(dtype)
    pruned = copy.deepcopy(dense)
    inputs, others = torch.randn(case.samples, *case.shape, dtype=dtype), torch.randn(8, *case.shape, dtype=dtype)
    plan = PruningPlan(dict.fromkeys(case.sources, REMOVED), dict.fromkeys(case.sources, 8))
    report = apply_plan(pruned, plan, inputs[:2])
    assert [layer.name for layer in report.layers if layer.name not in case.follow] == list(case.sources)
    assert all(layer.pruned_idxs == tuple(REMOVED) for layer in report.layers)
    return dense, pruned, inputs, others


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Relative to the outputs' spread."""
    return max(float((one - other).abs().max() / other.std()) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("dtype", "seed", "tolerance"), [(torch.float64, 0, 2e-5), (torch.float32, 1, 1e-4)], ids=str)
@pytest.mark.parametrize("name", READERS)
def test_the_dense_outputs_come_back(name: str, dtype: torch.dtype, seed: int, tolerance: float) -> None:
    case = READERS[name]
    dense, pruned, inputs, others = drawn(case, seed, dtype)
    expected = outputs_of(dense, others)
    assert largest_difference(outputs_of(pruned, others), expected) > 0.1
    report = refit_least_squares(pruned, dense, inputs.split(10))
    assert [layer.name for layer in report.layers] == list(case.readers)
    assert not report.skipped
    assert not report.undone
    assert report.samples == case.samples
    assert report.error_after < 1e-8 < report.error_before
    assert all(layer.error_after < 1e-6 < layer.error_before for layer in report.layers)
    assert largest_difference(outputs_of(pruned, others), expected) < tolerance
