"""A zip file into a folder: only where it belongs, and only what is not there yet."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lightning_cosprune.data.disk import writing_to, written_beside

_CHUNK = 2**20


def unpack(archive: Path, root: Path) -> None:
    """Unpack a zip file into ``root``; files that are there with the right content are left alone.

    Where all entries are in one folder, as in Zenodo's archives of the TAU sets, that folder is ``root``. Files are
    written beside their place and renamed.

    Args:
        archive: The zip file.
        root: Folder to write to, and nowhere else.

    Raises:
        ValueError: An entry is absolute, leads out of the folder, or is a link or a device.
        OSError: The archive is damaged, or the disk full.
    """
    writing = writing_to(root, archive.name, again="what is unpacked is not unpacked again")
    try:
        with writing, zipfile.ZipFile(archive) as content:
            places = [(entry, _safe_place(entry, archive)) for entry in content.infolist()]
            wanted = [(entry, place) for entry, place in places if not entry.is_dir()]
            tops = {place.parts[0] for _, place in places if place.parts}
            strip = len(tops) == 1 and all(len(place.parts) > 1 for _, place in wanted)
            for entry, place in wanted:
                target = root.joinpath(*place.parts[1 if strip else 0 :])
                if _is_unpacked(target, entry):
                    continue
                if not target.parent.resolve().is_relative_to(root.resolve()):
                    raise ValueError(
                        f"{archive.name}: expected entries within the folder, found {entry.filename!r}, which a link "
                        f"in {root} leads out of it. Remove the link."
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                with content.open(entry) as source, written_beside(target, to_disk=False) as sink:
                    shutil.copyfileobj(source, sink, _CHUNK)
    except (zipfile.BadZipFile, EOFError) as error:
        raise OSError(
            f"{archive.name}: expected a whole zip file, found a damaged one ({error}). Delete {archive} and start "
            "again; only this archive is fetched anew."
        ) from error


def _is_unpacked(target: Path, entry: zipfile.ZipInfo) -> bool:
    if not target.is_file() or target.stat().st_size != entry.file_size:
        return False
    checksum = 0
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == entry.CRC


def _safe_place(entry: zipfile.ZipInfo, archive: Path) -> PurePosixPath:
    name = entry.filename.replace("\\", "/")
    place = PurePosixPath(name)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if place.is_absolute() or ".." in place.parts or ":" in name or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link or device" if kind not in (0, stat.S_IFREG, stat.S_IFDIR) else "a path that leads out of it"
        raise ValueError(
            f"{archive.name}: expected files within the folder, found {what}: {entry.filename!r}. Nothing of it was "
            "unpacked. Do not use this archive; fetch it from its publisher."
        )
    return place
