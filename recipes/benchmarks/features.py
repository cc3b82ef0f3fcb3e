# Question: do epochs wait for audio, and what does it cost to get features once, beside librosa in `__getitem__`?
# Command:  .venv/bin/python -m recipes.benchmarks.features     (two minutes; --data adds folders)
# Measured: README.md one folder up.
"""Processor time from audio files to features, and the share of an epoch that waits for them.

The rival is what most participants of the challenges write: ``librosa.load`` and ``librosa.feature.melspectrogram`` in
a data set's ``__getitem__``, so that every epoch decodes anew. Ours is extraction (decoding, resampling, features), the
same within ``prepare_data`` in an empty cache (also content hashes, headers, band statistics, writing to disk), then
epochs from the cache. Contenders take turns in every round; times are processor seconds of all threads and processes
together, for which other work on the machine matters least, and clips per second by the clock are given beside them.
What says "one core" is held to one: two threads of a core slow each other down, which would count against whoever uses
more threads.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import re
import resource
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_cosprune.data import FRONT_ENDS, DCASEScenes, LogMel, SyntheticScenes
from lightning_cosprune.data.features.audio import read_clip
from lightning_cosprune.data.features.extraction import LogMelExtractor
from lightning_cosprune.models import DCASE2021Baseline
from lightning_cosprune.surgery.report import format_table

NATIVE = FRONT_ENDS["dcase2021"].log_mel
# The same front end on sound at 32 kHz: every clip at another rate has to be resampled.
RESAMPLED = dataclasses.replace(NATIVE, sample_rate=32_000, window_length=1280, hop_length=640)


class LibrosaInGetitem(Dataset[tuple[Tensor, int]]):
    """What most participants write."""

    def __init__(self, scenes: DCASEScenes, clip_seconds: float) -> None:
        tables = scenes.tables()
        self.labels = [scenes.scene_labels.index(label) for label in tables["train"]["scene_label"]]
        self.paths = [scenes.root / name for split in ("train", "test") for name in tables[split]["filename"]]
        self.front_end: LogMel = scenes.features
        self.samples = round(clip_seconds * scenes.features.sample_rate)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.features(row)[None]), self.labels[row]

    def features(self, row: int) -> np.ndarray:
        import librosa

        numbers = self.front_end
        sound, _ = librosa.load(self.paths[row], sr=numbers.sample_rate)
        mel = librosa.feature.melspectrogram(
            y=librosa.util.fix_length(sound, size=self.samples),
            sr=numbers.sample_rate,
            n_fft=numbers.n_fft,
            hop_length=numbers.hop_length,
            win_length=numbers.window_length,
            window=numbers.window,
            power=1.0,
            n_mels=numbers.n_mels,
        )
        return np.log(mel + numbers.epsilon)[:, : numbers.frames(self.samples)].astype(np.float32)


def extract_all(rival: LibrosaInGetitem) -> None:
    """The same files the way our caches are filled."""
    extractor = LogMelExtractor(rival.front_end, rival.samples)
    for path in rival.paths:
        clip = read_clip(path, rival.front_end.sample_rate, rival.samples, "the benchmark")
        extractor(torch.from_numpy(clip))


@dataclasses.dataclass
class Cost:
    """Of one pass over ``clips`` clips: processor seconds, children's included, and seconds by the clock."""

    clips: int
    processor: float
    clock: float


def timed(clips: int, work: Callable[[], object]) -> Cost:
    def processor() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    before, start = processor(), time.perf_counter()
    work()
    return Cost(clips, processor() - before, time.perf_counter() - start)


@contextmanager
def one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):  # Linux has it
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def decoded(root: Path, destination: Path) -> Path:
    """A copy of a set with its audio as 16-bit wav."""
    shutil.copytree(root, destination, ignore=shutil.ignore_patterns("audio"))
    for table in [destination / "meta.csv", *destination.glob("evaluation_setup/*.csv")]:
        table.write_bytes(re.sub(rb"\.(ogg|flac)\b", b".wav", table.read_bytes()))
    (destination / "audio").mkdir()
    for path in (root / "audio").iterdir():
        sound, rate = soundfile.read(path)
        soundfile.write(destination / "audio" / f"{path.stem}.wav", sound, rate, subtype="PCM_16")
    return destination


def open_scenes(root: Path, features: LogMel, cache: Path, seconds: float, workers: int = 0) -> DCASEScenes:
    return DCASEScenes(
        root,
        features=features,
        clip_seconds=seconds,
        validation_fraction=0,
        num_workers=workers,
        cache_dir=cache,
        progress=False,
    )


def drain(loader: DataLoader[Any]) -> None:
    for _ in loader:
        pass


