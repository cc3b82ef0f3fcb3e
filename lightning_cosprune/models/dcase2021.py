"""The baseline network of DCASE 2021, task 1A."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_cosprune.models.dcase_baseline import WIDTHS, DCASEBaseline


class DCASE2021Baseline(DCASEBaseline):
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
        widths: Filters of each convolution: wider ones to prune from, or those of a pruned network for one of its size
            from scratch.

    Raises:
        ValueError: The input is smaller than 20 bands or 5 frames, so that nothing is left after pooling, or a size is
            not positive.

    Source: DCASE 2021 challenge, task 1A baseline (Martin-Morato et al., 2021); its counts as Singh and Plumbley
    (INTERSPEECH 2022) report them.

    Example:
        >>> import torch
        >>> DCASE2021Baseline()(torch.zeros(2, 1, 40, 500)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        num_bands: int = 40,
        num_frames: int = 500,
        dropout: float = 0.3,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__(
            num_classes, num_bands, num_frames, dropout, kernel_size=7, pooling=nn.MaxPool2d, widths=widths
        )
        self.relu = nn.ReLU()

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
