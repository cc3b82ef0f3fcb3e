"""Names that look alike in the csv files and on the disk."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

# `Folder` is the one of conftest.py.
Folder = Any


@pytest.mark.parametrize(
    ("of_disk", "how"),
    [
        ("audio/caf\u00e9-lyon-1-2-a.WAV", "which differs in capitals"),
        ("audio/cafe\u0301-lyon-1-2-a.wav", r"which differs in how accents are written \(NFC and NFD\)"),
    ],
)
def test_names_that_look_alike_are_told(folder: Folder, of_disk: str, how: str) -> None:
    of_csv = "audio/caf\u00e9-lyon-1-2-a.wav"
    first = folder.train[0][0]
    os.rename(folder.root / first, folder.root / of_disk)  # noqa: PTH104
    for row in (*folder.meta, *folder.train):
        row[0] = of_csv if row[0] == first else row[0]
    folder.write_csv()
    if (folder.root / of_csv).exists():
        pytest.skip("this file system does not tell the two names apart")
    shown = re.escape(repr(of_disk.removeprefix("audio/")))
    with pytest.raises(FileNotFoundError, match=rf"line 2 at .*no such file, but {shown}, {how}: spell both alike;"):
        folder.scenes().prepare_data()
    folder.meta[0][0] = of_disk
    folder.write_csv()
    with pytest.raises(ValueError, match=rf"in meta\.csv, found .* \(line 2\) .*but {re.escape(repr(of_disk))}, {how}"):
        folder.scenes().tables()


def test_files_in_capitals_are_read(folder: Folder) -> None:
    for row in (*folder.meta, *folder.train, *folder.test):
        path = folder.root / row[0]
        row[0] = f"{row[0].removesuffix('.wav')}.WAV"
        if path.exists():
            path.rename(folder.root / row[0])
    folder.write_csv()
    scenes = folder.scenes()
    scenes.prepare_data()
    assert scenes.tables()["train"]["filename"].str.endswith(".WAV").all()
