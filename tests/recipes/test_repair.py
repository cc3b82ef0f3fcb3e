"""The studies of repair, small: the same program on a hundred synthetic recordings and one epoch."""

import argparse
from pathlib import Path

import pytest
import torch

from lightning_cosprune.data import LogMel, SyntheticScenes
from recipes.cells import read, write
from recipes.repair import esc10, summarize, yamnet


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    SyntheticScenes(tmp_path / "scenes", num_recordings=100, recording_seconds=1, features=LogMel()).prepare_data()
    monkeypatch.setattr(esc10, "EPOCHS", 1)
    monkeypatch.setattr(esc10, "LogMel", lambda: LogMel(num_frames=51))
    return argparse.Namespace(data=tmp_path / "scenes", out=tmp_path / "runs")


@pytest.mark.slow
def test_cells_are_measured_once_and_make_tables_and_a_figure(options, tmp_path, monkeypatch, capsys):
    study = esc10.Study(options, fold=1, seed=0)
    study.controls()
    study.repairs("11/11/24", "random")
    study.repairs("published rule", "l1")  # as many as the rule finds, chosen by it alone
    cells = {cell.key: cell for cell in read(study.path, esc10.Cell)}
    assert len(cells) == 9
    assert cells["dense", "", "none", 0, 0].agreement == 1
    repaired = cells["11/11/24", "random", "least squares", 16, 0]
    cut = cells["11/11/24", "random", "none", 0, 0]
    assert repaired.correlation > cut.correlation
    assert repaired.params == cut.params == 25_544
    assert 0.5 < repaired.macs_removed < 0.53

    again = esc10.Study(options, fold=1, seed=0)
    monkeypatch.setattr(esc10, "scores", lambda *_: pytest.fail("measured again"))
    again.controls()
    again.repairs("11/11/24", "random")

    images = tmp_path / "images"
    images.mkdir()
    summarize.main(["--runs", str(options.out), "--out", str(tmp_path), "--figures", str(images)])
    table = capsys.readouterr().out
    assert "| 11/11/24, 16 clips | 51 %, 45 % | random |" in table
    assert (
        f"{100 * repaired.accuracy:.1f} ({100 * (repaired.accuracy - cells['dense', '', 'none', 0, 0].accuracy):+.1f}"
        in table
    )
    assert (images / "repair.png").stat().st_size > 10_000
    # The csv alone gives the same, where the runs are gone.
    summarize.main(["--runs", str(tmp_path / "gone"), "--out", str(tmp_path), "--figures", str(images)])
    assert capsys.readouterr().out == table


def test_the_interval_is_students():
    mean, half = summarize.interval([1.0, 2.0, 4.0])
    assert mean == pytest.approx(7 / 3)
    assert half == pytest.approx(4.302653 * 1.527525 / 3**0.5, rel=1e-5)


def test_the_table_of_the_tagger_pairs_by_fold():
    dense = [yamnet.Cell(fold, 0.0, "", "none", 0, accuracy, 1, 1, 0, 0, 0) for fold, accuracy in ((1, 0.9), (2, 0.8))]
    repaired = [
        yamnet.Cell(fold, 0.25, "l1", "least squares", 80, accuracy, 0.8, 0.9, 0.4, 0.43, 1)
        for fold, accuracy in ((1, 0.88), (2, 0.78))
    ]
    assert "| 43 %, 40 % | l1 | least squares | 80 | 83.0 (-2.0 ± 0.0) | 80.0 | 0.900 | 2 |" in summarize.yamnet_table(
        [*dense, *repaired]
    )


def test_cells_come_back_as_they_were(tmp_path):
    cells = [yamnet.Cell(1, 0.25, "l1", "none", 0, 0.123456789, 1.0, -0.5, 0.0, 0.43, 12.5)]
    write(tmp_path / "new" / "cells.csv", yamnet.Cell, cells)
    (found,) = read(tmp_path / "new" / "cells.csv", yamnet.Cell)
    assert found.accuracy == 0.123457
    assert (found.fold, found.criterion, found.clips, found.correlation) == (1, "l1", 0, -0.5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cells.csv"]
    assert read(tmp_path / "absent.csv", yamnet.Cell) == []


def test_what_was_calibrated_on_is_not_tested_on():
    clips = yamnet.Clips(torch.zeros(10, 1, 1, 2, 2), torch.zeros(10), torch.arange(10) % 5 + 1, ("",) * 10)
    study = yamnet.Study(torch.nn.Identity(), clips, [], 3, Path("nowhere"))
    assert sorted(study.own.tolist()) == [2, 7]
    assert not set(study.own.tolist()) & set(study.test.tolist())
    assert len(study.test) == 8
