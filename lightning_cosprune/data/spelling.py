"""Names that look alike and are not: in capitals, or in how accents are written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path


def key(name: str) -> str:
    """What two names have in common that differ in capitals or in how accents are written alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def alike(name: str, others: Iterable[str]) -> str:
    """The first of ``others`` that looks like ``name``, as the rest of a sentence.

    Returns:
        Such as ``", but 'a.WAV', which differs in capitals"``; empty where there is none.
    """
    other = next((other for other in others if other != name and key(other) == key(name)), None)
    if other is None:
        return ""
    in_accents = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
    how = "in how accents are written (NFC and NFD)" if in_accents else "in capitals"
    return f", but {other!r}, which differs {how}: spell both alike"


def alike_on_disk(path: Path) -> str:
    """As :func:`alike`, of the files beside ``path``; of its folder where that is not there either."""
    for place in (path, *path.parents):
        if place.parent.is_dir():
            return alike(place.name, sorted(entry.name for entry in place.parent.iterdir()))
    return ""
