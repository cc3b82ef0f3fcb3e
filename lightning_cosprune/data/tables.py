"""A folder in DCASE layout: its csv files read, and held against each other, without touching audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from lightning_cosprune.data.csv_file import read_rows
from lightning_cosprune.data.disk import check_readable
from lightning_cosprune.data.spelling import alike, key

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = ["filename", "scene_label", "identifier", "city", "device", "parent"]

# A one-second piece of TAU 2022: scene-city-location-segment-INDEX-device.wav. The recording it was cut from has the
# same name without the index. Names with fewer parts are recordings themselves.
_PIECE = r"^((?:.*/)?[^-/]+-[^-/]+-[^-/]+-[^-/]+)-\d+-([^-/]+\.[^-/.]+)$"


def nearby(root: Path, landmark: str) -> str:
    """Where a set may be whose folder was given wrongly, the end of an error.

    Args:
        root: The folder.
        landmark: What the right folder holds.

    Returns:
        The parent or one of the subfolders, or nothing.
    """
    folders = [root.parent, *sorted(root.glob("*/"))]
    found = next((folder for folder in folders if (folder / landmark).exists()), None)
    return "" if found is None else f", perhaps {found}"


class SceneFolder:
    """A folder in DCASE layout: where its csv files are and what they must hold.

    Args:
        root: The folder with ``meta.csv``, ``evaluation_setup`` and the audio.
        owner: Whose folder it is, the beginning of every error.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.root = root
        self.owner = owner

    def read(self, fold: int) -> dict[str, pd.DataFrame]:
        """The training and test rows of a fold, as the csv files have them.

        Args:
            fold: Number of the fold.

        Returns:
            ``train`` and ``test``, each with the columns of ``COLUMNS`` and its csv line (``line``) and file
            (``source``).

        Raises:
            FileNotFoundError: The folder or a csv file is missing.
            ValueError: A column is missing or empty, a row is doubled or not in meta.csv, a file is in train and test,
                a scene differs between two csv files, or a scene of the test is not in train.
        """
        meta = self.read_meta()
        train = self.read_fold(fold, "train", meta)
        test = self.read_fold(fold, "evaluate", meta)
        self._check_sides(train, test)
        return {"train": train, "test": test}

    def read_meta(self) -> pd.DataFrame:
        """What meta.csv says of every file.

        Returns:
            Columns of ``COLUMNS`` and ``line``, indexed by file name.

        Raises:
            FileNotFoundError: The folder or meta.csv is missing.
            PermissionError: This user may not read or enter the folder.
            ValueError: A column is missing or empty, or a file occurs twice.
        """
        self._check_root("DCASE layout", "meta.csv")
        path = next((self.root / name for name in ("meta.csv", "meta.txt") if (self.root / name).is_file()), None)
        if path is None:
            names = sorted(entry.name for entry in self.root.iterdir())
            found = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "an empty folder"
            raise FileNotFoundError(
                f"{self.owner}: expected meta.csv in it, found {found}. Give the folder that holds meta.csv, audio and "
                f"evaluation_setup{nearby(self.root, 'meta.csv')}."
            )
        meta = self._read_csv(
            path, ["filename", "scene_label", "identifier", "source_label"], optional=path.suffix == ".txt"
        )
        if "identifier" not in meta:  # TUT 2016: the recording is in the name, as in b020_90_120.wav
            meta["identifier"] = meta["filename"].str.extract(r"([^/_]+)[^/]*$", expand=False)
        if "source_label" not in meta:  # the TUT sets before 2018 have one device
            meta["source_label"] = "a"
        self._check_spelling(meta, path)
        meta = meta.rename(columns={"source_label": "device"})
        meta["city"] = meta["identifier"].str.extract(r"^([^-]*)-", expand=False)
        meta["parent"] = meta["filename"].str.replace(_PIECE, r"\1-\2", regex=True)
        return meta.set_index("filename", drop=False)

    def read_fold(self, fold: int, side: str, meta: pd.DataFrame) -> pd.DataFrame:
        """The rows of one side of a fold, with what meta.csv says of them.

        Args:
            fold: Number of the fold.
            side: ``"train"`` or ``"evaluate"``.
            meta: From :meth:`read_meta`.

        Returns:
            Columns of ``COLUMNS``, ``line`` and ``source``, in the order of the fold's csv.

        Raises:
            FileNotFoundError: There is no such csv file.
            ValueError: It lacks a column, names a file twice or one that meta.csv does not, or has another scene for
                it.
        """
        setup = self.root / "evaluation_setup"
        check_readable(setup, self.owner)
        path = setup / f"fold{fold}_{side}.csv"
        if path.with_suffix(".txt").is_file():  # the TUT sets up to 2018
            path = path.with_suffix(".txt")
        if not path.is_file():
            present = sorted(entry.name for entry in setup.glob("fold*_*.*")) if setup.is_dir() else []
            raise FileNotFoundError(
                f"{self.owner}: expected evaluation_setup/{path.name} for fold={fold}, found "
                f"{', '.join(present) or 'no fold'}. Choose a fold that is there or unpack the metadata again."
            )
        rows = self._read_csv(path, ["filename", "scene_label"])
        place = meta.index.get_indexer(pd.Index(rows["filename"]))
        if (place < 0).any():
            row = rows[place < 0].iloc[0]
            raise ValueError(
                f"{self.owner}: expected every file of {self._short(path)} in meta.csv, found {row['filename']!r} "
                f"(line {row['line']}) and {int((place < 0).sum()) - 1} others that are not"
                f"{alike(row['filename'], meta.index)}. Take both from the same release."
            )
        described = meta[COLUMNS].iloc[place].reset_index(drop=True)
        differs = (described["scene_label"] != rows["scene_label"]).to_numpy(dtype=bool)
        if differs.any():
            row = rows[differs].iloc[0]
            raise ValueError(
                f"{self.owner}: expected the same scene in meta.csv and {self._short(path)}, found "
                f"{row['scene_label']!r} for {row['filename']!r} (line {row['line']}) where meta.csv has "
                f"{described['scene_label'][differs].iloc[0]!r}. Take both from the same release."
            )
        return described.assign(line=rows["line"].to_numpy(), source=self._short(path))

    def read_split(self, path: Path, train: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Which training rows a csv file lists, such as those of DCASE 2024.

        Args:
            path: In the folder, or anywhere else.
            train: The training rows of the fold.

        Returns:
            A flag for each row of ``train``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It lacks a column, or names a file that is not in training or has another scene there.
        """
        places = [self.root / path, self.root / "evaluation_setup" / path, path]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise FileNotFoundError(
                f"{self.owner}: expected split={str(path)!r} in the folder, in its evaluation_setup, or as a path of "
                "its own, found no such file. The official ones are files of the DCASE 2024 task 1 baseline."
            )
        rows = self._read_csv(place, ["filename", "scene_label"])
        scene = train.set_index("filename")["scene_label"].reindex(rows["filename"]).reset_index(drop=True)
        wrong = (scene != rows["scene_label"]).fillna(value=True).to_numpy(dtype=bool)
        if wrong.any():
            row = rows[wrong].iloc[0]
            found = scene[wrong].iloc[0]
            there = f"not there{alike(row['filename'], train['filename'])}" if pd.isna(found) else f"as {found}"
            raise ValueError(
                f"{self.owner}: expected every file of {self._short(place)} in training, with the same scene, found "
                f"{row['filename']!r} ({row['scene_label']}, line {row['line']}) "
                f"{there}, and {int(wrong.sum()) - 1} more. Take both from the same data set."
            )
        return train["filename"].isin(rows["filename"]).to_numpy(dtype=bool)

    def read_evaluation(self) -> pd.DataFrame:
        """The rows of an evaluation set, whose scenes are not published.

        Returns:
            Columns of ``COLUMNS``, of which ``scene_label``, ``identifier``, ``city`` and ``device`` are missing;
            ``line`` and ``source``.

        Raises:
            FileNotFoundError: There is no csv file with the names.
            ValueError: There are several, or one lacks the column ``filename``.
        """
        for folder in (self.root, self.root / "evaluation_setup"):
            check_readable(folder, self.owner)
        found = sorted((self.root / "evaluation_setup").glob("*test*.csv"))
        if len(found) != 1:
            names = ", ".join(self._short(path) for path in found) or "none"
            kind: type[Exception] = ValueError if found else FileNotFoundError
            raise kind(
                f"{self.owner}: expected one csv file with the names of the evaluation clips at "
                f"evaluation_setup/*test*.csv, found {names}. Unpack the metadata of the evaluation set again."
            )
        rows = self._read_csv(found[0], ["filename"])
        return rows.assign(parent=rows["filename"], source=self._short(found[0])).reindex(
            columns=[*COLUMNS, "line", "source"]
        )

    def _check_root(self, layout: str, landmark: str) -> None:
        check_readable(self.root, self.owner)
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing"
            raise FileNotFoundError(
                f"{self.owner}: expected a folder in {layout}, found {found} there. Check the path; it is the "
                f"folder that holds {landmark}."
            )

    def _read_csv(
        self, path: Path, columns: list[str], *, optional: bool = False, separator: str = "\t"
    ) -> pd.DataFrame:
        return read_rows(
            path, columns, name=self._short(path), owner=self.owner, optional=optional, separator=separator
        )

    def _check_spelling(self, meta: pd.DataFrame, path: Path) -> None:
        """Refuse scenes that differ in capitals alone: each would silently be a class of its own."""
        scenes = sorted(meta["scene_label"].unique())
        spellings: dict[str, str] = {}
        for scene in scenes:
            known = spellings.setdefault(key(scene), scene)
            if known != scene:
                row = meta[meta["scene_label"] == scene].iloc[0]
                raise ValueError(
                    f"{self.owner}: expected one spelling of each scene in {self._short(path)}, found {known!r} and "
                    f"{scene!r} (line {row['line']}). Write them alike in all csv files."
                )

    def _check_sides(self, train: pd.DataFrame, test: pd.DataFrame) -> None:
        shared = test["filename"].isin(train["filename"])
        if shared.any():
            row = test[shared].iloc[0]
            raise ValueError(
                f"{self.owner}: expected different files in train and test, found {row['filename']!r} "
                f"({row['source']} line {row['line']}) and {int(shared.sum()) - 1} others in both. Take them out of "
                "one of the two."
            )
        scenes = len({*train["scene_label"], *test["scene_label"]})
        if len(train) < scenes:
            raise ValueError(
                f"{self.owner}: expected at least a training clip for each of {scenes} scenes, found {len(train)} "
                f"clips in {train['source'].iloc[0]}. Add clips or take scenes out."
            )
        places = set(train["identifier"]) & set(test["identifier"])
        if places:
            rank_zero_warn(
                f"{self.owner}: expected other places in the test than in training, found {min(places)!r} and "
                f"{len(places) - 1} more identifiers in both. What is tested on was partly heard in training; scores "
                "will be too good."
            )
        unknown = ~test["scene_label"].isin(train["scene_label"])
        if unknown.any():
            row = test[unknown].iloc[0]
            raise ValueError(
                f"{self.owner}: expected every scene of the test in train too, found {row['scene_label']!r} "
                f"({row['source']} line {row['line']}) only in the test. Take its rows out, or add clips of it to "
                f"{train['source'].iloc[0]}."
            )

    def _short(self, path: Path) -> str:
        return (path.relative_to(self.root) if path.is_relative_to(self.root) else path).as_posix()
