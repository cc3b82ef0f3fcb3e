"""Part of a training set: nested, stratified, whole recordings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from lightning_cosprune.arguments import real_number, whole_number
from lightning_cosprune.data.shuffle import SeededShuffle


def nested_fraction(table: pd.DataFrame, fraction: float, seed: int = 0) -> pd.DataFrame:
    r"""The rows of a part of the recordings: the same scenes and devices in the same proportions.

    All rows of one ``parent`` recording stay together. Within each (scene, device) stratum of :math:`n` recordings, the
    :math:`r`-th in a seeded order gets the key :math:`(r + u) / n`, with one offset :math:`0 \le u < 1` a stratum; the
    recordings with the lowest keys are taken. So

    - a smaller fraction is contained in every larger one of the same seed;
    - every stratum is cut at one common rate, to within one recording;
    - 1 gives the table itself.

    The order comes from hashes of names, not from a random generator: it is the same on every machine, and the order
    of the table's rows does not matter. A recording whose rows differ in scene or device counts for the first of them,
    alphabetically.

    Args:
        table: Columns ``scene_label``, ``device`` and ``parent``, as :meth:`DCASEScenes.tables` gives them.
        fraction: Fraction of the recordings, in (0, 1].
        seed: Chooses another nested family, a whole number of at most 16 digits.

    Returns:
        The rows of as many recordings as :func:`recordings_taken` says, in the order of ``table``.

    Raises:
        ValueError: ``fraction`` or ``seed`` is out of range, or a column is missing.

    Example:
        >>> table = pd.DataFrame({"scene_label": ["bus"] * 4, "device": ["a"] * 4, "parent": ["x", "x", "y", "y"]})
        >>> len(nested_fraction(table, 0.5))
        2
    """
    rows = fraction_rows(table, fraction, seed)
    return table.iloc[rows]


def fraction_rows(table: pd.DataFrame, fraction: float, seed: int = 0) -> npt.NDArray[np.intp]:
    """Positions of the rows that :func:`nested_fraction` takes.

    Args:
        table: As there.
        fraction: As there.
        seed: As there.

    Returns:
        Row positions, ascending.

    Raises:
        ValueError: As there.
    """
    fraction = check_fraction(fraction, "`nested_fraction(fraction={})`")
    seed = whole_number(seed, "`nested_fraction(seed={})`", 0, 10**16 - 1)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            "`nested_fraction(table=...)`: expected a pandas data frame with the columns scene_label, device and "
            f"parent, found a {type(table).__name__}. `DCASEScenes.tables()` gives such tables."
        )
    missing = [column for column in ("scene_label", "device", "parent") if column not in table.columns]
    if missing:
        raise ValueError(
            "`nested_fraction(table=...)`: expected the columns scene_label, device and parent, found "
            f"{list(table.columns)}. Where each row is its own recording, add table.assign(parent=table.filename)."
        )
    rows = np.arange(len(table), dtype=np.intp)
    if fraction == 1 or len(table) == 0:
        return rows
    strata = table.groupby(["scene_label", "device"], dropna=False, sort=True).ngroup()
    recordings, parents = pd.factorize(table["parent"])
    # One stratum a recording: the first in alphabetical order, whichever row comes first.
    stratum = np.full(len(parents), np.iinfo(np.int64).max)
    np.minimum.at(stratum, recordings, strata.to_numpy())
    names = np.asarray(parents, dtype=object)
    order = stratified_order(names, stratum, seed)
    taken = np.zeros(len(names), dtype=bool)
    taken[order[: recordings_taken(len(names), fraction)]] = True
    return rows[taken[recordings]]


def recordings_taken(recordings: int, fraction: float) -> int:
    """How many recordings a fraction is.

    The official subsets of TAU 2022 (DCASE 2024, task 1) are made of blocks of a twentieth: 698 of 13,962 recordings,
    so that half of them is 6,980 and not 6,981. Sets of which twenty blocks leave out less than one in a hundred are
    cut like that; in smaller ones it would show.

    Returns:
        At least one, and all of them for the fraction 1.
    """
    in_blocks = recordings - recordings % 20 if recordings % 20 < recordings / 100 else recordings
    return recordings if fraction == 1 else max(1, round(fraction * in_blocks))


def stratified_order(names: npt.NDArray[np.object_], strata: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.intp]:
    """An order in which every prefix holds the strata in their proportions.

    Args:
        names: Distinct names.
        strata: Stratum of each name, a number.
        seed: Changes the order.

    Returns:
        Positions in ``names``, the one to take first comes first.

    Raises:
        ValueError: ``seed`` has more than 16 digits.
    """
    shuffled = np.lexsort((names.astype(str), seeded_hash(names, seed), strata))
    sizes = np.unique(strata[shuffled], return_counts=True)[1]
    stratum = np.repeat(np.arange(len(sizes)), sizes)
    rank = np.arange(len(names)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # The offsets are spread evenly over [0, 1) instead of drawn: then no common rate drifts from the fraction asked for
    # because many strata happened to round the same way. Which stratum gets which offset is the seed's business.
    offset = np.empty(len(sizes))
    turn = np.argsort(seeded_hash(np.arange(len(sizes)).astype(str).astype(object), seed), kind="stable")
    offset[turn] = (np.arange(len(sizes)) + 0.5) / len(sizes)
    key = (rank + offset[stratum]) / sizes[stratum]
    # Offsets differ between strata and ranks within one, but keys may still tie: the stratum's number decides.
    return shuffled[np.lexsort((stratum, key))]


def seeded_hash(names: npt.NDArray[np.object_], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each name that looks random and is the same on every machine.

    Args:
        names: Strings.
        seed: Changes the numbers.

    Returns:
        64-bit numbers (SipHash, keyed by the seed).

    Raises:
        ValueError: ``seed`` is negative or has more than 16 digits, the length of the key.
    """
    if not 0 <= seed < 10**16:
        raise ValueError(f"`seed={seed}`: expected a whole number from 0 to 16 digits.")
    return pd.util.hash_array(names, hash_key=f"{seed:016d}", categorize=False)


