"""How a store gets there: as a whole or not at all, the same bytes whatever happened before."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.features.small_store import COLUMNS, build, extract

from lightning_cosprune.data.features.build_store import build_store
from lightning_cosprune.data.features.store import FeatureStore, open_store

# What the tests below build, 5 ms a clip; every extraction is noted, so that work done twice can be counted.
COMMON = """
import os, sys, time
from pathlib import Path
import numpy as np
from lightning_cosprune.data.features.blocks import Column
from lightning_cosprune.data.features.build_store import build_store

CLIPS = 700

def build(path, seconds=0.0, log=None):
    def extract(item):
        time.sleep(seconds)
        if log:
            with open(log, "ab", 0) as file:
                file.write(b"%d\\n" % item)
        return np.random.default_rng(item).normal(size=(4, 50)).astype(np.float32), np.full(3, item, dtype=np.float64)

    columns = {"features": Column((4, 50), "float16"), "numbers": Column((3,), "float64")}
    build_store(Path(path), range(CLIPS), extract, columns, info={}, description="test", progress=False)
"""
BUILD = COMMON + "build(sys.argv[1], 0.005)"
# One process imports, its children build and are killed: sleeps decide the moment, not the time that imports take.
KILL = (
    COMMON
    + """
import random, signal
path, log, kills, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
random.seed(seed)
killed = 0
while killed < kills:
    child = os.fork()
    if child == 0:
        build(path, 0.004, log)
        os._exit(0)
    time.sleep(random.uniform(0.0, 0.2))
    os.kill(child, signal.SIGKILL)
    killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    if Path(path).exists():
        break
build(path, 0.0, log)
print(killed)
"""
)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True
    )


def files(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(store.iterdir())}


def test_is_built_once(tmp_path: Path) -> None:
    first = build(tmp_path / "store")
    before = (first.path / "features.npy").stat().st_mtime_ns

    def never(item: int) -> Any:
        raise AssertionError("extracted again")

    build(first.path, extract=never)
    assert (first.path / "features.npy").stat().st_mtime_ns == before


def test_what_a_failed_run_has_done_is_not_done_again(tmp_path: Path) -> None:
    assert open_store(tmp_path / "store") is None
    seen: list[int] = []

    def fails(item: int) -> Any:
        if item == 150:
            raise RuntimeError("clip 150")
        return extract(item)

    def counts(item: int) -> Any:
        seen.append(item)
        return extract(item)

    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="clip 150"):
        build(tmp_path / "store", 200, fails)
    assert open_store(tmp_path / "store") is None
    assert torch.get_num_threads() == threads
    build(tmp_path / "store", 200, counts)
    # Clip 150 is in the fifth block of 32.
    assert sorted(seen) == list(range(128, 200))
    assert files(tmp_path / "store") == files(build(tmp_path / "other", 200).path)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_store_is_built_again(tmp_path: Path, damage: str) -> None:
    store = build(tmp_path / "store")
    whole = files(store.path)
    features = store.path / "features.npy"
    if damage == "truncate":
        os.truncate(features, 200)
    else:
        features.unlink()
    assert open_store(store.path) is None
    build(store.path)
    assert files(store.path) == whole


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda partial: os.truncate(partial / "features.npy", 5000),
        lambda partial: (partial / "moments.npy").write_bytes(bytes(5000)),
        lambda partial: os.truncate(partial / "blocks.jsonl", 50),
        lambda partial: append(partial / "blocks.jsonl", b'{"clips":32'),
        lambda partial: append(partial / "features.npy", b"torn"),
        lambda partial: (partial / "features.npy").unlink(),
        lambda partial: (partial / "info.json").write_text("{"),
        lambda partial: (partial / "info.json").unlink(),
    ],
)
def test_whatever_is_left_half_written_the_result_is_the_same(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    def fails(item: int) -> Any:
        if item == 120:
            raise RuntimeError
        return extract(item)

    with pytest.raises(RuntimeError):
        build(tmp_path / "store", 200, fails)
    damage(tmp_path / "store.partial")
    build(tmp_path / "store", 200)
    assert files(tmp_path / "store") == files(build(tmp_path / "undisturbed", 200).path)
    assert not (tmp_path / "store.partial").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is a thing of POSIX")
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_runs_are_continued_and_leave_the_same_bytes(tmp_path: Path, kills: int) -> None:
    path, log = tmp_path / "killed" / "store", tmp_path / "log"
    killed = int(run(KILL, path, log, kills, kills).stdout)
    assert killed == kills
    run(COMMON + "build(sys.argv[1])", tmp_path / "undisturbed")
    assert files(path) == files(tmp_path / "undisturbed")
    extracted = Counter(map(int, log.read_text().split()))
    assert sorted(extracted) == list(range(700))
    # A kill costs what was under way: one block of 32 clips being written and one being extracted.
    assert sum(extracted.values()) - 700 <= 2 * 32 * kills
    assert not path.with_name("store.partial").exists()


def test_two_processes_build_one_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", BUILD, path])
    deadline = time.monotonic() + 60
    while not path.with_name("store.partial").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)

    def never(item: int) -> Any:
        raise AssertionError("extracted beside the other process")

    # Waits for the lock that the other process holds, says so, and finds what it has built.
    with caplog.at_level(logging.INFO):
        build_store(path, range(700), never, COLUMNS, info={}, description="test", progress=False)
    assert process.wait() == 0
    assert "another process is building" in caplog.text
    np.testing.assert_array_equal(FeatureStore(path)["numbers"][:, 0], np.arange(700))


def test_many_threads_build_one_store(tmp_path: Path) -> None:
    seen: list[int] = []

    def counts(item: int) -> Any:
        seen.append(item)
        return extract(item)

    threads = [threading.Thread(target=build, args=(tmp_path / "store", 40, counts)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(40))
