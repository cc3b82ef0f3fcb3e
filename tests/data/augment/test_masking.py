"""Where masks are, and how wide."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.stats
import torch

from lightning_cosprune.data import FrequencyMask, SceneBatch, TimeMask


@pytest.mark.parametrize(("kind", "axis", "size"), [(FrequencyMask, 2, 12), (TimeMask, 3, 30)])
def test_masks_cover_one_range_of_uniform_width_at_a_uniform_place(kind: Any, axis: int, size: int) -> None:
    torch.manual_seed(0)
    clips, widest = 20_000, 5
    batch = SceneBatch(torch.ones(clips, 1, 12, 30), *[torch.zeros(clips, dtype=torch.int64)] * 4)
    out = kind(widest, fill=-7.5).train()(batch).features
    assert set(out.unique().tolist()) == {-7.5, 1.0}
    others = tuple({1, 2, 3} - {axis})
    masked = (out == -7.5).all(dim=others[1]).all(dim=others[0])
    assert torch.equal(masked, (out == -7.5).any(dim=others[1]).any(dim=others[0]))
    width = masked.sum(1)
    start = torch.where(width > 0, masked.int().argmax(1), -1)
    # One range each: ranges and their lengths agree.
    assert torch.equal(masked.int().diff(dim=1, prepend=torch.zeros(clips, 1)).clamp(min=0).sum(1), (width > 0).int())
    assert scipy.stats.chisquare(torch.bincount(width, minlength=widest + 1).numpy()).pvalue > 1e-3
    starts = torch.bincount(start[width == widest], minlength=size - widest + 1)
    assert len(starts) == size - widest + 1
    assert scipy.stats.chisquare(starts.numpy()).pvalue > 1e-3


def test_several_masks_cover_more() -> None:
    torch.manual_seed(0)
    batch = SceneBatch(torch.ones(500, 1, 40, 9), *[torch.zeros(500, dtype=torch.int64)] * 4)
    one, three = (FrequencyMask(8, number).train()(batch).features.mean() for number in (1, 3))
    assert three < one < 1
