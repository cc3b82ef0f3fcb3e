"""Two processes: one page, one W&B run, one meter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import launch

from lightning_cosprune import RunRecord

pytest.importorskip("wandb")
pytest.importorskip("codecarbon")


@pytest.mark.slow
def test_only_the_first_process_reports(tmp_path: Path) -> None:
    run = launch("ddp_report.py", tmp_path, timeout=240, WANDB_ERROR_REPORTING="false")
    assert run.returncode == 0, run.stderr[-3000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "counts-0-True",
        "counts-1-False",
        "ended-0-8-True",
        "ended-1-8-False",
        "report.csv",
        "report.html",
        "report.json",
        "wandb",
    ]
    (log,) = tmp_path.glob("wandb/*run-*/*.wandb")
    record = RunRecord.from_json((tmp_path / "report.json").read_text())
    assert [phase.name for phase in record.phases if phase.kwh is not None]
    assert next(width.after for width in record.prunes[0].widths) == 8
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(log)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told["summary"]["pruning/ratio/stem"] == 0.5
    assert told["summary"]["energy/kwh"] > 0
