"""What a case of the zoo is, and the pieces that many of them are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

SPECTROGRAM = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
WAVEFORM = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(2))

# Words of the reasons for which a layer keeps its filters.
PASSED_ON = "its filters are outputs of the network"
GUARDED = "changes what the other channels compute"
UNCUT = "it cannot be cut: RuntimeError"
TRAINING = "in training mode the forward pass fails"
NORMALISED = "normalises over"
UNORDERED = "in which order its channels reach"
FOLLOWS = "depthwise: it follows"
FROZEN = "frozen"
UNREACHED = "not reached by the example input's forward pass"
UNREAD = "it runs, but nothing reads"
UNEVEN = "cannot be removed evenly"
SINGLE = "has one filter in each of its"
SHARED = "first.weight is second.weight"
PART = "only a part"
NOT_ASKED = "a linear layer, pruned only where"


@dataclass(frozen=True)
class Case:
    """A network, what it is run on, and what a prune of half of all filters must do to each of its convolutions.

    Attributes:
        name: What it stands for.
        build: Makes it.
        inputs: What it is run on.
        pruned: Layers that must lose half of their filters.
        skipped: Layers that must keep all -> words of the reason that must be given. Linear layers that are not in it
            must be skipped because nobody asked for them.
        unread: Modules that run although nothing reads what they compute.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Any
    pruned: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


class Net(nn.Module):
    """Modules under their names, and a function that runs them: ``run(net, *inputs)``."""

    def __init__(self, run: Callable[..., Any], **modules: nn.Module | nn.Parameter | torch.Tensor) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            if isinstance(module, (nn.Module, nn.Parameter)):
                setattr(self, name, module)
            else:
                self.register_buffer(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def conv(channels: int, filters: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2, **options)


def conv_bn(channels: int, filters: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(channels, filters, groups=groups), nn.BatchNorm2d(filters), nn.ReLU())


def pooled(x: torch.Tensor) -> torch.Tensor:
    return x.mean(dim=(2, 3))


def riffle(x: torch.Tensor) -> torch.Tensor:
    """The same shuffle of two groups, by numbers of channels: where each comes from cannot be told from the call."""
    return x[:, torch.arange(x.shape[1]).unflatten(0, (2, -1)).T.flatten()]


def shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """ShuffleNet's, for as many channels as there are."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
