"""The layers that the baseline networks of DCASE 2021 and 2022 have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_cosprune.arguments import whole_number
from lightning_cosprune.models.widths import LARGEST, check_classes, check_dropout, check_widths

WIDTHS = (16, 16, 32)
"""Filters of the three convolutions."""


class DCASEBaseline(nn.Module):
    """Three convolutions, two poolings and two linear layers; subclasses write ``forward``.

    The second pooling spans all frames that are left, so that the classifier keeps its inputs at other clip lengths.

    Args:
        num_classes: Scenes to tell apart.
        num_bands: Mel bands of the input.
        num_frames: Frames of the input.
        dropout: Probability of dropping an activation.
        kernel_size: Of all three convolutions.
        pooling: Kind of both poolings.
        widths: Filters of each convolution.

    Raises:
        ValueError: The input is smaller than 20 bands or 5 frames, so that nothing is left after pooling,
            or a size is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        num_bands: int,
        num_frames: int,
        dropout: float,
        *,
        kernel_size: int,
        pooling: type[nn.MaxPool2d | nn.AvgPool2d],
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        name = type(self).__name__
        num_bands = whole_number(num_bands, f"`{name}(num_bands={{}})`", 1, LARGEST)
        num_frames = whole_number(num_frames, f"`{name}(num_frames={{}})`", 1, LARGEST)
        if num_bands < 20 or num_frames < 5:
            raise ValueError(
                f"`{name}(num_bands={num_bands}, num_frames={num_frames})`: expected at least 20 bands "
                "and 5 frames, since the two poolings divide the bands by 20 and the frames by 5. Use longer clips or "
                "more bands."
            )
        num_classes = check_classes(name, num_classes)
        check_dropout(name, dropout=dropout)
        first, second, third = check_widths(name, widths, WIDTHS)
        self.conv1 = nn.Conv2d(1, first, kernel_size, padding="same")
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, kernel_size, padding="same")
        self.bn2 = nn.BatchNorm2d(second)
        self.pool2 = pooling(5)
        self.conv3 = nn.Conv2d(second, third, kernel_size, padding="same")
        self.bn3 = nn.BatchNorm2d(third)
        self.pool3 = pooling((4, num_frames // 5))
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(third * (num_bands // 20), 100)
        self.fc2 = nn.Linear(100, num_classes)
