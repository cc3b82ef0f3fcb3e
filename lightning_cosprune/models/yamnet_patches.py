"""The front end of YAMNet: waveforms to the log-mel patches that it reads."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from lightning_cosprune.arguments import check_tensor

SAMPLE_RATE = 16_000
"""Samples per second of the waveforms that YAMNet reads."""

_WINDOW, _HOP, _N_FFT = 400, 160, 512
_PATCH_FRAMES, _PATCH_HOP = 96, 48
_BANDS, _FMIN, _FMAX = 64, 125.0, 7500.0
_OFFSET = 1e-3
_FILTERS = (_BANDS, _N_FFT // 2 + 1)


def mel_filters() -> Tensor:
    r"""The mel filters of YAMNet.

    Triangles of height 1 on the scale :math:`1127 \ln(1 + f / 700)`, evenly spaced from 125 to 7,500 Hz. Unlike those
    of librosa their sides are straight on that scale, not in Hz.

    Returns:
        ``(64, 257)``, float32; the bin of 0 Hz is in none.

    Source: ``tf.signal.linear_to_mel_weight_matrix``, which follows HTK.

    Example:
        >>> mel_filters().shape
        torch.Size([64, 257])
    """
    hertz = torch.linspace(0, SAMPLE_RATE / 2, 1 + _N_FFT // 2, dtype=torch.float64)
    bins = _mel(hertz)
    lowest, highest = _mel(torch.tensor([_FMIN, _FMAX], dtype=torch.float64)).tolist()
    edges = torch.linspace(lowest, highest, _BANDS + 2, dtype=torch.float64)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_(min=0)
    return filters.float()


def log_mel_patches(waveform: Tensor, filters: Tensor | None = None, *, fill: bool = True) -> Tensor:
    r"""Log-mel patches of 0.96 s, one every 0.48 s, as YAMNet reads them.

    .. math:: Y = \ln(M \, |\mathrm{STFT}(x)| + 0.001)

    A frame is 400 samples under a periodic Hann window, filled up with zeros to a Fourier transform of 512, one every
    160 samples; the first begins at the first sample. A patch is 96 frames, which 15,600 samples give.

    Args:
        waveform: Full scale is 1, at 16 kHz, ``(..., samples)``, float32 or float64.
        filters: The mel filters, ``(64, 257)``; :func:`mel_filters` where ``None``.
        fill: Whether the end is filled up with silence to one more whole patch, as the original does: five seconds give
            ten patches. Otherwise what is left behind the last whole patch is not read: they give nine. What is
            shorter than one patch is filled up in any case.

    Returns:
        ``(..., patches, 1, 96, 64)``, in the precision of the waveform.

    Raises:
        ValueError: There are no samples, or they are of another type.

    Source: ``features.py`` of YAMNet (tensorflow/models, research/audioset).

    Example:
        >>> log_mel_patches(torch.zeros(80_000)).shape
        torch.Size([10, 1, 96, 64])
        >>> log_mel_patches(torch.zeros(2, 80_000), fill=False).shape
        torch.Size([2, 9, 1, 96, 64])
    """
    check_tensor(waveform, "`log_mel_patches(waveform=...)`", "a tensor of samples, (..., samples)")
    if filters is not None:
        check_tensor(filters, "`log_mel_patches(filters=...)`", f"mel filters of shape {_FILTERS}, or None")
        if tuple(filters.shape) != _FILTERS:
            raise ValueError(
                f"`log_mel_patches(filters=...)`: expected mel filters of shape {_FILTERS}, found "
                f"{tuple(filters.shape)}. Those of a network are its `mel_filters`."
            )
    if waveform.ndim == 0 or waveform.shape[-1] == 0 or waveform.dtype not in {torch.float32, torch.float64}:
        raise ValueError(
            f"`log_mel_patches(waveform=...)`: expected float32 or float64 samples of shape (..., samples), found "
            f"{waveform.dtype} of shape {tuple(waveform.shape)}. Divide whole numbers by their full scale, and leave "
            "out empty clips."
        )
    samples = waveform.shape[-1]
    first = (_PATCH_FRAMES - 1) * _HOP + _WINDOW
    missing = first - samples
    if missing < 0:
        missing = missing % (_PATCH_HOP * _HOP) if fill else 0
    waveform = functional.pad(waveform, (0, missing))
    if filters is None:
        filters = _filters(waveform.dtype, waveform.device)
    window = torch.hann_window(_WINDOW, dtype=waveform.dtype, device=waveform.device)
    magnitude = torch.fft.rfft(waveform.unfold(-1, _WINDOW, _HOP) * window, _N_FFT).abs()
    # Half precision would lose the quiet bands.
    with torch.autocast(waveform.device.type, enabled=False):
        log_mel = torch.matmul(magnitude, filters.T).add_(_OFFSET).log_()
    return log_mel.unfold(-2, _PATCH_FRAMES, _PATCH_HOP).transpose(-1, -2).unsqueeze(-3).contiguous()


@lru_cache(maxsize=4)
def _filters(dtype: torch.dtype, device: torch.device) -> Tensor:
    return mel_filters().to(device, dtype)


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)
