"""``DCASEScenes``: any folder in DCASE layout as a Lightning data module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_cosprune.arguments import one_of, path_of, whole_number
from lightning_cosprune.data.augment.augmentation import Augmentation
from lightning_cosprune.data.augment.transform import BatchTransform, check_augment
from lightning_cosprune.data.dataset import SceneBatch, SceneDataset, already_collated
from lightning_cosprune.data.features.cache import ClipCache, Content, Precision, check_storage, user_cache
from lightning_cosprune.data.features.front_ends import FrontEnd, named_front_end
from lightning_cosprune.data.features.log_mel import LogMel
from lightning_cosprune.data.features.store import FeatureStore
from lightning_cosprune.data.fold import Fold, check_shares, split_fold
from lightning_cosprune.data.shuffle import SeededShuffle
from lightning_cosprune.data.tables import COLUMNS, SceneFolder


class DCASEScenes(LightningDataModule):
    """Acoustic scenes from a folder in DCASE layout, as cached and normalised log-mel features.

    The folder holds ``meta.csv`` (columns ``filename``, ``scene_label``, ``identifier``, ``source_label``) and, for
    each fold, ``evaluation_setup/foldN_train.csv`` and ``foldN_evaluate.csv`` (``filename``, ``scene_label``); all are
    tab separated. Test clips are those of ``foldN_evaluate.csv``. The audio may be wav, flac or ogg of any sample
    rate, mono or stereo (averaged).

    Batches are :class:`~lightning_cosprune.data.SceneBatch` tuples ``(features, scene, device, city, index)`` with
    features of shape ``(batch, 1, mels, frames)``.

    Validation clips are taken out of the training clips location by location, so that no identifier is on both sides.

    Features are extracted once, into one memory-mapped file for the training and one for the test clips of a fold.
    Their names contain a hash of the settings and of every file's content, so another seed, validation split or
    training fraction costs nothing, and changed audio is noticed. A run that is killed meanwhile is continued by the
    next one. What no run needs any more may be deleted from ``cache_dir`` while none is running.

    Every band is shifted and scaled by its mean and standard deviation over *all* training clips, also when
    ``train_fraction`` is below 1: a network trained on everything and fine-tuned on a part has to see the same inputs.
    The front ends ``"dcase2024"`` and ``"panns"`` are exceptions: their networks read bands as they are.

    The last batch of a training epoch is left out where it would hold a single clip (another one every epoch), because
    batch norm after a linear layer cannot train on one value; no other clip is dropped.

    Args:
        root: Folder of the data set. It is only read.
        fold: Fold of the evaluation setup, from 1.
        features: Front end: a :class:`LogMel`, or one of the names ``"dcase2019"``, ``"dcase2021"``, ``"dcase2022"``,
            ``"dcase2024"`` (also that of CP-Mobile) and ``"panns"`` (CNN14). ``None`` is ``"dcase2021"``.
        resample: Whether clips of another sample rate than the front end's are resampled. Otherwise they are an error.
        clip_seconds: Duration that clips are cut or padded (with silence, at the end) to. ``None`` takes the duration
            that most training clips have.
        validation_fraction: Share of each scene's training identifiers that is held out, in [0, 1). With 0 there is no
            validation.
        train_fraction: Share of the training recordings to train on, in (0, 1]; see
            :func:`~lightning_cosprune.data.nested_fraction`.
        split: A csv file with the training clips to use, such as ``"split25.csv"`` of DCASE 2024: tab separated, with
            the columns ``filename`` and ``scene_label``. A path in ``root`` or anywhere else; in place of
            ``train_fraction``. Validation clips are taken out of it too.
        devices: Recording devices whose clips are used, such as ``["a", "b"]``; all where ``None``.
        cities: Cities whose clips are used; all where ``None``.
        evaluation_root: Folder of an evaluation set, whose scenes are not published: ``audio`` and
            ``evaluation_setup/*test*.csv`` with the column ``filename``. Its clips are what is predicted; those of the
            test where ``None``.
        batch_size: Clips in a batch.
        num_workers: Loader processes. Reading from the store takes so little that 0 is usually fastest.
        cache_dir: Folder for the feature stores; ``None`` is ``lightning_cosprune`` in ``$XDG_CACHE_HOME`` or
            ``~/.cache``.
        cache: What is kept on disk. ``"features"``, or ``"waveforms"`` of the front end's rate, from which features are
            computed batch by batch on the training device: for augmentation of the sound itself. Batches then hold
            waveforms, ``(batch, samples)``, until a Trainer has moved them there.
        cache_dtype: ``"float32"``, or ``"float16"`` for half the space and steps of at most 0.05 % of a value.
        augment: Random changes to training batches, on the training device; validation, test and prediction never meet
            them. Those of the sound itself need ``cache="waveforms"``.
        progress: Whether extraction shows a progress bar.
        seed: Chooses the validation identifiers, the training fraction and the order of training clips.

    Raises:
        ValueError: If a setting is out of range. Faults of the folder are raised, as a ``ValueError`` too, when it is
            read.
    """

    default_features: ClassVar[LogMel | str] = "dcase2021"
    folder_type: ClassVar[type[SceneFolder]] = SceneFolder

    def __init__(
        self,
        root: str | Path,
        *,
        fold: int = 1,
        features: LogMel | str | None = None,
        resample: bool = True,
        clip_seconds: float | None = None,
        validation_fraction: float = 0.3,
        train_fraction: float = 1.0,
        split: str | Path | None = None,
        devices: Sequence[str] | None = None,
        cities: Sequence[str] | None = None,
        evaluation_root: str | Path | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        cache_dir: str | Path | None = None,
        cache: Content = "features",
        cache_dtype: Precision = "float32",
        augment: Sequence[Augmentation] | Augmentation | None = None,
        progress: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_shares(validation_fraction, train_fraction, split, name)
        check_storage(clip_seconds, cache, cache_dtype, name)
        fold = whole_number(fold, f"`{name}(fold={{}})`", 1)
        batch_size = whole_number(batch_size, f"`{name}(batch_size={{}})`", 1)
        num_workers = whole_number(num_workers, f"`{name}(num_workers={{}})`", 0)
        seed = whole_number(seed, f"`{name}(seed={{}})`", 0, 10**16 - 1)
        for parameter, names in (("devices", devices), ("cities", cities)):
            _check_names(names, f"`{name}({parameter}={names!r})`")
        self.root = path_of(root, f"`{name}(root={{}})`", "the folder of the set").expanduser()
        self.fold = fold
        front_end = named_front_end(
            self.default_features if features is None else features, f"`{name}(features={{!r}})`"
        )
        self.features, self.normalize = front_end.log_mel, front_end.normalize
        self.resample = resample
        self.clip_seconds = None if clip_seconds is None else float(clip_seconds)
        self.validation_fraction = float(validation_fraction)
        self.train_fraction = float(train_fraction)
        self.split = _optional_path(split, f"`{name}(split={{}})`", "a csv file with training clips, or None")
        self.only = {"device": devices, "city": cities}
        self.evaluation_root = _optional_path(
            evaluation_root, f"`{name}(evaluation_root={{}})`", "the folder of an evaluation set, or None"
        )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.cache = cache
        self.cache_dtype = cache_dtype
        self.cache_dir = _optional_path(cache_dir, f"`{name}(cache_dir={{}})`", "a folder, or None") or user_cache()
        self.progress = progress
        self.seed = seed
        self._fold: Fold | None = None
        self._stores: dict[str, FeatureStore] | None = None
        self._statistics: tuple[Tensor, Tensor] | None = None
        self._datasets: dict[str, SceneDataset] = {}
        self.augment = check_augment(augment, cache, name)
        self._transform: BatchTransform | None = None

    def tables(self) -> dict[str, pd.DataFrame]:
        """What the loaders serve, read from the csv files alone.

        Returns:
            For each of ``train`` (the chosen fraction), ``validation``, ``test`` and ``predict`` one row a clip, with
            the columns ``filename``, ``scene_label``, ``identifier``, ``city`` (missing where the identifier has no
            hyphen), ``device`` and ``parent`` (the recording a clip was cut from). Of evaluation clips only
            ``filename`` and ``parent`` are known.

        Raises:
            ValueError: If the folder departs from the layout.
        """
        fold = self._read_fold()
        tables = {split: fold.table(split) for split in ("train", "validation", "test")}
        tables["predict"] = tables["test"] if self.evaluation_root is None else self._read_evaluation()
        return {split: table[list(COLUMNS)].reset_index(drop=True) for split, table in tables.items()}

    @property
    def scene_labels(self) -> list[str]:
        """Scenes in alphabetical order; a clip's class is its scene's position."""
        return self._read_fold().scene_labels

    @property
    def devices(self) -> list[str]:
        """Recording devices in alphabetical order, training's and test's."""
        return self._read_fold().devices

    @property
    def cities(self) -> list[str]:
        """Cities in alphabetical order, training's and test's; none where identifiers have no hyphen."""
        return self._read_fold().cities

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Shape of a clip's features, ``(1, mels, frames)``; extracts them if need be."""
        samples = self._open_stores()["train"].info["clip_samples"]
        return 1, self.features.n_mels, self.features.frames(samples)

    @property
    def band_statistics(self) -> tuple[Tensor, Tensor]:
        """What bands are shifted and scaled by, ``(mels,)`` each; extracts the features if need be.

        Mean and standard deviation of every band over the training clips, or 0 and 1 with a front end whose networks
        read bands as they are.
        """
        if not self.normalize:
            return torch.zeros(self.features.n_mels), torch.ones(self.features.n_mels)
        if self._statistics is None:
            mean, std = self._open_stores()["train"].band_statistics(self._read_fold().unreduced_rows)
            self._statistics = torch.from_numpy(mean), torch.from_numpy(std)
        return self._statistics

    def prepare_data(self) -> None:
        """Extracts the features into the cache, unless they are there."""
        self._open_stores()

    def setup(self, stage: str | None = None) -> None:
        """Opens the cached features.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"``, ``"predict"`` or ``None`` for all.
        """
        splits = {
            None: ("train", "validation", "test", "predict"),
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }
        if stage is not None:
            one_of(stage, f"`{type(self).__name__}.setup(stage={{}})`", [name for name in splits if name])
        for split in splits[stage]:
            self._dataset(split)
        # What is wrong with an augmentation shows now, not at the first batch.
        self._batch_transform()

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        """Training batches, shuffled anew every epoch in an order that ``seed`` and the epoch decide.

        Returns:
            The loader.
        """
        dataset = self._dataset("train")
        processes = 1 if self.trainer is None else self.trainer.world_size
        clips = math.ceil(len(dataset) / processes)
        return self._loader(
            dataset,
            sampler=SeededShuffle(range(len(dataset)), seed=self.seed),
            drop_last=clips > self.batch_size and clips % self.batch_size == 1,
        )

    def val_dataloader(self) -> DataLoader[SceneBatch] | list[Any]:
        """Validation batches, in the table's order.

        Returns:
            The loader, or an empty list (no validation, to Lightning) where no clip is held out.
        """
        dataset = self._dataset("validation")
        return self._loader(dataset) if len(dataset) else []

    def test_dataloader(self) -> DataLoader[SceneBatch]:
        """Test batches, in the table's order.

        Returns:
            The loader.
        """
        return self._loader(self._dataset("test"))

    def predict_dataloader(self) -> DataLoader[SceneBatch]:
        """Batches to predict, in the table's order: the evaluation clips, of which all numbers are -1, or the test.

        Returns:
            The loader.
        """
        return self._loader(self._dataset("predict"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """What the network reads: features, augmented in training.

        Args:
            batch: What a loader gave, moved to the training device.
            dataloader_idx: Which loader, of which each stage has one.

        Returns:
            The batch with features.
        """
        if self.cache == "features" and not self.augment:
            return batch
        training = self.trainer is not None and self.trainer.training
        return self._batch_transform().train(training).to(batch.features.device)(batch)

    def _batch_transform(self) -> BatchTransform:
        if self._transform is None:
            front_end = FrontEnd(self.features, *self.band_statistics) if self.cache == "waveforms" else None
            for augmentation in self.augment:
                augmentation.prepare(
                    num_classes=len(self.scene_labels), devices=self.devices, sample_rate=self.features.sample_rate
                )
            self._transform = BatchTransform(front_end, self.augment)
        return self._transform

    def _loader(self, dataset: SceneDataset, **options: Any) -> DataLoader[SceneBatch]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=already_collated,
            **options,
        )

    def _dataset(self, split: str) -> SceneDataset:
        if split == "predict" and self.evaluation_root is None:
            split = "test"
        if split not in self._datasets:
            fold = self._read_fold()
            table = self._read_evaluation() if split == "predict" else fold.table(split)
            self._datasets[split] = SceneDataset(
                self._open_stores()[split if split in ("test", "predict") else "train"],
                np.arange(len(table)) if split == "predict" else fold.rows[split],
                *fold.numbers(table),
                *self.band_statistics,
            )
        return self._datasets[split]

    @property
    def _owner(self) -> str:
        """The beginning of every error about the folder."""
        return f"`{type(self).__name__}(root={str(self.root)!r})`"

    def _folder(self) -> SceneFolder:
        return self.folder_type(self.root, self._owner)

    def _read_fold(self) -> Fold:
        if self._fold is None:
            self._fold = split_fold(
                self._folder(),
                self.fold,
                validation_fraction=self.validation_fraction,
                train_fraction=self.train_fraction,
                split=self.split,
                only=self.only,
                seed=self.seed,
            )
        return self._fold

    def _read_evaluation(self) -> pd.DataFrame:
        assert self.evaluation_root is not None
        owner = f"`{type(self).__name__}(evaluation_root={str(self.evaluation_root)!r})`"
        return SceneFolder(self.evaluation_root, owner).read_evaluation()

    def _open_stores(self) -> dict[str, FeatureStore]:
        # Of the training clips, validation included, the test clips, and those to predict where they are others.
        if self._stores is None:
            cache = ClipCache(
                self.cache_dir,
                self.root,
                self.features,
                content=self.cache,
                precision=self.cache_dtype,
                resample=self.resample,
                clip_seconds=self.clip_seconds,
                progress=self.progress,
                owner=self._owner,
            )
            stores = cache.open(self._read_fold().clips)
            if self.evaluation_root is not None:
                seconds = stores["train"].info["clip_samples"] / self.features.sample_rate
                evaluation = replace(cache, root=self.evaluation_root, clip_seconds=seconds)
                stores |= evaluation.open({"predict": self._read_evaluation()})
            self._stores = stores
        return self._stores


def _optional_path(value: str | Path | None, subject: str, expected: str) -> Path | None:
    return None if value is None else path_of(value, subject, expected).expanduser()


def _check_names(names: Any, subject: str) -> None:
    many = isinstance(names, Iterable) and getattr(names, "shape", None) != ()
    found = names if many else [names]
    wrong = next((one for one in found if not isinstance(one, str)), None) if names is not None else None
    if wrong is not None:
        raise TypeError(
            f'{subject}: expected names such as ["a", "b"], or None for all, found a {type(wrong).__name__}. Write '
            "them in quotes."
        )
