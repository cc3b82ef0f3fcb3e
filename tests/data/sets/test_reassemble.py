from __future__ import annotations

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
