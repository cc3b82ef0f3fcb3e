"""``SyntheticScenes``: a procedural scene set in the layout of the TAU sets, for trials without a download."""

from __future__ import annotations

import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import soundfile
from filelock import FileLock
from tqdm.auto import tqdm

from lightning_cosprune.arguments import whole_number
from lightning_cosprune.data.disk import writing_to
from lightning_cosprune.data.fold import Fold
from lightning_cosprune.data.scenes import DCASEScenes
from lightning_cosprune.data.sets.soundscape import DEVICES, SAMPLE_RATE, SCENES, random_envelope, render

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning_cosprune.data.features.log_mel import LogMel

Layout = Literal["tau2020", "tau2022"]

CITIES = ("barcelona", "helsinki", "lisbon", "london", "lyon", "milan", "paris", "prague", "stockholm", "vienna")
UNSEEN_DEVICES = ("s4", "s5", "s6")

# How far random envelopes stray, in dB. These decide how hard the set is: they were chosen so that the DCASE 2021
# network, trained for a dozen epochs on the default set, gets about 84 % of the test clips right.
_CITY_SPREAD = 1.0
_LOCATION_SPREAD = 2.0
_RECORDING_SPREAD = 1.5

# Raise it when the same parameters begin to give another set.
_SET_FORMAT = 1