def compare(name: str, root: Path, seconds: float, features: LogMel, rounds: int) -> list[list[str]]:
    """Cold and cached passes of both ways, in turn, and how far the values are apart."""
    costs: dict[str, list[Cost]] = {}

    def note(contender: str, clips: int, work: Callable[[], object]) -> None:
        costs.setdefault(contender, []).append(timed(clips, work))

    with tempfile.TemporaryDirectory() as folder:
        kept = open_scenes(root, features, Path(folder) / "kept", seconds)
        kept.prepare_data()
        rival = LibrosaInGetitem(kept, seconds)
        train, clips = len(rival), len(rival.paths)
        difference = largest_difference(kept, rival)
        for number in range(rounds):
            with one_core():
                note("librosa in __getitem__, one core", train, lambda: drain(DataLoader(rival, 32, shuffle=True)))
                note("ours: extraction, one core", clips, lambda: extract_all(rival))
                cold = open_scenes(root, features, Path(folder) / f"{number} one core", seconds)
                note("ours: prepare_data, cold, one core", clips, cold.prepare_data)
            cold = open_scenes(root, features, Path(folder) / str(number), seconds)
            note("ours: prepare_data, cold, all cores", clips, cold.prepare_data)
            loader = DataLoader(rival, 32, shuffle=True, num_workers=2)
            note("librosa in __getitem__, 2 workers", train, lambda loader=loader: drain(loader))
            for workers in (0, 2):
                # A loader anew in each round: its processes end with the pass, and their time is counted.
                cached = open_scenes(root, features, Path(folder) / "kept", seconds, workers)
                cached.setup("fit")
                loader = cached.train_dataloader()
                note(f"ours, cached, {workers} workers", train, lambda loader=loader: drain(loader))
                loader._iterator = None
    reference = costs["librosa in __getitem__, one core"]
    rows = []
    for contender, passes in costs.items():
        per_clip = [1e3 * cost.processor / cost.clips for cost in passes]
        ratios = [
            (theirs.processor / theirs.clips) / (ours.processor / ours.clips)
            for ours, theirs in zip(passes, reference, strict=True)
        ]
        speed = max(cost.clips / cost.clock for cost in passes)
        rows.append(
            [name, contender, f"{statistics.median(per_clip):.3g}", f"{statistics.median(ratios):.3g}", f"{speed:,.0f}"]
        )
    rows[1].append(f"{difference:.1e}")
    return rows


