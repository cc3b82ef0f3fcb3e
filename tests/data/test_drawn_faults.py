"""Faults drawn at random into a folder's csv files, and values that only a folder shows to be wrong."""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_cosprune.data import DCASEScenes

# `Folder` is the one of conftest.py.
Folder = Any

FAULTS: list[Callable[[random.Random, bytes], bytes]] = [
    lambda draw, text: _cut(draw, text, 1, b""),
    lambda draw, text: _cut(draw, text, 0, draw.randbytes(1)),
    lambda draw, text: _cut(draw, text, 1, draw.choice([b"\t", b"\n", b"\r", b'"', b"\\", b",", b" ", b"\0", b"\xe9"])),
    lambda draw, text: _cut(draw, text, draw.randrange(len(text)), b""),
    lambda draw, text: text[: draw.randrange(len(text))],
    lambda draw, text: text.replace(b"\t", draw.choice([b",", b"  ", b"\t\t", b";"])),
    lambda draw, text: text.replace(b".wav", draw.choice([b".WAV", b".mp3", b""])),
    lambda draw, text: text.upper(),
    lambda draw, text: _lines(text, lambda lines: [*lines, draw.choice(lines)]),
    lambda draw, text: _lines(text, lambda lines: lines[:1] + draw.sample(lines[1:], 1)),
    lambda draw, text: _lines(text, lambda lines: lines[1:]),
    lambda draw, text: _lines(text, lambda lines: [line.rpartition(b"\t")[0] for line in lines]),
    lambda draw, text: text.decode().encode(draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])),
    lambda draw, text: draw.randbytes(300),
]


def _cut(draw: random.Random, text: bytes, length: int, instead: bytes) -> bytes:
    place = draw.randrange(len(text))
    return text[:place] + instead + text[place + length :]


def _lines(text: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    return b"\n".join(change(text.rstrip(b"\n").split(b"\n"))) + b"\n"


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def told(ask: Callable[[], object]) -> str | None:
    """What is told of what is wrong, or ``None``; anything but one error of ours is a failure."""
    found: Exception | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ask()
    except (ValueError, TypeError, OSError) as error:
        found = error
    if found is None:
        return None
    frames = inspect.getinnerframes(found.__traceback__)
    assert "lightning_cosprune" in frames[-1].filename, f"{type(found).__name__}: {found}"
    return str(found)


@pytest.mark.parametrize("fault", range(len(FAULTS)))
@pytest.mark.parametrize(
    "name", ["meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"]
)
def test_drawn_faults_of_a_csv_file_are_told_with_file_or_line(folder: Folder, name: str, fault: int) -> None:
    path = folder.root / name
    whole = path.read_bytes()
    draw = random.Random(f"{name}{fault}")
    tells = 0
    for _ in range(20):
        path.write_bytes(FAULTS[fault](draw, whole))
        before = content(folder.root)
        text = told(lambda: folder.scenes().tables())
        tells += text is not None
        if text is not None:
            assert text.startswith("`DCASEScenes(root="), text
            assert "expected " in text
            assert ", found " in text, text
            assert ".csv" in text, text
            assert text.rstrip().endswith("."), text
        assert content(folder.root) == before
        assert not folder.root.with_name("cache").exists()
    assert tells or (fault == 9 and "evaluate" in name)  # fewer rows to test on are no fault


WRONG: list[Any] = [
    -1,
    0,
    2,
    7,
    1.5,
    1e9,
    float("nan"),
    "",
    "x",
    "meta.csv",
    "audio",
    b"x",
    [],
    ["x"],
    [5],
    {},
    {"a": 1},
]
WRONG += [np.int64(3), np.array([1, 2]), torch.tensor(0.5), torch.tensor([1]), object(), int, Path("x"), True, None]


@pytest.mark.parametrize("parameter", sorted(set(inspect.signature(DCASEScenes).parameters) - {"progress", "resample"}))
def test_what_only_the_folder_shows_to_be_wrong_is_told_too(
    folder: Folder, parameter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good value does what it does; the folder stays to the bit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    before = content(folder.root)
    for value in random.Random(parameter).sample(WRONG, len(WRONG)):
        options = {"root": folder.root, "cache_dir": tmp_path / "cache", "progress": False, "seed": 1, parameter: value}

        def ask(options: dict[str, Any] = options) -> None:
            scenes = DCASEScenes(**options)
            scenes.prepare_data()
            scenes.setup()

        text = told(ask)
        if text is not None:
            assert "expected " in text, text
            assert parameter in text or "root=" in text or "LogMel" in text, text
        assert content(folder.root) == before, value
