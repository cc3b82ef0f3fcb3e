"""The LightningModule that trains any scene network and reports what the DCASE challenges rank by."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_cosprune.arguments import check_module, names_in, real_number
from lightning_cosprune.models.distillation import as_evaluated, check_distillation, distillation_loss, in_modes
from lightning_cosprune.models.widths import check_classes

DEVICE_GROUPS = {"real": ("a", "b", "c"), "seen": ("s1", "s2", "s3"), "unseen": ("s4", "s5", "s6")}
"""The groups in which the DCASE challenges report the devices of the TAU mobile sets; the unseen are in no training."""


class SceneClassifier(LightningModule):
    """Train ``network`` with cross-entropy or from a teacher, by Adam, and measure it as the DCASE challenges do.

    Batches are ``(features, scene)`` or, for the accuracy per device, have a third entry with the number of the device,
    as the batches of :class:`~lightning_cosprune.data.DCASEScenes` have. In training, ``scene`` may also be the
    probability of every class, ``(batch, num_classes)``, as :class:`~lightning_cosprune.data.Mixup` makes it; what is
    measured is always measured on true scenes. Logged are ``train/loss`` and, for ``val`` and
    ``test``, ``accuracy``, ``class_averaged_accuracy`` (by which 2019, 2020, 2024 and 2025 rank), ``log_loss`` (2021
    and 2022), ``accuracy_device_<name>``, and of the TAU devices ``accuracy_real_devices``, ``..._seen_...`` and
    ``..._unseen_...``.

    Args:
        network: Maps ``(batch, 1, bands, frames)`` to class scores ``(batch, num_classes)``.
        num_classes: Scenes to tell apart.
        devices: Names of the recording devices, in the order of their numbers in the batches.
        scene_labels: Names of the scenes, in the order of their numbers; where given, the accuracy of each is logged.
        learning_rate: Of Adam. The papers fine-tune with 1e-3.
        weight_decay: Of Adam.
        channels_last: Keep weights and features in the memory layout that convolutions on CPUs and tensor cores prefer.
        teacher: A trained network for the same features, such as the dense one whose pruned copy ``network`` is or will
            be. Where given, the loss is the distance of the scores from the teacher's, and the network trains without
            dropout and with the batch-norm statistics it has; see :class:`~lightning_cosprune.KnowledgeDistillation`
            for what was measured, and for a teacher that is kept at the prune itself. The module uses a copy, which is
            in no checkpoint and no optimizer: pass the teacher again to resume.
        alpha: The teacher's share of the loss, in (0, 1]; the rest is the cross-entropy. With 1 no scene is looked at,
            and batches may be ``(features,)`` or the features alone.
        temperature: Of the divergence of softmax scores from the teacher's; the squared error of the scores where
            ``None``.

    Raises:
        TypeError: An argument is of another type.
        ValueError: An argument is out of range, or does not fit another.

    Example:
        >>> from lightning_cosprune.models import DCASE2022Baseline
        >>> SceneClassifier(DCASE2022Baseline())(torch.zeros(2, 1, 40, 51)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        devices: Sequence[str] = (),
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        channels_last: bool = True,
        scene_labels: Sequence[str] = (),
        teacher: nn.Module | None = None,
        alpha: float = 1.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        check_module(network, "`SceneClassifier(network=...)`")
        if teacher is not None:
            check_module(teacher, "`SceneClassifier(teacher=...)`")
        check_distillation("SceneClassifier", alpha, temperature)
        num_classes = check_classes("SceneClassifier", num_classes)
        devices = names_in(devices, "`SceneClassifier(devices={})`", "the names of the devices, such as scenes.devices")
        scene_labels = names_in(
            scene_labels, "`SceneClassifier(scene_labels={})`", "the names of the scenes, such as scenes.scene_labels"
        )
        learning_rate = real_number(
            learning_rate, "`SceneClassifier(learning_rate={})`", "a positive number", above=0, finite=True
        )
        weight_decay = real_number(
            weight_decay, "`SceneClassifier(weight_decay={})`", "a number of at least 0", least=0, finite=True
        )
        if scene_labels and len(scene_labels) != num_classes:
            raise ValueError(
                f"`SceneClassifier(num_classes={num_classes}, scene_labels=...)`: expected a name for each class, "
                f"found {len(scene_labels)}. Pass those of the data, `scenes.scene_labels`."
            )
        self.save_hyperparameters(ignore=["network", "teacher"])
        self.alpha = alpha
        self.temperature = temperature
        self.devices = tuple(devices)
        self.scene_labels = tuple(scene_labels)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.channels_last = channels_last
        self.network = network.to(memory_format=torch.channels_last) if channels_last else network  # type: ignore
        # In a list it is no submodule: what is saved, trained, averaged or pruned is the student alone.
        self._teacher: list[nn.Module] = []
        if teacher is not None:
            copied = copy.deepcopy(teacher).eval().requires_grad_(False)
            self._teacher.append(copied.to(memory_format=torch.channels_last) if channels_last else copied)  # type: ignore
        self.metrics = nn.ModuleDict(
            {
                stage: nn.ModuleDict(
                    {
                        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                        "class_averaged_accuracy": MulticlassAccuracy(num_classes, average="macro"),
                        "log_loss": MeanMetric(),
                        "accuracy_device": GroupedAccuracy(len(self.devices)),
                        "accuracy_scene": GroupedAccuracy(len(self.scene_labels)),
                        "accuracy_device_group": GroupedAccuracy(len(DEVICE_GROUPS)),
                    }
                )
                for stage in ("val", "test")
            }
        )

    def forward(self, features: Tensor) -> Tensor:
        """Class scores before softmax.

        Args:
            features: ``(batch, 1, bands, frames)``.

        Returns:
            ``(batch, num_classes)``.
        """
        scores: Tensor = self.network(self._laid_out(features))
        return scores

    def _laid_out(self, features: Tensor) -> Tensor:
        if self.channels_last and features.ndim == 4:
            return features.contiguous(memory_format=torch.channels_last)
        return features

    def on_fit_start(self) -> None:
        """Move the teacher to where the network is; hold the number of classes against the data module's.

        Raises:
            ValueError: The data have another number of scenes.
        """
        scenes = getattr(getattr(self.trainer, "datamodule", None), "scene_labels", None)
        if scenes is not None and len(scenes) != self.hparams["num_classes"]:
            raise ValueError(
                f"`SceneClassifier(num_classes={self.hparams['num_classes']})`: expected a class for each scene of the "
                f"data, found {len(scenes)} scenes: {', '.join(scenes)}. Write num_classes={len(scenes)}, and give the "
                "network as many outputs."
            )
        for teacher in self._teacher:
            teacher.to(self.device, self.dtype if isinstance(self.dtype, torch.dtype) else None)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch, or the distance of its scores from the teacher's.

        Returns:
            The loss to minimise.

        Raises:
            ValueError: The scores or the scenes are not those of ``num_classes``.
        """
        features = batch if isinstance(batch, Tensor) else batch[0]
        loss = (
            self._distilled(batch, batch_idx)
            if self._teacher
            else self._cross_entropy(self(features), batch[1], batch_idx)
        )
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(features))
        return loss

    def _cross_entropy(self, scores: Tensor, scene: Tensor, batch_idx: int) -> Tensor:
        check_scenes(self.hparams["num_classes"], "training", scores, scene, batch_idx)
        return functional.cross_entropy(scores, scene)

    def _distilled(self, batch: Any, batch_idx: int) -> Tensor:
        features = batch if isinstance(batch, Tensor) else batch[0]
        modes = as_evaluated(self.network)
        try:
            scores = self(features)
        finally:
            in_modes(modes)
        with torch.no_grad():
            wanted = self._teacher[0](self._laid_out(features))
        loss = distillation_loss(scores, wanted, self.temperature)
        if self.alpha == 1:
            return loss
        return (1 - self.alpha) * self._cross_entropy(scores, batch[1], batch_idx) + self.alpha * loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Count one batch of the validation set."""
        self._count("val", batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        self._log("val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Count one batch of the test set."""
        self._count("test", batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log what was counted."""
        self._log("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Class probabilities of one batch.

        Returns:
            ``(batch, num_classes)``; each row sums to one.
        """
        features = batch if isinstance(batch, Tensor) else batch[0]
        return self(features).softmax(dim=-1)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters.

        Returns:
            The optimizer.
        """
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)

    def _count(self, stage: str, batch: Any, batch_idx: int) -> None:
        features, scene, *rest = batch
        if scene.is_floating_point():
            raise ValueError(
                f"`SceneClassifier`: expected the number of each clip's scene in {stage} batches, found {scene.dtype} "
                f"labels of shape {tuple(scene.shape)}. Soft labels belong to training: augment training batches only."
            )
        scores = self(features)
        check_scenes(self.hparams["num_classes"], stage, scores, scene, batch_idx)
        metrics: Any = self.metrics[stage]
        metrics["accuracy"].update(scores, scene)
        metrics["class_averaged_accuracy"].update(scores, scene)
        metrics["log_loss"].update(functional.cross_entropy(scores, scene, reduction="none"))
        right = scores.argmax(dim=-1) == scene
        if self.devices and rest:
            metrics["accuracy_device"].update(right, rest[0])
            for group, names in enumerate(DEVICE_GROUPS.values()):
                of_group = torch.tensor([name in names for name in self.devices], device=right.device)[rest[0]]
                if of_group.any():
                    metrics["accuracy_device_group"].update(right[of_group], torch.full_like(rest[0][of_group], group))
        if self.scene_labels:
            metrics["accuracy_scene"].update(right, scene)

    def _log(self, stage: str) -> None:
        grouped = {
            "accuracy_device": [f"accuracy_device_{name}" for name in self.devices],
            "accuracy_scene": [f"accuracy_scene_{name}" for name in self.scene_labels],
            "accuracy_device_group": [f"accuracy_{name}_devices" for name in DEVICE_GROUPS],
        }
        for name, metric in self.metrics[stage].items():  # type: ignore[operator]
            if name not in grouped:
                self.log(f"{stage}/{name}", metric.compute(), prog_bar=name == "accuracy")
            elif metric.update_called:
                # torchmetrics makes a scalar of a single value, and many sets have a single device.
                for label, accuracy in zip(grouped[name], metric.compute().reshape(-1), strict=True):
                    if not accuracy.isnan():  # nothing of this group in this set
                        self.log(f"{stage}/{label}", accuracy)
            metric.reset()


def check_scenes(num_classes: int, stage: str, scores: Tensor, scene: Tensor, batch_idx: int) -> None:
    """Hold a batch against ``num_classes``, which otherwise an index on the device would, or nothing at all.

    Args:
        num_classes: Scenes to tell apart.
        stage: In whose batches, for the error.
        scores: The network's, ``(batch, num_classes)``.
        scene: The number of each clip's scene, int64 of shape ``(batch,)``, or probabilities shaped as ``scores``.
        batch_idx: Numbers on an accelerator are read in an epoch's first batch only: reading them waits for it.

    Raises:
        ValueError: One of them is of another shape or type, or out of range.
    """
    if scores.ndim != 2 or scores.shape[1] != num_classes:
        raise ValueError(
            f"`SceneClassifier(num_classes={num_classes})`: expected scores of shape (batch, {num_classes}) from the "
            f"network in {stage} batches, found {tuple(scores.shape)}. Give the network {num_classes} outputs, or "
            "write num_classes as the number that it has."
        )
    fits = scene.shape == scores.shape if scene.is_floating_point() else scene.shape == scores.shape[:1]
    if not fits or not (scene.is_floating_point() or scene.dtype == torch.int64):
        raise ValueError(
            f"`SceneClassifier`: expected the number of each clip's scene in {stage} batches, int64 of shape "
            f"({len(scores)},), found {scene.dtype} of shape {tuple(scene.shape)}. Batches are (features, scene) or "
            "(features, scene, device)."
        )
    if not scene.is_floating_point() and len(scene) and (scene.device.type == "cpu" or batch_idx == 0):
        least, most = (int(bound) for bound in scene.aminmax())
        if least < 0 or most >= num_classes:
            raise ValueError(
                f"`SceneClassifier(num_classes={num_classes})`: expected scenes from 0 to {num_classes - 1} in {stage} "
                f"batches, found {least if least < 0 else most}. Write num_classes as the number of scenes in the "
                "data, and give the network as many outputs."
            )


class GroupedAccuracy(Metric):
    """Share of right answers within each of ``num_groups`` groups; NaN for a group without answers.

    Example:
        >>> accuracy = GroupedAccuracy(3)
        >>> accuracy(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]))
        tensor([0.5000, 1.0000,    nan])
    """

    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(num_groups), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(num_groups), dist_reduce_fx="sum")

    def update(self, right: Tensor, group: Tensor) -> None:
        """Count a batch.

        Args:
            right: Whether each answer is right, bool of shape ``(batch,)``.
            group: The group of each answer, int of shape ``(batch,)``.
        """
        self.right.index_add_(0, group, right.to(self.right.dtype))
        self.total.index_add_(0, group, torch.ones_like(right, dtype=self.total.dtype))

    def compute(self) -> Tensor:
        """Accuracy of each group.

        Returns:
            ``(num_groups,)``.
        """
        return self.right / self.total
