"""Families whose layers are read in parts: split, chunked, sliced and put together again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.case import (
    GUARDED,
    SPECTROGRAM,
    UNCUT,
    UNREAD,
    WAVEFORM,
    Case,
    Net,
    conv,
    conv_bn,
    pooled,
    riffle,
)


class Scales(nn.Module):
    """Res2Net: each part of the channels is convolved together with what became of the part before it."""

    def __init__(self, channels: int, width: int, scale: int, divide: Callable[[Scales, Tensor], tuple[Tensor, ...]]):
        super().__init__()
        self.width, self.scale, self.divide = width, scale, divide
        self.reduce, self.bn1 = nn.Conv2d(channels, width * scale, 1, bias=False), nn.BatchNorm2d(width * scale)
        self.convs = nn.ModuleList(conv(width, width, bias=False) for _ in range(scale - 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scale - 1))
        self.expand, self.bn3 = nn.Conv2d(width * scale, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.divide(self, self.bn1(self.reduce(x)).relu())
        made: list[Tensor] = []
        for part, layer, norm in zip(parts, self.convs, self.norms, strict=False):
            made.append(norm(layer(made[-1] + part if made else part)).relu())
        made.append(parts[self.scale - 1])
        return (x + self.bn3(self.expand(torch.cat(made, 1)))).relu()


def by_width(block: Scales, x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, block.width, 1)


def by_chunk(block: Scales, x: Tensor) -> tuple[Tensor, ...]:
    return torch.chunk(x, block.scale, dim=1)


def by_literal(_: Scales, x: Tensor) -> tuple[Tensor, ...]:
    return x.split([4, 4, 4, 4], dim=1)


def res2net(divide: Callable[[Scales, Tensor], tuple[Tensor, ...]], scale: int = 4) -> Callable[[], nn.Module]:
    return lambda: classifier(nn.Sequential(conv_bn(1, 8), Scales(8, 16 // scale, scale, divide)), 8)


class TimeScales(nn.Module):
    """The block of ECAPA-TDNN: the first part passes, the others are convolved in turn; squeeze and excitation."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale, width = scale, channels // scale
        self.before, self.bn1 = nn.Conv1d(channels, channels, 1), nn.BatchNorm1d(channels)
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=2, dilation=2) for _ in range(scale - 1))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(scale - 1))
        self.after, self.bn2 = nn.Conv1d(channels, channels, 1), nn.BatchNorm1d(channels)
        self.squeeze, self.excite = nn.Conv1d(channels, 4, 1), nn.Conv1d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(self.bn1(self.before(x).relu()), self.scale, dim=1)
        made = [parts[0]]
        for place, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            made.append(norm(layer(parts[place + 1] + made[-1] if place else parts[1]).relu()))
        y = self.bn2(self.after(torch.cat(made, dim=1)).relu())
        return x + y * self.excite(self.squeeze(y.mean(2, keepdim=True)).relu()).sigmoid()


class Ecapa(nn.Module):
    """ECAPA-TDNN: three blocks, all of them read together, attentive statistics pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv1d(1, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.blocks = nn.ModuleList(TimeScales(8, 4) for _ in range(2))
        self.mix = nn.Conv1d(16, 12, 1)
        self.narrow, self.weigh = nn.Conv1d(36, 6, 1), nn.Conv1d(6, 12, 1)
        self.norm, self.head = nn.BatchNorm1d(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x).relu())
        one = self.blocks[0](x)
        two = self.blocks[1](x + one)
        y = self.mix(torch.cat([one, two], dim=1)).relu()
        mean, deviation = y.mean(2, keepdim=True), (y.var(2, keepdim=True) + 1e-4).sqrt()
        around = torch.cat([y, mean.expand_as(y), deviation.expand_as(y)], dim=1)
        weights = self.weigh(self.narrow(around).tanh()).softmax(dim=2)
        mean = (y * weights).sum(2)
        deviation = ((y.square() * weights).sum(2) - mean.square()).clamp(min=1e-4).sqrt()
        return self.head(self.norm(torch.cat([mean, deviation], dim=1)))


class Fusing(nn.Module):
    """ERes2Net: parts are joined by weights that a small network of both of them gives."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.reduce, self.bn1 = nn.Conv2d(channels, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.convs = nn.ModuleList(conv(width, width, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.fuse = nn.Sequential(nn.Conv2d(2 * width, 4, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, width, 1))
        self.expand, self.bn3 = nn.Conv2d(2 * width, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.bn1(self.reduce(x)).relu(), self.width, 1)
        one = self.norms[0](self.convs[0](parts[0])).relu()
        weight = 1 + self.fuse(torch.cat((one, parts[1]), dim=1)).tanh()
        two = self.norms[1](self.convs[1](one * weight + parts[1] * (2 - weight))).relu()
        return (x + self.bn3(self.expand(torch.cat((one, two), 1)))).relu()


