"""Archives from the web onto the disk: resumed where they stopped, verified, and unpacked."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info
from tqdm.auto import tqdm

from lightning_cosprune.data.disk import full_disk, writing_to
from lightning_cosprune.data.sets.archives import Archive
from lightning_cosprune.data.sets.unpack import unpack

_CHUNK = 2**20
_ATTEMPTS = 5
"""How often a connection may fail in a row without bringing a byte."""


def download(
    archives: Sequence[Archive], root: Path, *, licence: str, keep_archives: bool = False, progress: bool = True
) -> None:
    """Fetch, verify and unpack what is missing of a set.

    A run that is killed is continued by the next one: whole archives stay, a started one goes on at its last byte, and
    files that were unpacked as they should be are not unpacked again. Several processes may ask for the same set; one
    of them works.

    Args:
        archives: What the set consists of.
        root: Its folder.
        licence: Name of the licence and where to read it; shown once a set.
        keep_archives: Whether archives stay beside the files that came out of them.
        progress: Whether a bar shows rate and time left.

    Raises:
        OSError: There is no connection, an archive is missing or damaged on the server, or the disk is too small; the
            archive is named.
        ValueError: An archive wants to write outside of ``root``.
    """
    store = root / ".archives"
    with writing_to(root, "Downloading"):
        store.mkdir(parents=True, exist_ok=True)
        lock = FileLock(store / "lock").acquire()
    with lock:
        missing = [archive for archive in archives if not _mark(store, archive).exists()]
        if not missing:
            return
        if not (store / "licence").exists():
            rank_zero_info(f"{root.name}: {licence}. By using the data you accept it.")
            (store / "licence").write_text(licence, encoding="utf-8")
        _check_disk(missing, root, keep_archives)
        fetch(missing, store, progress=progress)
        for archive in tqdm(missing, desc="Unpacking", unit="archive", disable=not progress):
            unpack(store / archive.name, root)
            _mark(store, archive).touch()
            if not keep_archives:
                (store / archive.name).unlink()


def fetch(archives: Iterable[Archive], folder: Path, *, parallel: int = 4, progress: bool = True) -> None:
    """Fetch archives side by side; those that are there are left alone.

    A file has its name only once it is whole and its checksum right; until then it ends in ``.part``.

    Args:
        archives: What to fetch.
        folder: Where to put them.
        parallel: How many at a time.
        progress: Whether a bar shows rate and time left.

    Raises:
        OSError: As in :func:`download`; the others are fetched to their end before.
    """
    wanted = [archive for archive in archives if not _is_whole(folder, archive)]
    sizes = [archive.bytes for archive in wanted if archive.bytes is not None]
    total = sum(sizes) if len(sizes) == len(wanted) else None
    bar = tqdm(total=total, desc="Downloading", unit="B", unit_scale=True, disable=not progress)
    for archive in wanted:
        have = _size(folder / f"{archive.name}.part")
        bar.update(have if archive.bytes is None else min(have, archive.bytes))
    lock = threading.Lock()

    def advance(count: int) -> None:
        with lock:
            bar.update(count)

    with bar, ThreadPoolExecutor(parallel) as pool:
        waiting = [pool.submit(_fetch_one, archive, folder, advance) for archive in wanted]
        errors = [error for future in waiting if (error := future.exception()) is not None]
    if errors:
        full = next((error for error in errors if full_disk(error)), None)
        if full is not None:
            with writing_to(folder, "Downloading", total, "a rerun goes on where this one stopped"):
                raise full
        others = f" {len(errors) - 1} more archives failed as well." if len(errors) > 1 else ""
        raise OSError(f"{errors[0]}{others}") from errors[0]


def _fetch_one(archive: Archive, folder: Path, advance: Any) -> None:
    part = folder / f"{archive.name}.part"
    for last_try in (False, True):
        _fetch_bytes(archive, part, advance)
        problem = _damage(archive, part)
        part.with_name(f"{part.name}.etag").unlink(missing_ok=True)
        if problem is None:
            part.replace(folder / archive.name)
            return
        advance(-_size(part))
        part.unlink()
        if last_try:
            raise OSError(
                f"{archive.name}: expected {problem}, twice. The file on the server is damaged or has changed; look at "
                f"{archive.page}."
            )


def _damage(archive: Archive, part: Path) -> str | None:
    """What is wrong with a fetched archive; of one without a checksum its entries' are verified by :func:`unpack`."""
    if archive.md5:
        found = _md5(part)
        return None if found == archive.md5 else f"the MD5 checksum {archive.md5}, found {found}"
    if archive.name.endswith(".zip") and not zipfile.is_zipfile(part):
        return f"a zip file, found {part.stat().st_size:,} bytes of something else"
    return None


