import pytest
import torch

from recipes.benchmarks import crash


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_the_undisturbed_one(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    assert crash.launch(undisturbed) == 0
    done = crash.disturb(killed, undisturbed, kills=2, seed=13)
    assert [moment for moment, _, _ in done] == ["repairing", "pruning"]
    assert crash.differences(killed, undisturbed) == []


def test_what_differs_is_seen(tmp_path):
    for name, weight in (("one", 1.0), ("two", 1.0000001)):
        (tmp_path / name).mkdir()
        torch.save({"weights": {"w": torch.tensor(weight)}, "metrics": [0.5]}, tmp_path / name / "end.pt")
    assert crash.differences(tmp_path / "one", tmp_path / "two") == ["weights"]
