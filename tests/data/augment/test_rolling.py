"""Rolling loses nothing and goes no further than stated."""

from __future__ import annotations

import pytest
import torch
from data.augment.batches import features, waveforms

from lightning_cosprune.data import SceneBatch, TimeRoll


@pytest.mark.parametrize("batch", [features(), waveforms()])
def test_rolling_permutes_frames_within_the_stated_shift(batch: SceneBatch) -> None:
    torch.manual_seed(0)
    rolled = TimeRoll(0.2).train()(batch).features
    length = rolled.shape[-1]
    shifts = set()
    for before, after in zip(batch.features, rolled, strict=True):
        (shift,) = (shift for shift in range(length) if torch.equal(before.roll(shift, -1), after))
        shifts.add(min(shift, length - shift))
    assert max(shifts) <= 0.2 * length
    assert len(shifts) > 2
