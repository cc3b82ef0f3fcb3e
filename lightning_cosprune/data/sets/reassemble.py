"""``reassemble``: the ten-second recordings of TAU 2022 Mobile from its one-second pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from lightning_cosprune.data.tables import SceneFolder


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
