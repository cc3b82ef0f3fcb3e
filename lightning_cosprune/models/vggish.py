"""VGGish with the classifier for acoustic scenes that the papers prune."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_cosprune.arguments import whole_number, whole_numbers
from lightning_cosprune.models.widths import LARGEST, check_classes, check_widths

WIDTHS = (64, 128, 256, 256, 512, 512)
"""Filters of the six convolutions."""

_POOLED = (1, 2, 4, 6)


class VGGishASC(nn.Module):
    """Six 3x3 convolutions and three linear layers over log-mel patches of 0.96 s.

    Convolutions of 64, 128, 256, 256, 512 and 512 filters with bias and ReLU; max pooling 2x2 behind the first, second,
    fourth and sixth; linear ``hidden[0]`` and ``hidden[1]`` with ReLU, linear ``num_classes``. At 96 frames of 64 bands
    it has 55,361,162 parameters and 847.1 M MACs; 51, 101, 215, 204, 404 and 402 filters, those that the cosine rule
    kept in the paper, leave 42.890 M and 552.2 M.

    Args:
        num_classes: Scenes to tell apart.
        widths: Filters of each convolution; those of a pruned network make one of its size from scratch.
        hidden: Units of the two linear layers before the last.
        num_frames: Frames of a patch.
        num_bands: Mel bands of a patch.

    Raises:
        ValueError: A size is not positive, or a patch is smaller than 16 frames or 16 bands, so that nothing is left
            after pooling.

    Source: Hershey et al., ICASSP 2017 (the convolutions); Singh and Plumbley, ICASSP 2023 (the classifier, the
    counts).

    Example:
        >>> network = VGGishASC(hidden=(32, 16))
        >>> network(torch.zeros(2, 1, 96, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[int] = WIDTHS,
        hidden: Sequence[int] = (4096, 128),
        num_frames: int = 96,
        num_bands: int = 64,
    ) -> None:
        super().__init__()
        num_classes = check_classes("VGGishASC", num_classes)
        widths = check_widths("VGGishASC", widths, WIDTHS)
        hidden = whole_numbers(hidden, "`VGGishASC(hidden={})`", "two positive whole numbers", 1, LARGEST)
        if len(hidden) != 2:
            raise ValueError(
                f"`VGGishASC(hidden={hidden})`: expected two positive whole numbers, found {len(hidden)}. The "
                "published network has (4096, 128)."
            )
        num_frames = whole_number(num_frames, "`VGGishASC(num_frames={})`", 1, LARGEST)
        num_bands = whole_number(num_bands, "`VGGishASC(num_bands={})`", 1, LARGEST)
        if min(num_frames, num_bands) < 16:
            raise ValueError(
                f"`VGGishASC(num_frames={num_frames}, num_bands={num_bands})`: expected at least 16 of each, since "
                "four poolings divide both by 16. Use longer patches or more bands."
            )
        for number, (channels, filters) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, filters, 3, padding=1))
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(widths[-1] * (num_frames // 16) * (num_bands // 16), hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax.

        Args:
            x: Log-mel patches, ``(batch, 1, num_frames, num_bands)``.

        Returns:
            ``(batch, num_classes)``.
        """
        for number in range(1, len(WIDTHS) + 1):
            x = torch.relu(self.get_submodule(f"conv{number}")(x))
            x = self.pool(x) if number in _POOLED else x
        x = torch.relu(self.fc1(x.flatten(1)))
        scores: Tensor = self.fc3(torch.relu(self.fc2(x)))
        return scores
