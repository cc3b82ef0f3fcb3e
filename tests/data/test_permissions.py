"""Folders and files that this user may not read, seen by a user to whom permissions mean something."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import told_to_nobody

# `Folder` is the one of conftest.py.
Folder = Any


@pytest.fixture
def open_folder(folder: Folder) -> Iterator[Folder]:
    """One that any user can reach, and whose cache any user can write."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "cache").mkdir()
        (place / "cache").chmod(0o777)
        folder.root = shutil.copytree(folder.root, place / "set")
        yield folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="another user's eyes need a fork")
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100])
@pytest.mark.parametrize("closed", ["", "evaluation_setup", "meta.csv", "evaluation_setup/fold1_train.csv"])
def test_what_may_not_be_read_is_told_as_that(open_folder: Folder, closed: str, mode: int) -> None:
    open_folder.scenes().tables()  # what is imported on first use that user may not be able to read
    assert told_to_nobody(open_folder.scenes().tables) == "nothing"
    path = open_folder.root / closed
    before = path.stat().st_mode
    path.chmod(0o000 if path.is_file() else mode)
    try:
        told = told_to_nobody(open_folder.scenes().tables)
    finally:
        path.chmod(before)
    assert told.startswith("PermissionError: `DCASEScenes(root="), told
    assert str(path if path.is_dir() else closed) in told
    assert "found 'Permission denied'. Give this user the right to read" in told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="another user's eyes need a fork")
@pytest.mark.parametrize("closed", ["audio", "audio/bus-lyon-0-0-a.wav"])
def test_audio_that_may_not_be_read_is_told_as_that(open_folder: Folder, closed: str, tmp_path: Path) -> None:
    path = open_folder.root / closed
    open_folder.scenes(cache_dir=tmp_path).prepare_data()
    path.chmod(0o000)
    told = told_to_nobody(open_folder.scenes().prepare_data)
    path.chmod(0o755)
    assert told.startswith("PermissionError: `DCASEScenes(root="), told
    assert "audio/bus-lyon-0-0-a.wav" in told
    assert "found 'Permission denied'" in told
