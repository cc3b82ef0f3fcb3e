"""Cnn6, Cnn10 and Cnn14 of PANNs, which read their published checkpoints and those of E-PANNs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_cosprune.arguments import path_of
from lightning_cosprune.models.panns_front_end import BANDS, MelFilters, Spectrogram
from lightning_cosprune.models.pretrained import check_weights, read_weights
from lightning_cosprune.models.widths import check_classes, check_dropout, check_widths

if TYPE_CHECKING:
    from typing_extensions import Self


class PANN(nn.Module):
    """What the convolutional PANNs have in common; use :class:`Cnn14`, :class:`Cnn10` or :class:`Cnn6`.

    A batch norm over mel bands, blocks of convolutions without bias, batch norm and ReLU, average pooling and dropout
    behind each block, the mean over bands, maximum and mean over frames added up, linear ``embedding`` with dropout
    before it, linear ``num_classes``. What it gives are logits: AudioSet's classes are not exclusive, so that their
    sigmoid, not their softmax, are probabilities.

    Names and shapes in the state dict are those of the published checkpoints, the front end's included. Its kernels and
    mel filters are buffers here: nothing trains, prunes or counts them.

    Args:
        num_classes: Sounds to tell apart.
        widths: Filters of each convolution; ``None`` is the published network. Those of a pruned network make one of
            its size from scratch.
        dropout: Probability of dropping an activation behind each block.
        embedding_dropout: The same before the first linear layer.

    Raises:
        ValueError: A size is not positive, or there are not as many widths as convolutions.
    """

    full_widths: ClassVar[tuple[int, ...]]
    embedding_size: ClassVar[int]
    layers_per_block: ClassVar[int] = 2
    kernel_size: ClassVar[int] = 3
    last_pooling: ClassVar[int] = 2

    def __init__(
        self,
        num_classes: int = 527,
        widths: Sequence[int] | None = None,
        dropout: float = 0.2,
        embedding_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        num_classes = check_classes(name, num_classes, "AudioSet's weights have 527 classes.")
        check_dropout(name, dropout=dropout, embedding_dropout=embedding_dropout)
        widths = check_widths(name, self.full_widths if widths is None else widths, self.full_widths)
        self.spectrogram_extractor = Spectrogram()
        self.logmel_extractor = MelFilters()
        self.bn0 = nn.BatchNorm2d(BANDS)
        channels = 1
        for number in range(1, self.num_blocks() + 1):
            mine = widths[(number - 1) * self.layers_per_block : number * self.layers_per_block]
            self.add_module(f"conv_block{number}", _Block(channels, mine, self.kernel_size))
            channels = mine[-1]
        self.fc1 = nn.Linear(channels, self.embedding_size)
        self.fc_audioset = nn.Linear(self.embedding_size, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @classmethod
    def num_blocks(cls) -> int:
        """How many blocks of convolutions there are."""
        return len(cls.full_widths) // cls.layers_per_block

    @classmethod
    def layer_names(cls) -> list[str]:
        """Names of the convolutions, C1 first, as the papers number them."""
        return [
            f"conv_block{block}.conv{layer}"
            for block in range(1, cls.num_blocks() + 1)
            for layer in range(1, cls.layers_per_block + 1)
        ]

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The network of a published checkpoint, as large as its weights say: pruned ones, as E-PANNs', load too.

        Args:
            path: A file that holds a state dict, or a mapping with one under ``"model"``, as PANNs publish theirs.
                Nothing in it is executed.

        Returns:
            The network, in training mode as it is built. For sounds of one's own replace ``fc_audioset``.

        Raises:
            FileNotFoundError: There is no such file.
            PermissionError: This user may not read it.
            ValueError: It holds something else, or names or shapes are not those of this network; they are listed.
        """
        name = cls.__name__
        owner = f"`{name}.from_pretrained(path={str(path)!r})`"
        path = path_of(path, f"`{name}.from_pretrained(path={{}})`", f"a checkpoint of {name}").expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"{owner}: expected a checkpoint of {name}, found {'a folder' if path.is_dir() else 'no file'}. The "
                "weights are not part of this package: download them from Zenodo, record 3987831, and give the path."
            )
        found: Mapping[str, Any] = read_weights(path, owner)
        if isinstance(found.get("model"), Mapping):
            found = found["model"]
        widths = [_filters(found.get(f"{layer}.weight"), full) for layer, full in cls._convolutions()]
        network = cls(_filters(found.get("fc_audioset.weight"), 527), widths)
        network.load_state_dict(check_weights(found, network.state_dict(), owner, name))
        return network

    @classmethod
    def _convolutions(cls) -> Iterator[tuple[str, int]]:
        return zip(cls.layer_names(), cls.full_widths, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before sigmoid.

        Args:
            x: Waveforms at 32 kHz whose full scale is 1, ``(batch, samples)``; or their log-mel energies in decibels,
                ``(batch, 1, 64, frames)``, as ``features="panns"`` of the data makes them.

        Returns:
            ``(batch, num_classes)``.

        Raises:
            ValueError: The input has another shape, or is too short.
        """
        scores: Tensor = self.fc_audioset(self.embedding(x))
        return scores

    def embedding(self, x: Tensor) -> Tensor:
        """What the last layer reads.

        Args:
            x: As for :meth:`forward`.

        Returns:
            ``(batch, 2048)`` of Cnn14, ``(batch, 512)`` of the others.
        """
        x = self.log_mel(x) if x.ndim == 2 else x
        least = 2 ** (self.num_blocks() - (self.last_pooling == 1))
        if x.ndim != 4 or x.shape[1:3] != (1, BANDS) or x.shape[3] < least:
            raise ValueError(
                f"`{type(self).__name__}(...)(x)`: expected waveforms of shape (batch, samples), or log-mel energies "
                f"of shape (batch, 1, {BANDS}, frames) with at least {least} frames, found {tuple(x.shape)}. PANNs' "
                "own order is frames before bands: write x.transpose(2, 3). Fill short clips up with silence."
            )
        # The kernels look along frames first.
        x = self.bn0(x.transpose(1, 2)).permute(0, 2, 3, 1)
        for number in range(1, self.num_blocks() + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
            pooling = self.last_pooling if number == self.num_blocks() else 2
            x = self.dropout(functional.avg_pool2d(x, pooling) if pooling > 1 else x)
        x = x.mean(dim=3)
        x = self.embedding_dropout(x.amax(dim=2) + x.mean(dim=2))
        return torch.relu(self.fc1(x))

    def log_mel(self, waveform: Tensor) -> Tensor:
        """What the network reads of a sound.

        Args:
            waveform: Full scale is 1, at 32 kHz, ``(batch, samples)``, more than 512 samples.

        Returns:
            ``(batch, 1, 64, 1 + samples // 320)``.
        """
        # Half precision would lose the quiet bands.
        with torch.autocast(waveform.device.type, enabled=False), torch.no_grad():
            power = self.spectrogram_extractor(waveform.to(self.logmel_extractor.melW.dtype))
            energies: Tensor = self.logmel_extractor(power)
        return energies[:, None]


class Cnn14(PANN):
    """The network of PANNs that most use: twelve 3x3 convolutions in six blocks, 64 to 2,048 filters.

    It has 80,753,615 parameters and 20.04 G MACs at ten seconds, 1,001 frames of 64 bands. See :class:`PANN` for the
    arguments. Removing half of the filters of the last six convolutions, as E-PANNs do, leaves 23,205,839 parameters.

    Source: Kong et al., PANNs, TASLP 2020 (arXiv 1912.10211); E-PANNs: Singh, Liu and Plumbley, arXiv 2305.18665.

    Example:
        >>> network = Cnn14(num_classes=10, widths=[8] * 12).eval()
        >>> network(torch.zeros(2, 32_000)).shape
        torch.Size([2, 10])
        >>> network(torch.zeros(2, 1, 64, 101)).shape
        torch.Size([2, 10])
    """

    full_widths = (64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024, 2048, 2048)
    embedding_size = 2048
    last_pooling = 1


class Cnn10(PANN):
    """Eight 3x3 convolutions in four blocks, 64 to 512 filters: 5,219,279 parameters.

    See :class:`PANN` for the arguments.

    Source: Kong et al., PANNs, TASLP 2020 (arXiv 1912.10211).
    """

    full_widths = (64, 64, 128, 128, 256, 256, 512, 512)
    embedding_size = 512


class Cnn6(PANN):
    """Four 5x5 convolutions, 64 to 512 filters: 4,837,455 parameters.

    See :class:`PANN` for the arguments.

    Source: Kong et al., PANNs, TASLP 2020 (arXiv 1912.10211).
    """

    full_widths = (64, 128, 256, 512)
    embedding_size = 512
    layers_per_block = 1
    kernel_size = 5


class _Block(nn.Module):
    def __init__(self, channels: int, widths: Sequence[int], kernel_size: int) -> None:
        super().__init__()
        self.depth = len(widths)
        for number, width in enumerate(widths, start=1):
            self.add_module(
                f"conv{number}", nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2, bias=False)
            )
            channels = width
        for number, width in enumerate(widths, start=1):
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x)).relu()
        return x


def _filters(weight: Any, full: int) -> int:
    """Rows of a weight; of what is no weight, those of the full network, which is then refused by its name."""
    return len(weight) if isinstance(weight, Tensor) and weight.ndim > 1 and len(weight) else full
