"""``reassemble``: the ten-second recordings of TAU 2022 Mobile from its one-second pieces."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import soundfile
from tqdm.auto import tqdm

from lightning_cosprune.arguments import path_of
from lightning_cosprune.data.disk import writing_to, written_beside
from lightning_cosprune.data.features.audio import unreadable
from lightning_cosprune.data.tables import SceneFolder

T = TypeVar("T")


def reassemble(root: str | Path, destination: str | Path, *, progress: bool = True) -> None:
    """Write the recordings that the pieces of a set were cut from, as a set of its own.

    TAU 2022 Mobile has ten pieces of one second of each recording of ten seconds. Networks that train on ten seconds
    read ``DCASEScenes(destination)``. Samples are copied as they are; a recording that is there whole is not written
    again, so a killed run is continued by the next one.

    Args:
        root: The set of pieces; only read.
        destination: Folder to write: wav files, ``meta.csv`` and the training and test side of fold 1. A new or empty
            one, or that of a run that did not come to its end.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: A piece or a csv file is missing; nothing is written then.
        ValueError: The set has no pieces, the pieces of a recording differ in scene, place, device or format or are
            not all there, or ``destination`` is ``root``, within it, or holds anything else; what is there stays.
        OSError: The disk is full, or ``destination`` cannot be written.
    """
    source = path_of(root, "`reassemble(root={})`", "the folder of the set of pieces").expanduser()
    target = path_of(destination, "`reassemble(destination={})`", "the folder to write").expanduser()
    owner = f"`reassemble(root={str(root)!r})`"
    folder = SceneFolder(source, owner)
    meta = folder.read_meta()
    sides = folder.read(1)
    if (meta["parent"] == meta["filename"]).all():
        raise ValueError(
            f"{owner}: expected pieces such as audio/bus-lyon-1-2-0-a.wav, found none. The set has whole "
            "recordings already."
        )
    order = meta["filename"].str.extract(r"-(\d+)-[^-/]+$", expand=False).astype("Int64")
    ordered = meta.assign(order=order).sort_values(["parent", "order"], kind="stable")
    pieces = ordered.groupby("parent", sort=False)
    columns = ["scene_label", "identifier", "device"]
    differ = (pieces[columns].nunique() > 1).any(axis=1)
    if differ.any():
        raise ValueError(
            f"{owner}: expected one scene, place and device for all pieces of a recording, "
            f"found several for {differ.index[differ][0]!r}. Take the metadata from one release."
        )
    _check_whole(ordered, owner)
    _check_there(source, ordered, owner)
    table = pieces[columns].first().reset_index().rename(columns={"parent": "filename", "device": "source_label"})
    tables = {target / "meta.csv": table}
    for side, name in (("train", "train"), ("test", "evaluate")):
        rows = sides[side].drop_duplicates("parent")[["parent", "scene_label"]].rename(columns={"parent": "filename"})
        tables[target / "evaluation_setup" / f"fold1_{name}.csv"] = rows
    texts = {path: rows.to_csv(sep="\t", index=False, lineterminator="\n").encode() for path, rows in tables.items()}
    recordings = {target / name for name in table["filename"]}
    _check_destination(source, target, texts, recordings, f"`reassemble(destination={str(destination)!r})`")

    needed = sum((source / name).stat().st_size for name in ordered["filename"])
    with writing_to(target, "`reassemble`", needed, "a rerun goes on where this one stopped"):
        for parent, names in tqdm(pieces["filename"], desc="Reassembling", unit="recording", disable=not progress):
            _join([source / name for name in names], target / str(parent), owner)
        for path, text in reversed(texts.items()):  # meta.csv, by which a set is known, comes last
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(path) as file:
                file.write(text)


def _check_whole(ordered: pd.DataFrame, owner: str) -> None:
    """Refuse recordings of which the metadata lack a piece: the others would be joined over the gap."""
    pieces = ordered.groupby("parent", sort=False)["order"]
    most = int(pieces.size().mode().max())
    # Numbers 0 to n - 1, each once: none is doubled, and their sum and number say that none is left out.
    odd = (pieces.size() != most) | (pieces.nunique() != most) | (pieces.max() != most - 1) | (pieces.min() != 0)
    if odd.any():
        parent = odd.index[odd][0]
        found = ", ".join(map(str, pieces.get_group(parent)))
        raise ValueError(
            f"{owner}: expected the pieces 0 to {most - 1} of every recording, found {found} of {parent!r} in "
            f"meta.csv, and {int(odd.sum()) - 1} more recordings that are not whole. Unpack the metadata again, or "
            "take the rows of these recordings out of all csv files."
        )


def _check_there(source: Path, ordered: pd.DataFrame, owner: str) -> None:
    missing = [
        (name, line)
        for name, line in zip(ordered["filename"], ordered["line"], strict=True)
        if not (source / name).is_file()
    ]
    if missing:
        name, line = missing[0]
        raise FileNotFoundError(
            f"{owner}: expected the audio of meta.csv line {line} at {source / name}, found no such file; "
            f"{len(missing)} of {len(ordered)} pieces are missing. Unpack the missing archive, or take the rows of "
            "whole recordings out of all csv files."
        )


def _check_destination(source: Path, target: Path, texts: dict[Path, bytes], recordings: set[Path], owner: str) -> None:
    """Refuse a folder in which anything would be lost or mixed: the set itself, another set, or somebody's files."""
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{owner}: expected another folder than that of the pieces, which is only read, found it or one within. "
            "Give a new folder."
        )
    if target.exists() and not target.is_dir():
        raise ValueError(f"{owner}: expected a folder or nothing, found a file. Give a new folder.")
    # What an earlier run has left is byte-equal to what this one writes.
    for path in target.rglob("*"):
        whole = path.with_suffix("") if path.suffix == ".part" else path
        own = whole in recordings or (whole in texts and (path != whole or path.read_bytes() == texts[path]))
        if not (own or path.is_dir() or path.name.startswith(".")):
            raise ValueError(
                f"{owner}: expected a new folder, or one that an earlier run on the same pieces has begun, found "
                f"{path.relative_to(target).as_posix()}, which is none of its files. Give a new folder."
            )


