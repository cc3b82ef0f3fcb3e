from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from data.features.mel_reference import reference, sound

from lightning_cosprune.data import FRONT_ENDS, LogMel
from lightning_cosprune.data.features.extraction import LogMelExtractor

ODD = LogMel(window_length=1001, n_fft=1025, hop_length=333)


def emptied(front_end: LogMel, depth: float = 1e-6) -> np.ndarray:
    """Sound with next to nothing above some frequency, as lossy codecs leave it."""
    waveform = sound(1.3, front_end.sample_rate).astype(np.float64)
    spectrum = np.fft.rfft(waveform)
    spectrum[len(spectrum) // 2 :] *= depth
    return np.fft.irfft(spectrum, len(waveform)).astype(np.float32)


def coloured(front_end: LogMel, seed: int) -> np.ndarray:
    """Noise and tones of any tilt and level, with a gap in the spectrum and a silence in time."""
    random = np.random.default_rng(seed)
    samples = round(random.uniform(0.5, 1.5) * front_end.sample_rate)
    frequency = np.fft.rfftfreq(samples)
    level = np.maximum(frequency, 1e-3) ** random.uniform(-3, 1)
    low = random.uniform(0, 0.4)
    level[(frequency > low) & (frequency < low + 0.1)] *= 10 ** -random.uniform(0, 9)
    spectrum = level * (random.standard_normal(len(level)) + 1j * random.standard_normal(len(level)))
    spectrum[random.integers(1, len(level), 3)] += 300 * np.abs(spectrum).max()
    waveform = np.fft.irfft(spectrum, samples)
    waveform *= 10 ** -random.uniform(0, 4) / np.abs(waveform).max()
    waveform[samples // 3 : samples // 2] *= random.choice([0, 1e-3, 1])
    return waveform.astype(np.float32)


def largest_difference(front_end: LogMel, waveform: np.ndarray) -> float:
    """Of extracted features from librosa's, in natural-log units."""
    ours = LogMelExtractor(front_end, len(waveform))(torch.from_numpy(waveform))
    assert ours.dtype == torch.float32
    assert ours.shape == front_end(torch.from_numpy(waveform)).shape
    difference = float(np.abs(ours.numpy() - reference(waveform, front_end)[:, : ours.shape[1]]).max())
    return difference / (10 / np.log(10) if front_end.log == "decibel" else 1)


@pytest.mark.parametrize(
    "front_end", [*(named.log_mel for named in FRONT_ENDS.values()), ODD], ids=[*FRONT_ENDS, "odd"]
)
def test_extraction_agrees_with_librosa_on_any_sound(front_end: LogMel) -> None:
    differences = [largest_difference(front_end, coloured(front_end, seed)) for seed in range(12)]
    assert max(*differences, largest_difference(front_end, emptied(front_end))) < 1e-4


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_single_precision_alone_would_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = FRONT_ENDS[name].log_mel
    monkeypatch.setattr(LogMelExtractor, "_doubtful", lambda *_: torch.empty(0, dtype=torch.int64))
    assert max(largest_difference(front_end, coloured(front_end, seed)) for seed in range(12)) > 1e-4


def test_hardly_a_frame_of_ordinary_sound_is_transformed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful = LogMelExtractor._doubtful
    counts = []
    monkeypatch.setattr(
        LogMelExtractor, "_doubtful", lambda self, mel: counts.append(len(doubtful(self, mel))) or doubtful(self, mel)
    )
    largest_difference(LogMel(), sound(2.0))
    assert counts == [0]


def test_threads_do_not_share_an_extractors_buffers() -> None:
    clips = [torch.from_numpy(coloured(LogMel(), 0)[:20_000] * level) for level in (1.0, 0.1, 0.01, 0.5)]
    extractor = LogMelExtractor(LogMel(), 20_000)
    alone = [extractor(clip) for clip in clips]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            for got, expected in zip(pool.map(extractor, clips), alone, strict=True):
                assert torch.equal(got, expected)
