"""CP-Mobile in the form that is the baseline of DCASE 2024 and 2025, task 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_cosprune.arguments import real_number, whole_number, whole_numbers
from lightning_cosprune.models.widths import LARGEST, check_classes

STRIDES: Mapping[str, tuple[int, int]] = {"b3": (1, 2), "b4": (2, 1)}
"""Blocks that make the map smaller, counted through the network from ``b1``."""


class CPMobile(nn.Module):
    """Inverted residual blocks for one second of audio in 128 kB and 30 M MACs.

    Two 3x3 convolutions that halve both axes, then blocks of a pointwise, a depthwise 3x3 and a pointwise convolution,
    each with batch norm, ReLU behind the first two and behind the block; a block that keeps its channels adds what it
    was given, average-pooled where it halves an axis. Last a pointwise convolution to the classes, batch norm, mean
    over the map. At 256 bands and 65 frames, one second of ``features="dcase2024"``, it has 61,148 parameters, which
    are 122,296 bytes in half precision, and 29,419,156 MACs by the counter of the challenge, which counts batch norms
    too.

    Names in the state dict are those of the challenge's own network.

    Args:
        num_classes: Scenes to tell apart.
        base_channels: Channels of the first stage, rounded to a multiple of 8; the first convolution has a quarter.
        channels_multiplier: How much wider each further stage is.
        expansion_rate: How much wider a block is within.
        num_blocks: Blocks of each stage.
        strides: Strides of blocks that have some, by their names ``"b1"``, ``"b2"`` and so on.

    Raises:
        ValueError: A size is not positive, or a stride belongs to no block.

    Source: Schmid et al., Distilling the knowledge of transformers and CNNs with CP-Mobile, DCASE 2023; the baseline of
    DCASE 2024 task 1, CPJKU/dcase2024_task1_baseline.

    Example:
        >>> CPMobile()(torch.zeros(2, 1, 256, 65)).shape
        torch.Size([2, 10])
        >>> CPMobile(base_channels=64).stage_widths
        (64, 112, 208)
    """

    def __init__(
        self,
        num_classes: int = 10,
        base_channels: int = 32,
        channels_multiplier: float = 1.8,
        expansion_rate: float = 2.1,
        num_blocks: Sequence[int] = (3, 2, 1),
        strides: Mapping[str, tuple[int, int]] = STRIDES,
    ) -> None:
        super().__init__()
        num_classes = check_classes("CPMobile", num_classes)
        base_channels = whole_number(base_channels, "`CPMobile(base_channels={})`", 1, LARGEST)
        for name, value in (("channels_multiplier", channels_multiplier), ("expansion_rate", expansion_rate)):
            expected = "a positive number, at most 100; the baseline has channels_multiplier=1.8 and expansion_rate=2.1"
            real_number(value, f"`CPMobile({name}={{}})`", expected, above=0, most=100)
        expected = "positive numbers, one a stage; the baseline has (3, 2, 1)"
        num_blocks = whole_numbers(num_blocks, "`CPMobile(num_blocks={})`", expected)
        if not num_blocks:
            raise ValueError("`CPMobile(num_blocks=())`: expected at least one stage. The baseline has (3, 2, 1).")
        if not isinstance(strides, Mapping):
            raise TypeError(
                f"`CPMobile(strides={strides!r:.60})`: expected a mapping from name of a block to its stride, found a "
                f"{type(strides).__name__}. The baseline has {STRIDES}."
            )
        for name, stride in strides.items():
            pair = whole_numbers(stride, f"`CPMobile(strides[{name!r}]={{}})`", "two positive whole numbers")
            if len(pair) != 2:
                raise ValueError(
                    f"`CPMobile(strides={{{name!r}: {pair}}})`: expected two positive whole numbers, found "
                    f"{len(pair)}. The first is that of the bands."
                )
        blocks = [f"b{number}" for number in range(1, sum(num_blocks) + 1)]
        unknown = [name for name in strides if name not in blocks]
        if unknown:
            raise ValueError(
                f"`CPMobile(strides={dict(strides)})`: expected names of blocks, {', '.join(blocks)}, found "
                f"{unknown[0]!r}. Leave it out, or add blocks with `num_blocks`."
            )
        base = _rounded(base_channels)
        self.stage_widths = tuple(_rounded(base * channels_multiplier**stage) for stage in range(len(num_blocks)))
        self.in_c = nn.Sequential(
            _convolution(1, base // 4, 3, stride=2, activation=True),
            _convolution(base // 4, base, 3, stride=2, activation=True),
        )
        self.stages = nn.Sequential()
        channels, names = base, iter(blocks)
        for number, (width, count) in enumerate(zip(self.stage_widths, num_blocks, strict=True), start=1):
            stage = nn.Sequential()
            for _ in range(count):
                name = next(names)
                within = _rounded(channels * expansion_rate)
                stage.add_module(name, _Block(channels, within, width, strides.get(name, (1, 1))))
                channels = width
            self.stages.add_module(f"s{number}", stage)
        self.feed_forward = nn.Sequential(
            nn.Conv2d(channels, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes), nn.AdaptiveAvgPool2d(1)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax.

        Args:
            x: Log-mel features, ``(batch, 1, bands, frames)``.

        Returns:
            ``(batch, num_classes)``.
        """
        scores: Tensor = self.feed_forward(self.stages(self.in_c(x)))
        return scores.flatten(1)


class _Block(nn.Module):
    def __init__(self, inputs: int, within: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _convolution(inputs, within, 1, activation=True),
            _convolution(within, within, 3, stride=stride, groups=within, activation=True),
            _convolution(within, outputs, 1, activation=False),
        )
        self.adds = inputs == outputs
        self.shortcut = nn.AvgPool2d(3, stride, padding=1) if self.adds and tuple(stride) != (1, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return torch.relu(y + self.shortcut(x) if self.adds else y)


def _convolution(
    inputs: int, outputs: int, kernel: int, *, activation: bool, stride: int | tuple[int, int] = 1, groups: int = 1
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if activation else []))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never a tenth or more below; ties go up, as in MobileNets."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
