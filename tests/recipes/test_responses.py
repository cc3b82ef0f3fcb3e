import json

import pytest
import torch

from lightning_cosprune.data import SyntheticScenes
from recipes import responses


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("responses") / "scenes"
    SyntheticScenes(root, layout="tau2020", num_recordings=100, recording_seconds=2, progress=False).prepare_data()
    return root


def test_the_tables_hold_what_the_networks_give(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(responses, "quieten", lambda: None)  # it would silence the tests that come after
    torch.manual_seed(0)
    network = responses.SBCNN()
    weights = tmp_path / "sbcnn.pt"
    torch.save(network.state_dict(), weights)
    arguments = ["--data", str(scenes), "--weights", str(weights), "--epochs", "1", "--seeds", "2", "--clips", "16"]
    responses.main([*arguments, "--out", str(tmp_path / "out"), "--figure", str(tmp_path / "pairs.png")])
    printed = capsys.readouterr().out
    assert "conv3: bn3 reads it after relu" in printed
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
    tables = json.loads((tmp_path / "out" / "responses.json").read_text())
    assert [row[:3] for row in tables["outputs"][1:4]] == [
        [responses.TAU, "conv1", "24"],
        [responses.TAU, "conv2", "48"],
        [responses.TAU, "conv3", "48"],
    ]
    assert all(row[5:] == ["-", "-"] for row in tables["outputs"][1:4])
    assert all("+-" in cell for row in tables["outputs"][4:] for cell in row[3:])


def test_the_rank_of_the_nearest_is_counted_by_hand():
    similarity = torch.tensor([0.9, 0.1, 0.5])  # of filters 0-1, 0-2 and 1-2
    measured = responses.Measured(
        "net", 0, "conv", 3, {}, similarity, similarity, torch.tensor([0]), torch.tensor([1, 0, 2])
    )
    # 0's nearest by weights is 2, second by responses; 1's is 0, first; 2's is 1, first
    assert responses.median_rank(measured) == 1
