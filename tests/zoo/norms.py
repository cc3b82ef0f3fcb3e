"""Networks with norms over channels, and what such a norm computes over some of its channels, written out anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.case import SPECTROGRAM, WAVEFORM, Net, conv, conv_bn, pooled


class GRN(nn.Module):
    """Global response normalisation of ConvNeXt V2, channels last."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.randn(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x


class ResponseNorm(nn.Module):
    """The same of CP-Mobile, channels first, with one scale for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.tensor([0.7])), nn.Parameter(torch.tensor([0.2]))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(dim=(2, 3), keepdim=True)
        return x + self.gamma * x * energy / (energy.mean(dim=1, keepdim=True) + 1e-6) + self.beta


class ChannelsFirst(nn.Module):
    """The layer norm of ConvNeXt's own code, for either order of axes."""

    def __init__(self, dim: int, data_format: str = "channels_first") -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(dim) + 0.5), nn.Parameter(torch.randn(dim))
        self.data_format, self.normalized_shape = data_format, (dim,)

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return nn.functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, 1e-6)
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias[:, None, None]


class LayerNorm2d(nn.LayerNorm):
    """Torchvision's: PyTorch's layer norm between two changes of axes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GlobalNorm(nn.Module):
    """gLN of Conv-TasNet: over channels and time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (
            nn.Parameter(torch.rand(1, channels, 1) + 0.5),
            nn.Parameter(torch.randn(1, channels, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 2), keepdim=True)
        variance = (x - mean).square().mean(dim=(1, 2), keepdim=True)
        return self.gamma * (x - mean) / (variance + 1e-8).sqrt() + self.beta


class CumulativeNorm(nn.Module):
    """cLN of Conv-TasNet: over channels and all frames so far, for which it counts its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gain, self.bias = nn.Parameter(torch.rand(1, channels, 1) + 0.5), nn.Parameter(torch.randn(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[2] + 1, dtype=x.dtype) * self.channels
        mean = (x.sum(1).cumsum(1) / count).unsqueeze(1)
        power = (x.square().sum(1).cumsum(1) / count).unsqueeze(1)
        return (x - mean) / (power - mean.square() + 1e-8).sqrt() * self.gain + self.bias


class Whitened(nn.Module):
    """The layer norm of PyTorch within a module of one's own, whose frames are the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


# What they compute over some channels: sums with weights of one and zero, of all channels, nothing sliced.


def _moments(x: Tensor, mask: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    count = mask.expand_as(x).sum(axes, keepdim=True)
    mean = (x * mask).sum(axes, keepdim=True) / count
    return mean, ((x - mean).square() * mask).sum(axes, keepdim=True) / count


def _along(x: Tensor, values: Tensor, axis: int) -> Tensor:
    return values.view([-1 if place == axis % x.ndim else 1 for place in range(x.ndim)])


def _affine(norm: Any, y: Tensor, axis: int) -> Tensor:
    if norm.weight is None:
        return y
    bias = getattr(norm, "bias", None)
    y = y * _along(y, norm.weight, axis)
    return y if bias is None else y + _along(y, bias, axis)


def group_norm(norm: nn.GroupNorm, x: Tensor, kept: Tensor) -> Tensor:
    grouped = x.unflatten(1, (norm.num_groups, -1))
    mask = _along(x, kept, 1).unflatten(1, (norm.num_groups, -1))
    mean, variance = _moments(grouped, mask, tuple(range(2, grouped.ndim)))
    return _affine(norm, ((grouped - mean) / (variance + norm.eps).sqrt()).flatten(1, 2), 1)


def layer_norm(norm: Any, x: Tensor, kept: Tensor, axis: int = -1) -> Tensor:
    mean, variance = _moments(x, _along(x, kept, axis), (axis,))
    return _affine(norm, (x - mean) / (variance + getattr(norm, "eps", 1e-6)).sqrt(), axis)


def rms_norm(norm: nn.RMSNorm, x: Tensor, kept: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    return _affine(norm, x / ((x.square() * kept).sum(-1, keepdim=True) / kept.sum() + eps).sqrt(), -1)


def local_response_norm(norm: nn.LocalResponseNorm, x: Tensor, kept: Tensor) -> Tensor:
    left = kept.nonzero()[:, 0].tolist()
    made = torch.zeros_like(x)
    for place, channel in enumerate(left):
        first = place - norm.size // 2
        near = [left[other] for other in range(first, first + norm.size) if 0 <= other < len(left)]
        power = sum(x[:, other].square() for other in near) / norm.size
        made[:, channel] = x[:, channel] / (norm.k + norm.alpha * power) ** norm.beta
    return made


def grn(norm: GRN, x: Tensor, kept: Tensor) -> Tensor:
    energy = x.square().sum((1, 2), keepdim=True).sqrt()
    mean = (energy * kept).sum(-1, keepdim=True) / kept.sum()
    return norm.gamma * x * energy / (mean + 1e-6) + norm.beta + x


def response_norm(norm: ResponseNorm, x: Tensor, kept: Tensor) -> Tensor:
    energy = x.square().sum((2, 3), keepdim=True).sqrt()
    mean = (energy * _along(x, kept, 1)).sum(1, keepdim=True) / kept.sum()
    return x + norm.gamma * x * energy / (mean + 1e-6) + norm.beta


def channels_first(norm: ChannelsFirst, x: Tensor, kept: Tensor) -> Tensor:
    return layer_norm(norm, x, kept, 1 if norm.data_format == "channels_first" else -1)


def global_norm(norm: GlobalNorm, x: Tensor, kept: Tensor) -> Tensor:
    mean, variance = _moments(x, _along(x, kept, 1), (1, 2))
    return norm.gamma * (x - mean) / (variance + 1e-8).sqrt() + norm.beta


def cumulative_norm(norm: CumulativeNorm, x: Tensor, kept: Tensor) -> Tensor:
    mask = _along(x, kept, 1)
    made = torch.zeros_like(x)
    for frame in range(x.shape[2]):
        seen = x[:, :, : frame + 1]
        mean, variance = _moments(seen, mask, (1, 2))
        made[:, :, frame] = ((x[:, :, frame : frame + 1] - mean) / (variance + 1e-8).sqrt())[:, :, 0]
    return made * norm.gain + norm.bias


NARROWED: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.LocalResponseNorm: local_response_norm,
    LayerNorm2d: lambda norm, x, kept: layer_norm(norm, x, kept, 1),
    GRN: grn,
    ResponseNorm: response_norm,
    ChannelsFirst: channels_first,
    GlobalNorm: global_norm,
    CumulativeNorm: cumulative_norm,
    Whitened: lambda norm, x, kept: layer_norm(norm.norm, x, kept, 1),
}


def narrowed(
    dense: nn.Module, norms: Mapping[str, tuple[str, ...]], removed: Mapping[str, list[int]]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """What each norm computes of all channels, where the filters are numbered as its channels are."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, layers in norms.items():
        norm, layer = dense.get_submodule(name), dense.get_submodule(layers[0])

        def run(x: Tensor, norm: nn.Module = norm, layer: Any = layer, gone: list[int] = removed[layers[0]]) -> Tensor:
            kept = torch.ones(layer.weight.shape[0], dtype=x.dtype)
            kept[gone] = 0
            return NARROWED[type(norm)](norm, x, kept)

        found[name] = run
    return found


# Networks


class Form(NamedTuple):
    """A network, what it is run on, the layers that must lose half of their filters, and the norms behind them."""

    build: Callable[[], nn.Module]
    inputs: Tensor
    pruned: tuple[str, ...]
    norms: tuple[str, ...]
    normalising: tuple[Any, ...] = ()
    layers: tuple[str, ...] | None = None


class ConvNeXt(nn.Module):
    """A stem with its norm, one block of the second version, a downsampling layer with its norm, a head."""

    def __init__(self, first: Callable[[int], nn.Module], last: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 2, stride=2), first(8)
        self.depthwise, self.norm = conv(8, 8, 3, groups=8), last(8)
        self.pwconv1, self.grn, self.pwconv2 = nn.Linear(8, 32), GRN(32), nn.Linear(32, 8)
        self.down_norm, self.down = first(8), nn.Conv2d(8, 12, 2, stride=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x))
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(nn.functional.gelu(self.pwconv1(y))))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(pooled(self.down(self.down_norm(x))))


class GroupNormResidual(nn.Module):
    """A residual network whose batch norms are group norms."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.stem, self.norm0 = conv(1, 16), nn.GroupNorm(groups, 16)
        self.conv1, self.norm1 = conv(16, 24), nn.GroupNorm(groups, 24)
        self.conv2, self.norm2 = conv(24, 16), nn.GroupNorm(groups, 16)
        self.last, self.head = conv(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm0(self.stem(x)).relu()
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return self.head(pooled(self.last((x + y).relu()).relu()))


class TasNet(nn.Module):
    """Encoder, two blocks of a separator with skip connections, a mask, decoder."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.encoder, self.norm = nn.Conv1d(1, 16, 4, stride=2), norm(16)
        self.bottleneck = nn.Conv1d(16, 8, 1)
        self.blocks = nn.ModuleList(TasNetBlock(8, 12, 2**place, norm) for place in range(2))
        self.mask, self.decoder = nn.Conv1d(8, 16, 1), nn.ConvTranspose1d(16, 1, 4, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = self.encoder(x).relu()
        y, skips = self.bottleneck(self.norm(spectrum)), 0.0
        for block in self.blocks:
            y, skip = block(y)
            skips = skips + skip
        return self.decoder(spectrum * self.mask(skips + y).sigmoid())


class TasNetBlock(nn.Module):
    def __init__(self, channels: int, hidden: int, dilation: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.expand, self.prelu1, self.norm1 = nn.Conv1d(channels, hidden, 1), nn.PReLU(), norm(hidden)
        self.depthwise = nn.Conv1d(hidden, hidden, 3, padding=dilation, dilation=dilation, groups=hidden)
        self.prelu2, self.norm2 = nn.PReLU(), norm(hidden)
        self.residual, self.skip = nn.Conv1d(hidden, channels, 1), nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm2(self.prelu2(self.depthwise(self.norm1(self.prelu1(self.expand(x))))))
        return x + self.residual(y), self.skip(y)


class CPMobileBlock(nn.Module):
    """The block of CP-Mobile, with global response normalisation behind the residual sum."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.expand, self.depthwise = conv_bn(channels, 2 * channels), conv_bn(2 * channels, 2 * channels, 2 * channels)
        self.project = nn.Sequential(nn.Conv2d(2 * channels, filters, 1), nn.BatchNorm2d(filters))
        self.grn, self.residual = ResponseNorm(), channels == filters

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return self.grn(x + y if self.residual else y).relu()


def cp_mobile() -> nn.Module:
    body = nn.Sequential(conv_bn(1, 8), CPMobileBlock(8, 8), CPMobileBlock(8, 12))
    return nn.Sequential(body, nn.Conv2d(12, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def last(norm: nn.Module) -> Callable[[], nn.Module]:
    """``norm`` over the channels of a convolution that come last."""

    def build() -> nn.Module:
        return Net(
            lambda net, x: net.head(pooled(net.after(net.norm(net.before(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))),
            before=conv(1, 8),
            norm=type(norm)(8, **{key: getattr(norm, key) for key in ("elementwise_affine",)}),
            after=conv(8, 8),
            head=nn.Linear(8, 5),
        )

    return build


def joined(groups: int) -> nn.Module:
    """Two convolutions side by side before a group norm."""
    return Net(
        lambda net, x: net.head(pooled(net.after(net.norm(torch.cat([net.left(x), net.right(x)], 1)).relu()))),
        left=conv(1, 8),
        right=conv(1, 4),
        norm=nn.GroupNorm(groups, 12),
        after=conv(12, 6),
        head=nn.Linear(6, 5),
    )


_NEXT = ("stem", "depthwise", "pwconv1", "pwconv2", "down")
_TAS = (
    "encoder",
    "bottleneck",
    *(f"blocks.{i}.{name}" for i in range(2) for name in ("expand", "depthwise", "residual", "skip")),
    "mask",
)
_TAS_NORMS = ("norm", *(f"blocks.{i}.norm{place}" for i in range(2) for place in (1, 2)))
_OF_NEXT = ("stem_norm", "norm", "grn", "down_norm")
_EVERY = ("*",)

NORMS: dict[str, Form] = {
    "layer norm": Form(last(nn.LayerNorm(8)), SPECTROGRAM, ("before", "after"), ("norm",)),
    "layer norm without weights": Form(
        last(nn.LayerNorm(8, elementwise_affine=False)), SPECTROGRAM, ("before", "after"), ("norm",)
    ),
    "rms norm": Form(last(nn.RMSNorm(8)), SPECTROGRAM, ("before", "after"), ("norm",)),
    "rms norm without weights": Form(
        last(nn.RMSNorm(8, elementwise_affine=False)), SPECTROGRAM, ("before", "after"), ("norm",)
    ),
    "convnext, declared": Form(
        lambda: ConvNeXt(ChannelsFirst, lambda dim: ChannelsFirst(dim, "channels_last")),
        SPECTROGRAM,
        _NEXT,
        _OF_NEXT,
        (ChannelsFirst, "g*n"),
        _EVERY,
    ),
    "convnext of torchvision": Form(
        lambda: ConvNeXt(LayerNorm2d, nn.LayerNorm), SPECTROGRAM, _NEXT, _OF_NEXT, ("grn",), _EVERY
    ),
    "group norm, residual": Form(
        GroupNormResidual, SPECTROGRAM, ("stem", "conv1", "conv2", "last"), ("norm0", "norm1", "norm2")
    ),
    "tasnet, global": Form(lambda: TasNet(GlobalNorm), WAVEFORM, _TAS, _TAS_NORMS, (GlobalNorm,)),
    "tasnet, cumulative": Form(lambda: TasNet(CumulativeNorm), WAVEFORM, _TAS, _TAS_NORMS, ("norm", "blocks.*.norm?")),
    "tasnet, group norm": Form(lambda: TasNet(lambda dim: nn.GroupNorm(1, dim)), WAVEFORM, _TAS, _TAS_NORMS),
    "tasnet, within a module": Form(lambda: TasNet(Whitened), WAVEFORM, _TAS, _TAS_NORMS, (Whitened,)),
    "cp-mobile": Form(
        cp_mobile,
        SPECTROGRAM,
        ("0.0.0", *(f"0.{i}.{name}" for i in (1, 2) for name in ("expand.0", "depthwise.0", "project.0"))),
        ("0.1.grn", "0.2.grn"),
        (ResponseNorm,),
    ),
}
