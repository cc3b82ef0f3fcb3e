"""Clips as another microphone would have recorded them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_cosprune.arguments import path_of
from lightning_cosprune.data.augment.augmentation import Augmentation, Domain, probability, unprepared
from lightning_cosprune.data.dataset import SceneBatch
from lightning_cosprune.data.disk import check_readable
from lightning_cosprune.data.features.audio import read_clip, read_header


class DeviceImpulseResponse(Augmentation):
    r"""Clips of one device are convolved with the impulse response of a random other microphone.

    .. math:: \tilde x = (x * h)[0 : \mathrm{len}(x)]

    Responses are used as they are, at the level they were recorded with; stereo ones are averaged and other rates
    resampled. Clips of other devices stay as they are, bit for bit.

    Args:
        folder: Folder with wav, flac or ogg files of impulse responses, at any depth, such as MicIRP's.
        device: Device whose clips are convolved: the good recorder that most training clips are from.
        p: Probability for each of its clips.

    Raises:
        PermissionError: This user may not read the folder.
        ValueError: The folder holds no audio, or a response is silent.

    Source: Morocutti, Schmid, Koutini and Widmer, "Device-Robust Acoustic Scene Classification via Impulse Response
    Augmentation", EUSIPCO 2023.
    """

    domain: Domain = "waveform"

    def __init__(self, folder: str | Path, device: str = "a", p: float = 0.6) -> None:
        super().__init__()
        self.folder = path_of(
            folder, "`DeviceImpulseResponse(folder={})`", "a folder with impulse responses"
        ).expanduser()
        if not isinstance(device, str):
            raise TypeError(
                f"`DeviceImpulseResponse(device={device!r:.60})`: expected the name of a device, such as 'a', found a "
                f"{type(device).__name__}. Write a string."
            )
        self.device = device
        self.p = probability(self, p)
        check_readable(self.folder, f"`DeviceImpulseResponse(folder={str(folder)!r})`")
        suffixes = {".wav", ".flac", ".ogg"}
        self.paths = sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in suffixes)
        if not self.paths:
            raise ValueError(
                f"`DeviceImpulseResponse(folder={str(folder)!r})`: expected impulse responses as wav, flac or ogg "
                "files, found none. Unpack a collection such as MicIRP there."
            )
        self.device_number: int | None = None
        self.register_buffer("responses", None, persistent=False)
        self.responses: Tensor | None

    def prepare(self, *, num_classes: int, devices: Sequence[str], sample_rate: int) -> None:  # noqa: ARG002
        """Learn the device's number and read the responses at the waveforms' rate."""
        owner = f"`DeviceImpulseResponse(folder={str(self.folder)!r})`"
        if self.device not in devices:
            raise ValueError(
                f"`DeviceImpulseResponse(device={self.device!r})`: expected one of the devices of the set, "
                f"{', '.join(devices)}. Name the one that most training clips are from."
            )
        responses = []
        for path in self.paths:
            header = read_header(path, owner)
            samples = max(1, round(header.samples * sample_rate / header.sample_rate))
            responses.append(torch.from_numpy(read_clip(path, sample_rate, samples, owner)))
            if not responses[-1].any():
                raise ValueError(f"{owner}: expected an impulse response in {path}, found silence. Remove the file.")
        self.device_number = devices.index(self.device)
        self.responses = nn.utils.rnn.pad_sequence(responses, batch_first=True)

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The batch with some clips convolved.

        Returns:
            With the labels and devices it had.
        """
        if self.responses is None:
            raise unprepared(self, "num_classes=10, devices=['a', 'b'], sample_rate=44100")
        # Drawn for all clips: what one clip meets does not depend on which devices the others are from.
        chosen = torch.rand(len(batch.device)) < self.p
        response = torch.randint(len(self.responses), (len(batch.device),))
        device = batch.features.device
        rows = torch.nonzero((batch.device == self.device_number) & chosen.to(device)).squeeze(1)
        if not len(rows):
            return batch
        waveforms = batch.features.clone()
        responses = self.responses.to(device)[response.to(device)[rows]]
        waveforms[rows] = _convolve(waveforms[rows], responses.to(waveforms.dtype))
        return batch._replace(features=waveforms)


def _convolve(waveforms: Tensor, responses: Tensor) -> Tensor:
    # Row by row through the Fourier domain, long enough that nothing comes round; cut to the length of the waveforms.
    samples = waveforms.shape[-1]
    length = 1 << (samples + responses.shape[-1] - 2).bit_length()
    product = torch.fft.rfft(waveforms, length) * torch.fft.rfft(responses, length)
    convolved: Tensor = torch.fft.irfft(product, length)[..., :samples]
    return convolved