class Ghost(nn.Module):
    """A ghost module: half of the channels by a convolution, the others by a depthwise one of these."""

    def __init__(self, channels: int, filters: int, active: bool = True) -> None:
        super().__init__()
        self.filters, half = filters, (filters + 1) // 2
        self.primary = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half))
        self.cheap = nn.Sequential(conv(half, half, groups=half, bias=False), nn.BatchNorm2d(half))
        self.active = nn.ReLU() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        one = self.active(self.primary(x))
        return torch.cat([one, self.active(self.cheap(one))], dim=1)[:, : self.filters]


class GhostBottleneck(nn.Module):
    def __init__(self, channels: int, hidden: int, filters: int) -> None:
        super().__init__()
        self.ghost1, self.ghost2 = Ghost(channels, hidden), Ghost(hidden, filters, active=False)
        self.shortcut = nn.Identity()
        if channels != filters:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.ghost2(self.ghost1(x))


class PartialBlock(nn.Module):
    """FasterNet: a convolution of the first part of the channels, then two pointwise ones of all."""

    def __init__(self, channels: int, part: int, listed: bool = False) -> None:
        super().__init__()
        self.part, self.rest, self.parts = part, channels - part, [part, channels - part]
        self.listed = listed
        self.partial = conv(part, part, bias=False)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(x, self.parts if self.listed else [self.part, self.rest], dim=1)
        return x + self.mlp(torch.cat((self.partial(one), two), 1))


