"""The main job, small: the same program on a hundred synthetic recordings, one seed and one epoch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_cosprune.data import LogMel, SyntheticScenes

REPOSITORY = Path(__file__).parents[2]


def quickstart(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.quickstart", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_train_prune_fine_tune_compare(tmp_path: Path) -> None:
    root, out = tmp_path / "scenes", tmp_path / "out"
    small = LogMel(num_frames=51)
    SyntheticScenes(root, num_recordings=100, recording_seconds=1, features=small, cache_dir=tmp_path).prepare_data()
    run = quickstart("--data", root, "--epochs", 1, "--finetune-epochs", 1, "--seeds", 1, "--out", out)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    for words in ("dense", "cosine similarity, as cut", "response, repaired", "L1 norm, fine-tuned", "same size, from"):
        assert words in run.stdout
    results = {result["network"]: result for result in json.loads((out / "results.json").read_text())}
    assert len(results) == 15
    unpruned = ("dense", "dense, batch norm re-estimated")
    dense, scratch = results["dense"]["complexity"], results["same size, from scratch"]["complexity"]
    assert dense["params"] == 46_246
    for network, result in results.items():
        assert 0 <= result["accuracy"] <= 1
        assert result["log_loss"] > 0
        if network not in unpruned:
            assert result["complexity"] == scratch
    assert scratch["params"] < dense["params"]
    assert scratch["macs"] < dense["macs"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("similarity of the filters of network.conv") == 3
    assert "best rival" in page
    assert json.loads((out / "record.json").read_text())["version"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "error: `DCASEScenes(root="),
        (["--data", "a", "--esc10", "b"], "argument --esc10: not allowed with argument --data"),
        (["--seeds", "0"], "argument --seeds: expected a whole number of at least 1, found 0"),
        (["--network", "resnet"], "argument --network: invalid choice: 'resnet'"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    run = quickstart(*arguments, "--out", tmp_path)
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr
