"""Impulse responses against SciPy's convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.signal
import torch
from data.augment.batches import prepared, responses, waveforms

from lightning_cosprune.data import DeviceImpulseResponse


def test_impulse_responses_agree_with_scipy_and_leave_other_devices_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made, batch = responses(tmp_path / "deep" / "er"), waveforms()
    out = prepared(DeviceImpulseResponse(tmp_path, p=1)).train()(batch).features
    for clip in range(8):
        if batch.device[clip] == 1:
            assert torch.equal(out[clip], batch.features[clip])
            continue
        sound = batch.features[clip].double().numpy()
        candidates = [scipy.signal.fftconvolve(sound, response.astype(np.float64))[:3000] for response in made]
        assert min(np.abs(out[clip].numpy() - candidate).max() for candidate in candidates) < 1e-5
        assert np.abs(out[clip].numpy() - sound).max() > 0.1


def test_impulse_responses_meet_the_stated_share_and_other_rates(tmp_path: Path) -> None:
    torch.manual_seed(0)
    responses(tmp_path, rate=16_000)
    augmentation = prepared(DeviceImpulseResponse(tmp_path, device="b", p=0.25)).train()
    assert augmentation.responses.shape == (3, 140)  # half the longest, 280 samples at twice the rate
    batch = waveforms(2000, 64)
    changed = (augmentation(batch).features != batch.features).any(1)
    assert not changed[batch.device == 0].any()
    assert abs(int(changed.sum()) - 250) < 4 * (1000 * 0.25 * 0.75) ** 0.5
