"""What a network may be made of: norms, couplings, layouts, inputs, outputs, containers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.case import (
    FROZEN,
    GUARDED,
    NORMALISED,
    PASSED_ON,
    SHARED,
    SPECTROGRAM,
    TRAINING,
    UNCUT,
    UNEVEN,
    UNORDERED,
    UNREACHED,
    WAVEFORM,
    Case,
    Net,
    conv,
    conv_bn,
    pooled,
    riffle,
)


class Residual(nn.Module):
    """Two residual blocks, the second with a projection: the stem and each block's last layer share their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block1 = nn.Sequential(conv_bn(8, 12), conv_bn(12, 8))
        self.block2 = nn.Sequential(conv_bn(8, 10), conv_bn(10, 16))
        self.projection = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.block1(x))
        x = torch.relu(self.projection(x) + self.block2(x))
        return self.head(x.mean(dim=(2, 3)))


class Tied(nn.Module):
    """Two convolutions that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()).relu())
        return self.head(x.relu().mean(dim=(2, 3)))


class ModelOutput(dict[str, Any]):
    """As Hugging Face's: a dict that is a dataclass too and leaves out what is None."""

    @classmethod
    def make(cls, **fields: Any) -> ModelOutput:
        return cls({key: value for key, value in fields.items() if value is not None})


@dataclass
class Outputs:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()


def separable() -> nn.Module:
    return nn.Sequential(
        conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 12), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)
    )


def between(*layers: nn.Module, first: nn.Module | None = None) -> Callable[[], nn.Module]:
    """``layers`` between two convolutions of eight filters, new ones for each network."""

    def build() -> nn.Module:
        new, start = copy.deepcopy(layers), copy.deepcopy(first) or conv(1, 8)
        return nn.Sequential(start, *new, conv(8, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))

    return build


def by_hook(wrap: Callable[..., nn.Module]) -> nn.Module:
    net = between()()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older way, deprecated and still in use
        wrap(net[0])
    return net


def running_instance_norm() -> nn.Module:
    norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return between(norm)()


