"""Where the sets are on the web: their archives, with the sizes and checksums that are published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Archive:
    """A file on the web.

    Attributes:
        name: Name of the file.
        url: Where it is.
        bytes: Its size, or ``None`` where the server packs it when it is asked.
        md5: Its checksum, or ``None`` where none is published.
        page: Where a person can fetch it by hand.
    """

    name: str
    url: str
    bytes: int | None
    md5: str | None
    page: str


@cache
def zenodo_archives(name: str) -> tuple[Archive, ...]:
    """The archives of a TAU or TUT set on Zenodo, with the sizes and checksums that are published there.

    Raises:
        KeyError: There is no set of this name.

    Returns:
        All of them; those of documents, metadata and audio have names that say so.
    """
    listed = json.loads(files("lightning_cosprune.data.sets").joinpath("archives.json").read_text(encoding="utf-8"))[
        name
    ]
    page = f"https://zenodo.org/records/{listed['zenodo_record']}"
    return tuple(
        Archive(entry["name"], f"{page}/files/{entry['name']}?download=1", entry["bytes"], entry["md5"], page)
        for entry in listed["files"]
    )


def github_archive(repository: str) -> Archive:
    """What GitHub packs of a repository when it is asked, so that neither size nor checksum is known before.

    Args:
        repository: Owner and name, ``"owner/name"``.

    Returns:
        The archive.
    """
    page = f"https://github.com/{repository}"
    name = repository.rpartition("/")[2]
    return Archive(f"{name}-master.zip", f"{page}/archive/master.zip", None, None, page)
