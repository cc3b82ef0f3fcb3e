"""Each row of the table of kinds of layers is what happens to a small network with such a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lightning_cosprune import apply_plan, plan_pruning

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
SPECTROGRAM = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution ``before``, a part between, a convolution ``after`` and a linear layer."""

    def __init__(self, run: Callable[..., Tensor], channels: int = 8, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        self.before = nn.Conv2d(1, 8, 3, padding=1)
        for name, part in parts.items():
            setattr(self, name, part)
        self.after = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.run(self, self.before(x))).relu().mean(dim=(2, 3)))


def frames(net: nn.Module, x: Tensor) -> Tensor:
    """What ``net.part`` makes of the frames, whose features are the channels."""
    y = net.part(x.flatten(2).transpose(1, 2))
    y = y[0] if isinstance(y, tuple) else y
    return y.transpose(1, 2).unsqueeze(3)


class Attention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x, x, need_weights=False)[0]


class WrittenOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()


def between(part: nn.Module) -> Net:
    return Net(lambda net, x: net.part(x), part=part)


def over_frames(part: nn.Module, channels: int = 8) -> Net:
    return Net(frames, channels, part=part)


def gated(x: Tensor) -> Tensor:
    one, other = x.chunk(2, dim=1)
    return one * other.sigmoid()


def frozen() -> Net:
    net = between(nn.Conv2d(8, 8, 3, padding=1))
    net.part.requires_grad_(False)
    return net


def shared() -> Net:
    net = Net(
        lambda net, x: net.two(net.one(x).relu()), one=nn.Conv2d(8, 8, 3, padding=1), two=nn.Conv2d(8, 8, 3, padding=1)
    )
    net.two.weight = net.one.weight
    return net


class Kind(NamedTuple):
    """What a plan for half of the filters, of all or of ``layers``, does.

    Layer -> filters left, and layer -> words of the reason for which it keeps all.
    """

    build: Callable[[], nn.Module]
    left: dict[str, int]
    reasons: dict[str, str] = {}  # noqa: RUF012 - never changed
    layers: list[str] | None = None
    inputs: Any = SPECTROGRAM
    normalising: Sequence[type[nn.Module]] = ()


