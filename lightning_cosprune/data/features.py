"""The log-mel front end: waveforms to the images that the networks read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogMel:
    r"""Log-mel energies of a waveform; the defaults are those of the DCASE 2021 task 1A baseline.

    .. math:: Y = \ln(M \, |\mathrm{STFT}(x)| + \varepsilon)

    with :math:`M` the Slaney mel filters of ``librosa.filters.mel`` and a *magnitude* spectrogram. Frames are centred:
    the signal is padded with ``n_fft // 2`` zeros on both sides, as ``librosa.stft`` does since 0.10, and a window
    that is shorter than ``n_fft`` sits in its middle.

    An instance holds numbers only, so it is a cache key, travels to workers and reads from a LightningCLI file. It
    works on the device of its input.

    Args:
        sample_rate: Samples per second of the waveform.
        window_length: Samples of the periodic ("asymmetric") Hamming window.
        hop_length: Samples from one frame to the next.
        n_fft: Samples of the Fourier transform, at least ``window_length``.
        n_mels: Mel bands.
        fmin: Lower edge of the lowest band in Hz.
        fmax: Upper edge of the highest band in Hz; ``None`` is half the sample rate.
        epsilon: Added before the logarithm. The default is that of the baseline, ``numpy.spacing(1)``: silence becomes
            -36.04, no audible value changes, and float32 holds both. Where clips are filled with digital silence, that
            one value decides the statistics of a band; 1e-5 keeps silence near the quietest sound.
        num_frames: Frames to keep, from the start. ``None`` keeps ``samples // hop_length``: 500 for ten seconds, as
            in the 2021 baseline, which drops the last centred frame. The 2022 baseline keeps it: ``num_frames=51`` for
            one second.

    Raises:
        ValueError: A size is not positive, the window is longer than ``n_fft``, or the band edges are out of order.

    Example:
        >>> LogMel()(torch.zeros(2, 441_000)).shape
        torch.Size([2, 40, 500])
        >>> LogMel(num_frames=51)(torch.zeros(44_100)).shape
        torch.Size([40, 51])
    """

    sample_rate: int = 44_100
    window_length: int = 1764
    hop_length: int = 882
    n_fft: int = 2048
    n_mels: int = 40
    fmin: float = 0.0
    fmax: float | None = None
    epsilon: float = 2.220446049250313e-16
    num_frames: int | None = None

    def __post_init__(self) -> None:
        for name in ("sample_rate", "window_length", "hop_length", "n_fft", "n_mels", "num_frames"):
            size = getattr(self, name)
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ValueError(f"`LogMel({name}={size!r})`: expected a positive whole number.")
        if self.window_length > self.n_fft:
            raise ValueError(
                f"`LogMel(window_length={self.window_length}, n_fft={self.n_fft})`: expected a window of at most n_fft "
                "samples. Raise n_fft to the next power of two."
            )
        if not 0 <= self.fmin < self.highest_frequency <= self.sample_rate / 2:
            raise ValueError(
                f"`LogMel(fmin={self.fmin}, fmax={self.fmax})`: expected 0 <= fmin < fmax <= "
                f"{self.sample_rate / 2:g}, half the sample rate."
            )
        if self.epsilon <= 0:
            raise ValueError(
                f"`LogMel(epsilon={self.epsilon})`: expected a positive number, the logarithm of 0 is infinite."
            )

    @property
    def highest_frequency(self) -> float:
        """Upper edge of the highest band in Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    def frames(self, samples: int) -> int:
        """How many frames a waveform gives.

        Args:
            samples: Its length.

        Returns:
            ``num_frames``, or ``samples // hop_length``.

        Raises:
            ValueError: The waveform is too short for one frame, or for ``num_frames``.
        """
        available = 1 + samples // self.hop_length
        frames = available - 1 if self.num_frames is None else self.num_frames
        if not 1 <= frames <= available:
            raise ValueError(
                f"`LogMel(num_frames={self.num_frames})`: expected clips of at least "
                f"{max(1, (self.num_frames or 2) - 1) * self.hop_length} samples, found {samples} "
                f"({samples / self.sample_rate:g} s at {self.sample_rate} Hz). Use longer clips or fewer frames."
            )
        return frames

    def __call__(self, waveform: Tensor) -> Tensor:
        """Log-mel energies.

        Args:
            waveform: ``(..., samples)``, floating point.

        Returns:
            ``(..., n_mels, frames)`` in the precision of the input.
        """
        samples = waveform.shape[-1]
        frames = self.frames(samples)
        spectrum = torch.stft(
            waveform.reshape(-1, samples),
            self.n_fft,
            self.hop_length,
            self.window_length,
            window=_hamming(self.window_length, waveform.dtype, waveform.device),
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        # Cutting before the product spares the mel filters of frames that nobody reads.
        magnitude = spectrum[..., :frames].abs()
        filters = _mel_filters(
            self.sample_rate,
            self.n_fft,
            self.n_mels,
            self.fmin,
            self.highest_frequency,
            waveform.dtype,
            waveform.device,
        )
        mel = torch.matmul(filters, magnitude)
        return mel.add_(self.epsilon).log_().reshape(*waveform.shape[:-1], self.n_mels, frames)


@lru_cache(maxsize=16)
def _hamming(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.hamming_window(length, periodic=True, dtype=dtype, device=device)


@lru_cache(maxsize=16)
def _mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    # Imported here because librosa takes a second, and a cached feature store never gets here.
    from librosa.filters import mel

    filters = mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)
    return torch.from_numpy(filters).to(device, dtype)
