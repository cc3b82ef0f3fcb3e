"""Mixup and Freq-MixStyle: shares, partners, labels and what they leave alone."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from data.augment.batches import DEVICES, features, prepared
from torch import Tensor, nn

from lightning_cosprune.data import FreqMixStyle, Mixup, SceneBatch


def test_mixup_is_a_convex_combination_of_clips_and_labels_alike() -> None:
    torch.manual_seed(0)
    batch = features(clips=3)
    # A clip a class, so that mixed labels tell who was mixed and by how much.
    mixed = prepared(Mixup(alpha=1.0)).train()(batch)
    assert mixed.scene.shape == (3, 3)
    torch.testing.assert_close(mixed.scene.sum(1), torch.ones(3))
    assert (mixed.scene >= 0).all()
    assert ((mixed.scene > 0).sum(1) == 2).any()
    expected = torch.einsum("ij,jcbt->icbt", mixed.scene, batch.features)
    torch.testing.assert_close(mixed.features, expected)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixup_draws_its_shares_from_the_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    clips = 4000
    batch = SceneBatch(
        torch.zeros(clips, 1, 1, 1), torch.arange(clips), torch.zeros(clips), torch.zeros(clips), torch.arange(clips)
    )
    mixup = Mixup(alpha).train()
    mixup.prepare(num_classes=clips, devices=DEVICES, sample_rate=8000)
    shares = mixup(batch).scene.diagonal().double()
    # Who is mixed with itself keeps the whole of its label.
    assert scipy.stats.kstest(shares.numpy(), scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_mixup_leaves_clips_by_chance_but_labels_alike() -> None:
    batch = features()
    untouched = prepared(Mixup(p=0)).train()(batch)
    torch.testing.assert_close(untouched.features, batch.features, rtol=0, atol=0)
    torch.testing.assert_close(untouched.scene, nn.functional.one_hot(batch.scene, 3).float())
    twice = prepared(Mixup()).train()(untouched)
    torch.testing.assert_close(twice.scene.sum(1), torch.ones(16))


def test_freq_mixstyle_exchanges_band_statistics_and_keeps_the_content() -> None:
    torch.manual_seed(0)
    batch = features()
    mixed = FreqMixStyle(p=1, alpha=1.0).train()(batch).features

    def normalised(x: Tensor) -> Tensor:
        return (x - x.mean(3, keepdim=True)) / x.std(3, keepdim=True)

    torch.testing.assert_close(normalised(mixed), normalised(batch.features), atol=1e-4, rtol=0)
    # Every clip's means, all bands at once, lie between its own and one other clip's; so do its deviations, alike.
    own, got = (torch.cat([x.mean(3), x.std(3)], dim=2)[:, 0] for x in (batch.features, mixed))
    for clip in range(16):
        errors = []
        for other in set(range(16)) - {clip}:
            direction = own[other] - own[clip]
            share = ((got[clip] - own[clip]) @ direction / (direction @ direction)).clamp(0, 1)
            errors.append((own[clip] + share * direction - got[clip]).abs().max())
        assert min(errors) < 1e-3
    assert (got - own).abs().max() > 0.1


def test_freq_mixstyle_commutes_with_normalisation() -> None:
    batch = features()
    mean, std = torch.randn(12, 1), 0.5 + torch.rand(12, 1)
    mix = FreqMixStyle(p=1).train()
    outcomes = []
    for before in (True, False):
        torch.manual_seed(3)
        if before:
            outcomes.append(mix(batch._replace(features=(batch.features - mean) / std)).features)
        else:
            outcomes.append((mix(batch).features - mean) / std)
    torch.testing.assert_close(*outcomes, atol=1e-4, rtol=1e-4)


def test_freq_mixstyle_acts_on_the_stated_share_of_batches_and_bears_silence() -> None:
    torch.manual_seed(0)
    batch, mix = features(4), FreqMixStyle().train()
    touched = sum(mix(batch) is not batch for _ in range(1000))
    assert abs(touched - 400) < 4 * (1000 * 0.4 * 0.6) ** 0.5
    silent = batch._replace(features=torch.full_like(batch.features, -36.04))
    torch.testing.assert_close(FreqMixStyle(p=1).train()(silent).features, silent.features)
