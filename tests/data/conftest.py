"""A small folder in DCASE layout, written anew for each test that asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lightning_cosprune.data import DCASEScenes

SCENES = ("bus", "park", "tram")
ESC10 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "esc10"


@dataclass
class Folder:
    """Three scenes, 24 training clips from 12 places and 6 test clips of a fifth of a second."""

    root: Path
    suffix: str = "wav"
    newline: str = "\n"
    rate: int = 44_100
    channels: int = 1
    seconds: float = 0.2
    meta: list[list[str]] = field(default_factory=list)
    train: list[list[str]] = field(default_factory=list)
    test: list[list[str]] = field(default_factory=list)

    def plan(self) -> Folder:
        for number, scene in enumerate(SCENES):
            for place in range(6):
                for device in "ab" if place < 4 else "s":
                    name = f"audio/{scene}-lyon-{100 * number + place}-{place}-{device}.{self.suffix}"
                    self.meta.append([name, scene, f"lyon-{100 * number + place}", device])
                    (self.train if place < 4 else self.test).append([name, scene])
        return self

    def write_csv(self) -> Folder:
        setup = self.root / "evaluation_setup"
        setup.mkdir(parents=True, exist_ok=True)
        self.table(self.root / "meta.csv", ["filename", "scene_label", "identifier", "source_label"], self.meta)
        self.table(setup / "fold1_train.csv", ["filename", "scene_label"], self.train)
        self.table(setup / "fold1_evaluate.csv", ["filename", "scene_label"], self.test)
        return self

    def write_audio(self) -> Folder:
        (self.root / "audio").mkdir(parents=True, exist_ok=True)
        for number, (name, scene, *_) in enumerate(self.meta):
            generator = np.random.default_rng(number)
            sound = generator.uniform(-0.5, 0.5, (round(self.seconds * self.rate), self.channels))
            # A tone per scene over noise, so that features differ between scenes.
            sound += 0.3 * np.sin(np.arange(len(sound)) * (SCENES.index(scene) + 1) * 0.05)[:, None]
            soundfile.write(str(self.root / name), sound, self.rate)
        return self

    def table(self, path: Path, header: list[str], rows: list[list[str]]) -> None:
        lines = ["\t".join(row) for row in [header, *rows]]
        path.write_bytes((self.newline.join(lines) + self.newline).encode())

    def scenes(self, **options: Any) -> DCASEScenes:
        options = {"cache_dir": self.root.parent / "cache", "progress": False, "batch_size": 4} | options
        return DCASEScenes(self.root, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Written with audio, LF, mono wav."""
    return Folder(tmp_path / "set").plan().write_csv().write_audio()


@pytest.fixture
def make_folder(tmp_path: Path) -> Any:
    """Writes a folder with other settings."""
    return lambda **options: Folder(tmp_path / "set", **options).plan().write_csv().write_audio()


@pytest.fixture
def esc10() -> Path:
    if not (ESC10 / "meta.csv").is_file():
        pytest.skip("ESC-10 in DCASE layout is not at ../shared/data/esc10")
    return ESC10
