"""Families that came from image recognition and are used on spectrograms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.case import (
    PART,
    PASSED_ON,
    SINGLE,
    SPECTROGRAM,
    UNEVEN,
    Case,
    Net,
    conv,
    conv_bn,
    pooled,
    shuffle,
)


class Basic(nn.Module):
    """The block of ResNet-18; with ``pre``, of pre-activation ResNets."""

    def __init__(self, channels: int, filters: int, stride: int = 1, pre: bool = False) -> None:
        super().__init__()
        self.pre = pre
        self.conv1 = conv(channels, filters, stride=stride, bias=False)
        self.bn1 = nn.BatchNorm2d(channels if pre else filters)
        self.conv2 = conv(filters, filters, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != filters:
            self.shortcut = nn.Conv2d(channels, filters, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            return self.shortcut(x) + self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())
        return (self.shortcut(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class Bottleneck(nn.Module):
    """The block of ResNet-50, and with groups of ResNeXt."""

    def __init__(self, channels: int, width: int, groups: int = 1) -> None:
        super().__init__()
        self.reduce, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv, self.bn2 = conv(width, width, groups=groups, bias=False), nn.BatchNorm2d(width)
        self.expand, self.bn3 = nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.reduce(x)).relu()
        return (x + self.bn3(self.expand(self.bn2(self.conv(y)).relu()))).relu()


class InvertedResidual(nn.Module):
    """The block of MobileNetV2, with squeeze-and-excitation that of EfficientNet, with GRN that of CP-Mobile."""

    def __init__(self, channels: int, filters: int, excite: bool = False, respond: bool = False) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.depthwise = nn.Sequential(conv(wide, wide, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6())
        self.excite = nn.Sequential(nn.Conv2d(wide, 4, 1), nn.SiLU(), nn.Conv2d(4, wide, 1)) if excite else None
        self.grn = ResponseNorm() if respond else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(wide, filters, 1, bias=False), nn.BatchNorm2d(filters))
        self.residual = channels == filters

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        if self.excite is not None:
            y = y * self.excite(y.mean((2, 3), keepdim=True)).sigmoid()
        y = self.project(self.grn(y))
        return x + y if self.residual else y


class ResponseNorm(nn.Module):
    """Global response normalisation of CP-Mobile: each channel's energy beside the mean over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=(2, 3), keepdim=True)
        return x + self.gamma * x * energy / (energy.mean(dim=1, keepdim=True) + 1e-6) + self.beta


class ConvNeXt(nn.Module):
    """Depthwise 7x7, LayerNorm over channels last, two linear layers, a layer scale that starts near zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 2, stride=2)
        self.depthwise = conv(8, 8, 7, groups=8)
        self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = nn.Parameter(torch.full((8,), 1e-6))
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.narrow(nn.functional.gelu(self.wide(y)))).permute(0, 3, 1, 2)
        return self.head(pooled(self.last(x).relu()))


class Dense(nn.Module):
    """DenseNet: each layer reads all that came before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 6)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (6, 10, 14))
        self.layers = nn.ModuleList(conv(channels, 4) for channels in (6, 10, 14))
        self.transition = nn.Sequential(nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 8, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(norm(torch.cat(features, 1)).relu()))
        return self.head(pooled(self.transition(torch.cat(features, 1))))


class UNet(nn.Module):
    """Two levels, with skips that are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv_bn(1, 4), conv_bn(4, 8), conv_bn(8, 12)
        self.up2, self.merge2 = nn.ConvTranspose2d(12, 8, 2, stride=2), conv_bn(16, 8)
        self.up1, self.merge1 = nn.ConvTranspose2d(8, 4, 2, stride=2), conv_bn(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        x = self.bottom(nn.functional.max_pool2d(two, 2))
        x = self.merge2(torch.cat([two, self.up2(x)], 1))
        return self.out(self.merge1(torch.cat([one, self.up1(x)], 1)))


def inception() -> nn.Module:
    return Net(
        lambda net, x: net.head(
            pooled(
                net.mix(
                    torch.cat([net.one(net.stem(x)), net.five(net.reduce(net.stem(x))), net.pool(net.stem(x))], 1)
                ).relu()
            )
        ),
        stem=conv_bn(1, 6),
        one=conv_bn(6, 4),
        reduce=nn.Conv2d(6, 4, 1),
        five=conv(4, 6, 5),
        pool=nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 2, 1)),
        mix=nn.Conv2d(12, 8, 1),
        head=nn.Linear(8, 5),
    )


def classifier(body: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def attention_over_space() -> nn.Module:
    """CBAM's spatial attention: the mean over channels is a reader that no layer stands for."""
    return Net(
        lambda net, x: net.head(
            pooled((y := net.body(x)) * net.gate(torch.cat([y.mean(1, True), y.amax(1, True)], 1)).sigmoid())
        ),
        body=conv_bn(1, 8),
        gate=conv(2, 1),
        head=nn.Linear(8, 5),
    )


