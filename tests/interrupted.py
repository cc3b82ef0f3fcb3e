"""Work that is stopped at drawn moments, as by Ctrl-C or by a kill, in a process of its own or in this one."""

from __future__ import annotations

import multiprocessing
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

import torch

# What happens in these files counts: the package, and what it writes files with.
WATCHED = ("lightning_cosprune", "pathlib", "shutil", "zipfile", "tempfile", "serialization")
KINDS = ("kill", "ctrl-c")
INTERRUPTED = 130
SECONDS = 120
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["lightning_cosprune.data", "lightning_cosprune.reports.page", "librosa", "lightning"])


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
    """Do ``work``, which must be picklable, in a process of its own and stop it there; whether that was before its end.

    The process comes from one that has imported what is needed and done nothing else: a child of this one would have
    the thread pools of what ran here before, without their threads, and can wait for them for ever.
    """
    child = PROCESSES.Process(target=_until, args=(work, moment, kind))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        child.join()
        raise AssertionError(f"the process did not end within {SECONDS} s")
    assert child.exitcode in (0, INTERRUPTED, -signal.SIGKILL)
    return child.exitcode != 0


def _until(work: Callable[[], object], moment: int, kind: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
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


def content(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of every file below a folder, but locks, which are empty, and hashes, which depend on the clock."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".lock", ".hashes.json"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
