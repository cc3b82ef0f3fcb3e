from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from lightning_cosprune.data.features.audio import read_clip, read_header

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, sound: np.ndarray, rate: int = 8000, **options: str) -> Path:
    soundfile.write(str(path), sound, rate, **options)
    return path


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.linspace(-0.5, 0.5, 100), np.full(100, 0.25)
    path = write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(read_clip(path, 8000, 100, "test"), (left + right) / 2, atol=1e-7)


def test_short_clips_are_filled_at_their_end_and_long_ones_cut(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 100)
    path = write(tmp_path / "clip.wav", sound, subtype="FLOAT")
    padded = read_clip(path, 8000, 130, "test")
    np.testing.assert_allclose(padded[:100], sound, atol=1e-7)
    np.testing.assert_array_equal(padded[100:], np.zeros(30))
    np.testing.assert_allclose(read_clip(path, 8000, 60, "test"), sound[:60], atol=1e-7)


def test_resampling_keeps_a_tone_where_it_was(tmp_path: Path) -> None:
    rate, wanted = 48_000, 44_100
    path = write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate), rate, subtype="FLOAT")
    ours = read_clip(path, wanted, wanted, "test")
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(wanted) / wanted)
    np.testing.assert_allclose(ours[500:-500], tone[500:-500], atol=1e-3)
    assert read_header(path, "test") == (rate, rate)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "broken.wav", np.array([0.1, value, 0.2]), subtype="FLOAT")
    with pytest.raises(ValueError, match=r"owner: expected finite samples in .*broken\.wav, found NaN or infinity"):
        read_clip(path, 8000, 3, "owner")


@pytest.mark.parametrize("reader", [read_header, lambda path, owner: read_clip(path, 8000, 10, owner)])
@pytest.mark.parametrize(
    ("content", "found"), [(b"", "an empty file"), (b"no sound at all", "15 bytes that do not decode")]
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes, found: str, reader: object) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"owner: expected a wav.*broken\.wav, found {found}"):
        reader(path, "owner")  # type: ignore[operator]


@pytest.mark.parametrize("reader", [read_header, lambda path, owner: read_clip(path, 8000, 10, owner)])
def test_files_without_samples_are_named(tmp_path: Path, reader: object) -> None:
    path = write(tmp_path / "nothing.wav", np.zeros(0))
    with pytest.raises(ValueError, match=r"owner: expected sound in .*nothing\.wav, found no samples"):
        reader(path, "owner")  # type: ignore[operator]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_libsndfiles_to_the_last_bit(subtype: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, (999, channels)), 8000, subtype=subtype)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    np.testing.assert_array_equal(read_clip(path, 8000, 999, "test"), expected)
