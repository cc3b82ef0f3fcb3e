import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from fits import trainer_for
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import CosineFilterPruning, load_pruned
from lightning_cosprune.models import DCASE2022Baseline, SceneClassifier
from lightning_cosprune.models.classifier import GroupedAccuracy
from lightning_cosprune.models.distillation import distillation_loss

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0], [1.0, 0.5]])
SCENES = torch.tensor([0, 1, 1, 1, 0])


class Given(nn.Module):
    """Answers with its input, so that every metric can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def measure(devices: list[str], *columns: Tensor, **options: Any) -> dict[str, float]:
    classifier = SceneClassifier(Given(), 2, devices, **options)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    features = LOGITS.reshape(5, 1, 1, 2)
    loader = DataLoader(TensorDataset(features, SCENES, *columns), batch_size=2)
    return trainer.test(classifier, loader, verbose=False)[0]


def test_accuracy_of_each_scene_by_hand() -> None:
    metrics = measure([], scene_labels=["bus", "tram"])
    assert metrics["test/accuracy_scene_bus"] == pytest.approx(1)
    assert metrics["test/accuracy_scene_tram"] == pytest.approx(2 / 3)
    with pytest.raises(
        ValueError, match=r"num_classes=2, scene_labels=\.\.\.\)`: expected a name for each class, found 3"
    ):
        SceneClassifier(Given(), 2, scene_labels=["a", "b", "c"])


def test_groups_of_devices_by_hand() -> None:
    """Right are the clips 0, 1, 3 and 4 of five."""
    metrics = measure(["a", "c", "s2", "s5"], torch.tensor([0, 2, 1, 3, 2]))
    assert metrics["test/accuracy_real_devices"] == pytest.approx(1 / 2)
    assert metrics["test/accuracy_seen_devices"] == pytest.approx(1)
    assert metrics["test/accuracy_unseen_devices"] == pytest.approx(1)
    assert "test/accuracy_real_devices" not in measure(["s1", "x"], torch.tensor([0, 0, 0, 1, 1]))


def test_metrics_by_hand() -> None:
    metrics = measure(["a", "b", "s9"], torch.tensor([0, 0, 0, 1, 1]))
    assert metrics["test/accuracy"] == pytest.approx(4 / 5)
    assert metrics["test/class_averaged_accuracy"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["test/log_loss"] == pytest.approx(nn.functional.cross_entropy(LOGITS, SCENES).item())
    assert metrics["test/accuracy_device_a"] == pytest.approx(2 / 3)
    assert metrics["test/accuracy_device_b"] == 1
    assert "test/accuracy_device_s9" not in metrics  # it has no clip in this set


def test_one_device() -> None:
    assert measure(["freesound"], torch.zeros(5, dtype=torch.long))["test/accuracy_device_freesound"] == pytest.approx(
        0.8
    )


def test_batches_without_devices() -> None:
    metrics = measure([])
    assert metrics["test/accuracy"] == pytest.approx(0.8)
    assert not any("device" in name for name in metrics)


def test_it_learns_and_predicts(tmp_path: Path) -> None:
    pl.seed_everything(0, verbose=False)
    scene = torch.arange(40) % 2
    features = torch.randn(40, 1, 40, 51) + 2 * scene.reshape(-1, 1, 1, 1)
    loader = DataLoader(TensorDataset(features, scene), batch_size=8)
    classifier = SceneClassifier(DCASE2022Baseline(2), 2, learning_rate=1e-2)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(classifier, loader, loader)
    assert trainer.callback_metrics["val/accuracy"] > 0.9
    assert trainer.callback_metrics["train/loss"] < 0.6
    predictions: Any = trainer.predict(classifier, loader)
    probabilities = torch.cat(predictions)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(40))
    assert (probabilities.argmax(dim=1) == scene).float().mean() > 0.9


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_layout(channels_last: bool) -> None:
    network = DCASE2022Baseline()
    SceneClassifier(network, channels_last=channels_last)
    weight = network.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert weight.is_contiguous() is not channels_last


def test_accuracy_of_groups() -> None:
    accuracy = GroupedAccuracy(3)
    accuracy.update(torch.tensor([True, False]), torch.tensor([0, 0]))
    accuracy.update(torch.tensor([True]), torch.tensor([2]))
    right = accuracy.compute()
    assert right[0] == 0.5
    assert right[1].isnan()
    assert right[2] == 1


def test_soft_labels_train_and_are_refused_where_scenes_are_counted() -> None:
    classifier = SceneClassifier(nn.Flatten(), num_classes=3)
    features, scene = torch.randn(4, 1, 1, 3), torch.tensor([0, 2, 1, 1])
    soft = nn.functional.one_hot(scene, 3).float()
    classifier.log = lambda *_, **__: None  # type: ignore[method-assign]
    hard_loss = classifier.training_step((features, scene), 0)
    torch.testing.assert_close(classifier.training_step((features, soft), 0), hard_loss)
    mixed = 0.3 * soft + 0.7 * soft.flip(0)
    expected = -(mixed * features.flatten(1).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(classifier.training_step((features, mixed), 0), expected)
    with pytest.raises(
        ValueError, match=r"expected the number of each clip's scene in val batches, found torch.float32"
    ):
        classifier.validation_step((features, soft), 0)


def clips(labels: int | None = None) -> DataLoader:
    features = torch.randn(24, 1, 40, 51, generator=torch.Generator().manual_seed(0))
    scene = torch.arange(24) % 10 if labels is None else torch.full((24,), labels)
    return DataLoader(TensorDataset(features, scene), batch_size=8)


def dense_network() -> DCASE2022Baseline:
    torch.manual_seed(0)
    return DCASE2022Baseline()


def distil(tmp_path: Path, data: DataLoader, *callbacks: pl.Callback, **options: Any) -> SceneClassifier:
    network = dense_network()
    classifier = SceneClassifier(network, teacher=options.pop("teacher", network), **options)
    trainer_for(tmp_path, *callbacks, max_epochs=2).fit(classifier, data, clips())
    return classifier


@pytest.mark.parametrize("module", [None, "network"])
def test_a_teacher_needs_no_scenes_and_is_neither_saved_nor_pruned(tmp_path: Path, module: str | None) -> None:
    ends = []
    for data in (clips(), clips(labels=-7)):
        saved = ModelCheckpoint(tmp_path / str(len(ends)), save_last=True)
        pruning = CosineFilterPruning(0.5, module=module, example_inputs=torch.randn(1, 1, 40, 51))
        classifier = distil(tmp_path, data, pruning, saved)
        ends.append(classifier.state_dict())
        assert classifier.network.conv1.out_channels == 8
        (teacher,) = classifier._teacher
        for name, tensor in dense_network().state_dict().items():
            assert torch.equal(teacher.state_dict()[name], tensor), name
        content = torch.load(saved.last_model_path, weights_only=True)
        assert list(content["state_dict"]) == list(SceneClassifier(dense_network()).state_dict())
        assert {"network", "teacher"}.isdisjoint(content["hyper_parameters"])
        again = load_pruned(SceneClassifier, content, network=dense_network())
        assert again.network.conv1.out_channels == 8
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name


def test_the_loss_from_a_teacher_by_hand() -> None:
    network, teacher = DCASE2022Baseline(), DCASE2022Baseline()
    features, scene = next(iter(clips()))
    student = copy.deepcopy(network).eval()(features)
    with torch.no_grad():
        wanted = copy.deepcopy(teacher).eval()(features)
    squares = (student - wanted).square().mean()
    for options, expected in (
        ({}, squares),
        ({"alpha": 0.25}, 0.25 * squares + 0.75 * nn.functional.cross_entropy(student, scene)),
        ({"temperature": 3.0}, distillation_loss(student, wanted, 3.0)),
    ):
        classifier = SceneClassifier(copy.deepcopy(network), teacher=teacher, **options)
        classifier.log = lambda *_, **__: None  # type: ignore[method-assign]
        before = copy.deepcopy(classifier.state_dict())
        torch.testing.assert_close(classifier.training_step((features, scene), 0), expected, rtol=1e-5, atol=1e-6)
        for name, tensor in classifier.state_dict().items():  # batch-norm statistics too
            assert torch.equal(tensor, before[name]), name
        assert all(part.training for part in classifier.modules())
        if options != {"alpha": 0.25}:
            torch.testing.assert_close(classifier.training_step(features, 0), expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_with_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected outputs of one shape, found \(8, 10\) .* and \(8, 3\)"):
        distil(tmp_path, clips(), teacher=DCASE2022Baseline(3))
    with pytest.raises(ValueError, match=r"`SceneClassifier\(alpha=2\)`: expected the teacher's share"):
        SceneClassifier(Given(), alpha=2)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize("num_classes", [2, 10])
def test_another_number_of_scenes_is_told_before_training(tmp_path: Path, num_classes: int) -> None:
    """Without validation too, where no metric would notice."""

    class Scenes(pl.LightningDataModule):
        scene_labels = ("bus", "park", "tram")

        def train_dataloader(self) -> DataLoader:
            return DataLoader(TensorDataset(torch.zeros(4, 1, 40, 51), torch.arange(4) % 3), batch_size=2)

    module = SceneClassifier(DCASE2022Baseline(num_classes), num_classes=num_classes)
    trainer = trainer_for(tmp_path, max_epochs=1, enable_checkpointing=False)
    with pytest.raises(ValueError, match=rf"num_classes={num_classes}\)`: .*found 3 scenes: bus, park, tram"):
        trainer.fit(module, datamodule=Scenes())


@pytest.mark.parametrize(
    ("outputs", "scene", "told"),
    [
        (3, torch.tensor([0, 3]), r"num_classes=3\)`: expected scenes from 0 to 2 in {} batches, found 3"),
        (3, torch.tensor([0, -1]), r"expected scenes from 0 to 2 in {} batches, found -1"),
        (
            5,
            torch.tensor([0, 1]),
            r"expected scores of shape \(batch, 3\) from the network in {} batches, found \(2, 5",
        ),
        (3, torch.tensor([[0], [1]]), r"in {} batches, int64 of shape \(2,\), found torch.int64 of shape \(2, 1\)"),
        (3, torch.tensor([0, 1], dtype=torch.int32), r"in {} batches, int64 of shape \(2,\), found torch.int32"),
        (3, torch.zeros(2, 2), r"expected the number of each clip's scene in {} batches"),
    ],
)
def test_scenes_and_scores_that_do_not_fit_are_told_without_a_data_module(outputs: int, scene: Any, told: str) -> None:
    classifier = SceneClassifier(nn.Flatten(), num_classes=3)
    batch = (torch.randn(2, 1, 1, outputs), scene)
    steps = {"training": classifier.training_step, "val": classifier.validation_step, "test": classifier.test_step}
    for stage, step in steps.items():
        with pytest.raises(ValueError, match=told.format(stage)):
            step(batch, 0)
