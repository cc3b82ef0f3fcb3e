"""W&B as its own tools read it back; and fits that it cannot stop."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fits import UsersModule, fit
from reports.wandb_server import Server

from lightning_cosprune import CosineFilterPruning, PruningPlan, RunRecord, SafeWandbLogger
from lightning_cosprune.reports import loggers
from lightning_cosprune.training.checkpoint import load_pruned

pytest.importorskip("wandb")
HERE = Path(__file__).parent


def run(mode: str, folder: Path, *plain: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "wandb_fit.py"), mode, str(folder), *plain],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "WANDB_ERROR_REPORTING": "false", **environment},
    )


def read_back(folder: Path, *options: str) -> str:
    logs = list(folder.glob("wandb/offline-run-*/*.wandb")) or list(folder.glob("wandb/run-*/*.wandb"))
    (log,) = logs
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(log)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offline")
    told = run("offline", folder)
    assert "ended 3 8" in told.stdout, told.stderr[-2000:]
    return folder


def test_offline_runs_hold_every_number(offline: Path) -> None:
    told = json.loads(read_back(offline, "--summary"))
    summary, config = told["summary"], told["config"]
    assert (config["criterion"], config["repair"]) == ("cosine", "merge")
    for key in ("pruning/macs", "pruning/macs_removed", "pruning/ratio/stem", "energy/kwh", "loss", "epoch"):
        assert isinstance(summary[key], (int, float)), key
    assert summary["pruning/ratio/stem"] == 0.5
    assert 0 < summary["pruning/macs_removed"] < 1
    assert summary["energy/kwh"] > 0


def test_steps_are_those_of_the_trainer(offline: Path) -> None:
    steps: dict[str, list[int]] = {}
    for line in read_back(offline).splitlines():
        record = json.loads(line)
        if record["type"] == "history":
            item = record["history"]["item"]
            for key in ("pruning/macs", "pruning/tables/layers.path", "pruning/widths.path", "energy/kwh"):
                if key in item:
                    steps.setdefault(key, []).append(item["trainer/global_step"])
    assert steps.pop("pruning/macs") == [3]
    assert steps == {"pruning/tables/layers.path": [9], "pruning/widths.path": [9], "energy/kwh": [9]}


def test_pictures_are_pictures_and_tables_have_rows(offline: Path) -> None:
    from PIL import Image

    (media,) = offline.glob("wandb/offline-run-*/files/media")
    pictures = {str(path.relative_to(media / "images")).rsplit("_", 2)[0]: path for path in media.rglob("*.png")}
    wanted = {"learning", "phases", "widths", "similarity/stem", "filters/stem", "similarity/blocks.1.shortcut"}
    assert {f"pruning/{name}" for name in wanted} <= set(pictures)
    for path in pictures.values():
        assert np.asarray(Image.open(path).convert("L")).std() > 5, path
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in media.rglob("*.table.json")}
    assert set(tables) == {"networks", "layers", "skipped", "phases", "ratios"}
    assert tables["ratios"]["data"][0] == ["stem", 0.5]
    assert [row[0] for row in tables["layers"]["data"]][:2] == ["stem", "blocks.0.conv1"]
    assert all(table["data"] for table in tables.values())


def test_plan_record_and_network_go_with_the_run(offline: Path) -> None:
    (folder,) = offline.glob("wandb/offline-run-*")
    kept = {path: path.read_bytes() for path in folder.rglob("artifacts/staging/*") if path.is_file()}
    texts = [text.decode() for text in kept.values() if text.startswith(b"{")]
    assert any('"pruned"' in text and PruningPlan.from_json(text).pruned["stem"] for text in texts)
    assert any('"prunes"' in text and RunRecord.from_json(text).prunes for text in texts)
    networks = [path for path, data in kept.items() if data.startswith(b"PK")]
    (network,) = networks
    assert load_pruned(UsersModule, network).stem.out_channels == 8


def test_a_plain_wandb_logger_is_told_the_same(tmp_path: Path) -> None:
    told = run("offline", tmp_path, "plain")
    assert "finished" in told.stdout, told.stderr[-2000:]
    summary = json.loads(read_back(tmp_path, "--summary"))["summary"]
    assert summary["pruning/ratio/stem"] == 0.5
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/pruning/widths*.png"))


def test_switched_off(tmp_path: Path) -> None:
    told = run("disabled", tmp_path, WANDB_MODE="disabled")
    assert "ended 3 8" in told.stdout
    assert "finished" in told.stdout
    assert not list(tmp_path.rglob("*.wandb"))


def test_a_dry_run_keeps_and_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "log_to_wandb", lambda *_: pytest.fail("drew pictures"))
    module = UsersModule()
    logger = SafeWandbLogger(project="p", save_dir=tmp_path, offline=True)
    fit(module, CosineFilterPruning(0.5), tmp_path, logger=logger, fast_dev_run=True)
    assert module.stem.out_channels == 8
    assert not list(tmp_path.rglob("*.wandb"))


def test_a_dead_connection_keeps_the_run_offline(tmp_path: Path) -> None:
    told = run("online", tmp_path, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    assert "ended 3 8" in told.stdout, told.stderr[-2000:]
    assert "finished" in told.stdout
    assert "It is kept offline; the fit goes on." in told.stderr
    assert "Upload the run later: wandb sync " in told.stderr
    assert json.loads(read_back(tmp_path, "--summary"))["summary"]["pruning/ratio/stem"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hang", pytest.param("refuse", marks=pytest.mark.thorough)])
def test_a_connection_that_dies_midway_holds_nothing_up(how: str, tmp_path: Path) -> None:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = run(how, tmp_path, WANDB_BASE_URL=server.address, WANDB_API_KEY="0" * 40)
    assert "ended 3 8" in told.stdout, told.stderr[-2000:]
    assert server.asked.index("UpsertBucket") < server.asked.index(how), "the run began online"
    assert "SafeWandbLogger did not take the report: TimeoutError: W&B did not answer within 5 s" in told.stderr
    (seconds,) = re.findall(r"finished after ([\d.]+) s", told.stdout)
    assert float(seconds) < 60, "10 are what it may wait"
    assert json.loads(read_back(tmp_path, "--summary"))["summary"]["pruning/ratio/stem"] == 0.5
    assert list(tmp_path.glob("wandb/run-*/files/media/images/pruning/widths*.png"))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare to mount a small disk with")
def test_a_full_disk(tmp_path: Path) -> None:
    command = 'mount -t tmpfs -o size=300k tmpfs "$1" && exec "$2" "$3" full "$1"'
    told = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, "sh", str(tmp_path), sys.executable, str(HERE / "wandb_fit.py")],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "WANDB_ERROR_REPORTING": "false"},
    )
    if "unshare:" in told.stderr or "mount:" in told.stderr:
        pytest.skip("this machine lets nobody mount a small disk")
    assert "filled [Errno 28]" in told.stdout, told.stderr[-2000:]
    assert "ended 3 8" in told.stdout
    assert "finished" in told.stdout


def test_without_wandb_the_fit_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
    with pytest.raises(ModuleNotFoundError, match="`SafeWandbLogger` needs wandb, which comes with the extra `wandb`"):
        SafeWandbLogger(project="p", save_dir=tmp_path, offline=True)
    module = UsersModule()
    fit(module, CosineFilterPruning(0.5, report=tmp_path / "report.html"), tmp_path)
    assert module.stem.out_channels == 8
    assert (tmp_path / "report.html").exists()


def test_what_fails_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    logger = SafeWandbLogger(project="p", save_dir=tmp_path, offline=True)

    class Run:
        def log(self, *_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

    logger._experiment = Run()
    with pytest.warns(UserWarning, match="W&B did not take what was logged: OSError: .*The fit goes on") as told:
        [logger.log_metrics({"x": 1.0}, step=step) for step in (1, 2)]
    assert len(told) == 1