def largest_difference(scenes: DCASEScenes, rival: LibrosaInGetitem, clips: int = 40) -> float:
    """Of cached features before normalisation from librosa's, over some clips, in natural-log units."""
    scenes.setup("fit")
    dataset: Any = scenes.train_dataloader().dataset
    mean, std = (statistic[:, None] for statistic in scenes.band_statistics)
    rows = range(0, len(rival), max(1, len(rival) // clips))
    return max(
        float((dataset[row].features[0] * std + mean - torch.from_numpy(rival.features(row))).abs().max())
        for row in rows
    )


def epochs(name: str, root: Path, seconds: float, batches: int) -> list[list[str]]:
    """Epochs of the DCASE 2021 network on one thread: how much of each goes by until a batch is there."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scenes = open_scenes(root, NATIVE, Path(folder), seconds)
        scenes.prepare_data()
        scenes.setup("fit")
        rival = LibrosaInGetitem(scenes, seconds)
        _, bands, frames = scenes.feature_shape
        for contender, loader in (
            ("ours, cached", scenes.train_dataloader()),
            ("librosa in __getitem__", DataLoader(rival, 32, shuffle=True)),
        ):
            torch.manual_seed(0)
            network = DCASE2021Baseline(len(scenes.scene_labels), bands, frames)
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            waiting, training, done = train(network, loader, batches)
            rows.append(
                [
                    name,
                    contender,
                    f"{1e3 * waiting / done:.3g}",
                    f"{1e3 * (waiting + training) / done:.4g}",
                    f"{100 * waiting / (waiting + training):.2f}",
                ]
            )
    return rows


def train(network: torch.nn.Module, loader: DataLoader[Any], batches: int) -> tuple[float, float, int]:
    """Processor seconds until batches were there, those of training on them, and clips; the first batch warms up."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    waiting = training = 0.0
    done = 0
    source = forever()
    for number in range(batches + 1):
        start = time.process_time()
        features, scene, *_ = next(source)
        there = time.process_time()
        optimizer.zero_grad()
        features = features.contiguous(memory_format=torch.channels_last)
        torch.nn.functional.cross_entropy(network(features), scene).backward()
        optimizer.step()
        if number:
            waiting += there - start
            training += time.process_time() - there
            done += len(scene)
    return waiting, training, done


def write_metadata(root: Path, rows: int) -> None:
    """Csv files as those of TAU 2022 Mobile, 61 % of the rows for training and 13 % for the test, without audio."""
    generator = np.random.default_rng(0)
    scenes = np.array(["airport", "bus", "metro", "metro_station", "park", "public_square", "tram"])
    recording = np.arange(rows) // 10
    place = 1000 + generator.permutation(recording.max() + 1)[recording] // 20
    scene = scenes[place % len(scenes)]
    device = np.array(["a", "b", "c", "s1", "s2", "s3"])[generator.integers(0, 6, recording.max() + 1)[recording]]
    names = [
        f"audio/{one}-lyon-{where}-{number}-{row % 10}-{by}.wav"
        for row, (one, where, number, by) in enumerate(zip(scene, place, recording, device, strict=True))
    ]
    identifier = [f"lyon-{where}" for where in place]
    meta = pd.DataFrame({"filename": names, "scene_label": scene, "identifier": identifier, "source_label": device})
    (root / "evaluation_setup").mkdir(parents=True)
    meta.to_csv(root / "meta.csv", sep="\t", index=False, lineterminator="\r\n")
    share = place % 100
    for side, chosen in (("train", share < 61), ("evaluate", share >= 87)):
        side_rows = meta.loc[chosen, ["filename", "scene_label"]]
        side_rows.to_csv(root / "evaluation_setup" / f"fold1_{side}.csv", sep="\t", index=False, lineterminator="\r\n")


def read_metadata(root: Path) -> None:
    """In a process of its own: reading, taking a quarter, splitting off validation."""

    def memory() -> float:
        # Not getrusage's peak, in which a new process inherits that of the one which started it.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    before, start, clock = memory(), time.process_time(), time.perf_counter()
    tables = DCASEScenes(root, train_fraction=0.25, validation_fraction=0.3).tables()
    seconds, by_clock = time.process_time() - start, time.perf_counter() - clock
    sizes = ", ".join(f"{len(table):,} {split}" for split, table in tables.items())
    print(
        f"  {sizes}: {seconds:.2f} s of processor time, {by_clock:.2f} s by the clock, peak {memory():,.0f} MiB, "
        f"{memory() - before:,.0f} MiB above the imports"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="features", description=str(__doc__).split("\n\n")[0])
    add = parser.add_argument
    add("--data", type=Path, action="append", default=[], help="folder in DCASE layout to measure too")
    add("--data-seconds", type=float, default=5.0, help="duration of its clips (default: 5)")
    add("--recordings", type=int, default=100, help="synthetic clips of ten seconds (default: 100)")
    add("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    add("--batches", type=int, default=6, help="batches of 32 clips to train on (default: 6)")
    add("--metadata-rows", type=int, default=230_350, help="rows of csv files to read (default: 230350)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # NumPy's matrix products of librosa too: idle threads of theirs would be counted as work.
    threadpool_limits(1)
    warnings.filterwarnings("ignore", message=".*clips do not last")

    with tempfile.TemporaryDirectory() as folder:
        synthetic = SyntheticScenes(
            Path(folder) / "synthetic",
            layout="tau2020",
            num_recordings=options.recordings,
            cache_dir=folder,
            progress=False,
        )
        synthetic.prepare_data()
        sets = [("synthetic, 10 s", synthetic.root, 10.0)]
        for root in options.data:
            name, seconds = root.resolve().name, options.data_seconds
            sets.append((f"{name}, {seconds:g} s", root, seconds))
            if not list((root / "audio").glob("*.wav")):
                sets.append((f"{name} as wav, {seconds:g} s", decoded(root, Path(folder) / name), seconds))
        rows, shares = [], []
        for name, root, seconds in sets:
            rows += compare(name, root, seconds, NATIVE, options.rounds)
            rows += compare(f"{name}, to 32 kHz", root, seconds, RESAMPLED, options.rounds)
            shares += epochs(name, root, seconds, options.batches)
        columns = ["set", "", "processor ms a clip", "times less than librosa", "clips a second", "largest difference"]
        print(f"\n{format_table(columns, [row + [''] * (len(columns) - len(row)) for row in rows])}")
        columns = ["set", "DCASE2021Baseline, one thread", "waiting ms a clip", "epoch ms a clip", "waiting %"]
        print(f"\n{format_table(columns, shares)}")

        print(f"\nTables of {options.metadata_rows:,} rows", flush=True)
        write_metadata(Path(folder) / "metadata", options.metadata_rows)
        child = multiprocessing.get_context("spawn").Process(target=read_metadata, args=(Path(folder) / "metadata",))
        child.start()
        child.join()


if __name__ == "__main__":
    main()
