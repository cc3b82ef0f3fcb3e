"""Files that are there whole or not at all, and a disk that is full or may not be written to, told as that."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def written_beside(target: Path, *, to_disk: bool = True) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``target`` once it is whole.

    Args:
        target: Where it goes; its folder is there.
        to_disk: Whether the name waits until the disk has the bytes, so that a machine that goes down takes nothing
            along. For thousands of small files that are verified afterwards anyway it costs too much.

    Raises:
        IsADirectoryError: A folder has that name.

    Yields:
        What to write into, ``<target>.part``. Whatever raises within leaves ``target`` as it was and no other file.
    """
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    partial = target.with_name(f"{target.name}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if to_disk:
                os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing_to(folder: Path, owner: str, needed: int | None = None, again: str = "") -> Iterator[None]:
    """Let an error of writing say where, why and what to do: how much room is missing, or what may not be written.

    Args:
        folder: What is written to.
        owner: Who writes, the beginning of the error.
        needed: Bytes that all of it takes, where that is known.
        again: What a rerun does.

    Raises:
        OSError: With the system's own number and kind, where the disk or a quota is full, or something in ``folder``
            or on the way to it cannot be written. Other errors pass as they are.

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception as error:
        found = full_disk(error)
        if found is None and isinstance(error, OSError) and _is_about(error, folder):
            raise type(error)(
                error.errno,
                f"{owner}: expected to be able to write {error.filename}, found {error.strerror!r}. Choose another "
                "place, or give this user the right to write there.",
            ) from error
        if found is None:
            raise
        wanted = "room" if needed is None else f"room for {in_words(needed)}"
        raise OSError(
            found.errno,
            f"{owner}: expected {wanted} in {folder}, found {in_words(free_bytes(folder))} free "
            f"({found.strerror or found}). Make room there or choose another folder{f'; {again}' if again else ''}.",
        ) from error


def _is_about(error: OSError, folder: Path) -> bool:
    """Whether an error of the system names something in ``folder``, or on the way to it, and not what is read."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return False
    place, folder = Path(error.filename).absolute(), folder.absolute()
    return place.is_relative_to(folder) or folder.is_relative_to(place)


def check_readable(folder: Path, owner: str) -> None:
    """Refuse a folder that this user may not read or enter; what is not there is told elsewhere.

    Args:
        folder: The folder.
        owner: Who reads it, the beginning of the error.

    Raises:
        PermissionError: With the folder.
    """
    try:
        folder.stat()
        refused = folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK)
    except PermissionError:  # one above it is closed
        refused = True
    except OSError:
        return
    if refused:
        raise PermissionError(
            f"{owner}: expected a folder that can be read at {folder}, found 'Permission denied'. Give this user the "
            "right to read and to enter it, and to enter those above it."
        )


def full_disk(error: BaseException | None) -> OSError | None:
    """The error of the system that says that a disk or a quota is full, if that is what is behind ``error``.

    Returns:
        It, or ``None``.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def free_bytes(folder: Path) -> int:
    """Free space for files in ``folder``, or in the nearest folder above it that is there.

    Returns:
        Bytes.
    """
    folder = folder.absolute()
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free


def in_words(size: int) -> str:
    """A number of bytes for a message.

    Returns:
        With a unit of at most three digits before it.
    """
    amount = float(size)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} GB"
