from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import torch

from lightning_cosprune.data import FRONT_ENDS, DCASEScenes, FrontEnd, LogMel
from lightning_cosprune.data.features.extraction import LogMelExtractor


def reference(waveform: np.ndarray, front_end: LogMel) -> np.ndarray:
    """librosa's own log-mel energies, all centred frames."""
    mel = librosa.feature.melspectrogram(
        y=waveform,
        sr=front_end.sample_rate,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        win_length=front_end.window_length,
        window=front_end.window,
        pad_mode=front_end.pad_mode,
        power=float(front_end.power),
        n_mels=front_end.n_mels,
        fmin=front_end.fmin,
        fmax=front_end.fmax,
        htk=front_end.mel_scale == "htk",
        norm=front_end.mel_norm,
    )
    if front_end.log == "decibel":
        return librosa.power_to_db(mel, ref=1.0, amin=front_end.epsilon, top_db=None)
    return np.log(mel + front_end.epsilon)


def sound(seconds: float, rate: int = 44_100) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.1 * noise + 0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


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
        ({"n_mels": 0}, r"LogMel\(n_mels=0\).*positive whole number"),
        ({"hop_length": 0.5}, "hop_length=0.5"),
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


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("seconds", [1.0, 2.37])
def test_named_front_ends_agree_with_librosa(name: str, seconds: float) -> None:
    front_end = FRONT_ENDS[name].log_mel
    waveform = sound(seconds, front_end.sample_rate)
    waveform[: len(waveform) // 5] *= 1e-4
    ours, theirs = front_end(torch.from_numpy(waveform)).numpy(), reference(waveform, front_end)
    assert np.ptp(theirs) > 8
    # 1e-4 in natural-log units: where the formula is in decibels, as many of those.
    tolerance = 1e-4 * (10 / np.log(10) if front_end.log == "decibel" else 1)
    np.testing.assert_allclose(ours, theirs[:, : ours.shape[1]], atol=tolerance, rtol=0)
    assert ours.shape == (front_end.n_mels, len(waveform) // front_end.hop_length + front_end.last_frame)


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


def test_the_2021_front_end_is_the_formula_of_its_extractor_in_double_precision() -> None:
    """Asymmetric Hamming window, magnitudes, natural logarithm: written out with NumPy and SciPy alone."""
    front_end, waveform = FRONT_ENDS["dcase2021"].log_mel, sound(0.5).astype(np.float64)
    window = np.pad(scipy.signal.get_window("hamming", 1764, fftbins=True), (2048 - 1764) // 2)
    padded = np.pad(waveform, 1024)
    frames = np.stack([padded[start : start + 2048] * window for start in range(0, len(waveform) + 1, 882)])
    filters = librosa.filters.mel(sr=44_100, n_fft=2048, n_mels=40, fmin=0, fmax=22_050)
    expected = np.log(filters @ np.abs(np.fft.rfft(frames)).T + np.spacing(1))
    ours = front_end(torch.from_numpy(waveform)).numpy()
    np.testing.assert_allclose(ours, expected[:, :-1], atol=1e-9, rtol=0)
    extracted = LogMelExtractor(front_end, len(waveform))(torch.from_numpy(waveform).float()).numpy()
    np.testing.assert_allclose(extracted, expected[:, :-1], atol=1e-5, rtol=0)
    assert front_end.epsilon == np.spacing(1)


def test_an_unknown_front_end_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"DCASEScenes\(features='dcase1999'\).*'dcase2019', .*'panns' or a LogMel"):
        DCASEScenes("nowhere", features="dcase1999")
    with pytest.raises(ValueError, match=r"FrontEnd\(features='mfcc'\).*LogMel\(sample_rate"):
        FrontEnd("mfcc")


def test_mirrored_padding_needs_samples_to_mirror() -> None:
    with pytest.raises(ValueError, match=r"pad_mode='reflect'.*more than 512 samples.*found 512 .*pad_mode='constant'"):
        FRONT_ENDS["panns"].log_mel.frames(512)


def test_the_module_normalises_moves_and_leaves_no_trace_in_checkpoints() -> None:
    waveforms = torch.from_numpy(sound(0.4)).reshape(2, -1)
    mean, std = torch.linspace(-3, -1, 40), torch.linspace(1, 2, 40)
    module = FrontEnd("dcase2021", mean, std)
    expected = (LogMel()(waveforms) - mean[:, None]) / std[:, None]
    torch.testing.assert_close(module(waveforms), expected[:, None], atol=1e-6, rtol=0)
    assert not module.state_dict()
    assert not list(module.parameters())
    assert module.double()(waveforms).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(module.float()(waveforms), expected[:, None], atol=1e-6, rtol=0)


def test_gradients_reach_the_waveform() -> None:
    waveform = torch.from_numpy(sound(0.1)).requires_grad_()
    FrontEnd(LogMel(n_mels=8))(waveform[None]).sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert waveform.grad.abs().max() > 0


@pytest.mark.parametrize(("front_end", "samples"), [(LogMel(), 800), (LogMel(num_frames=51), 43_000)])
def test_too_short_a_clip_is_refused(front_end: LogMel, samples: int) -> None:
    with pytest.raises(ValueError, match=f"found {samples} .*longer clips or fewer frames"):
        front_end.frames(samples)


def test_the_documentation_states_the_numbers() -> None:
    page = Path(__file__).parents[3] / "docs" / "features.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][:14]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    table = {name: list(column) for name, *column in zip(*cells, strict=True)}
    for name, front_end in FRONT_ENDS.items():
        numbers = front_end.log_mel
        assert table[name] == [
            str(numbers.sample_rate),
            f"{numbers.window_length} {numbers.window}",
            str(numbers.hop_length),
            str(numbers.n_fft),
            numbers.pad_mode,
            "magnitude" if numbers.power == 1 else "power",
            f"{numbers.n_mels} {numbers.mel_scale}",
            f"{numbers.fmin:g}-{numbers.highest_frequency:g}",
            numbers.log,
            f"{numbers.epsilon:.2g}",
            str(numbers.frames(numbers.sample_rate)),
            str(numbers.frames(10 * numbers.sample_rate)),
            "yes" if front_end.normalize else "no",
        ]
        assert front_end.source.split(",")[0] in page.read_text(encoding="utf-8")
