"""Other training clips for the folder of conftest.py."""

from __future__ import annotations

from itertools import product
from typing import Any

# `Folder` is the one of conftest.py.
Folder = Any
Row = tuple[str, str, str, str]


def rewrite(folder: Folder, train: list[Row]) -> None:
    """Gives the folder other training clips (filename, scene, identifier, device); the test clips stay."""
    tested = {name for name, _ in folder.test}
    folder.meta = [*map(list, train), *(row for row in folder.meta if row[0] in tested)]
    folder.train = [list(row[:2]) for row in train]
    folder.write_csv()


def rows(places: range, devices: str = "a", pieces: range | None = None) -> list[Row]:
    """Training clips of all scenes, at places of the scene's own."""
    clips = product(
        ("bus", "park", "tram"), places, devices, [""] if pieces is None else [f"-{piece}" for piece in pieces]
    )
    return [
        (f"audio/{scene}-paris-{scene}{place}-{place}{piece}-{device}.wav", scene, f"paris-{scene}{place}", device)
        for scene, place, device, piece in clips
    ]
