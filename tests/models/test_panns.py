"""The convolutional PANNs: counts, names of the published checkpoints, front end, pruning."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_equals_masked_dense
from fits import trainer_for
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import CosineFilterPruning, apply_plan, load_pruned, measure_complexity, plan_pruning
from lightning_cosprune.data import FrontEnd
from lightning_cosprune.models import PANN, Cnn6, Cnn10, Cnn14, SceneClassifier

TEN_SECONDS = torch.zeros(1, 1, 64, 1001)
LAST_SIX = ("conv_block[456].*",)
NETWORKS = (Cnn14, Cnn10, Cnn6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def narrow(network: type[PANN], **options: Any) -> PANN:
    torch.manual_seed(0)
    return network(5, [6 + 2 * (number % 3) for number in range(len(network.full_widths))], **options).eval()


# Counts


@pytest.mark.parametrize(
    ("network", "params", "macs"),
    [(Cnn14, 80_753_615, 20.04), (Cnn10, 5_219_279, 13.02), (Cnn6, 4_837_455, 9.93)],
)
def test_counts_as_published(network: type[PANN], params: int, macs: float) -> None:
    """Kong et al. count what trains; a front end of their checkpoints is no part of it."""
    found = measure_complexity(network(), TEN_SECONDS)
    assert found.trainable_params == params
    assert found.params == params + 2 * (sum(network.full_widths) + 64)
    assert found.macs / 1e9 == pytest.approx(macs, abs=0.005)


@pytest.mark.parametrize("cut", [0.25, 0.5, 0.75])
def test_e_panns_counts(cut: float) -> None:
    widths = [width if number < 6 else int(width * (1 - cut)) for number, width in enumerate(Cnn14.full_widths)]
    found = measure_complexity(Cnn14(widths=widths), TEN_SECONDS)
    if cut == 0.5:
        assert found.trainable_params == 23_205_839
        assert found.macs / 1e9 == pytest.approx(12.4, abs=0.05)
    # Written out: weights, batch norms, and the two linear layers behind the last convolution.
    channels = [1, *widths]
    convolutions = sum(9 * one * other for one, other in zip(channels, widths, strict=False))
    linear = widths[-1] * 2048 + 2048 + 2048 * 527 + 527
    assert found.trainable_params == convolutions + 2 * sum(widths) + 2 * 64 + linear


@pytest.mark.slow
def test_half_of_the_last_six_layers_of_the_whole_network() -> None:
    network, example = Cnn14(), normal(1, 1, 64, 64)
    plan = plan_pruning(network, example, pruning_ratio=0.5, layers=LAST_SIX, criterion="operator_norm")
    report = apply_plan(network, plan, example)
    assert report.before.trainable_params == 80_753_615
    assert report.after.trainable_params == 23_205_839
    assert sorted(plan.pruned) == Cnn14.layer_names()[6:]


@pytest.mark.parametrize("network", [Cnn6, Cnn14])
def test_the_embedding_is_what_the_last_layer_reads_and_waveforms_cost_their_transform(network: type[PANN]) -> None:
    tagger = network(3, widths=[4] * len(network.full_widths)).eval()
    sound = normal(2, 32_000)
    with torch.no_grad():
        torch.testing.assert_close(tagger.fc_audioset(tagger.embedding(sound)), tagger(sound))
        energies = tagger.log_mel(sound)
    tagger.fc_audioset = torch.nn.Linear(tagger.fc_audioset.in_features, 10)
    assert tagger(sound).shape == (2, 10)
    frames, transform = energies.shape[2 if energies.shape[3] == 64 else 3], 2 * 513 * 1024 + 513 * 64
    by_energies, by_sound = (measure_complexity(tagger, example[:1]).macs for example in (energies, sound))
    assert by_sound - by_energies == frames * transform


# Names and shapes


def published(network: type[PANN]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as in the published checkpoints, from the description of the network alone."""

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        kinds = ("weight", "bias", "running_mean", "running_var")
        return {**{f"{name}.{kind}": (size,) for kind in kinds}, f"{name}.num_batches_tracked": ()}

    shapes: dict[str, tuple[int, ...]] = {
        "spectrogram_extractor.stft.conv_real.weight": (513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": (513, 1, 1024),
        "logmel_extractor.melW": (513, 64),
        **norm("bn0", 64),
    }
    blocks = (64, 128, 256, 512, 1024, 2048) if network is Cnn14 else (64, 128, 256, 512)
    channels = 1
    for block, width in enumerate(blocks, start=1):
        layers, kernel = ((1,), 5) if network is Cnn6 else ((1, 2), 3)
        for layer in layers:
            shapes[f"conv_block{block}.conv{layer}.weight"] = (width, channels, kernel, kernel)
            channels = width
            shapes |= norm(f"conv_block{block}.bn{layer}", width)
    embedding = blocks[-1]
    return {
        **shapes,
        "fc1.weight": (embedding, embedding),
        "fc1.bias": (embedding,),
        "fc_audioset.weight": (527, embedding),
        "fc_audioset.bias": (527,),
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_names_and_shapes_are_those_of_the_published_checkpoints(network: type[PANN]) -> None:
    shapes = published(network)
    model = network()
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    # Nothing of the front end is trained or counted.
    assert not [name for name, _ in model.named_parameters() if "extractor" in name]
    state = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    model.load_state_dict(state, strict=True)
    assert model.bn0.weight.eq(0.5).all()


def test_a_published_checkpoint_loads_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    model = Cnn6()
    path = tmp_path / "Cnn6_mAP=0.343.pth"
    torch.save({"iteration": 600_000, "model": model.state_dict()}, path)
    for name, tensor in Cnn6.from_pretrained(path).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    with pytest.raises(
        ValueError,
        match=r"Cnn10.from_pretrained\(path='.*Cnn6.*'\)`: expected the 60 tensors of Cnn10, found 36, no "
        r"conv_block1.conv2.weight, conv_block1.bn2.weight, .* and 18 more",
    ):
        Cnn10.from_pretrained(path)
    state = model.state_dict()
    state["fc1.weight"] = torch.zeros(512, 100)
    state["fc.weight"] = state.pop("fc_audioset.weight")
    torch.save({"model": state}, path)
    with pytest.raises(ValueError, match=r"found 36, no fc_audioset.weight and the unknown fc.weight"):
        Cnn6.from_pretrained(path)
    state["fc_audioset.weight"] = state.pop("fc.weight")
    torch.save({"model": state}, path)
    with pytest.raises(ValueError, match=r"expected fc1.weight of shape \(512, 512\), found \(512, 100\)"):
        Cnn6.from_pretrained(path)
    with pytest.raises(FileNotFoundError, match=r"found no file.*Zenodo, record 3987831"):
        Cnn6.from_pretrained(tmp_path / "nothing.pth")
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"expected a state dict that loads with `weights_only=True`"):
        Cnn6.from_pretrained(path)


def test_pruned_checkpoints_load_by_their_shapes(tmp_path: Path) -> None:
    """As E-PANNs are published: a state dict under ``model``, narrower from the seventh convolution on."""
    pruned = Cnn14(7, [8] * 6 + [5, 6, 7, 4, 3, 9]).eval()
    path = tmp_path / "e_panns.pt"
    torch.save({"model": pruned.state_dict()}, path)
    example = normal(2, 1, 64, 40)
    for loaded in (
        Cnn14.from_pretrained(path),
        load_pruned(Cnn14, path, num_classes=7, widths=[8] * 12),
        load_pruned(Cnn14, torch.load(path, weights_only=True)["model"], num_classes=7, widths=[8] * 12),
    ):
        assert loaded.conv_block6.conv2.out_channels == 9
        assert loaded.fc1.in_features == 9
        assert torch.equal(loaded.eval()(example), pruned(example))


# Front end


def test_the_front_end_is_that_of_the_data() -> None:
    sound = 0.1 * normal(2, 32_000)
    found = Cnn6(5, [4] * 4).log_mel(sound)
    expected = FrontEnd("panns")(sound)
    assert found.shape == expected.shape == (2, 1, 64, 101)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # decibels


def test_waveforms_and_their_log_mel_energies_give_the_same() -> None:
    model, sound = narrow(Cnn14), 0.1 * normal(2, 32_000)
    scores = model(sound)
    assert scores.shape == (2, 5)
    assert torch.equal(scores, model(model.log_mel(sound)))
    assert model.embedding(sound).shape == (2, 2048)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.log_mel(sound).dtype == torch.float32


def test_the_front_end_reads_its_kernels_from_the_checkpoint() -> None:
    model, sound = narrow(Cnn6), 0.1 * normal(1, 8000)
    before = model.log_mel(sound)
    model.spectrogram_extractor.stft.conv_real.weight.mul_(2)
    model.spectrogram_extractor.stft.conv_imag.weight.mul_(2)
    torch.testing.assert_close(model.log_mel(sound) - before, torch.full_like(before, 6.0206), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(2, 1, 40, 64), (2, 1, 64, 31), (2, 2, 64, 64), (2, 64, 64)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`Cnn14\(\.\.\.\)\(x\)`: expected waveforms .* at least 32 frames, found \("):
        narrow(Cnn14)(torch.zeros(shape))
    narrow(Cnn10)(torch.zeros(1, 1, 64, 16))


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`Cnn14\(widths=\(4, 4\)\)`: expected 12 positive whole numbers.*found 2"):
        Cnn14(widths=[4, 4])
    with pytest.raises(ValueError, match=r"Cnn6\(widths=.*expected 4 positive whole numbers, .* found 0.5 among them"):
        Cnn6(widths=[4, 4, 4, 0.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"`Cnn10\(num_classes=0\)`.*527 classes"):
        Cnn10(0)


# The computation, step by step


def test_the_forward_pass_written_out() -> None:
    model, x = narrow(Cnn14), normal(2, 1, 64, 70)
    norm = model.bn0
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]
    y = ((x[:, 0] - norm.running_mean[:, None]) * scale + norm.bias[:, None]).transpose(1, 2)[:, None]
    for block in range(1, 7):
        for layer in (1, 2):
            part = model.get_submodule(f"conv_block{block}")
            y = torch.conv2d(y, part.get_parameter(f"conv{layer}.weight"), padding=1)
            y = part.get_submodule(f"bn{layer}")(y).clamp(min=0)
        if block < 6:
            height, width = y.shape[2] // 2 * 2, y.shape[3] // 2 * 2
            y = y[:, :, :height, :width]
            y = (y[:, :, ::2, ::2] + y[:, :, 1::2, ::2] + y[:, :, ::2, 1::2] + y[:, :, 1::2, 1::2]) / 4
    y = y.mean(3)
    y = (y.max(2).values + y.mean(2)) @ model.fc1.weight.T + model.fc1.bias
    expected = y.clamp(min=0) @ model.fc_audioset.weight.T + model.fc_audioset.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


# Pruning


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("criterion", ["cosine", "operator_norm"])
def test_every_convolution_is_pruned_and_none_refused(network: type[PANN], criterion: str) -> None:
    dense, example = narrow(network), normal(2, 1, 64, 64)
    pruned = copy.deepcopy(dense)
    plan = plan_pruning(pruned, example[:1], pruning_ratio=0.5, criterion=criterion)
    report = apply_plan(pruned, plan, example[:1])
    assert sorted(plan.pruned) == sorted(network.layer_names())
    assert sorted(report.skipped) == ["fc1", "fc_audioset"]
    widths = [pruned.get_submodule(name).out_channels for name in network.layer_names()]
    assert report.after == measure_complexity(network(5, widths), example[:1])
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert_equals_masked_dense(dense, pruned, removed, example)
    sound = 0.1 * normal(1, 16_000)
    assert pruned(sound).shape == (1, 5)


@pytest.mark.parametrize("waveforms", [True, False])
def test_the_callback_prunes_and_repairs_it(tmp_path: Path, waveforms: bool) -> None:
    sounds = 0.1 * normal(12, 10_240)
    network = narrow(Cnn10)
    features = sounds if waveforms else network.log_mel(sounds)
    loader = DataLoader(TensorDataset(features, torch.arange(12) % 5), batch_size=4)
    pruning = CosineFilterPruning(0.5, at_epoch=1, repair="least_squares", calibration=12)
    classifier = SceneClassifier(network, 5)
    trainer = trainer_for(tmp_path, pruning, max_epochs=2, enable_checkpointing=False)
    trainer.fit(classifier.train(), loader, loader)
    assert {layer.name for layer in pruning.reports[0].layers} == {f"network.{name}" for name in Cnn10.layer_names()}
    assert [layer.name for layer in pruning.repairs[0].layers]
    assert network.conv_block4.conv2.out_channels == 4
