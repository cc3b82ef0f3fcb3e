"""Small architectures that the tests prune: each is listed once, with an input and what must happen to it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, what it is run on, and the layers that a prune of half of all filters must and must not reach."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Any
    pruned: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


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


class Concatenated(nn.Module):
    """Two branches of different kernels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(1, 6, 3, padding=1)
        self.wide = nn.Conv2d(1, 10, 5, padding=2)
        self.mix = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.narrow(x).relu(), self.wide(x).relu()], dim=1)
        return self.head(self.mix(x).relu().mean(dim=(2, 3)))


class Recurrent(nn.Module):
    """A CRNN: convolutions, then a recurrent layer over the frames."""

    def __init__(self, recurrent: type[nn.RNNBase]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.recurrent = recurrent(8, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).relu()).relu().mean(dim=2)
        hidden, _ = self.recurrent(x.transpose(1, 2))
        return self.head(hidden.mean(dim=1))


class DictOutput(nn.Module):
    """Returns a dict, as Hugging Face models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(1, 8), conv_bn(8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.body(x).mean(dim=(2, 3)))}


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


class Shuffled(nn.Module):
    """A channel shuffle, which Torch-Pruning takes for an element-wise operation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return self.head(self.conv2(x).relu().mean(dim=(2, 3)))


class TwoInputs(nn.Module):
    """Takes keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv1d(1, 8, 5, padding=2)
        self.right = nn.Conv1d(2, 8, 5, padding=2)
        self.head = nn.Linear(8, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.left(left) * self.right(right)).mean(dim=2))


def conv_bn(channels: int, filters: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1, groups=groups), nn.BatchNorm2d(filters), nn.ReLU())


def separable() -> nn.Module:
    return nn.Sequential(
        conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 12), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        conv_bn(1, 8), conv_bn(8, 8, groups=2), conv_bn(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def layer_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.LayerNorm([8, 6, 6]), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    )


def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def weight_norm() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 8, 3))
    return nn.Sequential(normed, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def spectral_norm() -> nn.Module:
    normed = nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 8, 3))
    return nn.Sequential(normed, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def spectral_norm_by_hook() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older way, deprecated and still in use
        normed = nn.utils.spectral_norm(nn.Conv2d(1, 8, 3))
    return nn.Sequential(normed, nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def squeeze_and_excitation() -> nn.Module:
    class SqueezeExcite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = conv_bn(1, 8)
            self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            x = x * self.excite(self.squeeze(x.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
            return self.head(x.mean(dim=(2, 3)))

    return SqueezeExcite()


def transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.PReLU(6), nn.Conv3d(6, 6, 2), nn.Flatten(), nn.Linear(750, 5)
    )


SPECTROGRAM = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
WAVEFORMS = {"left": torch.randn(2, 1, 16), "right": torch.randn(2, 2, 16)}

CASES = [
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
    Case("concatenated", Concatenated, SPECTROGRAM, ("narrow", "wide", "mix")),
    Case("lstm", lambda: Recurrent(nn.LSTM), SPECTROGRAM, ("conv1", "conv2")),
    Case("gru", lambda: Recurrent(nn.GRU), SPECTROGRAM, ("conv1", "conv2")),
    Case("dict output", DictOutput, SPECTROGRAM, ("body.0.0", "body.1.0")),
    Case("tied", Tied, SPECTROGRAM, (), ("stem", "first", "second")),
    Case("shuffled", Shuffled, SPECTROGRAM, ("conv2",), ("conv1",)),
    Case("two inputs", TwoInputs, WAVEFORMS, ("left", "right")),
    Case("separable", separable, SPECTROGRAM, ("0.0", "2.0")),
    Case("grouped", grouped, SPECTROGRAM, ("2.0",), ("0.0", "1.0")),
    Case("layer norm", layer_norm, SPECTROGRAM, ("2",), ("0",)),
    Case("group norm", group_norm, SPECTROGRAM, ("2",), ("0",)),
    Case("weight norm", weight_norm, SPECTROGRAM, ("2",), ("0",)),
    Case("spectral norm", spectral_norm, SPECTROGRAM, ("2",), ("0",)),
    Case("spectral norm by hook", spectral_norm_by_hook, SPECTROGRAM, ("2",), ("0",)),
    Case("squeeze and excitation", squeeze_and_excitation, SPECTROGRAM, ("body.0", "squeeze", "excite")),
    Case("transposed", transposed, SPECTROGRAM, ("0", "2"), ("4",)),
    Case("volumes", volumes, torch.randn(2, 1, 8, 8, 8), ("0", "3")),
]