def two_groups() -> nn.Module:
    return nn.Sequential(
        conv_bn(1, 8), conv_bn(8, 8, groups=2), conv_bn(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


VISION = [
    Case(
        "resnet basic",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Basic(8, 8), Basic(8, 12, 2)), 12),
        SPECTROGRAM,
        ("0.0.0", "0.1.conv1", "0.1.conv2", "0.2.conv1", "0.2.conv2", "0.2.shortcut"),
    ),
    Case(
        "resnet bottleneck",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Bottleneck(8, 4), Bottleneck(8, 6)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.reduce", "0.1.conv", "0.1.expand", "0.2.reduce", "0.2.conv", "0.2.expand"),
    ),
    Case(
        "resnet pre-activation",
        lambda: classifier(nn.Sequential(conv(1, 8), Basic(8, 8, pre=True), Basic(8, 12, 2, pre=True)), 12),
        SPECTROGRAM,
        ("0.0", "0.1.conv1", "0.1.conv2", "0.2.conv1", "0.2.conv2", "0.2.shortcut"),
    ),
    Case(
        "resnext",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), Bottleneck(8, 8, groups=4), Bottleneck(8, 8, groups=2)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.reduce", "0.1.conv", "0.1.expand", "0.2.reduce", "0.2.conv", "0.2.expand"),
    ),
    Case(
        "mobilenet v1",
        lambda: classifier(
            nn.Sequential(
                conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 12), conv_bn(12, 12, groups=12), conv_bn(12, 6)
            ),
            6,
        ),
        SPECTROGRAM,
        ("0.0.0", "0.1.0", "0.2.0", "0.3.0", "0.4.0"),
    ),
    Case(
        "mobilenet v2",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), InvertedResidual(8, 8), InvertedResidual(8, 6)), 6),
        SPECTROGRAM,
        (
            "0.0.0",
            "0.1.expand.0",
            "0.1.depthwise.0",
            "0.1.project.0",
            "0.2.expand.0",
            "0.2.depthwise.0",
            "0.2.project.0",
        ),
    ),
    Case(
        "efficientnet",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), InvertedResidual(8, 8, excite=True)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.expand.0", "0.1.depthwise.0", "0.1.excite.0", "0.1.excite.2", "0.1.project.0"),
    ),
    Case("convnext", ConvNeXt, SPECTROGRAM, ("stem", "depthwise", "narrow", "last")),
    Case("densenet", Dense, SPECTROGRAM, ("stem", "layers.0", "layers.1", "layers.2", "transition.2")),
    Case("inception", inception, SPECTROGRAM, ("stem.0", "one.0", "reduce", "five", "pool.1", "mix")),
    Case(
        "unet",
        UNet,
        SPECTROGRAM,
        ("down1.0", "down2.0", "bottom.0", "up2", "merge2.0", "up1", "merge1.0"),
        {"out": PASSED_ON},
    ),
    Case("spatial attention", attention_over_space, SPECTROGRAM, (), {"body.0": PART, "gate": PART}),
    Case("two groups", two_groups, SPECTROGRAM, ("0.0", "1.0", "2.0")),
    Case(
        "groups after depthwise",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 16, groups=4)), 16),
        SPECTROGRAM,
        ("0.0.0", "0.1.0", "0.2.0"),
    ),
    Case(
        "groups one after the other",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), conv_bn(8, 16, groups=2), conv_bn(16, 8, groups=4)), 8),
        SPECTROGRAM,
        ("0.0.0", "0.1.0", "0.2.0"),
    ),
    Case(
        "groups that do not match",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), conv_bn(8, 12, groups=4), conv_bn(12, 6, groups=3)), 6),
        SPECTROGRAM,
        ("0.0.0", "0.2.0"),
        {"0.1.0": UNEVEN},
    ),
    Case(
        "depthwise with multiplier",
        lambda: classifier(nn.Sequential(conv_bn(1, 4), conv_bn(4, 8, groups=4), conv_bn(8, 4)), 4),
        SPECTROGRAM,
        ("0.1.0", "0.2.0"),
        {"0.0.0": UNEVEN},
    ),
    Case(
        "one filter a group",
        lambda: classifier(nn.Sequential(conv_bn(1, 8), conv_bn(8, 4, groups=4), conv_bn(4, 4)), 4),
        SPECTROGRAM,
        ("0.2.0",),
        {"0.0.0": SINGLE, "0.1.0": SINGLE},
    ),
    Case(
        "grouped over a concatenation",
        lambda: Net(
            lambda net, x: net.head(pooled(net.mix(torch.cat([net.a(x), net.b(x)], 1)))),
            a=conv_bn(1, 4),
            b=conv_bn(1, 4),
            mix=conv_bn(8, 8, groups=2),
            head=nn.Linear(8, 5),
        ),
        SPECTROGRAM,
        ("a.0", "b.0", "mix.0"),
    ),
    Case(
        "grouped transposed",
        lambda: nn.Sequential(conv_bn(1, 8), nn.ConvTranspose2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 2, 1)),
        SPECTROGRAM,
        ("0.0", "1"),
        {"3": PASSED_ON},
    ),
    Case(
        "shufflenet",
        lambda: Net(
            lambda net, x: net.head(pooled(net.last(net.second(shuffle(net.first(net.stem(x)), 2))))),
            stem=conv_bn(1, 8),
            first=conv_bn(8, 8, groups=2),
            second=conv_bn(8, 8, groups=8),
            last=conv_bn(8, 6),
            head=nn.Linear(6, 5),
        ),
        SPECTROGRAM,
        ("stem.0", "first.0", "second.0", "last.0"),
    ),
    Case(
        "channel shuffle",
        lambda: Net(
            lambda net, x: net.head(pooled(net.conv2(shuffle(net.conv1(x), 2)).relu())),
            conv1=conv(1, 8),
            conv2=conv(8, 8),
            head=nn.Linear(8, 5),
        ),
        SPECTROGRAM,
        ("conv1", "conv2"),
    ),
]
