"""Places that cannot be written or read: one error that names the place, and nothing left there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import soundfile
import torch
from processes import told_to_nobody
from torch import nn

from lightning_cosprune import AtomicCheckpointIO, RunRecord, load_pruned, sensitivity, write_report
from lightning_cosprune.data import DeviceImpulseResponse, SyntheticScenes, reassemble, write_submission
from lightning_cosprune.data.sets.download import download
from lightning_cosprune.models import Cnn6, YAMNet, read_class_names

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="another user's eyes need a fork")
EXAMPLE = torch.zeros(1, 1, 12, 12)
Work = Callable[[Path], object]


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))


def scored(path: Path) -> object:
    return sensitivity(network(), EXAMPLE, score=lambda _: 1.0, criterion="l1", fractions=(0.5,), kept_in=path)


def pieces(root: Path) -> None:
    SyntheticScenes(root, num_recordings=100, recording_seconds=1, progress=False).prepare_data()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """One that any user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    SyntheticScenes(place / "pieces", num_recordings=100, recording_seconds=2, progress=False).prepare_data()
    return place / "pieces"


# What is written, and the beginning of the error.
WRITTEN: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "checkpoint": ("Checkpoint out: ", lambda path, _: AtomicCheckpointIO().save_checkpoint({"a": EXAMPLE}, path)),
    "download": ("Downloading: ", lambda path, _: download([], path, licence="-", progress=False)),
    "reassemble": ("`reassemble`: ", lambda path, whole: reassemble(whole, path, progress=False)),
    "report": ("Report out: ", lambda path, _: write_report(path, RunRecord())),
    "sensitivity": ("`sensitivity(kept_in=", lambda path, _: scored(path)),
    "submission": (
        "`write_submission(path=",
        lambda path, _: write_submission(path, ["a"], EXAMPLE[0, 0, :1, :1] + 1, ["x"]),
    ),
    "synthetic": ("`SyntheticScenes(root=", lambda path, _: pieces(path)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_cannot_be_written_is_told_with_the_place(name: str, place: Path, whole: Path) -> None:
    owner, work = WRITTEN[name]
    work(place / name / "out", whole)  # what is imported on first use that user may not be able to read
    closed, file = place / f"{name} closed", place / f"{name} file"
    closed.mkdir(mode=0o555)
    told = told_to_nobody(lambda: work(closed / "out", whole))
    assert told.startswith(f"PermissionError: [Errno 13] {owner}"), told
    assert "expected to be able to write " in told
    assert str(closed) in told
    assert "found 'Permission denied'. Choose another place, or give this user the right to write there." in told
    assert not list(closed.iterdir())
    file.write_text("in the way")
    with pytest.raises(
        OSError, match=r"expected to be able to write .*found '(File exists|Not a directory)'\."
    ) as caught:
        work(file / "out", whole)
    assert owner in str(caught.value)
    assert file.read_text() == "in the way"


@pytest.mark.parametrize("name", ["checkpoint", "report", "submission"])
def test_a_folder_at_a_files_name_stays(name: str, tmp_path: Path) -> None:
    owner, work = WRITTEN[name]
    (tmp_path / "out" / "mine").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="found 'Is a directory'") as caught:
        work(tmp_path / "out", tmp_path)
    assert owner in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def file_of(path: Path, content: object) -> None:
    torch.save(content, path)


READ: dict[str, tuple[str, Work, Work]] = {
    "load_pruned": (
        "`load_pruned(checkpoint=",
        lambda path: file_of(path, network().state_dict()),
        lambda path: load_pruned(network, path),
    ),
    "panns": (
        "`Cnn6.from_pretrained(path=",
        lambda path: file_of(path, Cnn6(2, widths=[4] * 4).state_dict()),
        lambda path: Cnn6.from_pretrained(path),
    ),
    "yamnet": (
        "`YAMNet.from_pretrained(path=",
        lambda path: file_of(path, YAMNet().state_dict()),
        lambda path: YAMNet.from_pretrained(path),
    ),
    "class names": (
        "`read_class_names(path=",
        lambda path: path.write_text("index,display_name\n0,Bus\n"),
        read_class_names,
    ),
    "sensitivity": ("`sensitivity(kept_in=", scored, scored),
}


@pytest.mark.parametrize("name", READ)
def test_what_may_not_be_read_is_told_as_that(name: str, place: Path) -> None:
    owner, prepare, read = READ[name]
    path = place / f"{name} read"
    prepare(path)
    read(path)
    path.chmod(0o000)
    told = told_to_nobody(lambda: read(path))
    assert told.startswith(f"PermissionError: {owner}"), told
    assert "expected a file that can be read" in told
    assert "Permission denied" in told


def test_a_closed_folder_of_impulse_responses_is_not_an_empty_one(place: Path) -> None:
    folder = place / "responses"
    folder.mkdir()
    soundfile.write(folder / "a.wav", torch.ones(10).numpy(), 8000)
    DeviceImpulseResponse(folder)
    folder.chmod(0o000)
    told = told_to_nobody(lambda: DeviceImpulseResponse(folder))
    folder.chmod(0o755)
    assert told.startswith("PermissionError: `DeviceImpulseResponse(folder="), told
    assert "expected a folder that can be read" in told


@pytest.mark.parametrize("content", [b"what,layer,kept,score\ncut,a,b,c\n", b"\xff\xfe\x00", b"a,b\n1,2\n"])
def test_scores_that_are_none_are_refused_and_stay(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(content.replace(b"cut,", b"l1 0 cut,"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"`sensitivity\(kept_in='.*'\)`: expected scores .*, found .*\. Name another"):
        scored(path)
    assert path.read_bytes() == before