def check_fraction(fraction: float, subject: str) -> float:
    """Refuse what is no fraction of a training set.

    Args:
        fraction: Should be in (0, 1].
        subject: Whose parameter it is, the beginning of the error, with ``{}`` in the place of the value.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.

    Returns:
        The fraction as a ``float``.
    """
    number = real_number(fraction, subject, "a fraction in (0, 1]")
    if not 0 < number <= 1:
        raise ValueError(
            f"{subject.format(fraction)}: expected a fraction in (0, 1]. For a quarter of the recordings write 0.25."
        )
    return number


class FractionSampler(SeededShuffle):
    """Sampler of part of a training set, for any ``DataLoader``.

    The part is :func:`nested_fraction`'s and stays the same in all epochs, unlike the first batches of a shuffled set
    that Lightning's ``limit_train_batches`` gives; only its order changes.

    Args:
        table: A row for each sample of the dataset, in its order; columns ``scene_label``, ``device`` and ``parent``.
        fraction: Fraction of the recordings, in (0, 1].
        seed: Chooses the part and the order.
        shuffle: ``False`` goes through the part in the table's order.

    Raises:
        ValueError: As in :func:`nested_fraction`.

    Example:
        >>> table = pd.DataFrame({"scene_label": ["bus"] * 4, "device": ["a"] * 4, "parent": ["x", "x", "y", "y"]})
        >>> len(FractionSampler(table, 0.5))
        2
    """

    def __init__(self, table: pd.DataFrame, fraction: float, seed: int = 0, *, shuffle: bool = True) -> None:
        super().__init__(fraction_rows(table, fraction, seed).tolist(), seed=seed, shuffle=shuffle)
