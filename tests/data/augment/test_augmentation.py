"""Each augmentation's law, and that none of them reaches validation or test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import scipy.signal
import scipy.stats
import soundfile
import torch
from torch import Tensor, nn

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
from lightning_cosprune.models import SceneClassifier

Folder = Any
DEVICES = ["a", "b"]


def features(clips: int = 16, bands: int = 12, frames: int = 30) -> SceneBatch:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clips, 1, bands, frames, generator=generator)
    scale, shift = torch.rand(2, clips, 1, bands, 1, generator=generator)
    index = torch.arange(clips)
    return SceneBatch(noise * (0.5 + scale) + 3 * shift, index % 3, index % 2, index % 5, index)


def waveforms(clips: int = 8, samples: int = 3000) -> SceneBatch:
    index = torch.arange(clips)
    sound = torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
    return SceneBatch(sound, index % 3, index % 2, index % 5, index)


def prepared(augmentation: Augmentation) -> Augmentation:
    augmentation.prepare(num_classes=3, devices=DEVICES, sample_rate=8000)
    return augmentation


def responses(folder: Path, count: int = 3, rate: int = 8000) -> list[np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    made = [generator.normal(size=200 + 40 * number) * 0.98 ** np.arange(200 + 40 * number) for number in range(count)]
    for number, response in enumerate(made):
        soundfile.write(str(folder / f"{number}.wav"), 0.1 * response, rate, subtype="FLOAT")
    return [(0.1 * response).astype(np.float32) for response in made]


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


class Record(nn.Module):
    """Keeps what it was shown."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, 3)
        self.seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def forward(self, x: Tensor) -> Tensor:
        self.seen[self.training].append(x.detach().clone())
        return self.layer(x.flatten(1))


def run(folder: Folder, **options: Any) -> tuple[Record, dict[str, Any]]:
    pl.seed_everything(0, verbose=False)
    scenes, net = folder.scenes(**options), Record(400)
    classifier = SceneClassifier(net, 3, scenes.devices)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", enable_checkpointing=False, **quiet)
    trainer.fit(classifier, datamodule=scenes)
    trainer.test(classifier, datamodule=scenes, verbose=False)
    trainer.predict(classifier, datamodule=scenes)
    return net, dict(classifier.state_dict())


def test_training_meets_augmentation_and_nothing_else_does(folder: Folder, tmp_path: Path) -> None:
    responses(tmp_path / "responses")

    def augment() -> list[Augmentation]:
        sound = [DeviceImpulseResponse(tmp_path / "responses", p=1.0), TimeRoll(domain="waveform")]
        return [Mixup(), *sound, FreqMixStyle(), FrequencyMask(8), TimeMask(3)]

    net, weights = run(folder, cache="waveforms", augment=augment())
    _, same_weights = run(folder, cache="waveforms", augment=augment())
    plain, _ = run(folder, cache="waveforms")
    cached, _ = run(folder)
    torch.testing.assert_close(weights, same_weights, rtol=0, atol=0)
    torch.testing.assert_close(net.seen[False], plain.seen[False], rtol=0, atol=0)
    torch.testing.assert_close(cached.seen, plain.seen, rtol=1e-4, atol=1e-4)
    for one, other in zip(net.seen[True], plain.seen[True], strict=True):
        assert (one != other).flatten(1).any(1).all()


def test_a_module_of_ones_own_fits_in(folder: Folder) -> None:
    class Louder(Augmentation):
        def augment(self, batch: SceneBatch) -> SceneBatch:
            return batch._replace(features=batch.features + 1)

    louder, _ = run(folder, augment=Louder())
    plain, _ = run(folder)
    torch.testing.assert_close(louder.seen[True][0], plain.seen[True][0] + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: Mixup(alpha=0), r"Mixup\(alpha=0\).*positive"),
        (lambda folder: FreqMixStyle(p=1.5), r"FreqMixStyle\(p=1.5\).*\[0, 1\]"),
        (lambda folder: FrequencyMask(0), r"FrequencyMask\(max_width=0\).*positive whole"),
        (lambda folder: TimeMask(3, num_masks=0), r"TimeMask\(num_masks=0\)"),
        (lambda folder: TimeMask(30).train()(features()), r"TimeMask\(max_width=30\).*less than the 30"),
        (lambda folder: TimeRoll(0), r"TimeRoll\(max_fraction=0\).*write 0.1"),
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


def test_what_is_not_an_augmentation_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`DCASEScenes\(augment=...\)`: expected Augmentation modules, found ReLU"):
        DCASEScenes("nowhere", augment=nn.ReLU())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mixup", "responses"])
def test_what_knows_no_set_says_how_to_tell_it(tmp_path: Path, kind: str) -> None:
    responses(tmp_path)
    augmentation, batch = (Mixup(), features()) if kind == "mixup" else (DeviceImpulseResponse(tmp_path), waveforms())
    with pytest.raises(RuntimeError, match=r"DCASEScenes\(augment=.*prepare\(num_classes"):
        augmentation.train()(batch)
