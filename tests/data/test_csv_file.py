"""One csv file alone; `test_tables.py` has the faults as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_cosprune.data.csv_file import read_rows

COLUMNS = ["filename", "scene_label"]


def read(path: Path, content: bytes, **options: bool | str) -> list[list[object]]:
    path.write_bytes(content)
    return read_rows(path, COLUMNS, name=path.name, owner="`owner`", **options).to_numpy().tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_rows_know_their_lines(tmp_path: Path, mark: bytes, end: bytes) -> None:
    content = mark + end.join([b"scene_label\tfilename\tmore", b'bus\ta"b\t1', b"", b"park\tNA\t2", b""])
    assert read(tmp_path / "a.csv", content) == [['a"b', "bus", 2], ["NA", "park", 4]]


def test_a_text_file_needs_no_header(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"a\tbus\tmore\nb\tpark\tmore\n") == [["a", "bus", 1], ["b", "park", 2]]
    assert read(tmp_path / "b.txt", b"filename\tscene_label\na\tbus\n") == [["a", "bus", 2]]


def test_what_is_optional_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("filename,scene_label\na,bus\n")
    rows = read_rows(path, [*COLUMNS, "place"], name="a.csv", owner="`owner`", optional=True, separator=",")
    assert rows.columns.tolist() == ["filename", "scene_label", "line"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"`owner`: expected a comma-separated table in a\.csv, found one that does not parse"),
        (b"filename,label\na,bus\n", r"the column scene_label in a\.csv, found filename, label\. .* by commas"),
        (b"filename,scene_label\n", r"expected rows in a\.csv, found only its header"),
        (b"filename,scene_label\na,bus\n,\nb,\n", r"expected a scene_label in a\.csv line 4"),
        (b"filename,scene_label\na,bus\n,\na,bus\n", r"found 'a' in lines 2 and 4; 1 rows are doubled"),
    ],
)
def test_each_fault_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", content, separator=",")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"filename,scene_label\na.wav,bus \n",
            r"scene_label as it is in a\.csv line 2, found a space .*'bus '.*Take the",
        ),
        (b"filename,scene_label\nb,bus\n a.wav,bus\n", r"filename as it is in a\.csv line 3, found a space"),
        (b'filename,scene_label\n"a.wav",bus\n', r"line 2, found quotes around it.*without quotes"),
        (b"filename,scene_label\naudio\\a.wav,bus\n", r"with / between folders .*line 2; .*Write 'audio/a\.wav'"),
        (
            b"filename,scene_label\nb,bus\ncaf\xe9.wav,bus\n",
            r"UTF-8 text in a\.csv, .*line 3, perhaps 'caf\xe9\.wav,bus' in lat",
        ),
        ("filename,scene_label\na.wav,bus\n".encode("utf-16"), r"UTF-8 text in a\.csv, found UTF-16.*Save it as UTF-8"),
    ],
)
def test_what_other_programs_leave_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", content, separator=",")


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.csv").write_text("filename\n")
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(
        PermissionError, match=r"`owner`: expected a\.csv to be readable, found 'Permission denied'\. Give"
    ):
        read_rows(tmp_path / "a.csv", COLUMNS, name="a.csv", owner="`owner`")
