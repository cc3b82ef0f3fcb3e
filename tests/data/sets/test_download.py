"""Against a server on this machine that cuts connections, corrupts, delays, ignores ranges and refuses."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import http.server
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile

import pytest

from lightning_cosprune.data.sets import download as module
from lightning_cosprune.data.sets.archives import Archive
from lightning_cosprune.data.sets.download import download, fetch


def zipped(**contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"set/audio/{name}.wav", content)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``trouble`` names what it does wrong, and how often."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.chunk, self.delay = 2**16, 0.0

    def has_trouble(self, kind: str) -> bool:
        left = self.trouble.get(kind, 0)
        self.trouble[kind] = left - 1
        return left > 0

    def archive(self, name: str, content: bytes, md5: str | None = "right") -> Archive:
        self.files[name] = content
        checksum = hashlib.md5(content).hexdigest() if md5 == "right" else md5
        base = f"http://127.0.0.1:{self.server_address[1]}"
        return Archive(name, f"{base}/{name}", len(content), checksum, f"{base}/page")


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name, asked = self.path.lstrip("/"), self.headers.get("Range")
        self.server.asked.append((name, asked))
        if self.server.has_trouble("busy"):
            self.send_error(503)
            return
        if name not in self.server.files or self.server.has_trouble("refuse"):
            self.send_error(404)
            return
        content = self.server.files[name]
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        changed = self.headers.get("If-Range", tag) != tag
        start = 0 if asked is None or changed or self.server.trouble.get("no ranges") else int(asked[6:-1])
        self.send_response(206 if start else 200)
        if not self.server.trouble.get("no length"):  # as of archives that are packed on the way
            self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.end_headers()
        rest = content[start:]
        if self.server.has_trouble("corrupt"):
            rest = bytes([rest[0] ^ 1]) + rest[1:]
        end = len(rest) // 2 if self.server.has_trouble("cut") else len(rest)
        for place in range(0, end, self.server.chunk):
            self.wfile.write(rest[place : min(place + self.server.chunk, end)])
            self.server.sent += min(self.server.chunk, end - place)
            time.sleep(self.server.delay)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "_pause", lambda failures: 0.01)
    served = Server()
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    # A connection that was left open is told here, not in some later test of another file.
    gc.collect()


@pytest.fixture
def noise():
    return random.Random(0).randbytes(300_000)


def test_archives_come_whole_and_side_by_side(server, noise, tmp_path):
    archives = [server.archive(f"{i}.zip", noise[: 50_000 * i]) for i in range(1, 6)]
    fetch(archives, tmp_path, progress=False)
    for archive in archives:
        assert (tmp_path / archive.name).read_bytes() == server.files[archive.name]
    assert not list(tmp_path.glob("*.part"))
    server.asked.clear()
    fetch(archives, tmp_path, progress=False)
    assert server.asked == []


def test_four_archives_come_at_a_time(monkeypatch, tmp_path):
    meet, lock, now, most = threading.Barrier(4, timeout=30), threading.Lock(), [], []

    def together(archive, *_):
        with lock:
            now.append(archive)
            most.append(len(now))
        meet.wait()
        with lock:
            now.remove(archive)

    monkeypatch.setattr(module, "_fetch_one", together)
    fetch([Archive(f"{i}.zip", "url", 10, None, "page") for i in range(8)], tmp_path, progress=False)
    assert (len(most), max(most)) == (8, 4)


def test_a_connection_that_ends_early_is_continued(server, noise, tmp_path):
    archive = server.archive("a.zip", noise)
    server.trouble["cut"] = 3
    fetch([archive], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise
    assert server.sent == len(noise)  # not a byte twice
    assert [asked for _, asked in server.asked][1:] == ["bytes=150000-", "bytes=225000-", "bytes=262500-"]


def test_a_part_from_an_earlier_run_is_continued(server, noise, tmp_path):
    archive = server.archive("a.zip", noise)
    (tmp_path / "a.zip.part").write_bytes(noise[:100_000])
    fetch([archive], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise
    assert server.sent == 200_000


@pytest.mark.parametrize("part", [b"x" * 400_000, b"x" * 100_000])
def test_a_part_that_is_none_of_this_archive_gives_way(part, server, noise, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(part)
    fetch([server.archive("a.zip", noise)], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise


def test_a_file_that_changes_meanwhile_comes_whole(server, noise, tmp_path):
    archive = server.archive("a.bin", noise, md5=None)
    server.trouble["cut"] = 1
    server.files["a.bin"] = bytes(300_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ATTEMPTS", 1)
        patch.setattr(module, "_pause", lambda failures: None)
        waits = []
        patch.setattr(module.time, "sleep", lambda seconds: waits.append(server.files.update({"a.bin": noise})))
        fetch([archive], tmp_path, progress=False)
    assert waits
    assert (tmp_path / "a.bin").read_bytes() == noise
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_server_without_ranges_starts_again(server, noise, tmp_path):
    server.trouble.update({"no ranges": 10**6})
    (tmp_path / "a.zip.part").write_bytes(noise[:100_000])
    fetch([server.archive("a.zip", noise)], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise


@pytest.mark.parametrize("length", [True, False])
def test_an_archive_of_unknown_size_comes_whole(length, server, tmp_path):
    """Without a length a connection that is cut looks like one that came to its end; only a whole zip has its end."""
    content = zipped(**{f"clip{i}": random.Random(i).randbytes(10_000) for i in range(20)})
    archive = dataclasses.replace(server.archive("a.zip", content, md5=None), bytes=None)
    server.trouble.update({"cut": 1, "no length": not length, "no ranges": not length})
    fetch([archive], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == content
    assert server.sent == (len(content) if length else len(content) // 2 + len(content))
    server.asked.clear()
    fetch([archive], tmp_path, progress=False)
    assert server.asked == []


def test_a_page_in_place_of_an_archive_is_told(server, tmp_path):
    archive = dataclasses.replace(server.archive("a.zip", b"<html>Log in first</html>", md5=None), bytes=None)
    with pytest.raises(OSError, match=r"a.zip: expected a zip file, found 25 bytes of something else, twice"):
        fetch([archive], tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupted_archive_is_fetched_once_more_and_the_others_are_not(server, noise, tmp_path):
    archives = [server.archive("a.zip", noise), server.archive("b.zip", noise[:1000])]
    fetch(archives[1:], tmp_path, progress=False)
    server.trouble["corrupt"] = 1
    fetch(archives, tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise
    assert [name for name, _ in server.asked] == ["b.zip", "a.zip", "a.zip"]


def test_an_archive_that_stays_wrong_is_named(server, noise, tmp_path):
    archive = server.archive("a.zip", noise, md5="0" * 32)
    with pytest.raises(OSError, match=r"a.zip: expected the MD5 checksum 0{32}, found [0-9a-f]{32}, twice\."):
        fetch([archive], tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_an_archive_on_the_disk_that_was_damaged_is_fetched_again(server, noise, tmp_path):
    archive = server.archive("a.zip", noise)
    (tmp_path / "a.zip").write_bytes(noise[:-1] + b"?")
    fetch([archive], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise


def test_a_busy_server_is_asked_again(server, noise, tmp_path):
    server.trouble["busy"] = 4
    fetch([server.archive("a.zip", noise)], tmp_path, progress=False)
    assert (tmp_path / "a.zip").read_bytes() == noise


def test_a_server_that_stays_busy_is_given_up_and_what_came_is_kept(server, noise, tmp_path):
    server.trouble["busy"] = 10**6
    (tmp_path / "a.zip.part").write_bytes(noise[:1000])
    with pytest.raises(OSError, match=r"a.zip: expected 300,000 bytes .* got 1,000; after 5 attempts .*503"):
        fetch([server.archive("a.zip", noise)], tmp_path, progress=False)
    assert (tmp_path / "a.zip.part").stat().st_size == 1000


def test_a_missing_archive_is_told_by_name_and_the_others_come(server, noise, tmp_path):
    archives = [server.archive("a.zip", noise), server.archive("b.zip", noise), server.archive("c.zip", noise)]
    del server.files["b.zip"]
    with pytest.raises(
        OSError, match=r"b.zip: expected it at .*/b.zip, the server answers 404 .*/page and put it into"
    ):
        fetch(archives, tmp_path, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "c.zip"}


def test_no_server_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_pause", lambda failures: 0.0)
    archive = Archive("a.zip", "http://127.0.0.1:9/a.zip", 10, None, "page")
    with pytest.raises(OSError, match=r"a.zip: expected 10 bytes from .*after 5 attempts in a row without a byte"):
        fetch([archive], tmp_path, progress=False)


# Whole sets


def test_a_set_is_downloaded_and_unpacked_once(server, tmp_path, caplog):
    archives = [server.archive("1.zip", zipped(a=b"one")), server.archive("2.zip", zipped(b=b"two"))]
    with caplog.at_level("INFO"):
        for _ in range(2):
            download(archives, tmp_path / "set", licence="Some licence, see there", progress=False)
    assert (tmp_path / "set" / "audio" / "a.wav").read_bytes() == b"one"
    assert (tmp_path / "set" / "audio" / "b.wav").read_bytes() == b"two"
    assert len(server.asked) == 2
    assert caplog.text.count("Some licence, see there") == 1
    assert not list(tmp_path.rglob("*.zip"))


def test_archives_can_be_kept(server, tmp_path):
    download([server.archive("1.zip", zipped(a=b"one"))], tmp_path, licence="-", keep_archives=True, progress=False)
    assert (tmp_path / ".archives" / "1.zip").exists()


@pytest.mark.parametrize(("keep", "free", "enough"), [(False, 350, True), (True, 350, False), (True, 450, True)])
def test_kept_archives_need_room_too(keep, free, enough, server, tmp_path, monkeypatch):
    """Of two archives of 100 bytes: both, and beside them what comes out of one, or of both."""
    content = zipped(a=b"x")
    free = free * len(content) // 100
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(10**9, 0, free))
    archives = [server.archive("1.zip", content), server.archive("2.zip", content)]
    if enough:
        download(archives, tmp_path, licence="-", keep_archives=keep, progress=False)
        return
    with pytest.raises(OSError, match="of free space for 2 archives"):
        download(archives, tmp_path, licence="-", keep_archives=keep, progress=False)


def test_too_small_a_disk_is_told_before(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: module.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"expected 0.0 GB of free space for 1 archives, found 0.0 GB. Make room"):
        download([server.archive("1.zip", zipped(a=b"one"))], tmp_path, licence="-", progress=False)
    assert server.asked == []


KILLS = 10
CHILD = """
import sys, json
from pathlib import Path
from lightning_cosprune.data.sets.archives import Archive
from lightning_cosprune.data.sets.download import download
archives = [Archive(**entry) for entry in json.loads(sys.argv[1])]
download(archives, Path(sys.argv[2]), licence="-", progress=False)
"""


@pytest.mark.slow
def test_a_killed_download_goes_on_and_fetches_nothing_twice(server, tmp_path):
    """Killed at random moments; what is sent again is at most what was on its way, for each archive in flight."""
    contents = {
        f"{i}.zip": zipped(**{f"{i}{j}": random.Random(i * 9 + j).randbytes(400_000) for j in range(3)})
        for i in range(4)
    }
    archives = [vars(server.archive(name, content)) for name, content in contents.items()]
    total = sum(map(len, contents.values()))
    moments = sorted(random.Random(0).uniform(0, total) for _ in range(KILLS))
    server.delay = 0.01
    for moment in [*moments, None]:
        child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(archives), str(tmp_path / "set")])
        while moment is not None and server.sent < moment and child.poll() is None:
            time.sleep(0.001)
        if moment is not None:
            os.kill(child.pid, signal.SIGKILL)
        code = child.wait(timeout=60)
        assert code == (0 if moment is None else -signal.SIGKILL)
    for i in range(4):
        for j in range(3):
            expected = random.Random(i * 9 + j).randbytes(400_000)
            assert (tmp_path / "set" / "audio" / f"{i}{j}.wav").read_bytes() == expected
    in_flight = 4 * server.chunk  # what the network held when the process was killed
    assert server.sent <= total + KILLS * in_flight < 1.6 * total
    assert not list((tmp_path / "set").rglob("*.part"))
