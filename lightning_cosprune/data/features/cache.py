"""Which feature stores a set needs, where they lie, and how they are filled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm

from lightning_cosprune.arguments import real_number
from lightning_cosprune.data.disk import full_disk, writing_to
from lightning_cosprune.data.features.audio import AudioHeader, read_clip, read_header
from lightning_cosprune.data.features.blocks import Column
from lightning_cosprune.data.features.build_store import build_store
from lightning_cosprune.data.features.extraction import LogMelExtractor
from lightning_cosprune.data.features.fingerprint import ContentHashes
from lightning_cosprune.data.features.store import FeatureStore, band_moments, open_store
from lightning_cosprune.data.spelling import alike_on_disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from lightning_cosprune.data.features.log_mel import LogMel

Content = Literal["features", "waveforms"]
Precision = Literal["float32", "float16"]

# Part of every cache key: raise it when the same audio and settings begin to give other features.
_STORE_FORMAT = 4


@dataclass(frozen=True)
class ClipCache:
    """The stores of one set of clips at one setting.

    The name of a store contains a hash of the settings and of the content of every file, so it is found wherever the
    set lies, and neither changed audio nor changed settings meet an old store.

    Args:
        folder: Where the stores are.
        root: Folder of the set, which relative filenames start from.
        features: Front end.
        content: What a store holds beside the moments of the bands: features, or waveforms.
        precision: Of the stored numbers. Moments are always taken before rounding, in double precision.
        resample: Whether clips of another sample rate than the front end's are resampled.
        clip_seconds: Duration of clips; ``None`` is that of most training clips.
        progress: Whether to show progress bars.
        owner: The beginning of every error.
    """

    folder: Path
    root: Path
    features: LogMel
    content: Content
    precision: Precision
    resample: bool
    clip_seconds: float | None
    progress: bool
    owner: str

    def open(self, clips: dict[str, pd.DataFrame]) -> dict[str, FeatureStore]:
        """The stores of several tables of clips, written unless they are there.

        Args:
            clips: Tables with the columns ``filename``, ``source`` and ``line``. Where no duration is asked for, the
                clips of the first decide it for all.

        Returns:
            A store for each table, with the same rows.

        Raises:
            ValueError: Audio is unreadable, or has a rate that is not allowed.
        """
        first, *others = clips
        paths = {split: [self.root / name for name in table["filename"]] for split, table in clips.items()}
        states = _states(clips, paths, self.owner)
        hashes = ContentHashes(self.folder / f"{self._set_name}-{_short(str(self.root.resolve()))}.hashes.json")
        try:
            digests = {split: hashes(paths[split], states[split], progress=self.progress) for split in clips}
        except OSError as error:
            raise type(error)(
                f"{self.owner}: expected audio that can be read at {error.filename}, found {error.strerror!r}. Change "
                "the permissions, unpack the file again, or take its row out of the csv files."
            ) from error

        # The store of the first table remembers the duration for the others.
        samples = None if self.clip_seconds is None else round(self.clip_seconds * self.features.sample_rate)
        locations = {first: self._location(digests[first], samples)}
        known = open_store(locations[first])
        stores = {first: known}
        if samples is None and known:
            samples = int(known.info["clip_samples"])
        if samples is not None:
            for split in others:
                locations[split] = self._location(digests[split], samples)
                stores[split] = open_store(locations[split])

        # All headers are read before the first clip is decoded: what is wrong shows before hours of extraction, not
        # after.
        absent = [path for split in clips if not stores.get(split) for path in paths[split]]
        if absent:
            lengths = self._check_headers(absent)
            if samples is None:
                samples = _most_common(lengths[: len(paths[first])])
                locations |= {split: self._location(digests[split], samples) for split in others}
            self._warn_of_other_lengths(lengths, samples, absent)
            self._make_folder()
        assert samples is not None
        if self.folder.is_dir() and os.access(self.folder, os.W_OK):
            with writing_to(self.folder, f"`{self._class}(cache_dir={str(self.folder)!r})`"):
                hashes.remember()

        built = {
            split: stores.get(split)
            or build_store(
                locations[split],
                paths[split],
                partial(_extract, cache=self, samples=samples, extractor=LogMelExtractor(self.features, samples)),
                self._columns(samples),
                info={"clip_samples": samples, "features": asdict(self.features)},
                description=f"Log-mel features ({split})" if self.content == "features" else f"Waveforms ({split})",
                progress=self.progress,
            )
            for split in clips
        }
        for split, store in built.items():
            finite = np.isfinite(store["moments"]).all(axis=(1, 2))
            if not finite.all():  # written by a release that took any sound
                raise ValueError(
                    f"{self.owner}: expected finite features in {store.path}, found others for "
                    f"{paths[split][int(finite.argmin())]}. Write the file anew, or take its row out of the csv files, "
                    "and delete this folder."
                )
        return built

    @property
    def _set_name(self) -> str:
        return self.root.resolve().name

    def _columns(self, samples: int) -> dict[str, Column]:
        bands = self.features.n_mels
        shape = (bands, self.features.frames(samples)) if self.content == "features" else (samples,)
        return {self.content: Column(shape, self.precision), "moments": Column((2, bands), "float64")}

    def _location(self, digests: list[str], samples: int | None) -> Path:
        key = {
            "format": _STORE_FORMAT,
            "features": asdict(self.features),
            "content": self.content,
            "precision": self.precision,
            "resample": self.resample,  # a store of resampled clips must not hide that resample=False is an error
            "clip_samples": samples,
            "files": digests,
        }
        return self.folder / f"{self._set_name}-{_short(json.dumps(key, sort_keys=True))}"

    @property
    def _class(self) -> str:
        return self.owner.strip("`").split("(")[0]

    def _make_folder(self) -> None:
        owner = f"`{self._class}(cache_dir={str(self.folder)!r})`"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = "" if os.access(self.folder, os.W_OK) else "Permission denied"
        except OSError as error:
            if full_disk(error):
                with writing_to(self.folder, owner):
                    raise
            found = error.strerror or str(error)
        if found:
            raise PermissionError(
                f"{owner}: expected a folder that can be written, found {found!r}. Choose another cache_dir, or "
                "another home for all caches by XDG_CACHE_HOME."
            )

    def _check_headers(self, paths: Sequence[Path]) -> npt.NDArray[np.int64]:
        # In samples at the rate of the front end.
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(partial(_header_or_error, owner=self.owner), paths)
            bar = tqdm(found, total=len(paths), desc="Audio headers", unit="file", disable=not self.progress)
            results = list(bar)
        errors = [result for result in results if isinstance(result, ValueError)]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ValueError(
                f"{errors[0]} {len(errors) - 1} more of {len(paths)} files are unreadable or empty."
            ) from errors[0]
        headers = [result for result in results if isinstance(result, AudioHeader)]
        wanted = self.features.sample_rate
        if not self.resample:
            examples: dict[int, Path] = {}
            for header, path in zip(headers, paths, strict=True):
                examples.setdefault(header.sample_rate, path)
            if set(examples) - {wanted}:
                counts = Counter(header.sample_rate for header in headers)
                rates = " and ".join(
                    f"{rate} Hz in {counts[rate]} of {len(paths)} files ({examples[rate]})" for rate in sorted(examples)
                )
                raise ValueError(
                    f"{self.owner}: expected audio at {wanted} Hz only, because of resample=False, found {rates}. "
                    "Pass resample=True, or features with that sample_rate if all files share it."
                )
        return np.array([round(header.samples * wanted / header.sample_rate) for header in headers], dtype=np.int64)

    def _warn_of_other_lengths(self, lengths: npt.NDArray[np.int64], samples: int, paths: Sequence[Path]) -> None:
        # One sample is what rounding makes of equal durations at different rates.
        shorter, longer = int(np.sum(lengths < samples - 1)), int(np.sum(lengths > samples + 1))
        extremes = [int(lengths.argmin())] * (shorter > 0) + [int(lengths.argmax())] * (longer > 0)
        rate = self.features.sample_rate
        shown = " and ".join(f"{paths[row]} with {lengths[row] / rate:.3f} s" for row in extremes)
        # Cutting to a duration that was asked for needs no warning; padding does: silence is not what was recorded.
        if shorter or (longer and self.clip_seconds is None):
            rank_zero_warn(
                f"{self.owner}: {shorter + longer} of {len(lengths)} clips do not last "
                f"{samples / rate:.3f} s: {shorter} shorter ones are filled with silence, {longer} longer ones cut, "
                f"such as {shown}. Choose another duration with clip_seconds."
            )


def check_storage(clip_seconds: float | None, content: str, precision: str, owner: str) -> None:
    """Refuse clips that cannot be kept.

    Args:
        clip_seconds: Should be positive and at most an hour, or ``None``.
        content: Should be one of :data:`Content`.
        precision: Should be one of :data:`Precision`.
        owner: Name of the data module, the beginning of the error.

    Raises:
        ValueError: They are not.
    """
    if clip_seconds is not None:
        real_number(clip_seconds, f"`{owner}(clip_seconds={{}})`", "a positive duration in seconds, or None")
    if clip_seconds is not None and not 0 < clip_seconds <= 3600:
        raise ValueError(
            f"`{owner}(clip_seconds={clip_seconds})`: expected a positive duration in seconds, at most an hour. For "
            "the duration most clips have write None."
        )
    for parameter, word, words in (
        ("cache", content, get_args(Content)),
        ("cache_dtype", precision, get_args(Precision)),
    ):
        if not isinstance(word, str) or word not in words:
            raise ValueError(f"`{owner}({parameter}={word!r})`: expected {words[0]!r} or {words[1]!r}. Choose one.")


def user_cache() -> Path:
    """Where features are kept unless a folder is named.

    Returns:
        A folder in the user's cache, as the XDG specification says.
    """
    # A relative path in the variable is invalid and to be ignored, says the XDG specification.
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "lightning_cosprune" / "features"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _states(
    clips: dict[str, pd.DataFrame], paths: dict[str, list[Path]], owner: str
) -> dict[str, list[os.stat_result]]:
    states: dict[str, list[os.stat_result]] = {split: [] for split in clips}
    missing: list[tuple[str, int, OSError]] = []
    for split in clips:
        for row, path in enumerate(paths[split]):
            try:
                state = path.stat()
                if stat.S_ISDIR(state.st_mode):
                    raise IsADirectoryError(errno.EISDIR, "a folder")
                states[split].append(state)
            except OSError as error:  # noqa: PERF203 - one missing file must not hide how many others are
                missing.append((split, row, error))
    if missing:
        split, row, first = missing[0]
        line, source = clips[split]["line"].iloc[row], clips[split]["source"].iloc[row]
        where = f"{owner}: expected the audio of {source} line {line} at {paths[split][row]}"
        if not isinstance(first, (FileNotFoundError, NotADirectoryError)):
            raise type(first)(
                f"{where}, found {first.strerror!r} there; so it is with {len(missing)} of the "
                f"{sum(map(len, paths.values()))} files of this fold. Give this user the right to read the files and "
                "to enter their folders, or move away what is in their place."
            )
        raise FileNotFoundError(
            f"{where}, found no such file{alike_on_disk(paths[split][row])}; "
            f"{len(missing)} of the {sum(map(len, paths.values()))} files of this fold are missing. Unpack the missing "
            "archive or take the rows out."
        )
    return states


def _header_or_error(path: Path, owner: str) -> AudioHeader | ValueError:
    try:
        return read_header(path, owner)
    except ValueError as error:
        return error


def _extract(
    path: Path, cache: ClipCache, samples: int, extractor: LogMelExtractor
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    clip = read_clip(path, cache.features.sample_rate, samples, cache.owner)
    features: npt.NDArray[np.float32] = extractor(torch.from_numpy(clip)).numpy()
    kept = features if cache.content == "features" else clip
    with np.errstate(over="ignore"):
        stored = kept.astype(cache.precision)
    moments = band_moments(features)
    _check_finite(path, cache, clip, stored, moments)
    return stored, moments


def _check_finite(path: Path, cache: ClipCache, clip: npt.NDArray[np.float32], *rows: npt.NDArray[Any]) -> None:
    # One clip would make the statistics of all bands, and with them all features, NaN.
    if not all(np.isfinite(row).all() for row in rows):
        raise ValueError(
            f"{cache.owner}: expected sound in {path} that fits into {cache.precision} and whose features are finite, "
            f"found samples up to {np.abs(clip).max():.1e} where full scale is 1. Write the file anew or take its row "
            "out of the csv files."
        )


def _most_common(lengths: npt.NDArray[np.int64]) -> int:
    # Of equally frequent ones the longest: filling is better than losing sound.
    values, counts = np.unique(lengths, return_counts=True)
    return int(values[counts == counts.max()].max())
