"""librosa's log-mel energies, which ours are held against, and a sound to hold them on."""

from __future__ import annotations

import librosa
import numpy as np

from lightning_cosprune.data import LogMel


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
