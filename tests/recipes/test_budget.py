"""The study of budgets, small: the same program on a hundred synthetic recordings and one epoch."""

import argparse

import pytest
import torch
from torch import nn

from lightning_cosprune import measure_complexity, plan_pruning
from lightning_cosprune.data import LogMel, SyntheticScenes
from lightning_cosprune.planning import widths
from recipes.budget import esc10, summarize
from recipes.budget.rivals import CHOICES, Rivals
from recipes.budget.study import Budgeted
from recipes.cells import read
from recipes.repair import esc10 as dense_study


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 4)
    ).eval()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(("cost", "share"), [("macs", 0.5), ("params", 0.35)])
def test_every_choice_meets_the_budget(choice, cost, share):
    dense, example = network(), torch.zeros(1, 1, 8, 8)
    pruned, _, _ = Rivals(dense, example, [torch.randn(32, 1, 8, 8)]).make(cost, share, choice)
    ratio = getattr(measure_complexity(pruned, example), cost) / getattr(measure_complexity(dense, example), cost)
    assert 0.6 * share < ratio <= share
    left = [layer.out_channels for layer in pruned if isinstance(layer, nn.Conv2d)]
    if choice == "uniform":
        assert left[0] / 12 == pytest.approx(left[1] / 16, abs=0.1)


@pytest.mark.parametrize("few", [True, False])
def test_ours_is_what_plan_pruning_chooses(few, monkeypatch):
    if not few:
        monkeypatch.setattr(widths, "_EXACT", 0)
    dense, example, calibration = network(), torch.zeros(1, 1, 8, 8), [torch.randn(32, 1, 8, 8)]
    limit = measure_complexity(dense, example).macs // 2
    plan = plan_pruning(dense, example, max_macs=limit, criterion="response", calibration=calibration)
    found, _ = Rivals(dense, example, calibration)._plan(dense, "macs", limit, "ours")
    assert found.pruned == plan.pruned


@pytest.mark.slow
def test_cells_are_measured_once_and_make_a_table_and_a_figure(tmp_path, monkeypatch, capsys):
    SyntheticScenes(tmp_path / "scenes", num_recordings=100, recording_seconds=1, features=LogMel()).prepare_data()
    monkeypatch.setattr(dense_study, "EPOCHS", 1)
    monkeypatch.setattr(dense_study, "LogMel", lambda: LogMel(num_frames=51))
    options = argparse.Namespace(data=tmp_path / "scenes", out=tmp_path / "runs", dense=tmp_path / "dense", clips=16)
    study = esc10.study_of(options, fold=1, seed=0)
    study.run(["macs"], [0.5], ["uniform", "ours"])
    cells = read(study.path, Budgeted)
    assert [cell.choice for cell in cells] == ["uniform", "ours"]
    assert all(0.5 <= cell.macs_removed < 0.7 for cell in cells)
    monkeypatch.setattr(Rivals, "make", lambda *_: pytest.fail("measured again"))
    esc10.study_of(options, fold=1, seed=0).run(["macs"], [0.5], ["ours"])
    capsys.readouterr()
    summarize.main(["--runs", str(options.out), "--out", str(tmp_path), "--figures", str(tmp_path)])
    told = capsys.readouterr().out
    assert "| DCASE2021Baseline | 50% of the MACs | ours |" in told
    assert (tmp_path / "budget_dcase2021baseline.png").stat().st_size > 10_000
    summarize.main(["--runs", str(tmp_path / "gone"), "--out", str(tmp_path)])
    assert capsys.readouterr().out == told


def test_ours_is_paired_with_each_other_choice_by_fold_and_seed():
    def cell(choice, fold, accuracy):
        return Budgeted("net", fold, 0, "macs", 0.5, choice, 80, accuracy, 0.5, 0.9, 0.1, 0.5, 1.0, 1.0, 1.0)

    cells = [cell("ours", 1, 0.8), cell("ours", 2, 0.9), cell("uniform", 1, 0.7), cell("uniform", 3, 0.1)]
    lines = summarize.differences([*cells, cell("uniform", 2, 0.9)]).splitlines()
    assert lines[2:] == ["| net | 50% of the MACs | uniform | +5.0 ± 63.5 | +0.0 ± 0.0 | +0.000 ± 0.000 | 2 |"]
