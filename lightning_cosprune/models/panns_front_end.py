"""The front end of PANNs as modules whose tensors have the names of the published checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 32_000
"""Samples per second of the waveforms that PANNs read."""

BANDS = 64
"""Mel bands that PANNs read."""

_N_FFT, _HOP = 1024, 320
_FMIN, _FMAX, _LEAST = 50.0, 14_000.0, 1e-10


class Spectrogram(nn.Module):
    """Power spectra of a waveform, one every 10 ms: a Fourier transform written as two convolutions.

    Its kernels are buffers, as they belong to the weights of a checkpoint and never learn.

    Source: torchlibrosa, whose names they have; the window is a periodic Hann window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft = nn.Module()
        samples = torch.arange(_N_FFT, dtype=torch.float64)
        angles = 2 * math.pi / _N_FFT * torch.outer(torch.arange(1 + _N_FFT // 2, dtype=torch.float64), samples)
        window = torch.hann_window(_N_FFT, dtype=torch.float64)
        for name, kernel in (("conv_real", angles.cos()), ("conv_imag", -angles.sin())):
            held = nn.Module()
            held.register_buffer("weight", (kernel * window)[:, None].float())
            self.stft.add_module(name, held)

    def forward(self, waveform: Tensor) -> Tensor:
        """Power spectra, of frames centred at every 320th sample.

        Args:
            waveform: Full scale is 1, at 32 kHz, ``(batch, samples)``, more than 512 samples.

        Returns:
            ``(batch, 513, 1 + samples // 320)``.
        """
        padded = functional.pad(waveform[:, None], (_N_FFT // 2, _N_FFT // 2), mode="reflect")
        real, imaginary = (
            functional.conv1d(padded, self.stft.get_buffer(f"{name}.weight"), stride=_HOP)
            for name in ("conv_real", "conv_imag")
        )
        return real.square() + imaginary.square()


class MelFilters(nn.Module):
    """Decibels of mel energies of power spectra; the filters are those of ``librosa.filters.mel``, in a buffer."""

    melW: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Imported here because librosa takes a second.
        from librosa.filters import mel

        filters = mel(sr=SAMPLE_RATE, n_fft=_N_FFT, n_mels=BANDS, fmin=_FMIN, fmax=_FMAX)
        self.register_buffer("melW", torch.from_numpy(filters).T.contiguous())

    def forward(self, power: Tensor) -> Tensor:
        """Mel energies in decibels, of no less than 1e-10.

        Args:
            power: ``(batch, 513, frames)``.

        Returns:
            ``(batch, 64, frames)``.
        """
        return torch.matmul(self.melW.T, power).clamp(min=_LEAST).log10() * 10
