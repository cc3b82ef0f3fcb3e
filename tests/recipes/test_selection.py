from pathlib import Path

import pytest
import torch

from lightning_cosprune import redundant_filters
from lightning_cosprune.models import DCASE2021Baseline, VGGishASC
from recipes.cells import read
from recipes.icassp2023 import selection


def test_each_layer_is_compared_with_as_many_columns_as_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.manual_seed(0)
    networks = {"dcase": DCASE2021Baseline(), "vggish": VGGishASC(widths=(16, 12, 16, 12, 16, 20), hidden=(4, 4))}
    for name, network in networks.items():
        torch.save({"state_dict": network.state_dict()}, tmp_path / f"{name}.pt")
    paths = [str(tmp_path / f"{name}.pt") for name in networks]
    selection.main(["--networks", *paths, "--rounds", "1", "--out", str(tmp_path / "selection.csv")])
    found = {(one.network, one.layer): one for one in read(tmp_path / "selection.csv", selection.Layer)}
    assert len(found) == 9
    assert [found["dcase", f"conv{number}"].columns for number in (1, 2, 3)] == [12, 6, 21]
    for number in range(1, 7):
        one = found["vggish", f"conv{number}"]
        assert one.columns == 9
        assert one.kept == len(redundant_filters(networks["vggish"].get_submodule(one.layer).weight).kept_idxs)
        if number > 1:  # nine columns span all 3x3 kernels
            assert one.agreement == 1
    assert found["dcase", "conv2"].agreement < 1
    assert "| dcase | conv1 | 16 | 12 |" in capsys.readouterr().out
