"""The scenes of a study: a folder in DCASE layout, ESC-10 as its author laid it out, or synthetic ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_cosprune.data import ESC10, Augmentation, DCASEScenes, LogMel, SyntheticScenes

SYNTHETIC = "synthetic"


def open_scenes(
    root: str = SYNTHETIC,
    fold: int = 1,
    features: LogMel | str | None = None,
    train_fraction: float = 1.0,
    split: str | None = None,
    clip_seconds: float | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    cache_dir: str = "runs/features",
    recordings: int = 100,
    augment: list[Augmentation] | None = None,
    seed: int = 0,
) -> DCASEScenes:
    """The scenes, with no clip held out: what a study compares is chosen before it is run.

    Args:
        root: Folder of a set in DCASE layout, such as one of the TAU sets, or of ESC-10; "synthetic" writes one of
            noises, with which nothing is measured but that the program works.
        fold: Fold of the set, from 1.
        features: Front end: a name, or the numbers of a LogMel.
        train_fraction: Share of the training recordings, in (0, 1].
        split: A csv file with the training clips, such as split25.csv, in place of train_fraction.
        clip_seconds: What clips are cut or padded to.
        batch_size: Clips in a batch.
        num_workers: Processes that load.
        cache_dir: Where features are kept.
        recordings: How many synthetic ones are written, a multiple of 100.
        augment: Random changes to training batches.
        seed: Chooses the training fraction and the order of the clips.
    """
    settings: dict[str, Any] = {
        "features": features,
        "train_fraction": train_fraction,
        "split": split,
        "clip_seconds": clip_seconds,
        "batch_size": batch_size,
        "num_workers": num_workers,
        "cache_dir": cache_dir,
        "validation_fraction": 0,
        "progress": False,
        "augment": augment,
        "seed": seed,
    }
    folder = Path(root).expanduser()
    if root == SYNTHETIC:
        folder = Path(cache_dir) / f"synthetic-{recordings}"
        SyntheticScenes(
            folder, num_recordings=recordings, recording_seconds=1, progress=False, cache_dir=cache_dir
        ).prepare_data()
    kind = ESC10 if any(folder.glob("001 - *")) else DCASEScenes
    scenes = kind(folder, fold=fold, **settings)
    scenes.prepare_data()
    scenes.setup()
    return scenes


def name_of(root: str) -> str:
    """What a row calls the set: its folder's name, without the place that it has on this machine."""
    return SYNTHETIC if root == SYNTHETIC else Path(root).expanduser().resolve().name
