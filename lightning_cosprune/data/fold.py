"""One fold of a set, split: which of its clips are trained, validated and tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from lightning_cosprune.arguments import real_number
from lightning_cosprune.data.fraction import fraction_rows, stratified_order
from lightning_cosprune.data.tables import SceneFolder


@dataclass(frozen=True)
class Fold:
    """One fold, split.

    Attributes:
        clips: ``train`` (validation clips included) and ``test``, as the csv files have them; a store has the same
            rows.
        rows: Which rows of ``clips`` form ``train``, ``validation`` and ``test``.
        unreduced_rows: ``train`` before the fraction was taken.
        scene_labels: Names of the classes.
        devices: Names of the devices.
        cities: Names of the cities.
    """

    clips: dict[str, pd.DataFrame]
    rows: dict[str, npt.NDArray[np.int64]]
    unreduced_rows: npt.NDArray[np.int64]
    scene_labels: list[str]
    devices: list[str]
    cities: list[str]

    def table(self, split: str) -> pd.DataFrame:
        """The clips of a split.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.

        Returns:
            Their rows.
        """
        return self.clips["test" if split == "test" else "train"].iloc[self.rows[split]]

    def numbers(
        self, table: pd.DataFrame
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """What batches have in the place of names.

        Args:
            table: Columns ``scene_label``, ``device`` and ``city``.

        Returns:
            Positions in ``scene_labels``, ``devices`` and ``cities``, -1 where nothing is known.
        """
        return (
            _positions(self.scene_labels, table["scene_label"]),
            _positions(self.devices, table["device"]),
            _positions(self.cities, table["city"]),
        )


def check_shares(validation_fraction: float, train_fraction: float, split: object, owner: str) -> None:
    """Refuse shares of the clips that cannot be.

    Args:
        validation_fraction: Should be in [0, 1).
        train_fraction: Should be in (0, 1], and 1 where ``split`` is given.
        split: A csv file with the training clips, or ``None``.
        owner: Name of the data module, the beginning of the error.

    Raises:
        TypeError: They are no numbers.
        ValueError: They are out of range.
    """
    expected = "a fraction, such as 0.25"
    if not 0 <= real_number(validation_fraction, f"`{owner}(validation_fraction={{}})`", expected) < 1:
        raise ValueError(
            f"`{owner}(validation_fraction={validation_fraction})`: expected a fraction in [0, 1). To hold out 30 "
            "% of the training identifiers write 0.3, for no validation 0."
        )
    if not 0 < real_number(train_fraction, f"`{owner}(train_fraction={{}})`", expected) <= 1:
        raise ValueError(
            f"`{owner}(train_fraction={train_fraction})`: expected a fraction in (0, 1]. To train on 25 % of the "
            "recordings write 0.25."
        )
    if split is not None and train_fraction != 1:
        raise ValueError(
            f"`{owner}(split={str(split)!r}, train_fraction={train_fraction})`: expected one of them, since both "
            "say which clips to train on. Leave one out."
        )


def split_fold(
    folder: SceneFolder,
    number: int,
    *,
    validation_fraction: float,
    train_fraction: float,
    split: Path | None,
    only: Mapping[str, Sequence[str] | None],
    seed: int,
) -> Fold:
    """Read a fold and split it.

    Args:
        folder: The set.
        number: Of the fold, from 1.
        validation_fraction: Share of the identifiers that is held out.
        train_fraction: Share of the training recordings to keep.
        split: A csv file with the training clips to keep, in the place of a fraction.
        only: Values to keep in the columns ``device`` and ``city``; all where ``None``.
        seed: Chooses what is held out and what is kept.

    Returns:
        The fold.

    Raises:
        FileNotFoundError: As :meth:`SceneFolder.read` and :meth:`SceneFolder.read_split`.
        ValueError: As these, and if ``only`` names what there is not, or a scene loses all its training clips.
    """
    clips = folder.read(number)
    listed = None if split is None else folder.read_split(split, clips["train"])
    wanted = _wanted(clips, only, folder.owner)
    train, test = clips["train"], clips["test"]
    scene_labels = sorted(train["scene_label"].unique())
    held_out = validation_mask(train, validation_fraction, seed)
    if validation_fraction > 0 and not held_out.any():
        rank_zero_warn(
            f"{folder.owner}: validation_fraction={validation_fraction} holds out no clip, because the scenes have "
            "too few identifiers to spare one. Raise it, or write 0 to train without validation."
        )
    unreduced = np.flatnonzero(~held_out & wanted["train"])
    if listed is not None:
        rows = unreduced[listed[unreduced]]
        how = "split"
    else:
        rows = unreduced[fraction_rows(train.iloc[unreduced], train_fraction, seed)]
        how = f"train_fraction={train_fraction}"
    for side, column in (("train", "training"), ("test", "test")):
        if not wanted[side].any():
            asked = " and ".join(f"{parameter}={names!r}" for parameter, names in _asked(only))
            raise ValueError(
                f"{folder.owner}: expected {asked} to leave a clip on each side, found none of the {len(clips[side])} "
                f"{column} clips of that kind. Ask for devices and cities that both sides have."
            )
    if held_out.any() and not (held_out & wanted["train"]).any():
        rank_zero_warn(
            f"{folder.owner}: no validation clip is left of the devices and cities that were asked for, so there is no "
            "validation. Ask for more of them, or raise validation_fraction."
        )
    lost = sorted(set(scene_labels) - set(train["scene_label"].iloc[rows]))
    if lost:
        asked = " and ".join(f"{parameter}={names!r}" for parameter, names in _asked(only))
        whole = train_fraction == 1 and listed is None
        how = asked if whole and asked else how
        more = "Ask for more" if whole else "Use a larger fraction, or more"
        fewer = ", fewer clips than scenes," if len(rows) < len(scene_labels) else ""
        raise ValueError(
            f"{folder.owner}: expected {how} to leave every scene a training clip, found {len(rows)} clips for "
            f"{len(scene_labels)} scenes{fewer} and none of {', '.join(lost)}. {more} "
            "devices and cities."
        )
    return Fold(
        clips=clips,
        rows={
            "train": rows,
            "validation": np.flatnonzero(held_out & wanted["train"]),
            "test": np.flatnonzero(wanted["test"]),
        },
        unreduced_rows=unreduced,
        scene_labels=scene_labels,
        devices=sorted({*train["device"][wanted["train"]], *test["device"][wanted["test"]]}),
        cities=sorted({*train["city"][wanted["train"]].dropna(), *test["city"][wanted["test"]].dropna()}),
    )


def _asked(only: Mapping[str, Sequence[str] | None]) -> list[tuple[str, Sequence[str]]]:
    words = {"device": "devices", "city": "cities"}
    return [(words[column], names) for column, names in only.items() if names is not None]


def _positions(names: list[str], column: pd.Series[str]) -> npt.NDArray[np.int64]:
    return pd.Index(names).get_indexer(pd.Index(column)).astype(np.int64)


def _wanted(
    clips: dict[str, pd.DataFrame], only: Mapping[str, Sequence[str] | None], owner: str
) -> dict[str, npt.NDArray[np.bool_]]:
    """Which rows are of the devices and cities that were asked for."""
    wanted = {side: np.ones(len(table), dtype=bool) for side, table in clips.items()}
    for column, names in only.items():
        if names is None:
            continue
        names = [names] if isinstance(names, str) else list(names)
        present = {name for table in clips.values() for name in table[column].dropna().unique()}
        unknown = sorted(set(names) - present)
        if unknown or not names:
            parameter = {"device": "devices", "city": "cities"}[column]
            raise ValueError(
                f"{owner}: expected `{parameter}` among {', '.join(sorted(present)) or 'none'}, found "
                f"{', '.join(map(repr, unknown)) or 'an empty list'}. Leave it out to use all."
            )
        for side, table in clips.items():
            wanted[side] &= table[column].isin(names).to_numpy(dtype=bool)
    return wanted


def validation_mask(train: pd.DataFrame, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Places to set aside for validation: all rows of an identifier go to one side.

    The identifiers are taken evenly from the scenes. Each scene keeps at least one in train, so that a scene with a
    single identifier is never validated. An identifier with several scenes counts for the first of them,
    alphabetically.

    Args:
        train: Columns ``scene_label`` and ``identifier``.
        fraction: Fraction of the identifiers to set aside, in [0, 1).
        seed: Changes the choice.

    Returns:
        Whether each row is set aside.
    """
    codes, identifiers = pd.factorize(train["identifier"])
    scene = np.full(len(identifiers), np.iinfo(np.int64).max)
    np.minimum.at(scene, codes, pd.factorize(train["scene_label"], sort=True)[0])
    order = stratified_order(np.asarray(identifiers, dtype=object), scene, seed)
    # The last identifier of each scene in that order stays in train whatever the fraction.
    stays = len(order) - 1 - np.unique(scene[order][::-1], return_index=True)[1]
    aside = np.delete(order, stays)[: round(fraction * len(order))]
    mask: npt.NDArray[np.bool_] = np.isin(codes, aside)
    labels = train["scene_label"].to_numpy(dtype=object)
    for lost in sorted(set(labels) - set(labels[~mask])):
        # All its identifiers counted for other scenes; the last of them in the order comes back.
        its = set(codes[labels == lost])
        mask &= codes != [identifier for identifier in order if identifier in its][-1]
    return mask
