"""The baseline network of DCASE 2022, task 1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_cosprune.models.dcase_baseline import WIDTHS, DCASEBaseline


class DCASE2022Baseline(DCASEBaseline):
    """Three 3x3 convolutions with tanh and average pooling, for one second of audio on a small device.

    Convolution 16 and tanh, convolution 16, pool 5x5, convolution 32 and tanh, pool 4 x frames/5, linear 100 and tanh,
    linear ``num_classes``; batch norm after each convolution. On 40 bands and 51 frames it has 14,886 parameters with
    batch-norm statistics and 5.37 M MACs.

    Args:
        num_classes: Scenes to tell apart.
        num_bands: Mel bands of the input.
        num_frames: Frames of the input.
        dropout: Probability of dropping an activation after each pooling and the hidden linear layer.
        widths: Filters of each convolution: wider ones to prune from, or those of a pruned network for one of its size
            from scratch.

    Raises:
        ValueError: The input is smaller than 20 bands or 5 frames, so that nothing is left after pooling, or a size is
            not positive.

    Source: DCASE 2022 challenge, task 1 baseline (Martin-Morato et al., 2022).

    Example:
        >>> import torch
        >>> DCASE2022Baseline()(torch.zeros(2, 1, 40, 51)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        num_bands: int = 40,
        num_frames: int = 51,
        dropout: float = 0.3,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__(
            num_classes, num_bands, num_frames, dropout, kernel_size=3, pooling=nn.AvgPool2d, widths=widths
        )

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
