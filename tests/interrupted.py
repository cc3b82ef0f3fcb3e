"""Work that is stopped at drawn moments, as by Ctrl-C or by a kill, in a process of its own or in this one."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# What happens in these files counts: the package, and what it writes files with.
WATCHED = ("lightning_cosprune", "pathlib", "shutil", "zipfile", "tempfile", "serialization")
KINDS = ("kill", "ctrl-c")
INTERRUPTED = 130


class Watch:
    """Counts calls and returns, and does something at one of them."""

    def __init__(self, due: int | None = None, act: Callable[[], None] = lambda: None, threads: bool = False) -> None:
        self.count = 0
        self._watched: dict[str, bool] = {}
        self._due, self._act, self._threads = due, act, threads

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if file not in self._watched:
            self._watched[file] = any(name in file for name in WATCHED)
        if self._watched[file]:
            self.count += 1
            if self.count == self._due:
                self._act()

    def __enter__(self) -> Watch:
        if self._threads:
            threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def drawn_moments(work: Callable[[], object], count: int, seed: int) -> Iterator[int]:
    """Calls or returns, spread over all that ``work`` makes: one drawn in each of ``count`` parts, and the last."""
    work()  # what is done the first time only is done now
    with Watch() as watch:
        work()
    generator = random.Random(seed)
    total = watch.count
    assert total > count
    for part in range(count):
        yield generator.randint(1 + part * total // count, (part + 1) * total // count)
    yield total


def stopped(work: Callable[[], object], moment: int, kind: str) -> bool:
    """Do ``work`` in a child and stop it there; whether it was stopped before its end."""
    child = os.fork()
    if not child:
        code = 1
        try:
            act = ctrl_c if kind == "ctrl-c" else lambda: os.kill(os.getpid(), signal.SIGKILL)
            with Watch(moment, act, threads=kind == "kill"):
                work()
            code = 0
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, INTERRUPTED, -signal.SIGKILL)
    return code != 0


def content(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file below a folder, but locks, which are empty, and hashes, which depend on the clock."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".lock", ".hashes.json"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