def _fetch_bytes(archive: Archive, part: Path, advance: Any) -> None:
    """Bring ``part`` to the size of the archive, whatever it takes: further connections, or a start from zero."""
    failures = 0
    size = archive.bytes
    while (have := _size(part)) != size:
        if size is not None and have > size:  # of another version of the file
            advance(-size)
            part.unlink()
            continue
        try:
            announced = _fetch_rest(archive, part, have, advance)
            size = announced if size is None else size
        except urllib.error.HTTPError as error:
            error.close()  # an answer too, which holds the connection
            if error.code not in (408, 416, 429) and error.code < 500:
                raise OSError(
                    f"{archive.name}: expected it at {archive.url}, the server answers {error.code} {error.reason}. "
                    f"Fetch it by hand from {archive.page} and put it into {part.parent}."
                ) from error
            if error.code == 416:  # a rest that does not exist: the part is not of this file
                advance(-_size(part))
                part.unlink(missing_ok=True)
            problem: Exception = error
        except (OSError, HTTPException) as error:
            if full_disk(error):  # no connection brings room
                raise
            problem = error
        else:
            problem = OSError("the connection ended early")
        failures = 0 if _size(part) > have else failures + 1
        if failures >= _ATTEMPTS:
            wanted = "more" if size is None else f"{size:,}"
            raise OSError(
                f"{archive.name}: expected {wanted} bytes from {archive.url}, got {_size(part):,}; after "
                f"{failures} attempts in a row without a byte: {problem}. What came is kept; start again to go on."
            ) from problem
        time.sleep(0.0 if failures == 0 else _pause(failures))


def _pause(failures: int) -> float:
    return float(2 ** (failures - 1))


def _fetch_rest(archive: Archive, part: Path, have: int, advance: Any) -> int | None:
    """Append what is missing, as far as it comes.

    Returns:
        The size of the archive, as far as the answer tells it.
    """
    tag = part.with_name(f"{part.name}.etag")
    headers = {}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():  # then a file that has changed meanwhile comes whole, and not only its rest
            headers["If-Range"] = tag.read_text(encoding="latin-1")
    with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=30) as answer:
        rest = answer.status == 206 and answer.headers.get("Content-Range", f"bytes {have}-").startswith(
            f"bytes {have}-"
        )
        if have and not rest:  # the server does not know ranges, or the file has changed: from the start
            advance(-have)
            part.unlink()
            if answer.status != 200:
                return None
        if answer.headers.get("ETag"):
            tag.write_text(answer.headers["ETag"], encoding="latin-1")
        with part.open("ab" if rest else "wb") as sink:
            while chunk := answer.read1(_CHUNK):  # what has come, so that a killed run loses no more than that
                sink.write(chunk)
                sink.flush()
                advance(len(chunk))
        announced = answer.headers.get("Content-Length")
    # Without a length, as of archives that are packed on the way, an answer that came to its end is whole.
    return _size(part) if announced is None else int(announced) + (have if rest else 0)


def _is_whole(folder: Path, archive: Archive) -> bool:
    """Whether the archive is there; one of another size, put there by hand, gives way."""
    path = folder / archive.name
    if path.is_file() and archive.bytes in (None, _size(path)) and _damage(archive, path) is None:
        return True
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return False


def _check_disk(archives: Sequence[Archive], root: Path, keep_archives: bool) -> None:
    store = root / ".archives"
    sizes = [archive.bytes for archive in archives if archive.bytes is not None]
    if not sizes:
        return
    # Audio hardly compresses, so what is unpacked takes about what the archives take; each is deleted after its turn.
    unpacked_beside = sum(sizes) if keep_archives else max(sizes)
    names = [archive.name for archive in archives if archive.bytes is not None]
    held = sum(_size(store / name) + _size(store / f"{name}.part") for name in names)
    needed = sum(sizes) - held + unpacked_beside
    free = shutil.disk_usage(root).free
    if free < needed:
        raise OSError(
            f"{root}: expected {needed / 1e9:.1f} GB of free space for {len(archives)} archives, found "
            f"{free / 1e9:.1f} GB. Make room or give another `root`."
        )


def _mark(store: Path, archive: Archive) -> Path:
    return store / f"{archive.name}.unpacked"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