def _join(pieces: list[Path], target: Path, owner: str) -> None:
    headers = [_readable(soundfile.info, piece, owner) for piece in pieces]
    formats = {(header.samplerate, header.channels, header.subtype) for header in headers}
    if len(formats) > 1:
        raise ValueError(
            f"{owner}: expected one sample rate, number of channels and width of the pieces of {target.name}, "
            f"found {sorted(formats)}. Take the audio from one release."
        )
    ((rate, channels, subtype),) = formats
    if _is_done(target, (rate, channels, subtype), sum(header.frames for header in headers)):
        return
    sounds = [_readable(_samples, piece, owner) for piece in pieces]
    # By way of memory: libsndfile does not say why it could not write.
    content = io.BytesIO()
    soundfile.write(content, np.concatenate(sounds), rate, subtype=subtype, format="WAV")
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(target, to_disk=False) as file:
        file.write(content.getvalue())


def _is_done(target: Path, wanted: tuple[int, int, str], frames: int) -> bool:
    """Whether the recording is there; one that was cut off is not."""
    if not target.exists():
        return False
    try:
        found = soundfile.info(target)
    except (soundfile.LibsndfileError, OSError):
        return False
    kind = (found.samplerate, found.channels, found.subtype)
    if kind != wanted or found.frames > frames:
        raise ValueError(
            f"`reassemble`: expected at {target} nothing, or the recording of {frames} samples that an earlier run has "
            f"written as {wanted}, found another one, of {found.frames} samples and {kind}. Give a new folder."
        )
    return bool(found.frames == frames)


def _samples(piece: Path) -> npt.NDArray[np.int32]:
    sound: npt.NDArray[np.int32] = soundfile.read(piece, dtype="int32", always_2d=True)[0]
    return sound


def _readable(read: Callable[[Path], T], piece: Path, owner: str) -> T:
    try:
        return read(piece)
    except (soundfile.LibsndfileError, OSError) as error:
        raise unreadable(piece, owner, error) from error
