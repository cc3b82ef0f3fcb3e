"""YAMNet, the audio tagger whose weights Google published and whose training clips few have."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from lightning_cosprune.arguments import path_of
from lightning_cosprune.models.pretrained import check_file_readable, check_weights, read_weights
from lightning_cosprune.models.widths import check_classes, check_widths
from lightning_cosprune.models.yamnet_patches import log_mel_patches, mel_filters

if TYPE_CHECKING:
    from typing_extensions import Self

WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
"""Channels that each of the fourteen layers of YAMNet gives."""

_HALVING = (1, 3, 5, 7, 13)
_TFLITE_MARK = b"TFL3"  # from the fifth byte on


class YAMNet(nn.Module):
    """A MobileNet over log-mel patches that names 521 sounds of AudioSet.

    Convolution 3x3, then thirteen times a depthwise 3x3 and a pointwise 1x1 convolution, ReLU6 after each, mean over
    frames and bands, linear ``num_classes``. Layers 1, 3, 5, 7 and 13 halve both axes. Batch norm is folded into the
    weights, as in the published file. It has 3,729,481 parameters and 69.17 M MACs a patch. What it gives are logits:
    AudioSet's classes are not exclusive, so that their sigmoid, not their softmax, are probabilities.

    Args:
        num_classes: Sounds to tell apart.
        widths: Channels that each of the fourteen layers gives; those of a pruned network make one of its size from
            scratch.

    Attributes:
        mel_filters: What :meth:`patches` multiplies by, ``(64, 257)``; in the state dict, as it belongs to the weights.

    Raises:
        ValueError: A size is not positive, or there are not fourteen widths.

    Source: M. Plakal and D. Ellis, YAMNet, tensorflow/models, research/audioset/yamnet; trained on AudioSet (Gemmeke et
    al., ICASSP 2017). MobileNet v1 is Howard et al., arXiv 1704.04861.

    Example:
        >>> import torch
        >>> network = YAMNet().eval()
        >>> network(torch.zeros(2, 1, 96, 64)).shape
        torch.Size([2, 521])
        >>> network(network.patches(torch.zeros(80_000))).shape  # five seconds of sound
        torch.Size([10, 521])
    """

    mel_filters: Tensor

    def __init__(self, num_classes: int = 521, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        num_classes = check_classes("YAMNet", num_classes, "AudioSet's weights have 521 classes.")
        widths = check_widths("YAMNet", widths, WIDTHS)
        self.layer1 = _Convolution(widths[0])
        for number in range(2, len(widths) + 1):
            layer = _SeparableConvolution(widths[number - 2], widths[number - 1], 2 if number in _HALVING else 1)
            self.add_module(f"layer{number}", layer)
        self.classifier = nn.Linear(widths[-1], num_classes)
        self.register_buffer("mel_filters", mel_filters())

    @classmethod
    def from_pretrained(cls, path: str | Path) -> Self:
        """The network with published weights.

        Args:
            path: A state dict of this network as ``torch.save`` writes it, or the int8 file ``yamnet.tflite`` that its
                authors published, whose weights are dequantised (needs ``lightning-cosprune[tflite]``). Nothing in it
                is executed.

        Returns:
            The network of 521 classes, in training mode as it is built. For sounds of one's own replace ``classifier``.

        Raises:
            FileNotFoundError: There is no such file.
            PermissionError: This user may not read it.
            ValueError: It is neither, or its tensors are not those of the full network.
            ImportError: It is a tflite file, and the package that reads those is not installed.
        """
        owner = f"`YAMNet.from_pretrained(path={str(path)!r})`"
        path = path_of(path, "`YAMNet.from_pretrained(path={})`", "a state dict or yamnet.tflite").expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"{owner}: expected a state dict or yamnet.tflite, found {'a folder' if path.is_dir() else 'no file'}. "
                "The weights are not part of this package: download yamnet.tflite, and give the path to it."
            )
        network = cls()
        network.load_state_dict(check_weights(_read(path, owner), network.state_dict(), owner, "YAMNet"))
        return network

    def forward(self, x: Tensor) -> Tensor:
        """Class scores before sigmoid.

        Args:
            x: Log-mel patches, ``(batch, 1, 96, 64)``; other numbers of frames are averaged over likewise.

        Returns:
            ``(batch, num_classes)``.
        """
        for number in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"layer{number}")(x)
        scores: Tensor = self.classifier(x.mean(dim=(2, 3)))
        return scores

    def patches(self, waveform: Tensor, *, fill: bool = True) -> Tensor:
        """What the network reads of a sound; see :func:`~lightning_cosprune.models.log_mel_patches`.

        Args:
            waveform: Full scale is 1, at 16 kHz, ``(..., samples)``.
            fill: Whether the end is filled up with silence to one more whole patch.

        Returns:
            ``(..., patches, 1, 96, 64)``.
        """
        return log_mel_patches(waveform, self.mel_filters.to(waveform.device, waveform.dtype), fill=fill)


class _Convolution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=2)
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        activation: Tensor = self.relu(self.conv(_padded(x)))
        return activation


class _SeparableConvolution(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.halves = stride == 2
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=0 if self.halves else 1, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, width, 1)
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.depthwise(_padded(x) if self.halves else x))
        activation: Tensor = self.relu(self.pointwise(x))
        return activation


def _padded(x: Tensor) -> Tensor:
    """With zeros as TensorFlow's "same" does for kernels of 3 and strides of 2: after each axis, before odd ones too.

    Returns:
        ``(batch, channels, height + 1 or 2, width + 1 or 2)``.
    """
    height, width = x.shape[-2:]
    return functional.pad(x, (width % 2, 1, height % 2, 1))


def read_class_names(path: str | Path) -> list[str]:
    """The names of AudioSet's classes, in the order of YAMNet's outputs.

    Args:
        path: ``yamnet_class_map.csv``, which its authors published beside the weights: the columns ``index`` and
            ``display_name``.

    Returns:
        The names.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
        ValueError: It is no UTF-8 text, a column or a name is missing, or the indices do not count from 0.
    """
    owner = f"`read_class_names(path={str(path)!r})`"
    path = path_of(path, "`read_class_names(path={})`", "yamnet_class_map.csv").expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{owner}: expected yamnet_class_map.csv, found no file. Download it from tensorflow/models, "
            "research/audioset/yamnet."
        )
    check_file_readable(path, owner)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{owner}: expected UTF-8 text, found {error}. Download the file again.") from error
    reader = csv.DictReader(io.StringIO(text))
    columns = list(reader.fieldnames or [])
    if not {"index", "display_name"} <= set(columns):
        raise ValueError(
            f"{owner}: expected a csv file with the columns index and display_name, found "
            f"{', '.join(columns) or 'an empty file'}. Give yamnet_class_map.csv."
        )
    names: list[str] = []
    for row in reader:
        if row["index"] != str(len(names)):
            raise ValueError(
                f"{owner}: expected index {len(names)} in line {reader.line_num}, found {row['index']!r}. The rows "
                "are in the order of the outputs: download the file again."
            )
        if not row["display_name"]:
            raise ValueError(
                f"{owner}: expected a display_name in line {reader.line_num}, found none. Download the file again."
            )
        names.append(row["display_name"])
    return names


def _read(path: Path, owner: str) -> Mapping[str, Any]:
    check_file_readable(path, owner)
    with path.open("rb") as file:
        if file.read(8)[4:] == _TFLITE_MARK:
            from lightning_cosprune.models.yamnet_tflite import read_tflite

            return read_tflite(path, owner)
    found: Mapping[str, Any] = read_weights(
        path, owner, "a state dict that loads with `weights_only=True` or a tflite file"
    )
    return found
