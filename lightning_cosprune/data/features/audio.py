"""One audio file: what its header says, and its samples as one channel."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

if TYPE_CHECKING:
    from pathlib import Path


_RATES = (1_000, 768_000)
"""Lower and higher ones are none of sound; to resample a header's 1 Hz would make hours of seconds."""


class AudioHeader(NamedTuple):
    """What a file says of itself.

    Attributes:
        sample_rate: Samples per second.
        samples: Samples a channel.
    """

    sample_rate: int
    samples: int


def read_header(path: Path, owner: str) -> AudioHeader:
    """The rate and length of a file, without decoding it.

    Args:
        path: The file.
        owner: Whose file it is, the beginning of the error.

    Returns:
        Its header.

    Raises:
        ValueError: It is empty or no audio that libsndfile reads.
    """
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise unreadable(path, owner, error) from error
    if info.frames == 0:
        raise ValueError(
            f"{owner}: expected sound in {path}, found no samples. Replace the file or take its row out of the csv "
            "files."
        )
    _check_rate(info.samplerate, path, owner)
    return AudioHeader(info.samplerate, info.frames)


def _check_rate(rate: int, path: Path, owner: str) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise ValueError(
            f"{owner}: expected a sample rate from {_RATES[0]:,} to {_RATES[1]:,} Hz in {path}, found {rate} Hz in its "
            "header. The header is damaged: write the file anew or take its row out of the csv files."
        )


def read_clip(path: Path, sample_rate: int, samples: int, owner: str) -> npt.NDArray[np.float32]:
    """A file as one channel of a stated rate and length.

    Channels are averaged, another rate is resampled (soxr), a shorter clip is filled with zeros at its end and a
    longer one is cut.

    Args:
        path: The file.
        sample_rate: Samples per second wanted.
        samples: Samples wanted.
        owner: Whose file it is, the beginning of the error.

    Returns:
        ``(samples,)``, full scale is 1.

    Raises:
        ValueError: The file does not decode, is empty, or holds NaN or infinity.
    """
    try:
        with soundfile.SoundFile(path) as file:
            found_rate = file.samplerate
            _check_rate(found_rate, path, owner)
            # The same numbers; libsndfile itself takes six times as long to make them of 16 bits.
            by_hand = file.subtype == "PCM_16"
            sound = file.read(dtype="int16" if by_hand else "float32", always_2d=True)
            sound = np.multiply(sound, np.float32(2**-15), dtype=np.float32) if by_hand else sound
    except (soundfile.LibsndfileError, OSError) as error:
        raise unreadable(path, owner, error) from error
    if not len(sound):
        raise ValueError(
            f"{owner}: expected sound in {path}, found no samples. Replace the file or take its row out of the csv "
            "files."
        )
    if not np.isfinite(sound).all():
        raise ValueError(
            f"{owner}: expected finite samples in {path}, found NaN or infinity. Write the file anew or take its row "
            "out of the csv files."
        )
    mono: npt.NDArray[np.float32] = sound[:, 0] if sound.shape[1] == 1 else sound.mean(axis=1)
    if found_rate != sample_rate:
        # Imported here because librosa takes a second and most sets have the rate of their front end.
        from librosa import resample

        mono = resample(mono, orig_sr=found_rate, target_sr=sample_rate, res_type="soxr_hq")
    if len(mono) == samples:
        return mono
    clip = np.zeros(samples, dtype=np.float32)
    kept = mono[:samples]
    clip[: len(kept)] = kept
    return clip


def unreadable(path: Path, owner: str, error: Exception) -> ValueError:
    """The error for a file that libsndfile does not read.

    Args:
        path: The file.
        owner: Whose file it is, the beginning of the error.
        error: What libsndfile said.

    Returns:
        The error to raise.
    """
    if path.is_dir():
        found = "a folder"
    elif not os.access(path, os.R_OK):
        return ValueError(
            f"{owner}: expected a wav, flac or ogg file that may be read at {path}, found one that this user may not "
            "read. Change its permissions."
        )
    else:
        size = path.stat().st_size
        found = "an empty file" if size == 0 else f"{size:,} bytes that do not decode ({error})"
    return ValueError(
        f"{owner}: expected a wav, flac or ogg file at {path}, found {found}. Download or unpack it again."
    )