NORMALISES, TRIED = "normalises over", "changes what the other channels compute"
KINDS: dict[str, list[Kind]] = {
    "`Conv1d`, `Conv2d`, `Conv3d`, transposed or not": [
        Kind(lambda: between(nn.Conv2d(8, 8, 3, padding=1)), {"before": 4, "part": 4, "after": 4}),
        Kind(lambda: between(nn.ConvTranspose2d(8, 8, 3)), {"before": 4, "part": 4, "after": 4}),
        Kind(
            lambda: nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 3)),
            {"0": 4},
            inputs=SPECTROGRAM.flatten(2),
        ),
        Kind(
            lambda: nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU(), nn.ConvTranspose3d(8, 6, 3), nn.Conv3d(6, 4, 1)),
            {"0": 4, "2": 3},
            inputs=torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0)),
        ),
    ],
    "a convolution in groups": [
        Kind(lambda: between(nn.Conv2d(8, 8, 3, padding=1, groups=2)), {"before": 4, "part": 4, "after": 4}),
    ],
    "a depthwise convolution": [
        Kind(lambda: between(nn.Conv2d(8, 8, 3, padding=1, groups=8)), {"before": 4, "part": 4, "after": 4}),
    ],
    "`Linear`": [
        Kind(
            lambda: over_frames(nn.Linear(8, 8)),
            {"before": 4, "after": 4},
            {"part": "names it"},
        ),
        Kind(lambda: over_frames(nn.Linear(8, 8)), {"before": 4, "part": 4}, layers=["before", "part"]),
        Kind(lambda: over_frames(nn.Linear(8, 8)), {"before": 4, "part": 4}, layers=["bef*", "par*"]),
        Kind(lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(800, 4)), {"0": 4}, {"2": "names it"}),
    ],
    "`Linear` that scales the channels of a convolution (squeeze and excitation)": [
        Kind(
            lambda: Net(
                lambda net, x: x * net.excite(net.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None],
                squeeze=nn.Linear(8, 2),
                excite=nn.Linear(2, 8),
            ),
            {"before": 4, "excite": 4, "after": 4},
            {"squeeze": "names it"},
        ),
    ],
    "the last layer, whatever feeds the outputs": [
        Kind(
            lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)),
            {"0": 4},
            {"2": "its filters are outputs of the network"},
        ),
    ],
    "layers whose outputs are added or multiplied": [
        Kind(
            lambda: Net(lambda net, x: x + net.part(x), part=nn.Conv2d(8, 8, 3, padding=1)),
            {"before": 4, "part": 4, "after": 4},
        ),
        Kind(
            lambda: Net(lambda net, x: x * net.part(x), part=nn.Conv2d(8, 8, 3, padding=1)),
            {"before": 4, "part": 4, "after": 4},
        ),
    ],
    "layers whose outputs are concatenated": [
        Kind(
            lambda: Net(lambda net, x: torch.cat([x, net.part(x)], 1), 12, part=nn.Conv2d(8, 4, 3, padding=1)),
            {"before": 4, "part": 2, "after": 4},
        ),
    ],
    "a layer whose output is split, chunked, shuffled or gated by its other half": [
        Kind(lambda: Net(lambda net, x: gated(x), 4), {"before": 4, "after": 4}),
        Kind(lambda: Net(lambda net, x: nn.functional.glu(x, 1), 4), {"before": 4, "after": 4}),
        Kind(lambda: Net(lambda net, x: nn.functional.channel_shuffle(x, 2), 8), {"before": 4, "after": 4}),
        Kind(lambda: Net(lambda net, x: x.split(x.shape[1] // 2, 1)[1], 4), {"before": 4, "after": 4}),
    ],
    "a layer whose output is divided at numbers that are written into the code": [
        Kind(lambda: Net(lambda net, x: x.split([4, 4], 1)[1], 4), {"after": 4}, {"before": ""}),
    ],
    "`BatchNorm`, `InstanceNorm`, `PReLU`, a parameter for each channel": [
        *(
            Kind(lambda part=part: between(part), {"before": 4, "after": 4})
            for part in (nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8))
        ),
        Kind(
            lambda: Net(lambda net, x: x * net.part, part=nn.Parameter(torch.rand(1, 8, 1, 1) + 1)),
            {"before": 4, "after": 4},
        ),
    ],
    "`LayerNorm`, `RMSNorm`, `GroupNorm`, `LocalResponseNorm`": [
        Kind(lambda: over_frames(nn.LayerNorm(8)), {"before": 4, "after": 4}),
        Kind(lambda: over_frames(nn.RMSNorm(8)), {"before": 4, "after": 4}),
        Kind(lambda: between(nn.GroupNorm(2, 8)), {"before": 4, "after": 4}),
        Kind(lambda: between(nn.LocalResponseNorm(3, alpha=0.1)), {"before": 4, "after": 4}),
    ],
    "a norm over channels of your own": [
        Kind(lambda: over_frames(OwnNorm()), {"before": 4, "after": 4}, normalising=[OwnNorm]),
        Kind(lambda: over_frames(OwnNorm()), {"after": 4}, {"before": TRIED}),
    ],
    "a `LayerNorm` over channels and positions at once, a `GroupNorm` of one channel a group": [
        Kind(lambda: between(nn.LayerNorm([8, 12, 12])), {"after": 4}, {"before": NORMALISES}),
        Kind(lambda: between(nn.GroupNorm(8, 8)), {"after": 4}, {"before": "cannot be removed evenly"}),
    ],
    "`MultiheadAttention`, `TransformerEncoderLayer`": [
        Kind(lambda: over_frames(Attention(8, 2, batch_first=True)), {"after": 4}, {"before": "cannot be removed"}),
        Kind(
            lambda: over_frames(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
            {"part.linear1": 8, "after": 4},
            {"before": "cannot be removed", "part.linear2": "cannot be removed"},
            ["before", "after", "part.linear1", "part.linear2"],
        ),
    ],
    "attention written with `Linear`": [
        Kind(
            lambda: over_frames(WrittenOut()),
            {"before": 4, "after": 4},
            dict.fromkeys(("part.query", "part.key", "part.value"), TRIED),
            ["before", "after", "part.query", "part.key", "part.value"],
        ),
    ],
    "`LSTM`, `GRU`, `RNN`": [
        *(
            Kind(lambda kind=kind: over_frames(kind(8, 6, batch_first=True), 6), {"before": 4, "after": 4})
            for kind in (nn.LSTM, nn.GRU, nn.RNN)
        ),
        Kind(
            lambda: Net(
                lambda net, x: net.part(x.permute(0, 3, 1, 2).flatten(2))[0].transpose(1, 2).unsqueeze(3),
                6,
                part=nn.GRU(96, 6, batch_first=True),
            ),
            {"before": 4, "after": 4},
        ),
    ],
    "weight norm, spectral norm": [
        Kind(
            lambda computed=computed: between(computed(nn.Conv2d(8, 8, 3, padding=1))),
            {"before": 4, "part": 4, "after": 4},
        )
        for computed in (
            nn.utils.parametrizations.weight_norm,
            nn.utils.parametrizations.spectral_norm,
            nn.utils.spectral_norm,
        )
    ],
    "a weight that is computed otherwise": [
        Kind(
            lambda: between(nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 8, 3, padding=1))),
            {"after": 4},
            dict.fromkeys(("before", "part"), "is computed in a way that cannot be cut"),
        )
    ],
    "frozen (`requires_grad=False`)": [
        Kind(frozen, {"before": 4, "after": 4}, {"part": "frozen"}),
    ],
    "layers that share a weight": [
        Kind(shared, {"after": 4}, {"one": "a weight is shared", "two": "a weight is shared", "before": "shared"}),
    ],
    "a layer that the example input does not reach": [
        Kind(
            lambda: Net(lambda net, x: x, part=nn.Conv2d(8, 8, 3)), {"before": 4, "after": 4}, {"part": "not reached"}
        ),
    ],
}


def test_each_row_has_its_networks() -> None:
    table = re.search(r"^\| kind \|.*\n\|.*\n((?:\|.*\n)+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert table
    assert [line.split("|")[1].strip() for line in table[1].splitlines()] == list(KINDS)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=f"{row} {at}") for row, kinds in KINDS.items() for at, kind in enumerate(kinds)]
)
def test_each_row_says_what_happens(kind: Kind) -> None:
    torch.manual_seed(0)
    network = kind.build().eval()
    plan = plan_pruning(network, kind.inputs, pruning_ratio=0.5, layers=kind.layers, normalising=kind.normalising)
    report = apply_plan(network, plan, kind.inputs)
    assert {layer.name: layer.filters_after for layer in report.layers} == kind.left
    for name, words in kind.reasons.items():
        assert words in report.skipped[name]
