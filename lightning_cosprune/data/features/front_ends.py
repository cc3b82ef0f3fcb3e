"""The front ends that others have published, by name, and any of them as the first module of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_cosprune.arguments import check_tensor
from lightning_cosprune.data.features.log_mel import LogMel


@dataclass(frozen=True)
class NamedFrontEnd:
    """A front end that others have published.

    Args:
        log_mel: Its numbers.
        normalize: Whether the networks that go with it read bands that are shifted and scaled by their mean and
            standard deviation over the training clips.
        source: Where the numbers come from.
    """

    log_mel: LogMel
    normalize: bool
    source: str


# The extractor of the baselines up to 2022 adds numpy.spacing(1) = 2.2e-16 before the logarithm (dcase_util,
# `MelExtractor`). None of them pins librosa; that the signal is padded with zeros is what 0.9 or later computes.
FRONT_ENDS: dict[str, NamedFrontEnd] = {
    "dcase2019": NamedFrontEnd(
        LogMel(sample_rate=48_000, window_length=1920, hop_length=960),
        normalize=True,
        source="toni-heittola/dcase2019_task1_baseline, task1a.yaml",
    ),
    "dcase2021": NamedFrontEnd(LogMel(), normalize=True, source="marmoi/dcase2021_task1a_baseline, task1a.yaml"),
    "dcase2022": NamedFrontEnd(
        LogMel(last_frame=True), normalize=True, source="marmoi/dcase2022_task1_baseline, task1_features.yaml"
    ),
    # torchaudio's mel spectrogram at the settings of the script, then log(x + 1e-5); batch norm does the rest.
    "dcase2024": NamedFrontEnd(
        LogMel(
            sample_rate=32_000,
            window_length=3072,
            hop_length=500,
            n_fft=4096,
            n_mels=256,
            epsilon=1e-5,
            window="hann",
            power=2,
            mel_scale="htk",
            mel_norm=None,
            pad_mode="reflect",
            last_frame=True,
        ),
        normalize=False,
        source="CPJKU/dcase2024_task1_baseline, run_training.py",
    ),
    # The trained networks begin with a batch norm over bands, which expects decibels.
    "panns": NamedFrontEnd(
        LogMel(
            sample_rate=32_000,
            window_length=1024,
            hop_length=320,
            n_fft=1024,
            n_mels=64,
            fmin=50.0,
            fmax=14_000.0,
            epsilon=1e-10,
            window="hann",
            power=2,
            pad_mode="reflect",
            log="decibel",
            last_frame=True,
        ),
        normalize=False,
        source="qiuqiangkong/audioset_tagging_cnn, pytorch/models.py (Cnn14) and torchlibrosa",
    ),
}


def named_front_end(features: LogMel | str, owner: str = "`named_front_end(features={!r})`") -> NamedFrontEnd:
    """The front end of a name, or the given numbers as one.

    Args:
        features: One of the names in :data:`FRONT_ENDS`, or numbers of one's own, whose bands are normalised.
        owner: The beginning of the error; ``{!r}`` is filled with what was found.

    Returns:
        The front end.

    Raises:
        ValueError: There is no front end of this name.

    Example:
        >>> named_front_end("dcase2024").log_mel.n_mels
        256
    """
    if isinstance(features, LogMel):
        return NamedFrontEnd(features, normalize=True, source="")
    if not isinstance(features, str) or features not in FRONT_ENDS:
        raise ValueError(
            f"{owner.format(features)}: expected {', '.join(map(repr, FRONT_ENDS))} or a LogMel(...), found "
            f"{features!r}. To state the numbers yourself write LogMel(sample_rate=..., ...)."
        )
    return FRONT_ENDS[features]


class FrontEnd(nn.Module):
    """The front end as the first module of a network: waveforms in, normalised log-mel energies out.

    It has no parameters, and its buffers stay out of state dicts, since its arguments say all.

    Args:
        features: A name in :data:`FRONT_ENDS`, or the numbers.
        mean: Mean of each band, ``(n_mels,)``; ``None`` shifts nothing.
        std: Standard deviation of each band, nowhere zero, ``(n_mels,)``; ``None`` scales nothing.

    Raises:
        TypeError: ``mean`` or ``std`` is no tensor.
        ValueError: There is no front end of this name, or ``mean`` or ``std`` is not one finite number a band.

    Example:
        >>> FrontEnd("panns")(torch.zeros(2, 32_000)).shape
        torch.Size([2, 1, 64, 101])
    """

    window: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, features: LogMel | str, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        self.log_mel = named_front_end(features, "`FrontEnd(features={!r})`").log_mel
        for name, moments in (("mean", mean), ("std", std)):
            _check_moments(name, moments, self.log_mel.n_mels)
        window, filters = self.log_mel.constants()
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        bands = self.log_mel.n_mels
        self.register_buffer("mean", (torch.zeros(bands) if mean is None else mean)[:, None], persistent=False)
        self.register_buffer("std", (torch.ones(bands) if std is None else std)[:, None], persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel energies.

        Args:
            waveform: ``(batch, samples)``, floating point.

        Returns:
            ``(batch, 1, n_mels, frames)``.
        """
        # Half precision has no Fourier transform on CPUs and would lose the quiet bands anywhere.
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.log_mel.transform(waveform.to(self.window.dtype), self.window, self.filters)
            return ((features - self.mean) / self.std)[:, None]

    def extra_repr(self) -> str:
        """The numbers.

        Returns:
            As :class:`LogMel` prints itself.
        """
        return repr(self.log_mel)


def _check_moments(name: str, moments: Tensor | None, bands: int) -> None:
    if moments is None:
        return
    subject, expected = f"`FrontEnd({name}=...)`", f"a tensor of {bands} finite numbers, one a band, or None"
    check_tensor(moments, subject, expected)
    has_zero = name == "std" and bool((moments == 0).any())
    if moments.shape != (bands,) or not bool(moments.isfinite().all()) or has_zero:
        what = (
            "a 0" if has_zero else "NaN or infinity" if moments.shape == (bands,) else f"shape {tuple(moments.shape)}"
        )
        raise ValueError(f"{subject}: expected {expected}, found {what}. Take them over the training clips.")
