"""Log-mel energies of clips for a cache: as exact as in double precision, at nearly the speed of single."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_cosprune.data.features.log_mel import LogMel

# Half a megabyte of each of the arrays at work, which stay in the processor's cache.
_FRAMES_A_BLOCK = 64

# Sound falls by 3 to 6 dB an octave, and single precision drowns what is far below a frame's loudest bin. This first
# difference flattens it; the mel filters take the gain back.
_PRE_EMPHASIS = 0.9

# Root mean square error of a bin of a transform in single precision, relative to the norm of the frame, and that of
# multiplying by the window: 2.0 to 2.6 and 0.3 units of 2^-24, measured with MKL and pocketfft at 512 to 16,384 points.
_TRANSFORM_ERROR = 2.6 * 2**-24
_WINDOW_ERROR = 0.5 * 2**-24

# In natural-log units, at six standard deviations: with librosa's own rounding within 1e-4 of it.
_TOLERANCE = 7e-5


class LogMelExtractor(threading.local):
    """Log-mel energies of one clip at a time on the CPU, within 1e-4 natural-log units of librosa's.

    librosa transforms in double precision. Single precision takes half the time, but leaves up to a thousandth of
    rounding noise in bands in which there is next to nothing, as above the limit of a lossy codec. So frames are
    transformed in single precision behind a pre-emphasis, and those of which a band comes close to the rounding error
    once more in double precision.

    Every thread that calls an instance gets buffers of its own. They last as long as the thread: to hand memory back
    after each clip and fault it in for the next one would take a quarter of the time.

    Args:
        log_mel: The front end.
        samples: Length of the clips.

    Raises:
        ValueError: The clips are too short, see :meth:`LogMel.frames`.
    """

    def __init__(self, log_mel: LogMel, samples: int) -> None:
        self.log_mel = log_mel
        n_frames = log_mel.frames(samples)
        self._window, self._filters = log_mel.constants()
        self._single_window = self._window.float()
        self._flattened_filters, self._headroom = _flattened(self._filters, log_mel)
        length = log_mel.window_length
        # Frames are the samples under the window alone: zeros around them would turn phases, which nobody reads.
        self._before = log_mel.n_fft // 2 - (log_mel.n_fft - length) // 2
        self._padded = torch.zeros(samples + length)
        self._frames = self._padded.unfold(0, length, log_mel.hop_length)[:n_frames]
        self._windowed = torch.zeros(min(n_frames, _FRAMES_A_BLOCK), log_mel.n_fft)
        self._flattened = torch.empty_like(self._windowed)
        self._norms = torch.empty(2, n_frames)

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> Tensor:
        """The features of a clip; no gradient passes.

        Args:
            waveform: ``(samples,)``, float32, finite.

        Returns:
            ``(n_mels, frames)``, float32.
        """
        self._pad(waveform)
        mel = torch.empty(len(self._frames), self.log_mel.n_mels)
        for start in range(0, len(mel), _FRAMES_A_BLOCK):
            block = slice(start, start + _FRAMES_A_BLOCK)
            self._transform(self._frames[block], mel[block], self._norms[:, block])
        for rows in self._doubtful(mel).split(_FRAMES_A_BLOCK):
            mel[rows] = self._in_double_precision(self._frames[rows])
        return self.log_mel.logarithm(mel.T)

    def _pad(self, waveform: Tensor) -> None:
        end = self._before + len(waveform)
        self._padded[self._before : end] = waveform
        if self.log_mel.pad_mode == "reflect":
            after = len(self._padded) - end
            self._padded[: self._before] = waveform[1 : self._before + 1].flip(0)
            self._padded[end:] = waveform[-after - 1 : -1].flip(0)

    def _transform(self, frames: Tensor, mel: Tensor, norms: Tensor) -> None:
        """Energies of ``frames`` and their norms with and without pre-emphasis, in single precision."""
        windowed, flattened = self._windowed[: len(frames)], self._flattened[: len(frames)]
        torch.mul(frames, self._single_window, out=windowed[:, : frames.shape[1]])
        torch.sub(windowed[:, 1:], windowed[:, :-1], alpha=_PRE_EMPHASIS, out=flattened[:, 1:])
        torch.sub(windowed[:, 0], windowed[:, -1], alpha=_PRE_EMPHASIS, out=flattened[:, 0])
        torch.matmul(_energies(flattened, self.log_mel.power), self._flattened_filters, out=mel)
        torch.linalg.vector_norm(flattened, dim=1, out=norms[0])
        torch.linalg.vector_norm(windowed, dim=1, out=norms[1])

    def _doubtful(self, mel: Tensor) -> Tensor:
        """Numbers of the frames of which a band is not far enough above the rounding error."""
        error = torch.hypot(_TRANSFORM_ERROR * self._norms[0], _WINDOW_ERROR * self._norms[1])
        least = (error[:, None] * self._headroom) ** self.log_mel.power
        return (mel.clamp(min=self.log_mel.epsilon) < least).any(dim=1).nonzero()[:, 0]

    def _in_double_precision(self, frames: Tensor) -> Tensor:
        if not len(frames):
            return frames.new_empty(0, self.log_mel.n_mels)
        windowed = torch.zeros(len(frames), self.log_mel.n_fft, dtype=torch.float64)
        torch.mul(frames, self._window, out=windowed[:, : frames.shape[1]])
        return _energies(windowed, self.log_mel.power) @ self._filters.T


def _energies(windowed: Tensor, power: int) -> Tensor:
    squares = torch.view_as_real(torch.fft.rfft(windowed)).float().square_()
    energies = squares[..., 0] + squares[..., 1]
    return energies.sqrt_() if power == 1 else energies


def _flattened(filters: Tensor, log_mel: LogMel) -> tuple[Tensor, Tensor]:
    """What belongs to spectra behind the pre-emphasis.

    Args:
        filters: Mel filters, ``(n_mels, bins)``.
        log_mel: The front end.

    Returns:
        The mel filters, ``(bins, n_mels)``, and by how much the level of each band has to exceed the error of a bin,
        ``(n_mels,)``.
    """
    turn = 2 * torch.pi * torch.arange(filters.shape[1], dtype=torch.float64) / log_mel.n_fft
    gain = (1 + _PRE_EMPHASIS**2 - 2 * _PRE_EMPHASIS * turn.cos()).sqrt()
    flattened = filters.double() / gain**log_mel.power
    total = flattened.sum(dim=1)
    if log_mel.power == 1:
        # Errors add up like noise; where all of a band is in one bin, the other bins add their mean magnitude.
        headroom = (1.25 * total + 6 * flattened.square().sum(dim=1).sqrt()) / _TOLERANCE
    else:
        # The same for powers: error <= 6 sqrt(2 w_max E) e + 2 total e^2 <= tolerance E, solved for sqrt(E) / e.
        cross = 6 * (2 * flattened.amax(dim=1)).sqrt()
        headroom = (cross + (cross**2 + 8 * _TOLERANCE * total).sqrt()) / (2 * _TOLERANCE)
    return flattened.T.float().contiguous(), headroom.float()
