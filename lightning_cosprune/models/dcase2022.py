"""The baseline network of DCASE 2022, task 1."""

from __future__ import annotations

from torch import Tensor, nn


class DCASE2022Baseline(nn.Module):
    """Three 3x3 convolutions with tanh and average pooling, for one second of audio on a small device.

    Convolution 16 and tanh, convolution 16, pool 5x5, convolution 32 and tanh, pool 4 x frames/5, linear 100 and tanh,
    linear ``num_classes``; batch norm after each convolution. On 40 bands and 51 frames it has 14,886 parameters with
    batch-norm statistics and 5.37 M MACs.

    Args:
        num_classes: Scenes to tell apart.
        num_bands: Mel bands of the input.
        num_frames: Frames of the input.
        dropout: Probability of dropping an activation after each pooling and the hidden linear layer.

    Raises:
        ValueError: The input is smaller than 20 bands or 5 frames, so that nothing is left after pooling.

    Source: DCASE 2022 challenge, task 1 baseline (Martin-Morato et al., 2022).

    Example:
        >>> import torch
        >>> DCASE2022Baseline()(torch.zeros(2, 1, 40, 51)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, num_bands: int = 40, num_frames: int = 51, dropout: float = 0.3) -> None:
        super().__init__()
        if num_bands < 20 or num_frames < 5:
            raise ValueError(
                f"`DCASE2022Baseline(num_bands={num_bands}, num_frames={num_frames})`: expected at least 20 bands and "
                "5 frames, since the two poolings divide the bands by 20 and the frames by 5. Use longer clips or more "
                "bands."
            )
        self.conv1 = nn.Conv2d(1, 16, 3, padding="same")
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding="same")
        self.bn2 = nn.BatchNorm2d(16)
        self.pool2 = nn.AvgPool2d(5)
        self.conv3 = nn.Conv2d(16, 32, 3, padding="same")
        self.bn3 = nn.BatchNorm2d(32)
        self.pool3 = nn.AvgPool2d((4, num_frames // 5))
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(32 * (num_bands // 20), 100)
        self.fc2 = nn.Linear(100, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before softmax.

        Args:
            x: Log-mel features, ``(batch, 1, num_bands, num_frames)``.

        Returns:
            ``(batch, num_classes)``.
        """
        x = self.bn1(self.conv1(x)).tanh()
        x = self.dropout(self.pool2(self.bn2(self.conv2(x))))
        x = self.dropout(self.pool3(self.bn3(self.conv3(x)).tanh()))
        x = self.dropout(self.fc1(x.flatten(1)).tanh())
        scores: Tensor = self.fc2(x)
        return scores
