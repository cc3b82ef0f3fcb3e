from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from lightning_cosprune.data import DCASEScenes, SyntheticScenes, reassemble


def test_pieces_become_recordings_again(tmp_path):
    pieces = SyntheticScenes(tmp_path / "pieces", num_recordings=100, recording_seconds=3, progress=False)
    whole = SyntheticScenes(
        tmp_path / "whole", layout="tau2020", num_recordings=100, recording_seconds=3, progress=False
    )
    pieces.prepare_data()
    whole.prepare_data()
    for _ in range(2):  # the second time there is nothing to do
        reassemble(tmp_path / "pieces", tmp_path / "again", progress=False)
    found = DCASEScenes(tmp_path / "again", validation_fraction=0).tables()
    for split, table in DCASEScenes(tmp_path / "whole", validation_fraction=0).tables().items():
        columns = ["filename", "scene_label", "identifier", "device"]
        pd.testing.assert_frame_equal(
            found[split][columns].sort_values("filename", ignore_index=True),
            table[columns].sort_values("filename", ignore_index=True),
        )
    for name in found["test"]["filename"]:
        parts = pieces.tables()["test"].query("parent == @name")["filename"]
        joined = np.concatenate([soundfile.read(tmp_path / "pieces" / part, dtype="int32")[0] for part in parts])
        sound, _ = soundfile.read(tmp_path / "again" / name, dtype="int32")
        assert np.array_equal(sound, joined)
        assert soundfile.info(tmp_path / "again" / name).subtype == "PCM_24"
    assert not list((tmp_path / "again").rglob("*.part"))


def test_whole_recordings_are_not_reassembled(folder, tmp_path):
    with pytest.raises(ValueError, match=r"expected pieces such as .*The set has whole recordings already"):
        reassemble(folder.root, tmp_path / "again")


@pytest.fixture(scope="module")
def a_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "pieces"
    SyntheticScenes(root, num_recordings=100, recording_seconds=3, progress=False).prepare_data()
    return root


@pytest.fixture
def pieces(a_set, tmp_path):
    return shutil.copytree(a_set, tmp_path / "pieces")


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("destination", ["pieces", "set", "set/../pieces", "pieces/audio/again", "esc", "mine"])
def test_no_set_is_overwritten_and_none_is_mixed_with_it(pieces, folder, tmp_path, destination):
    for name in ("esc/meta/esc50.csv", "mine/audio/holiday.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    before = content(tmp_path)
    with pytest.raises(ValueError, match=r"`reassemble\(destination=.*: expected (another|a new) folder.*Give a new f"):
        reassemble(pieces, tmp_path / destination, progress=False)
    assert content(tmp_path) == before


def test_a_file_of_somebody_at_a_recordings_name_stays(pieces, tmp_path):
    reassemble(pieces, tmp_path / "again", progress=False)
    somebodys = next((tmp_path / "again" / "audio").glob("*.wav"))
    soundfile.write(somebodys, np.zeros(8000), 8000)
    before = content(tmp_path / "again")
    with pytest.raises(ValueError, match=r"`reassemble`: expected at .*found another one, of 8000 samples"):
        reassemble(pieces, tmp_path / "again", progress=False)
    assert content(tmp_path / "again") == before


def test_missing_pieces_are_named_before_anything_is_written(pieces, tmp_path):
    missing = sorted((pieces / "audio").glob("*.wav"))[4]
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=rf"audio of meta.csv line \d+ at .*{missing.name}.*1 of 300"):
        reassemble(pieces, tmp_path / "again", progress=False)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_recording_of_which_a_row_is_missing_is_not_spliced(pieces, tmp_path, index):
    name = next(path.name for path in sorted((pieces / "audio").glob(f"*-{index}-*.wav")))
    for path in pieces.rglob("*.csv"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(line for line in lines if name.encode() not in line))
    found = ", ".join(str(one) for one in range(3) if one != index)
    with pytest.raises(ValueError, match=rf"expected the pieces 0 to 2 of every recording, found {found} of "):
        reassemble(pieces, tmp_path / "again", progress=False)
    assert not (tmp_path / "again").exists()


def test_a_piece_that_does_not_decode_is_named(pieces, tmp_path):
    broken = sorted((pieces / "audio").glob("*.wav"))[4]
    broken.write_bytes(broken.read_bytes()[:20])
    with pytest.raises(ValueError, match=rf"`reassemble\(root=.*expected a wav.* at .*{broken.name}"):
        reassemble(pieces, tmp_path / "again", progress=False)
    assert not list((tmp_path / "again").rglob("*.part"))


@pytest.mark.parametrize("length", [0, 30, 50_000])
def test_a_recording_that_was_cut_off_is_written_anew(pieces, tmp_path, length):
    reassemble(pieces, tmp_path / "again", progress=False)
    before = content(tmp_path / "again")
    cut = sorted((tmp_path / "again" / "audio").glob("*.wav"))[4]
    cut.write_bytes(cut.read_bytes()[:length])
    reassemble(pieces, tmp_path / "again", progress=False)
    assert content(tmp_path / "again") == before


def test_an_interrupted_run_is_continued_to_the_same_bytes(pieces, tmp_path, monkeypatch):
    reassemble(pieces, tmp_path / "whole", progress=False)
    written = soundfile.write
    for stop in (0, 7, 25):
        calls = iter(range(100))

        def interrupted(*args, stop=stop, calls=calls, **options):
            if next(calls) == stop:
                raise KeyboardInterrupt
            written(*args, **options)

        monkeypatch.setattr(soundfile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reassemble(pieces, tmp_path / "again", progress=False)
        assert not list((tmp_path / "again").rglob("*.part"))
    monkeypatch.undo()
    reassemble(pieces, tmp_path / "again", progress=False)
    assert content(tmp_path / "again") == content(tmp_path / "whole")


def test_a_full_disk_is_told_and_a_rerun_goes_on(pieces, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    written, calls = soundfile.write, iter(range(1000))
    monkeypatch.setattr(soundfile, "write", lambda *a, **o: written(*a, **o) if next(calls) < 5 else raised(full))
    with pytest.raises(OSError, match=r"`reassemble`: expected room for .*B in .*again, found .* free \(No.*rerun"):
        reassemble(pieces, tmp_path / "again", progress=False)
    assert len(list((tmp_path / "again").rglob("*.*"))) == 5
    monkeypatch.undo()
    reassemble(pieces, tmp_path / "again", progress=False)
    reassemble(pieces, tmp_path / "whole", progress=False)
    assert content(tmp_path / "again") == content(tmp_path / "whole")


def raised(error):
    raise error
