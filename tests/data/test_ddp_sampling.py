"""FractionSampler in real training: on two processes, and resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ddp_sampling import table

from lightning_cosprune.data import nested_fraction

CHOSEN = nested_fraction(table(), 0.5, seed=3).index.tolist()
SCRIPT = Path(__file__).parents[1] / "ddp_sampling.py"


def train(folder: Path, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, SCRIPT, folder, json.dumps({"devices": 2, "fraction": 0.5, "epochs": 3, **options})]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def epochs(folder: Path, devices: int = 2) -> list[list[list[int]]]:
    """The rows of each epoch and process, in their order."""
    return [
        [json.loads((folder / f"epoch{epoch}-rank{rank}.json").read_text()) for rank in range(devices)]
        for epoch in range(len(list(folder.glob("epoch*-rank0.json"))))
    ]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "run"
    train(folder)
    return folder


def test_two_processes_share_the_fraction_and_no_row(on_two: Path) -> None:
    assert len(CHOSEN) == 30
    for first, second in epochs(on_two):
        assert sorted(first + second) == CHOSEN


def test_every_epoch_has_the_same_rows_in_another_order(on_two: Path) -> None:
    orders = [first + second for first, second in epochs(on_two)]
    assert len(orders) == 3
    assert len({tuple(order) for order in orders}) == 3
    assert len({frozenset(order) for order in orders}) == 1


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_a_resumed_run_goes_on_with_the_rows_and_orders_that_it_would_have_had(
    devices: int, on_two: Path, tmp_path: Path
) -> None:
    whole = on_two
    if devices == 1:
        whole = tmp_path / "whole"
        train(whole, devices=1)
        assert all(sorted(rows) == CHOSEN for (rows,) in epochs(whole, devices=1))
    train(tmp_path / "resumed", devices=devices, resume=str(whole / "epoch=0.ckpt"))
    resumed = tmp_path / "resumed"
    for epoch in (1, 2):
        for rank in range(devices):
            name = f"epoch{epoch}-rank{rank}.json"
            assert json.loads((resumed / name).read_text()) == json.loads((whole / name).read_text())
    assert not (resumed / "epoch0-rank0.json").exists()
