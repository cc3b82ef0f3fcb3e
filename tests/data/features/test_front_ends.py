from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import torch
from data.features.mel_reference import reference, sound

from lightning_cosprune.data import FRONT_ENDS, DCASEScenes, FrontEnd, LogMel
from lightning_cosprune.data.features.extraction import LogMelExtractor


def log_mel_filters(log_mel: LogMel) -> np.ndarray:
    """As librosa has them, ``(n_mels, 1 + n_fft // 2)``."""
    return np.asarray(
        librosa.filters.mel(
            sr=log_mel.sample_rate, n_fft=log_mel.n_fft, n_mels=log_mel.n_mels, fmin=log_mel.fmin, fmax=log_mel.fmax
        )
    )


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


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_single_precision_tells_only_in_bands_without_sound(name: str) -> None:
    log_mel = FRONT_ENDS[name].log_mel
    whole = torch.from_numpy(sound(1.0, log_mel.sample_rate)).double()
    spectrum = torch.fft.rfft(whole)
    spectrum[int(0.7 * len(spectrum)) :] = 0
    cut = torch.fft.irfft(spectrum, n=len(whole)).float()
    single, double = (
        FrontEnd(name).to(dtype)(cut.to(dtype)[None]).double()[0, 0] for dtype in (torch.float32, torch.float64)
    )
    heard = torch.from_numpy(log_mel_filters(log_mel)[:, : int(0.69 * (log_mel.n_fft // 2))].sum(axis=1) > 0)
    heard &= torch.from_numpy(log_mel_filters(log_mel)[:, int(0.69 * (log_mel.n_fft // 2)) :].sum(axis=1) == 0)
    unit = 10 / np.log(10) if log_mel.log == "decibel" else 1
    difference = (single - double).abs() / unit
    assert 0 < int(heard.sum()) < len(heard)
    assert difference[heard].max() < 1e-4
    assert difference.max() < 0.05


def test_an_unknown_front_end_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"DCASEScenes\(features='dcase1999'\).*'dcase2019', .*'panns' or a LogMel"):
        DCASEScenes("nowhere", features="dcase1999")
    with pytest.raises(ValueError, match=r"FrontEnd\(features='mfcc'\).*LogMel\(sample_rate"):
        FrontEnd("mfcc")


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
