"""The baseline network of DCASE 2021, task 1A."""

from __future__ import annotations

from torch import Tensor, nn


class DCASE2021Baseline(nn.Module):
    """Three 7x7 convolutions and two linear layers: the network whose filters the papers prune.

    Convolution 16, convolution 16, pool 5x5, convolution 32, pool 4 x frames/5, linear 100, linear ``num_classes``,
    with batch norm and ReLU after each convolution and dropout after each pooling and the hidden linear layer. On 40
    bands and 500 frames (ten seconds) it has 46,118 trainable parameters, 46,246 with batch-norm statistics, and 286.64
    M MACs.

    The second pooling spans all frames that are left, as in the original at 500 frames, so that the classifier keeps
    its 64 inputs at other clip lengths.

    Args:
        num_classes: Scenes to tell apart.
        num_bands: Mel bands of the input.
        num_frames: Frames of the input.
        dropout: Probability of dropping an activation, at all three places.

    Raises:
        ValueError: The input is smaller than 20 bands or 5 frames, so that nothing is left after pooling.

    Source: DCASE 2021 challenge, task 1A baseline (Martin-Morato et al., 2021); its counts as Singh and Plumbley
    (INTERSPEECH 2022) report them.

    Example:
        >>> import torch
        >>> DCASE2021Baseline()(torch.zeros(2, 1, 40, 500)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, num_bands: int = 40, num_frames: int = 500, dropout: float = 0.3) -> None:
        super().__init__()
        if num_bands < 20 or num_frames < 5:
            raise ValueError(
                f"`DCASE2021Baseline(num_bands={num_bands}, num_frames={num_frames})`: expected at least 20 bands and "
                "5 frames, since the two poolings divide the bands by 20 and the frames by 5. Use longer clips or more "
                "bands."
            )
        self.conv1 = nn.Conv2d(1, 16, 7, padding="same")
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 7, padding="same")
        self.bn2 = nn.BatchNorm2d(16)
        self.pool2 = nn.MaxPool2d(5)
        self.conv3 = nn.Conv2d(16, 32, 7, padding="same")
        self.bn3 = nn.BatchNorm2d(32)
        self.pool3 = nn.MaxPool2d((4, num_frames // 5))
        self.relu = nn.ReLU()
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
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.dropout(self.pool2(self.relu(self.bn2(self.conv2(x)))))
        x = self.dropout(self.pool3(self.relu(self.bn3(self.conv3(x)))))
        x = self.dropout(self.relu(self.fc1(x.flatten(1))))
        scores: Tensor = self.fc2(x)
        return scores
