import pandas as pd
import pytest
import torch

from lightning_cosprune.data import write_submission


def test_the_official_format(tmp_path):
    batches = [torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0.5, 0.25, 0.25]])]
    write_submission(tmp_path / "out.csv", ["audio/0.wav", "audio/1.wav"], batches, ["tram", "airport", "bus"])
    assert (tmp_path / "out.csv").read_bytes().startswith(b"filename\tscene_label\tairport\tbus\ttram\n")
    table = pd.read_csv(tmp_path / "out.csv", sep="\t")
    assert table["scene_label"].tolist() == ["airport", "tram"]
    assert table[["airport", "bus", "tram"]].to_numpy().tolist() == [[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(2, 3) / 3, r"expected the shape \(1, 3\), .* found \(2, 3\)"),
        (torch.tensor([[2.0, -1.0, 0.0]]), "found 1 rows that are none, the first of 'a.wav'"),
        (torch.full((1, 3), torch.nan), "expected softmax values"),
    ],
)
def test_what_is_no_output_is_refused_and_nothing_written(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_submission(tmp_path / "out.csv", ["a.wav"], values, ["x", "y", "z"])
    assert not list(tmp_path.iterdir())