def lazy() -> nn.Module:
    net = nn.Sequential(
        nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(6, 3), nn.Flatten(), nn.LazyLinear(5)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are a feature under development
        net(SPECTROGRAM)
    return net


def nested() -> nn.Module:
    return Net(
        lambda net, x: net.heads["scene"](pooled(net.blocks["late"](net.blocks["early"][0](x)))),
        blocks=nn.ModuleDict({"early": nn.ModuleList([conv_bn(1, 8)]), "late": nn.Sequential(conv_bn(8, 6))}),
        heads=nn.ModuleDict({"scene": nn.Linear(6, 5)}),
    )


def frozen(*names: str) -> nn.Module:
    net = plain()
    for name in names:
        net.get_submodule(name).requires_grad_(False)
    return net


def plain() -> nn.Module:
    return nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


def head(run: Callable[..., Any], **modules: Any) -> Callable[[], nn.Module]:
    return lambda: Net(run, body=nn.Sequential(conv_bn(1, 8), conv_bn(8, 8)), **copy.deepcopy(modules))


def zero_scaled() -> nn.Module:
    """A residual branch whose last batch norm starts at zero, as good initialisations have it, over a shuffle."""
    net = Net(
        lambda net, x: net.head(pooled((y := net.stem(x)) + net.norm(net.second(riffle(net.first(y)))))),
        stem=conv_bn(1, 8),
        first=conv(8, 8),
        second=conv(8, 8),
        norm=nn.BatchNorm2d(8),
        head=nn.Linear(8, 5),
    )
    nn.init.zeros_(net.norm.weight)
    return net


def dead() -> nn.Module:
    """Units that never fire on any input hide that the layer which reads them is over-normalised."""
    net = Net(
        lambda net, x: net.head(pooled(net.second((y := net.first(x).relu()) / (y.square().mean(1, True) + 1e-3)))),
        first=conv(1, 8),
        second=conv(8, 6),
        head=nn.Linear(6, 5),
    )
    nn.init.constant_(net.first.bias, -100.0)
    return net


def symmetric() -> nn.Module:
    """Equal weights make a shuffle of channels invisible."""
    net = Net(
        lambda net, x: net.head(pooled(net.second(riffle(net.first(x))).relu())),
        first=conv(1, 8),
        second=conv(8, 6),
        head=nn.Linear(6, 5),
    )
    nn.init.constant_(net.first.weight, 0.1)
    nn.init.constant_(net.second.weight, 0.1)
    return net


def saturated() -> nn.Module:
    """A sigmoid that is one whatever happens before it."""
    net = Net(
        lambda net, x: net.head(pooled(net.second((y := net.first(x)) / y.square().mean(1, True).sqrt()))).sigmoid(),
        first=conv(1, 8),
        second=conv(8, 6),
        head=nn.Linear(6, 5),
    )
    nn.init.constant_(net.head.bias, 1e4)
    return net


def auxiliary() -> nn.Module:
    """A second head that only training mode runs."""
    return Net(
        lambda net, x: (
            (net.head(pooled(y := net.body(x))), net.spare(y)) if net.training else net.head(pooled(net.body(x)))
        ),
        body=conv_bn(1, 8),
        spare=nn.Conv2d(8, 5, 1),
        head=nn.Linear(8, 5),
    )


def normalised_in_training() -> nn.Module:
    """A norm over channels that only training mode applies: evaluation says nothing of it."""
    return Net(
        lambda net, x: net.head(
            pooled(
                net.last((y := net.body(x)) / (y.square().mean(1, True) + 0.1).sqrt() if net.training else net.body(x))
            )
        ),
        body=conv_bn(1, 8),
        last=conv(8, 6),
        head=nn.Linear(6, 5),
    )


def branching() -> nn.Module:
    """Which layer reads the body depends on the data; the example takes the first."""
    return Net(
        lambda net, x: net.head(pooled((net.one if x.abs().max() < 4 else net.other)(net.body(x)))),
        body=conv_bn(1, 8),
        one=conv(8, 6),
        other=conv(8, 6),
        head=nn.Linear(6, 5),
    )


def weighted(shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    return lambda: Net(
        lambda net, x: net.head(pooled(net.last(net.body(x) * net.scale).relu())),
        body=conv_bn(1, 8),
        scale=nn.Parameter(torch.linspace(0.5, 1.5, 8).view(shape)),
        last=conv(8, 6),
        head=nn.Linear(6, 5),
    )


def stateful() -> nn.Module:
    """Carries a state from one forward pass to the next, as streaming networks do."""

    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.last, self.head = nn.Conv1d(1, 8, 5), nn.Conv1d(8, 6, 3), nn.Linear(6, 5)
            self.past: Tensor | None = None
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            past = torch.zeros_like(x) if self.past is None else self.past
            self.past = x.detach() * self.calls
            return self.head(self.last(self.body(x + past).relu()).mean(dim=2))

    return Streaming()


def in_dtype(dtype: torch.dtype) -> Callable[[], nn.Module]:
    return lambda: plain().to(dtype)


KEYWORDS = {"left": torch.randn(2, 1, 16), "right": torch.randn(2, 2, 16)}


def two_inputs() -> nn.Module:
    return Net(
        lambda net, left, right: net.head((net.left(left) * net.right(right)).mean(dim=2)),
        left=nn.Conv1d(1, 8, 5, padding=2),
        right=nn.Conv1d(2, 8, 5, padding=2),
        head=nn.Linear(8, 5),
    )


FORMS = [
    Case(
        "plain",
        lambda: nn.Sequential(conv_bn(1, 8), conv_bn(8, 8), nn.Flatten(), nn.Linear(512, 5)),
        SPECTROGRAM,
        ("0.0", "1.0"),
    ),
    Case(
        "residual",
        Residual,
        SPECTROGRAM,
        ("stem", "block1.0.0", "block1.1.0", "block2.0.0", "block2.1.0", "projection"),
    ),
    Case("tied", Tied, SPECTROGRAM, (), {"stem": SHARED, "first": SHARED, "second": SHARED}),
    Case("separable", separable, SPECTROGRAM, ("0.0", "1.0", "2.0")),
    # Norms, activations and parametrizations
    Case("group norm", between(nn.GroupNorm(2, 8)), SPECTROGRAM, ("0", "2")),
    Case("group norm, a channel each", between(nn.GroupNorm(8, 8)), SPECTROGRAM, ("2",), {"0": UNEVEN}),
    Case("layer norm", between(nn.LayerNorm([8, 8, 8])), SPECTROGRAM, ("2",), {"0": NORMALISED}),
    Case("instance norm", between(nn.InstanceNorm2d(8)), SPECTROGRAM, ("0", "2")),
    Case("instance norm, affine", between(nn.InstanceNorm2d(8, affine=True)), SPECTROGRAM, ("0", "2")),
    Case("instance norm, running statistics", running_instance_norm, SPECTROGRAM, ("0", "2")),
    Case("batch norm without scale", between(nn.BatchNorm2d(8, affine=False)), SPECTROGRAM, ("0", "2")),
    Case("local response norm", between(nn.LocalResponseNorm(3, alpha=1e-1)), SPECTROGRAM, ("0", "2")),
    Case("prelu per channel", between(nn.PReLU(8)), SPECTROGRAM, ("0", "2")),
    Case("prelu", between(nn.PReLU()), SPECTROGRAM, ("0", "2")),
    Case("softmax over channels", between(nn.Softmax(dim=1)), SPECTROGRAM, ("2",), {"0": GUARDED}),
    Case("dropout2d", between(nn.Dropout2d(0.3)), SPECTROGRAM, ("0", "2")),
    Case(
        "circular padding",
        lambda: nn.Sequential(
            conv(1, 8, padding_mode="circular"),
            nn.ReLU(),
            conv(8, 6, padding_mode="reflect"),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("0", "2"),
    ),
    Case(
        "weight norm",
        lambda: between(first=nn.utils.parametrizations.weight_norm(conv(1, 8)))(),
        SPECTROGRAM,
        ("0", "1"),
    ),
    Case(
        "weight norm by hook",
        lambda: by_hook(nn.utils.weight_norm),
        SPECTROGRAM,
        ("0", "1"),
    ),
    Case(
        "spectral norm",
        lambda: between(first=nn.utils.parametrizations.spectral_norm(conv(1, 8)))(),
        SPECTROGRAM,
        ("0", "1"),
    ),
    Case(
        "spectral norm by hook",
        lambda: by_hook(nn.utils.spectral_norm),
        SPECTROGRAM,
        ("0", "1"),
    ),
    Case("learned scale", weighted((8, 1, 1)), SPECTROGRAM, ("body.0", "last")),
    Case("learned scale, batched", weighted((1, 8, 1, 1)), SPECTROGRAM, ("body.0", "last")),
    Case(
        "functional convolution",
        lambda: Net(
            lambda net, x: net.head(pooled(nn.functional.conv2d(net.body(x), net.weight).relu())),
            body=conv_bn(1, 8),
            weight=nn.Parameter(torch.randn(6, 8, 1, 1)),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        (),
        {"body.0": UNORDERED},
    ),
    Case(
        "functional convolution, 3x3",
        lambda: Net(
            lambda net, x: net.head(pooled(nn.functional.conv2d(net.body(x), net.weight).relu())),
            body=conv_bn(1, 8),
            weight=nn.Parameter(torch.randn(8, 8, 3, 3)),
            head=nn.Linear(8, 5),
        ),
        SPECTROGRAM,
        (),
        {"body.0": UNCUT},
    ),
    Case(
        "buffer of channel numbers",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(net.body(x)[:, net.chosen]).relu())),
            body=conv_bn(1, 8),
            chosen=torch.tensor([3, 1, 0]),
            last=conv(3, 4),
            head=nn.Linear(4, 5),
        ),
        SPECTROGRAM,
        ("last",),
        {"body.0": UNORDERED},
    ),
    Case(
        "buffer per channel",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(net.body(x) - net.mean).relu())),
            body=conv_bn(1, 8),
            mean=torch.rand(8, 1, 1),
            last=conv(8, 4),
            head=nn.Linear(4, 5),
        ),
        SPECTROGRAM,
        ("last",),
        {"body.0": UNCUT},
    ),
    Case(
        "weight read by a function",
        lambda: Net(
            lambda net, x: net.out(nn.functional.conv_transpose2d(net.last(net.encoder(x).relu()), net.encoder.weight)),
            encoder=nn.Conv2d(1, 8, 3, bias=False),
            last=conv(8, 8),
            out=nn.Conv2d(1, 2, 1),
        ),
        SPECTROGRAM,
        (),
        {"out": PASSED_ON, "last": UNORDERED, "encoder": UNCUT},
    ),
    Case(
        "number of channels remembered",
        lambda: Net(
            lambda net, x: net.head(net.body(x).reshape(-1, 8, 64).mean(2)), body=conv_bn(1, 8), head=nn.Linear(8, 5)
        ),
        SPECTROGRAM,
        (),
        {"body.0": UNCUT},
    ),
    # Layouts
    Case(
        "flatten, permuted",
        lambda: Net(
            lambda net, x: net.head(net.body(x).permute(0, 2, 3, 1).flatten(1)),
            body=conv_bn(1, 8),
            head=nn.Linear(512, 5),
        ),
        SPECTROGRAM,
        ("body.0",),
    ),
    Case(
        "flatten of frames",
        lambda: Net(
            lambda net, x: net.head(net.body(x).flatten(1, 2).mean(2)), body=conv_bn(1, 8), head=nn.Linear(64, 5)
        ),
        SPECTROGRAM,
        ("body.0",),
    ),
    Case(
        "convolution as head",
        lambda: nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1), nn.Flatten()),
        SPECTROGRAM,
        ("0.0", "1.0"),
        {"3": PASSED_ON},
    ),
    Case(
        "pixel shuffle",
        lambda: nn.Sequential(conv_bn(1, 8), conv(8, 8), nn.PixelShuffle(2), conv(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1)),
        SPECTROGRAM,
        ("0.0", "1", "3"),
        {"5": PASSED_ON},
    ),
    Case(
        "autoencoder",
        lambda: nn.Sequential(
            conv_bn(1, 8),
            nn.Conv2d(8, 6, 3, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 8, 4, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 3),
        ),
        SPECTROGRAM,
        ("0.0", "1", "3"),
        {"5": PASSED_ON},
    ),
    Case(
        "volumes",
        lambda: nn.Sequential(
            nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.PReLU(6), nn.Conv3d(6, 6, 2), nn.Flatten(), nn.Linear(750, 5)
        ),
        torch.randn(2, 1, 8, 8, 8),
        ("0", "3"),
    ),
    Case(
        "input beside features",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(torch.cat([x, net.body(x)], 1)).relu())),
            body=conv_bn(1, 8),
            last=conv(9, 6),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("body.0", "last"),
    ),
    Case(
        "squeeze and excitation",
        lambda: Net(
            lambda net, x: net.head(
                pooled((y := net.body(x)) * net.excite(net.squeeze(y.mean((2, 3), True)).relu()).sigmoid())
            ),
            body=conv_bn(1, 8),
            squeeze=nn.Conv2d(8, 4, 1),
            excite=nn.Conv2d(4, 8, 1),
            head=nn.Linear(8, 5),
        ),
        SPECTROGRAM,
        ("body.0", "squeeze", "excite"),
    ),
    Case(
        "two branches",
        lambda: Net(
            lambda net, x: net.head(pooled(net.mix(torch.cat([net.narrow(x).relu(), net.wide(x).relu()], 1)))),
            narrow=conv(1, 6),
            wide=conv(1, 10, 5),
            mix=nn.Conv2d(16, 8, 1),
            head=nn.Linear(8, 5),
        ),
        SPECTROGRAM,
        ("narrow", "wide", "mix"),
    ),
    Case(
        "product of branches",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(net.one(x) * net.two(x)).relu())),
            one=conv_bn(1, 8),
            two=conv_bn(1, 8),
            last=conv(8, 6),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("one.0", "two.0", "last"),
    ),
    Case(
        "siamese",
        lambda: Net(
            lambda net, a, b: net.head(torch.cat([pooled(net.body(a)), pooled(net.body(b))], 1)),
            body=conv_bn(1, 8),
            head=nn.Linear(16, 5),
        ),
        (SPECTROGRAM, SPECTROGRAM + 1),
        ("body.0",),
    ),
    Case(
        "siamese difference",
        lambda: Net(
            lambda net, a, b: net.head(pooled(net.body(a)) - pooled(net.body(b))),
            body=nn.Sequential(conv_bn(1, 8), conv_bn(8, 6)),
            head=nn.Linear(6, 5),
        ),
        (SPECTROGRAM, SPECTROGRAM + 1),
        ("body.0.0", "body.1.0"),
    ),
    Case(
        "layer used twice",
        lambda: Net(
            lambda net, x: net.head(pooled(net.loop(net.loop(net.stem(x)).relu()))),
            stem=conv_bn(1, 8),
            loop=conv(8, 8),
            head=nn.Linear(8, 5),
        ),
        SPECTROGRAM,
        ("stem.0", "loop"),
    ),
    Case(
        "unused layer",
        lambda: Net(
            lambda net, x: net.head(pooled(net.body(x))), body=conv_bn(1, 8), spare=conv(8, 6), head=nn.Linear(8, 5)
        ),
        SPECTROGRAM,
        ("body.0",),
        {"spare": UNREACHED},
    ),
    # Inputs and outputs
    Case("two inputs by keyword", two_inputs, KEYWORDS, ("left", "right")),
    Case("two inputs by position", two_inputs, tuple(KEYWORDS.values()), ("left", "right")),
    Case(
        "several heads",
        head(
            lambda net, x: [net.scene(pooled(y := net.body(x))), net.device(pooled(y))],
            scene=nn.Linear(8, 5),
            device=nn.Linear(8, 3),
        ),
        SPECTROGRAM,
        ("body.0.0", "body.1.0"),
    ),
    Case(
        "dict output",
        head(lambda net, x: {"logits": net.head(pooled(net.body(x)))}, head=nn.Linear(8, 5)),
        SPECTROGRAM,
        ("body.0.0", "body.1.0"),
    ),
    Case(
        "dict output with features",
        head(lambda net, x: {"logits": net.head(pooled(y := net.body(x))), "features": y}, head=nn.Linear(8, 5)),
        SPECTROGRAM,
        ("body.0.0",),
        {"body.1.0": PASSED_ON},
    ),
    Case(
        "dataclass output",
        head(lambda net, x: Outputs(net.head(pooled(net.body(x)))), head=nn.Linear(8, 5)),
        SPECTROGRAM,
        ("body.0.0", "body.1.0"),
    ),
    Case(
        "model output",
        head(lambda net, x: ModelOutput.make(loss=None, logits=net.head(pooled(net.body(x)))), head=nn.Linear(8, 5)),
        SPECTROGRAM,
        ("body.0.0", "body.1.0"),
    ),
    Case(
        "nested output",
        head(lambda net, x: ((net.head(pooled(net.body(x))), None), [{"x": x.mean()}, 3]), head=nn.Linear(8, 5)),
        SPECTROGRAM,
        ("body.0.0", "body.1.0"),
    ),
    # Containers, modes, data types
    Case("lazy", lazy, SPECTROGRAM, ("0", "3")),
    Case("nested containers", nested, SPECTROGRAM, ("blocks.early.0.0", "blocks.late.0.0")),
    Case("frozen first layer", lambda: frozen("0"), SPECTROGRAM, ("1.0",), {"0.0": FROZEN}),
    Case("frozen batch norm", lambda: frozen("0.1"), SPECTROGRAM, ("0.0", "1.0")),
    Case("float64", in_dtype(torch.float64), SPECTROGRAM.double(), ("0.0", "1.0")),
    Case("bfloat16", in_dtype(torch.bfloat16), SPECTROGRAM.bfloat16(), ("0.0", "1.0")),
    Case("channels last", lambda: plain().to(memory_format=torch.channels_last), SPECTROGRAM, ("0.0", "1.0")),
    Case("state between calls", stateful, WAVEFORM, ("body", "last")),
    # What fools a trial that looks at the outputs alone, with the weights as they are
    Case("zero scale over a shuffle", zero_scaled, SPECTROGRAM, ("stem.0", "second"), {"first": GUARDED}),
    Case("dead units", dead, SPECTROGRAM, ("second",), {"first": GUARDED}),
    Case("equal weights over a shuffle", symmetric, SPECTROGRAM, ("second",), {"first": GUARDED}),
    Case("saturated output", saturated, SPECTROGRAM, ("second",), {"first": GUARDED}),
    Case("head of training mode", auxiliary, SPECTROGRAM, (), {"spare": UNREACHED, "body.0": TRAINING}),
    Case("norm of training mode", normalised_in_training, SPECTROGRAM, ("last",), {"body.0": GUARDED}),
    Case("branch on the data", branching, SPECTROGRAM, (), {"other": UNREACHED, "body.0": UNCUT, "one": UNCUT}),
    Case("silence", plain, torch.zeros(2, 1, 8, 8), ("0.0", "1.0")),
    Case("silence over a shuffle", symmetric, torch.zeros(1, 1, 8, 8), ("second",), {"first": GUARDED}),
    Case("batch of one", plain, SPECTROGRAM[:1], ("0.0", "1.0")),
]
