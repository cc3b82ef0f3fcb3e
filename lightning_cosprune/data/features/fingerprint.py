"""Content hashes of audio files, which are computed again only for files that may have changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from filelock import FileLock
from tqdm.auto import tqdm

from lightning_cosprune.data.disk import written_beside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# A file that is written again within one tick of the file system's clock keeps its times. Hashes of files that are
# younger than this are not remembered; the coarsest clock in use, FAT's, ticks every two seconds.
_SETTLED_NS = 3_000_000_000


class ContentHashes:
    """SHA-256 of files, remembered beside what the file system says of them, as git's index does.

    A file is read again when its size, its modification time or its change time (which programs cannot set) differs
    from what they were when it was hashed. Copying or touching a set thus costs one reading of it, and no more than
    that where the content is the same.

    Args:
        memory: JSON file to remember in. One that cannot be read is as good as none.
    """

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        try:
            self._known: dict[str, list[object]] = dict(json.loads(memory.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}
        self._changed = False

    def __call__(self, paths: Sequence[Path], states: Sequence[os.stat_result], *, progress: bool = True) -> list[str]:
        """Hashes of files.

        Args:
            paths: The files.
            states: What ``os.stat`` says of each.
            progress: Whether to show a progress bar where files have to be read.

        Returns:
            Hexadecimal digests of 32 digits.
        """
        now = time.time_ns()
        keys = [str(path) for path in paths]
        stamps = [[state.st_size, state.st_mtime_ns, state.st_ctime_ns] for state in states]
        digests = [
            str(known[3]) if (known := self._known.get(key)) and known[:3] == stamp else ""
            for key, stamp in zip(keys, stamps, strict=True)
        ]
        unknown = [row for row, digest in enumerate(digests) if not digest]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(_digest, [paths[row] for row in unknown])
            quiet = not (progress and unknown)
            bar = tqdm(found, total=len(unknown), desc="Content of audio files", unit="file", disable=quiet)
            for row, digest in zip(unknown, bar, strict=True):
                digests[row] = digest
                if now - max(stamps[row][1:]) > _SETTLED_NS:
                    self._known[keys[row]] = [*stamps[row], digest]
                    self._changed = True
        return digests

    def remember(self) -> None:
        """Write what was learned, beside and then renamed: another process's is replaced as a whole, never mixed."""
        if self._changed:
            with FileLock(self.memory.with_name(f"{self.memory.name}.lock")), written_beside(self.memory) as file:
                file.write(json.dumps(self._known).encode())
            self._changed = False


def _digest(path: Path) -> str:
    # SHA-256 is the fastest of those in the standard library where processors have instructions for it.
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:32]