class Widening(nn.Module):
    """ReXNet: the shortcut is added to the first channels of a wider block alone."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.channels = channels
        self.expand = conv_bn(channels, 2 * channels)
        self.depthwise = conv_bn(2 * channels, 2 * channels, groups=2 * channels)
        self.project = nn.Sequential(nn.Conv2d(2 * channels, filters, 1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return torch.cat([y[:, 0 : self.channels] + x, y[:, self.channels :]], dim=1)


class Stage(nn.Module):
    """CSP: half of the channels pass, the others go through a block; ``fused`` as C2f, which keeps those too."""

    def __init__(self, channels: int, divide: Callable[[Tensor], tuple[Tensor, ...]], fused: bool) -> None:
        super().__init__()
        self.divide, self.fused = divide, fused
        self.expand = conv_bn(channels, channels)
        half = channels // 2
        self.one, self.two = conv_bn(half, half), conv_bn(half, half)
        self.mix = conv_bn((3 if fused else 2) * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.divide(self.expand(x))
        y = two + self.two(self.one(two))
        return self.mix(torch.cat([one, two, y] if self.fused else [one, y], 1))


def csp(divide: Callable[[Tensor], tuple[Tensor, ...]], fused: bool = False) -> Callable[[], nn.Module]:
    return lambda: classifier(nn.Sequential(conv_bn(1, 8), Stage(8, divide, fused)), 8)


class Seld(nn.Module):
    """The baseline of DCASE's sound event localisation: more than one frequency band is left before the GRU."""

    def __init__(self, bidirectional: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(1, 8), conv_bn(8, 8)
        self.gru = nn.GRU(16, 6, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.hidden = nn.Linear(6 if bidirectional else 3, 6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x), (1, 2))
        x = nn.functional.max_pool2d(self.conv2(x), (1, 2))
        x = x.transpose(1, 2).contiguous()
        x = x.view(x.shape[0], x.shape[1], -1).contiguous()
        x = self.gru(x)[0].tanh()
        x = x[:, :, x.shape[-1] // 2 :] * x[:, :, : x.shape[-1] // 2]
        return self.head(self.hidden(x)).tanh()


class Discarding(nn.Module):
    """The first block of AASIST and RawNet2: a norm and an activation run, and nothing reads what they compute."""

    def __init__(self, channels: int, filters: int, wasted: nn.Module) -> None:
        super().__init__()
        self.wasted = wasted
        self.conv1, self.bn2, self.conv2 = nn.Conv1d(channels, filters, 3), nn.BatchNorm1d(filters), nn.Conv1d(8, 8, 3)
        self.shortcut = nn.Conv1d(channels, filters, 5)

    def forward(self, x: Tensor) -> Tensor:
        _ = nn.functional.selu(self.wasted(x))
        y = self.conv2(nn.functional.selu(self.bn2(self.conv1(x))))
        return nn.functional.max_pool1d(y + self.shortcut(x), 3)


def discarding(wasted: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv1d(1, 8, 5), Discarding(8, 8, wasted()), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5)
    )


class Noisy(nn.Module):
    """Draws noise in evaluation mode too, the same for all channels."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount * torch.randn(len(x), 1, *x.shape[2:])


def classifier(body: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


RES2NET = ("0.0.0", "0.1.reduce", "0.1.convs.0", "0.1.convs.1", "0.1.convs.2", "0.1.expand")
CSP = ("0.0.0", "0.1.expand.0", "0.1.one.0", "0.1.two.0", "0.1.mix.0")
GHOST = ("0.1.ghost1.primary.0", "0.1.ghost1.cheap.0", "0.1.ghost2.primary.0", "0.1.ghost2.cheap.0")
DISCARDING = ("0", "1.conv1", "1.conv2", "1.shortcut")

PARTS = [
    Case("res2net", res2net(by_width), SPECTROGRAM, RES2NET),
    Case("res2net by chunk", res2net(by_chunk), SPECTROGRAM, RES2NET),
    Case(
        "res2net by numbers",
        res2net(by_literal),
        SPECTROGRAM,
        ("0.0.0", "0.1.convs.2", "0.1.expand"),
        {"0.1.reduce": UNCUT, "0.1.convs.0": UNCUT, "0.1.convs.1": UNCUT},
    ),
    Case(
        "res2net, two parts",
        res2net(by_width, scale=2),
        SPECTROGRAM,
        ("0.0.0", "0.1.reduce", "0.1.convs.0", "0.1.expand"),
    ),
    Case(
        "ecapa",
        Ecapa,
        WAVEFORM,
        (
            "stem",
            *(
                f"blocks.{block}.{layer}"
                for block in range(2)
                for layer in ("before", "convs.0", "convs.1", "convs.2", "after", "squeeze", "excite")
            ),
            *("mix", "narrow", "weigh"),
        ),
    ),
    Case(
        "eres2net",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Fusing(8, 8)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.reduce", "0.1.convs.0", "0.1.convs.1", "0.1.fuse.0", "0.1.fuse.3", "0.1.expand"),
    ),
    Case(
        "ghost",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Ghost(8, 8), conv_bn(8, 6)), 6),
        SPECTROGRAM,
        ("0.0.0", "0.1.primary.0", "0.1.cheap.0", "0.2.0"),
    ),
    Case(
        "ghostnet",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), GhostBottleneck(8, 12, 8)), 8),
        SPECTROGRAM,
        ("0.0.0", *GHOST),
    ),
    Case(
        "ghostnet, shortcut",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), GhostBottleneck(8, 8, 12)), 12),
        SPECTROGRAM,
        ("0.0.0", *GHOST, "0.1.shortcut.0"),
    ),
    Case(
        "fasternet",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), PartialBlock(8, 2), PartialBlock(8, 4)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.partial", "0.1.mlp.0", "0.1.mlp.3", "0.2.partial", "0.2.mlp.0", "0.2.mlp.3"),
    ),
    Case(
        "fasternet, sizes in a list",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), PartialBlock(8, 2, listed=True)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.partial", "0.1.mlp.0", "0.1.mlp.3"),
    ),
    Case(
        "rexnet",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Widening(8, 12), Widening(12, 16)), 16),
        SPECTROGRAM,
        (
            "0.0.0",
            *(f"0.{block}.{layer}.0" for block in (1, 2) for layer in ("expand", "depthwise", "project")),
        ),
    ),
    Case("csp", csp(lambda x: x.chunk(2, 1)), SPECTROGRAM, CSP),
    Case("c2f", csp(lambda x: x.chunk(2, 1), fused=True), SPECTROGRAM, CSP),
    Case("csp by shape", csp(lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :])), SPECTROGRAM, CSP),
    Case("csp by half", csp(lambda x: x.split(x.shape[1] // 2, 1)), SPECTROGRAM, CSP),
    Case("csp by every other", csp(lambda x: (x[:, ::2], x[:, 1::2])), SPECTROGRAM, CSP),
    Case(
        "csp by numbers",
        csp(lambda x: (x[:, :4], x[:, 4:])),
        SPECTROGRAM,
        ("0.0.0", "0.1.one.0", "0.1.mix.0"),
        {"0.1.expand.0": UNCUT, "0.1.two.0": UNCUT},
    ),
    Case("seld", Seld, SPECTROGRAM, ("conv1.0", "conv2.0")),
    Case("seld, one direction", lambda: Seld(bidirectional=False), SPECTROGRAM, ("conv1.0", "conv2.0")),
    Case(
        "concatenation before flatten",
        lambda: Net(
            lambda net, x: net.head(torch.cat([net.left(x), net.right(x)], 1).flatten(1)),
            left=conv_bn(1, 4),
            right=conv_bn(1, 8),
            head=nn.Linear(768, 5),
        ),
        SPECTROGRAM,
        ("left.0", "right.0"),
    ),
    Case(
        "flatten before concatenation",
        lambda: Net(
            lambda net, x: net.head(torch.cat([net.left(x).flatten(1), net.right(x).mean(3).flatten(1)], 1)),
            left=conv_bn(1, 4),
            right=conv_bn(1, 8),
            head=nn.Linear(320, 5),
        ),
        SPECTROGRAM,
        ("left.0", "right.0"),
    ),
    Case("aasist", discarding(lambda: nn.BatchNorm1d(8)), WAVEFORM, DISCARDING, unread=("1.wasted",)),
    Case(
        "rawnet2, unread convolution",
        discarding(lambda: nn.Conv1d(8, 6, 3)),
        WAVEFORM,
        DISCARDING,
        {"1.wasted": UNREAD},
        unread=("1.wasted",),
    ),
    Case(
        "noise in evaluation",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Noisy(0.1), conv_bn(8, 6)), 6),
        SPECTROGRAM,
        ("0.0.0", "0.2.0"),
    ),
    Case(
        "noise before a shuffle that is not understood",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(riffle(net.noise(net.body(x)))))),
            body=conv_bn(1, 8),
            noise=Noisy(0.1),
            last=conv_bn(8, 6),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("last.0",),
        {"body.0": GUARDED},
    ),
    Case(
        "noise with weights",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(net.noise(net.body(x)) * net.scale))),
            body=conv_bn(1, 8),
            noise=Noisy(0.1),
            scale=nn.Parameter(torch.ones(1, 8, 1, 1)),
            last=conv_bn(8, 6),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("body.0", "last.0"),
    ),
]
