"""What every augmentation does and refuses alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from data.augment.batches import features, prepared, responses, waveforms

from lightning_cosprune.data import (
    Augmentation,
    DCASEScenes,
    DeviceImpulseResponse,
    FreqMixStyle,
    FrequencyMask,
    Mixup,
    SceneBatch,
    TimeMask,
    TimeRoll,
)


def every(folder: Path) -> list[tuple[Augmentation, SceneBatch]]:
    responses(folder)
    return [
        (Mixup(), features()),
        (FreqMixStyle(p=1), features()),
        (FrequencyMask(6), features()),
        (TimeMask(10), features()),
        (TimeRoll(), features()),
        (TimeRoll(0.5, domain="waveform"), waveforms()),
        (DeviceImpulseResponse(folder, p=1), waveforms()),
    ]


@pytest.mark.parametrize("number", range(7))
def test_each_acts_in_training_only_by_the_seed_and_on_a_copy(number: int, tmp_path: Path) -> None:
    augmentation, batch = every(tmp_path)[number]
    prepared(augmentation)
    before = batch.features.clone()
    assert augmentation.eval()(batch) is batch
    augmentation.train()
    outcomes = []
    for seed in (1, 1, 2):
        pl.seed_everything(seed, verbose=False)
        outcomes.append(augmentation(batch))
    first, again, other = outcomes
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first.features, other.features)
    assert not torch.equal(first.features, before)
    torch.testing.assert_close(batch.features, before, rtol=0, atol=0)
    assert first.features.shape == before.shape
    assert first.features.dtype == torch.float32
    torch.testing.assert_close((first.device, first.index), (batch.device, batch.index))
    assert not augmentation.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: Mixup(alpha=0), r"Mixup\(alpha=0\).*positive"),
        (lambda folder: FreqMixStyle(p=1.5), r"FreqMixStyle\(p=1.5\).*\[0, 1\]"),
        (lambda folder: FrequencyMask(0), r"FrequencyMask\(max_width=0\).*whole number of at least 1"),
        (lambda folder: TimeMask(3, num_masks=0), r"TimeMask\(num_masks=0\)"),
        (lambda folder: TimeMask(30).train()(features()), r"TimeMask\(max_width=30\).*less than the 30"),
        (lambda folder: TimeRoll(0), r"TimeRoll\(max_fraction=0\).*a tenth of it is 0.1"),
        (lambda folder: TimeRoll(domain="sound"), r"TimeRoll\(domain='sound'\)"),
        (lambda folder: DeviceImpulseResponse(folder), r"DeviceImpulseResponse\(folder=.*found none.*MicIRP"),
        (
            lambda folder: (responses(folder), prepared(DeviceImpulseResponse(folder, device="s9"))),
            r"DeviceImpulseResponse\(device='s9'\).*expected one of .* a, b",
        ),
        (
            lambda folder: (
                soundfile.write(str(folder / "0.wav"), np.zeros(9), 8000),
                prepared(DeviceImpulseResponse(folder)),
            ),
            r"0\.wav, found silence",
        ),
        (
            lambda folder: DCASEScenes("nowhere", augment=TimeRoll(domain="waveform")),
            r"DCASEScenes\(augment=..., cache='features'\).*TimeRoll.*cache='waveforms'",
        ),
    ],
)
def test_wrong_settings_are_refused(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


@pytest.mark.parametrize("kind", ["mixup", "responses"])
def test_what_knows_no_set_says_how_to_tell_it(tmp_path: Path, kind: str) -> None:
    responses(tmp_path)
    augmentation, batch = (Mixup(), features()) if kind == "mixup" else (DeviceImpulseResponse(tmp_path), waveforms())
    with pytest.raises(RuntimeError, match=r"DCASEScenes\(augment=.*prepare\(num_classes"):
        augmentation.train()(batch)
