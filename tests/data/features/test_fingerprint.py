"""Content hashes: read again whatever may have changed, and only that."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from lightning_cosprune.data.features import fingerprint
from lightning_cosprune.data.features.fingerprint import ContentHashes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files whose times are past the clock's tick."""
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    return paths


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", -1)


def hashed(memory: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[Path]]:
    """The digests and which files were read for them."""
    read: list[Path] = []
    digest = fingerprint._digest
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_digest", lambda path: (read.append(path), digest(path))[1])
        hashes = ContentHashes(memory)
        digests = hashes(paths, [path.stat() for path in paths], progress=False)
        hashes.remember()
    return digests, read


def test_digests_are_those_of_the_content(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests, _ = hashed(tmp_path / "memory", files, monkeypatch)
    assert digests == [hashlib.sha256(path.read_bytes()).hexdigest()[:32] for path in files]


def test_files_are_read_once(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, read = hashed(tmp_path / "memory", files, monkeypatch)
    assert read == files
    assert hashed(tmp_path / "memory", files, monkeypatch) == (first, [])


def test_a_touched_file_is_read_again_and_keeps_its_digest(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = hashed(tmp_path / "memory", files, monkeypatch)
    os.utime(files[1])
    assert hashed(tmp_path / "memory", files, monkeypatch) == (first, [files[1]])


def test_a_change_with_the_old_size_and_time_is_noticed(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = hashed(tmp_path / "memory", files, monkeypatch)
    before, content = files[2].stat(), bytearray(files[2].read_bytes())
    time.sleep(0.02)  # past the tick of the file system's clock
    content[0] ^= 1
    files[2].write_bytes(content)
    os.utime(files[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    second, read = hashed(tmp_path / "memory", files, monkeypatch)
    assert read == [files[2]]
    assert [one != other for one, other in zip(first, second, strict=True)] == [False, False, True]


def test_files_that_were_just_written_are_not_remembered(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 3_000_000_000)
    hashed(tmp_path / "memory", files, monkeypatch)
    assert not (tmp_path / "memory").exists()
    assert hashed(tmp_path / "memory", files, monkeypatch)[1] == files


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": 1}'])
def test_a_broken_memory_is_as_good_as_none(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "memory").write_bytes(content)
    assert hashed(tmp_path / "memory", files, monkeypatch)[1] == files
    assert hashed(tmp_path / "memory", files, monkeypatch)[1] == []
