"""``LogMel``: waveforms to the images that the networks read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from lightning_cosprune.arguments import as_whole, real_number, whole_number


@dataclass(frozen=True)
class LogMel:
    r"""Log-mel energies of a waveform; the defaults are those of the DCASE 2021 task 1A baseline.

    .. math:: Y = \ln(M \, |\mathrm{STFT}(x)|^p + \varepsilon)
        \quad\text{or}\quad Y = 10 \log_{10} \max(M \, |\mathrm{STFT}(x)|^p, \varepsilon)

    with :math:`M` the mel filters of ``librosa.filters.mel``. Frames are centred: the signal is padded with ``n_fft //
    2`` samples on both sides, and a window that is shorter than ``n_fft`` sits in its middle.

    An instance holds numbers and words only, so it is a cache key, travels to workers and reads from a LightningCLI
    file. It works on the device of its input. The front ends of the DCASE baselines and of PANNs have names, see
    :data:`FRONT_ENDS`.

    Args:
        sample_rate: Samples per second of the waveform.
        window_length: Samples of the window, which is periodic (DCASE tools call that asymmetric).
        hop_length: Samples from one frame to the next.
        n_fft: Samples of the Fourier transform, at least ``window_length``.
        n_mels: Mel bands.
        fmin: Lower edge of the lowest band in Hz.
        fmax: Upper edge of the highest band in Hz; ``None`` is half the sample rate.
        epsilon: With the natural logarithm added before it, with decibels the least value it is taken of. The default
            is that of the baseline, ``numpy.spacing(1)``: silence becomes -36.04, no audible value changes, and float32
            holds both. Where clips are filled with digital silence, that one value decides the statistics of a band;
            1e-5 keeps silence near the quietest sound.
        num_frames: Frames to keep, from the start; ``None`` keeps all.
        window: ``"hamming"`` or ``"hann"``.
        power: 1 for magnitudes, 2 for powers.
        mel_scale: ``"slaney"`` or ``"htk"``, the scale on which bands are spaced evenly.
        mel_norm: ``"slaney"`` gives every band the same area, ``None`` the same height.
        pad_mode: ``"constant"`` pads with zeros, as librosa does since 0.9, ``"reflect"`` mirrors the signal, as it did
            before.
        log: ``"natural"`` or ``"decibel"``, the two formulas above.
        last_frame: Whether the frame that is centred at the very end is kept, where ``num_frames`` does not say:
            ``samples // hop_length`` frames or one more. The 2021 baseline drops it (500 for ten seconds), the 2022
            baseline keeps it (51 for one).

    Raises:
        ValueError: A size is not positive, the window is longer than ``n_fft``, the band edges are out of order, or a
            word is none of those above.

    Example:
        >>> LogMel()(torch.zeros(2, 441_000)).shape
        torch.Size([2, 40, 500])
        >>> LogMel(last_frame=True)(torch.zeros(44_100)).shape
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
    window: Literal["hamming", "hann"] = "hamming"
    power: Literal[1, 2] = 1
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney"] | None = "slaney"
    pad_mode: Literal["constant", "reflect"] = "constant"
    log: Literal["natural", "decibel"] = "natural"
    last_frame: bool = False

    def __post_init__(self) -> None:
        for name in ("sample_rate", "window_length", "hop_length", "n_fft", "n_mels", "num_frames"):
            size = getattr(self, name)
            if size is not None or name != "num_frames":
                object.__setattr__(self, name, whole_number(size, f"`LogMel({name}={{}})`", 1))
        if as_whole(self.power) is not None:
            object.__setattr__(self, "power", as_whole(self.power))
        for name in ("fmin", "fmax", "epsilon"):
            if getattr(self, name) is not None or name != "fmax":
                found = getattr(self, name)
                number = real_number(found, f"`LogMel({name}={{}})`", "a number")
                if type(found) not in (int, float):  # they are part of a cache's key as they are
                    object.__setattr__(self, name, number)
        if self.window_length > self.n_fft:
            raise ValueError(
                f"`LogMel(window_length={self.window_length}, n_fft={self.n_fft})`: expected a window of at most n_fft "
                "samples. Raise n_fft to the next power of two."
            )
        if not 0 <= self.fmin < self.highest_frequency <= self.sample_rate / 2:
            raise ValueError(
                f"`LogMel(fmin={self.fmin}, fmax={self.fmax})`: expected 0 <= fmin < fmax <= "
                f"{self.sample_rate / 2:g}, half the sample rate. Write other numbers, or fmax=None for that."
            )
        if not self.epsilon > 0:
            raise ValueError(
                f"`LogMel(epsilon={self.epsilon})`: expected a positive number, since the logarithm of 0 is infinite. "
                "Write a small one, such as 1e-5."
            )
        for name, choices in _CHOICES.items():
            if not isinstance(getattr(self, name), (str, int, type(None))) or getattr(self, name) not in choices:
                raise ValueError(
                    f"`LogMel({name}={getattr(self, name)!r})`: expected one of {', '.join(map(repr, choices))}. "
                    f"The default is {choices[0]!r}."
                )
        if self.log == "decibel" and self.power != 2:
            raise ValueError(
                f"`LogMel(log='decibel', power={self.power})`: expected powers, ten times whose logarithm decibels "
                "are. Write power=2."
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
            ``num_frames``, or ``samples // hop_length``, and one more with ``last_frame``.

        Raises:
            ValueError: The waveform is too short for one frame, for ``num_frames``, or to be mirrored.
        """
        available = 1 + samples // self.hop_length
        frames = (available - (not self.last_frame)) if self.num_frames is None else self.num_frames
        if not frames >= 1 and self.num_frames is None:
            raise ValueError(
                f"`LogMel(hop_length={self.hop_length})`: expected clips of at least {self.hop_length} samples, one "
                f"step from frame to frame, found {samples} ({samples / self.sample_rate:g} s at {self.sample_rate} "
                "Hz). Use longer clips, or have them padded, as by `DCASEScenes(clip_seconds=...)`."
            )
        if not 1 <= frames <= available:
            raise ValueError(
                f"`LogMel(num_frames={self.num_frames})`: expected clips of at least "
                f"{max(1, (self.num_frames or 2) - 1) * self.hop_length} samples, found {samples} "
                f"({samples / self.sample_rate:g} s at {self.sample_rate} Hz). Use longer clips or fewer frames."
            )
        if self.pad_mode == "reflect" and samples <= self.n_fft // 2:
            raise ValueError(
                f"`LogMel(pad_mode='reflect')`: expected clips of more than {self.n_fft // 2} samples, half of n_fft, "
                f"found {samples} ({samples / self.sample_rate:g} s at {self.sample_rate} Hz). Use longer clips or "
                "pad_mode='constant'."
            )
        return frames

    def __call__(self, waveform: Tensor) -> Tensor:
        """Log-mel energies.

        Args:
            waveform: ``(..., samples)``, floating point.

        Returns:
            ``(..., n_mels, frames)`` in the precision of the input.
        """
        return self.transform(waveform, *_constants(self, waveform.dtype, waveform.device))

    def constants(self) -> tuple[Tensor, Tensor]:
        """What the front end multiplies by.

        Returns:
            The window, ``(window_length,)``, float64, and the mel filters, ``(n_mels, 1 + n_fft // 2)``, float32, as
            librosa has them.
        """
        # Imported here because librosa takes a second, and a cached feature store never gets here.
        from librosa.filters import mel

        filters = mel(
            sr=self.sample_rate,
            n_fft=self.n_fft,
            n_mels=self.n_mels,
            fmin=self.fmin,
            fmax=self.highest_frequency,
            htk=self.mel_scale == "htk",
            norm=self.mel_norm,
        )
        window = torch.hamming_window if self.window == "hamming" else torch.hann_window
        return window(self.window_length, periodic=True, dtype=torch.float64), torch.from_numpy(filters)

    def transform(self, waveform: Tensor, window: Tensor, filters: Tensor) -> Tensor:
        """Log-mel energies with given :meth:`constants`.

        Args:
            waveform: ``(..., samples)``, floating point.
            window: The window, in the precision and on the device of the waveform.
            filters: The mel filters, likewise.

        Returns:
            ``(..., n_mels, frames)``.
        """
        samples = waveform.shape[-1]
        frames = self.frames(samples)
        spectrum = torch.stft(
            waveform.reshape(-1, samples),
            self.n_fft,
            self.hop_length,
            self.window_length,
            window=window,
            center=True,
            pad_mode=self.pad_mode,
            return_complex=True,
        )
        # Cutting before the product spares the mel filters of frames that nobody reads.
        real, imaginary = spectrum[..., :frames].real, spectrum[..., :frames].imag
        # Half the time of abs() on CPUs; what underflows is far below any epsilon.
        energy = real.square().addcmul_(imaginary, imaginary)
        if self.power == 1:
            energy = energy.sqrt_()
        mel = torch.matmul(filters, energy).reshape(*waveform.shape[:-1], self.n_mels, frames)
        return self.logarithm(mel)

    def logarithm(self, mel: Tensor) -> Tensor:
        """The last step.

        Args:
            mel: Mel energies, which are overwritten.

        Returns:
            Their logarithms.
        """
        if self.log == "decibel":
            return mel.clamp_(min=self.epsilon).log10_().mul_(10)
        return mel.add_(self.epsilon).log_()


_CHOICES: dict[str, tuple[object, ...]] = {
    "window": ("hamming", "hann"),
    "power": (1, 2),
    "mel_scale": ("slaney", "htk"),
    "mel_norm": ("slaney", None),
    "pad_mode": ("constant", "reflect"),
    "log": ("natural", "decibel"),
}


@lru_cache(maxsize=16)
def _constants(log_mel: LogMel, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    window, filters = log_mel.constants()
    return window.to(device, dtype), filters.to(device, dtype)