class SyntheticScenes(DCASEScenes):
    """A **synthetic** acoustic scene set in exactly the layout of TAU Urban Acoustic Scenes 2020 or 2022 Mobile.

    :meth:`prepare_data` writes it, 24-bit wav files and csv files, in seconds; from there on it is read like any other
    set. Scenes are filtered and modulated noise with tones and bursts in front; cities, locations, recordings and
    devices bend the spectrum. The names of scenes, cities and devices are those of the TAU sets, and so is the
    structure: device a dominates training, devices s4 to s6 occur in the test only (and in rows that belong to neither
    side), no location is on both sides.

    It is learnable but not trivial, and unseen devices cost accuracy. Yet it is no stand-in for real data: results on
    it say that a program works, nothing about how well a method recognises scenes. Call them synthetic wherever they
    appear.

    Args:
        root: Folder to write, absent or empty, or one with the same set, which is used again.
        layout: ``"tau2022"``: one-second pieces, csv files with CRLF line ends. ``"tau2020"``: whole recordings, LF.
        num_recordings: Recordings in all: 60 % for training, 30 % for the test, 10 % in neither. A multiple of 100.
        recording_seconds: Duration of a recording. ``tau2022`` cuts it into as many pieces, two by default where the
            real set has ten: for its size that gives more different recordings. ``tau2020`` has ten seconds by
            default, as the real one.
        num_cities: Cities to spread the locations over, up to ten.
        features: Front end; ``None`` is that of the layout's baseline: ``"dcase2021"`` for ``tau2020``,
            ``"dcase2022"`` for ``tau2022``.
        seed: Chooses the sounds, and all that :class:`DCASEScenes` chooses by it.
        **options: The other arguments of :class:`DCASEScenes`.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        layout: Layout = "tau2022",
        num_recordings: int = 1000,
        recording_seconds: int | None = None,
        num_cities: int = 10,
        features: LogMel | str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if not isinstance(layout, str) or layout not in ("tau2020", "tau2022"):
            raise ValueError(
                f"`SyntheticScenes(layout={layout!r})`: expected 'tau2020' or 'tau2022'. Choose one of them."
            )
        num_recordings = whole_number(num_recordings, "`SyntheticScenes(num_recordings={})`", 0)
        num_cities = whole_number(num_cities, "`SyntheticScenes(num_cities={})`", 1, len(CITIES))
        seed = whole_number(seed, "`SyntheticScenes(seed={})`", 0, 10**16 - 1)
        if recording_seconds is not None:
            recording_seconds = whole_number(recording_seconds, "`SyntheticScenes(recording_seconds={})`", 1)
        if num_recordings < 100 or num_recordings % 100:
            raise ValueError(
                f"`SyntheticScenes(num_recordings={num_recordings})`: expected a multiple of 100, so that ten scenes "
                "share 60, 30 and 10 % of it evenly. The default is 1000."
            )
        if recording_seconds is None:
            recording_seconds = 2 if layout == "tau2022" else 10
        if features is None:
            features = "dcase2022" if layout == "tau2022" else "dcase2021"
        super().__init__(root, features=features, seed=seed, **options)
        self.parameters: dict[str, Any] = {
            "format": _SET_FORMAT,
            "layout": layout,
            "num_recordings": num_recordings,
            "recording_seconds": recording_seconds,
            "num_cities": num_cities,
            "seed": seed,
        }

    def prepare_data(self) -> None:
        """Write the set and extract its features into the cache, unless they are there."""
        write_synthetic_set(self.root, self.parameters, self._owner, progress=self.progress)
        super().prepare_data()

    def _read_fold(self) -> Fold:
        # Before the first `prepare_data` the parent would ask for a path that is right; afterwards it would not notice
        # that the folder holds another set.
        check_parameters(self.root, self.parameters, self._owner)
        return super()._read_fold()


class _Recording(NamedTuple):
    """One recording to be: a row of what will be csv files."""

    scene: str
    city: str
    location: int
    segment: int
    device: str
    split: Literal["train", "test", "neither"]

    @property
    def identifier(self) -> str:
        return f"{self.city}-{self.location}"

    def filename(self, piece: int | None) -> str:
        index = "" if piece is None else f"-{piece}"
        return f"audio/{self.scene}-{self.identifier}-{self.segment}{index}-{self.device}.wav"


def write_synthetic_set(root: Path, parameters: dict[str, Any], owner: str, *, progress: bool = True) -> None:
    """Write a synthetic set to ``root`` unless it is there; beside and then renamed, so there is a whole one or none.

    Args:
        root: Folder to write.
        parameters: Parameters of the set, as :class:`SyntheticScenes` collects them; kept in ``synthetic.json``.
        owner: Whose folder it is, the beginning of the error.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: The folder holds something else.
    """
    root = root.absolute()
    if _is_written(root, parameters, owner):
        return
    with writing_to(root.parent, owner):
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root.with_name(f".{root.name}.lock")).acquire()
    with lock:
        if _is_written(root, parameters, owner):  # by another process, meanwhile
            return
        partial = root.with_name(f".{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run has left
        recordings = list(_plan(parameters))
        needed = len(recordings) * parameters["recording_seconds"] * SAMPLE_RATE * 3
        try:
            with writing_to(root.parent, owner, needed):
                (partial / "audio").mkdir(parents=True)
                _write_audio(partial, recordings, parameters, progress=progress)
                _write_csv_files(partial, recordings, parameters)
                (partial / "synthetic.json").write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        if root.exists():
            root.rmdir()  # empty: `_is_written` has looked
        partial.replace(root)


def check_parameters(root: Path, parameters: dict[str, Any], owner: str) -> None:
    """Make sure that ``root`` holds the synthetic set with these parameters.

    Args:
        root: Folder of the set.
        parameters: What ``synthetic.json`` must say.
        owner: Whose folder it is, the beginning of the error.

    Raises:
        FileNotFoundError: There is nothing.
        ValueError: There is something else, or a set with other parameters.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        raise FileNotFoundError(
            f"{owner}: expected the synthetic set, found nothing there yet. Call prepare_data() first, which writes it."
        )
    try:
        found = json.loads((root / "synthetic.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{owner}: expected an absent or empty folder, or a synthetic set with its synthetic.json, found other "
            "files. Choose another folder; for a set of your own use DCASEScenes."
        ) from error
    differing = [f"{name}={found.get(name)!r}" for name, value in parameters.items() if found.get(name) != value]
    if differing:
        wanted = ", ".join(f"{name}={value!r}" for name, value in parameters.items() if found.get(name) != value)
        raise ValueError(
            f"{owner}: expected a synthetic set with {wanted}, found one with {', '.join(differing)}. Choose another "
            "folder or delete this one."
        )


def _is_written(root: Path, parameters: dict[str, Any], owner: str) -> bool:
    try:
        check_parameters(root, parameters, owner)
    except FileNotFoundError:
        return False
    return True


def _plan(parameters: dict[str, Any]) -> Iterator[_Recording]:
    # Shares of sides and devices as in TAU 2020; two recordings a location, or one more or less.
    per_scene = parameters["num_recordings"] // len(SCENES)
    counts = {"train": per_scene * 6 // 10, "test": per_scene * 3 // 10, "neither": per_scene // 10}
    cities = cycle(CITIES[: parameters["num_cities"]])
    seen = [device for device in DEVICES if device not in UNSEEN_DEVICES]
    # 73 % of the real training clips are from device a; the others take turns, on across scenes.
    others, tested, unseen = cycle(seen[1:]), cycle(DEVICES), cycle(UNSEEN_DEVICES)
    location, segment = 1000, 40000
    for scene in SCENES:
        trained_at: list[tuple[str, int]] = []
        for split in ("train", "test", "neither"):
            places: list[tuple[str, int]] = []
            for number in range(counts[split]):
                if split == "neither":
                    city, place = trained_at[number % len(trained_at)]
                elif number % 2 == 0:
                    city, place = next(cities), (location := location + 1)
                    places.append((city, place))
                else:
                    city, place = places[-1]
                if split == "train":
                    device = "a" if (number * 73) % 100 < 73 else next(others)
                else:
                    device = next(tested) if split == "test" else next(unseen)
                yield _Recording(scene, city, place, segment := segment + 1, device, split)
            if split == "train":
                trained_at = places


def _write_audio(root: Path, recordings: list[_Recording], parameters: dict[str, Any], *, progress: bool) -> None:
    seed, seconds = parameters["seed"], parameters["recording_seconds"]
    cut = parameters["layout"] == "tau2022"
    cities = {city: random_envelope(_generator(seed, 0, number), _CITY_SPREAD) for number, city in enumerate(CITIES)}

    def write(number: int) -> None:
        recording = recordings[number]
        # Each cause has random numbers of its own, so the order in which threads get here does not matter.
        place = random_envelope(_generator(seed, 1, recording.location), _LOCATION_SPREAD)
        generator = _generator(seed, 2, number)
        envelope = cities[recording.city] + place + random_envelope(generator, _RECORDING_SPREAD)
        sound = render(SCENES[recording.scene], DEVICES[recording.device], envelope, seconds, generator)
        for piece in range(seconds) if cut else [None]:
            part = sound if piece is None else sound[piece * SAMPLE_RATE : (piece + 1) * SAMPLE_RATE]
            # By way of memory: libsndfile does not say why it could not write.
            content = io.BytesIO()
            soundfile.write(content, part, SAMPLE_RATE, subtype="PCM_24", format="WAV")
            (root / recording.filename(piece)).write_bytes(content.getvalue())

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        written = pool.map(write, range(len(recordings)))
        for _ in tqdm(
            written, total=len(recordings), desc="Synthetic recordings", unit="recording", disable=not progress
        ):
            pass


def _write_csv_files(root: Path, recordings: list[_Recording], parameters: dict[str, Any]) -> None:
    pieces = range(parameters["recording_seconds"]) if parameters["layout"] == "tau2022" else [None]
    line_end = "\r\n" if parameters["layout"] == "tau2022" else "\n"
    rows = pd.DataFrame(
        [
            (recording.filename(piece), recording.scene, recording.identifier, recording.device, recording.split)
            for recording in recordings
            for piece in pieces
        ],
        columns=["filename", "scene_label", "identifier", "source_label", "split"],
    )
    train, test = rows[rows["split"] == "train"], rows[rows["split"] == "test"]
    setup = root / "evaluation_setup"
    setup.mkdir()
    for path, table in (
        (root / "meta.csv", rows[["filename", "scene_label", "identifier", "source_label"]]),
        (setup / "fold1_train.csv", train[["filename", "scene_label"]]),
        (setup / "fold1_evaluate.csv", test[["filename", "scene_label"]]),
        (setup / "fold1_test.csv", test[["filename"]]),
    ):
        table.to_csv(path, sep="\t", index=False, lineterminator=line_end)


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
