from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from data.features.mel_reference import reference, sound

from lightning_cosprune.data import FRONT_ENDS, LogMel


@pytest.mark.parametrize(
    "front_end",
    [
        LogMel(num_frames=51),
        LogMel(window_length=2048, num_frames=51),
        LogMel(
            sample_rate=32_000, window_length=3072, hop_length=500, n_fft=4096, n_mels=256, epsilon=1e-5, num_frames=65
        ),
        LogMel(
            sample_rate=32_000,
            window_length=1024,
            hop_length=320,
            n_fft=1024,
            n_mels=64,
            fmin=50,
            fmax=14_000,
            num_frames=101,
        ),
    ],
)
def test_agrees_with_librosa_to_a_ten_thousandth(front_end: LogMel) -> None:
    waveform = sound(1.0, front_end.sample_rate)
    ours = front_end(torch.from_numpy(waveform)).numpy()
    theirs = reference(waveform, front_end)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("seconds", "frames"), [(10, 500), (5, 250), (1, 50)])
def test_by_default_the_last_centred_frame_is_dropped(seconds: int, frames: int) -> None:
    waveform = sound(seconds)
    ours = LogMel()(torch.from_numpy(waveform)).numpy()
    assert ours.shape == (40, frames)
    np.testing.assert_allclose(ours, reference(waveform, LogMel())[:, :frames], atol=1e-4, rtol=0)


def test_leading_dimensions_are_kept_and_independent() -> None:
    waveforms = torch.from_numpy(sound(1.2)).reshape(2, 3, 8820)
    batch = LogMel()(waveforms)
    assert batch.shape == (2, 3, 40, 10)
    torch.testing.assert_close(batch[1, 2], LogMel()(waveforms[1, 2]), atol=1e-4, rtol=0)


def test_silence_is_finite_and_equals_the_logarithm_of_epsilon() -> None:
    silence = LogMel()(torch.zeros(8820))
    assert torch.allclose(silence, torch.tensor(np.log(np.spacing(1)), dtype=torch.float32))


def test_doubling_the_sound_adds_the_logarithm_of_two() -> None:
    waveform = torch.from_numpy(sound(0.5)).double()
    torch.testing.assert_close(LogMel()(2 * waveform), LogMel()(waveform) + np.log(2), atol=1e-9, rtol=0)


def test_equal_settings_are_the_same_key_and_survive_pickling() -> None:
    assert hash(LogMel(n_mels=64)) == hash(LogMel(n_mels=64))
    assert LogMel(n_mels=64) != LogMel()
    assert pickle.loads(pickle.dumps(LogMel(num_frames=51))) == LogMel(num_frames=51)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_mels": 0}, r"LogMel\(n_mels=0\).*a whole number of at least 1"),
        ({"hop_length": 0}, "hop_length=0"),
        ({"window_length": 4096}, "at most n_fft"),
        ({"fmax": 30_000.0}, "fmax <= 22050"),
        ({"fmin": -1.0}, "0 <= fmin"),
        ({"epsilon": 0.0}, "logarithm of 0 is infinite"),
        ({"window": "kaiser"}, r"LogMel\(window='kaiser'\).*'hamming', 'hann'"),
        ({"log": "decibel"}, r"LogMel\(log='decibel', power=1\).*power=2"),
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LogMel(**setting)  # type: ignore[arg-type]


def test_mirrored_padding_needs_samples_to_mirror() -> None:
    with pytest.raises(ValueError, match=r"pad_mode='reflect'.*more than 512 samples.*found 512 .*pad_mode='constant'"):
        FRONT_ENDS["panns"].log_mel.frames(512)


@pytest.mark.parametrize(("front_end", "samples"), [(LogMel(), 800), (LogMel(num_frames=51), 43_000)])
def test_too_short_a_clip_is_refused(front_end: LogMel, samples: int) -> None:
    advice = "or have them padded" if front_end.num_frames is None else "or fewer frames"
    with pytest.raises(ValueError, match=f"found {samples} .*longer clips,? {advice}") as told:
        front_end.frames(samples)
    assert "num_frames=None" not in str(told.value)
