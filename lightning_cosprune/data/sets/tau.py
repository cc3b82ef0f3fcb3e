"""The TAU Urban Acoustic Scenes sets, as the DCASE challenges of 2019 to 2025 used them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from lightning_cosprune.data.scenes import _Fold
from lightning_cosprune.data.sets.download import zenodo_archives
from lightning_cosprune.data.sets.published import PublishedScenes
from lightning_cosprune.data.tables import SceneFolder


class _TAUScenes(PublishedScenes):
    """What tells the sets apart, whose folders look alike.

    Attributes:
        example: The name of one of its clips.
        in_pieces: Whether clips are pieces of recordings.
        many_devices: Whether more than one device recorded them.
    """

    licence = "Tampere University's licence, for experimental and non-commercial use, in its documents"
    example: ClassVar[str]
    in_pieces: ClassVar[bool]
    many_devices: ClassVar[bool]

    def _read_fold(self) -> _Fold:
        fold = super()._read_fold()
        train = fold.clips["train"]
        in_pieces = bool((train["parent"] != train["filename"]).any())
        devices = sorted({*train["device"], *fold.clips["test"]["device"]})
        if (in_pieces, len(devices) > 1) != (self.in_pieces, self.many_devices):
            raise ValueError(
                f"{self._owner}: expected {self.set_name}, clips such as {self.example} of "
                f"{'several devices' if self.many_devices else 'one device'}, found {train['filename'].iloc[0]} and "
                f"the device{'s' * (len(devices) > 1)} {', '.join(devices)}: another set. Use the class of its year, "
                "or DCASEScenes."
            )
        return fold


class TAUUrbanAcousticScenes2019(_TAUScenes):
    """TAU Urban Acoustic Scenes 2019: 14,400 clips of ten seconds from twelve cities, one device, 48 kHz stereo.

    9,185 training and 4,185 test clips; the 1,030 clips of neither are all of Milan. The front end is that of the
    baseline of DCASE 2019, task 1A, which ranked by class-averaged accuracy.

    Args:
        root: Folder with meta.csv, or where to download to.
        download: Whether missing archives are fetched from Zenodo: 36 GB, and 2 GB more while they are unpacked.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.

    Source: Mesaros, Heittola and Virtanen, Zenodo record 2589280.
    """

    set_name = "TAU-urban-acoustic-scenes-2019-development"
    archives = zenodo_archives(set_name)
    default_features = "dcase2019"
    example = "audio/airport-lisbon-1000-40000-a.wav"
    in_pieces = False
    many_devices = False


class TAUUrbanAcousticScenes2020Mobile(_TAUScenes):
    """TAU Urban Acoustic Scenes 2020 Mobile: 23,035 ten-second clips, ten cities, nine devices, six of them simulated.

    13,962 training and 2,968 test clips; devices s4 to s6 are in the test only. It is the set of DCASE 2020 and 2021,
    task 1A, and of Singh and Plumbley's papers; the front end is that of the baseline of 2021, which ranked by log
    loss.

    Args:
        root: Folder with meta.csv, or where to download to.
        download: Whether missing archives are fetched from Zenodo: 27 GB, and 2 GB more while they are unpacked.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.

    Source: Heittola, Mesaros and Virtanen, Zenodo record 3819968.
    """

    set_name = "TAU-urban-acoustic-scenes-2020-mobile-development"
    archives = zenodo_archives(set_name)
    default_features = "dcase2021"
    example = "audio/airport-lisbon-1000-40000-a.wav"
    in_pieces = False
    many_devices = True


class TAUUrbanAcousticScenes2022Mobile(_TAUScenes):
    """TAU Urban Acoustic Scenes 2022 Mobile: the recordings of 2020 in 230,350 pieces of one second.

    139,620 training and 29,680 test pieces. It is the set of DCASE 2022 to 2025, task 1; the front end is that of the
    baseline of 2022, ``features="dcase2024"`` that of the baseline of 2024. The ``parent`` of a piece names its
    recording; :func:`reassemble` writes the recordings. ``split="split5.csv"`` and so on train on the official subsets
    of 2024; ``train_fraction`` makes subsets of the same structure and sizes.

    Args:
        root: Folder with meta.csv, or where to download to.
        download: Whether missing archives are fetched from Zenodo: 28 GB, and 2 GB more while they are unpacked.
        keep_archives: Whether the archives stay.
        **options: Those of :class:`DCASEScenes`.

    Source: Heittola, Mesaros and Virtanen, Zenodo record 6337421.
    """

    set_name = "TAU-urban-acoustic-scenes-2022-mobile-development"
    archives = zenodo_archives(set_name)
    default_features = "dcase2022"
    example = "audio/airport-lisbon-1000-40000-0-a.wav"
    in_pieces = True
    many_devices = True


def reassemble(root: str | Path, destination: str | Path, *, progress: bool = True) -> None:
    """Write the recordings that the pieces of a set were cut from, as a set of its own.

    TAU 2022 Mobile has ten pieces of one second of each recording of ten seconds. Networks that train on ten seconds
    read ``DCASEScenes(destination)``. Samples are copied as they are; a recording that is there is not written again,
    so a killed run is continued by the next one.

    Args:
        root: The set of pieces; only read.
        destination: Folder to write: wav files, ``meta.csv`` and the training and test side of fold 1.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: A piece or a csv file is missing.
        ValueError: The set has no pieces, or the pieces of a recording differ in scene, place, device or format.
    """
    source, target = Path(root).expanduser(), Path(destination).expanduser()
    folder = SceneFolder(source, f"`reassemble(root={str(root)!r})`")
    meta = folder.read_meta()
    sides = folder.read(1)
    if (meta["parent"] == meta["filename"]).all():
        raise ValueError(
            f"`reassemble(root={str(root)!r})`: expected pieces such as audio/bus-lyon-1-2-0-a.wav, found none. The "
            "set has whole recordings already."
        )
    order = meta["filename"].str.extract(r"-(\d+)-[^-/]+$", expand=False).astype(int)
    pieces = meta.assign(order=order).sort_values(["parent", "order"], kind="stable").groupby("parent", sort=False)
    columns = ["scene_label", "identifier", "device"]
    differ = (pieces[columns].nunique() > 1).any(axis=1)
    if differ.any():
        raise ValueError(
            f"`reassemble(root={str(root)!r})`: expected one scene, place and device for all pieces of a recording, "
            f"found several for {differ.index[differ][0]!r}. Take the metadata from one release."
        )
    for parent, names in tqdm(pieces["filename"], desc="Reassembling", unit="recording", disable=not progress):
        _join([source / name for name in names], target / str(parent))
    (target / "evaluation_setup").mkdir(exist_ok=True)
    table = pieces[columns].first().reset_index().rename(columns={"parent": "filename", "device": "source_label"})
    _write_csv(table, target / "meta.csv")
    for side, name in (("train", "train"), ("test", "evaluate")):
        rows = sides[side].drop_duplicates("parent")[["parent", "scene_label"]].rename(columns={"parent": "filename"})
        _write_csv(rows, target / "evaluation_setup" / f"fold1_{name}.csv")


def _join(pieces: list[Path], target: Path) -> None:
    if target.is_file():
        return
    headers = [soundfile.info(piece) for piece in pieces]
    formats = {(header.samplerate, header.channels, header.subtype) for header in headers}
    if len(formats) > 1:
        raise ValueError(
            f"`reassemble`: expected one sample rate, number of channels and width of the pieces of {target.name}, "
            f"found {sorted(formats)}. Take the audio from one release."
        )
    ((rate, _, subtype),) = formats
    sound = np.concatenate([soundfile.read(piece, dtype="int32", always_2d=True)[0] for piece in pieces])
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.part")
    soundfile.write(partial, sound, rate, subtype=subtype, format="WAV")
    partial.replace(target)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(f"{path.name}.part")
    table.to_csv(partial, sep="\t", index=False, lineterminator="\n")
    partial.replace(path)
