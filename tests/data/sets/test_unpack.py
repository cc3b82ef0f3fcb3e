"""Zip files, harmless and hostile, into folders."""

from __future__ import annotations

import io
import stat
import zipfile

import pytest

from lightning_cosprune.data.sets.unpack import unpack


def zipped(**contents: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"set/audio/{name}.wav", content)
    return buffer.getvalue()


def hostile(name: str, kind: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("set/good.txt", b"good")
        entry = zipfile.ZipInfo(name)
        entry.external_attr = kind << 16
        archive.writestr(entry, b"/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("../evil.txt", 0, "a path that leads out of it"),
        ("set/../../evil.txt", 0, "a path that leads out of it"),
        ("/tmp/evil.txt", 0, "a path that leads out of it"),
        ("C:\\evil.txt", 0, "a path that leads out of it"),
        ("..\\evil.txt", 0, "a path that leads out of it"),
        ("set/link", stat.S_IFLNK | 0o777, "a link or device"),
        ("set/device", stat.S_IFCHR | 0o666, "a link or device"),
    ],
)
def test_entries_that_lead_elsewhere_are_refused_before_anything_is_written(name, kind, what, tmp_path):
    (tmp_path / "a.zip").write_bytes(hostile(name, kind))
    with pytest.raises(ValueError, match=f"a.zip: expected files within the folder, found {what}"):
        unpack(tmp_path / "a.zip", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_link_that_is_there_already_is_not_followed_out(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "audio").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a.zip").write_bytes(zipped(a=b"one"))
    with pytest.raises(ValueError, match=r"which a link in .* leads out of it"):
        unpack(tmp_path / "a.zip", tmp_path / "root")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_damaged_archive_is_told(tmp_path):
    content = bytearray(zipped(a=b"one" * 100))
    content[60] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(OSError, match=r"a.zip: expected a whole zip file, found a damaged one .*only this archive"):
        unpack(tmp_path / "a.zip", tmp_path / "root")
    assert not (tmp_path / "root" / "audio" / "a.wav").exists()


def test_files_that_are_there_are_left_alone(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(a=b"one", b=b"two"))
    unpack(tmp_path / "a.zip", tmp_path / "root")
    kept = tmp_path / "root" / "audio" / "a.wav"
    before = kept.stat().st_mtime_ns
    for wrong in (b"tw", b"too"):  # half a file, and one of the right size
        (tmp_path / "root" / "audio" / "b.wav").write_bytes(wrong)
        unpack(tmp_path / "a.zip", tmp_path / "root")
        assert kept.stat().st_mtime_ns == before
        assert (tmp_path / "root" / "audio" / "b.wav").read_bytes() == b"two"


def test_archives_without_a_common_folder_are_unpacked_as_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("meta.csv", b"m")
        archive.writestr("audio/a.wav", b"a")
    unpack(tmp_path / "a.zip", tmp_path / "root")
    assert {path.name for path in (tmp_path / "root").iterdir()} == {"meta.csv", "audio"}
