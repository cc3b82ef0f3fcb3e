"""Runs are collected, compared and shown as W&B itself keeps them offline; one small sweep is behind all of it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import collect
from recipes.sweeps import run as cell

pytest.importorskip("wandb_workspaces")
from recipes import dashboard

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cells of a sweep on a hundred synthetic recordings, offline; the last has a budget and counts energy."""
    from lightning_cosprune.data import LogMel, SyntheticScenes

    folder = tmp_path_factory.mktemp("sweep")
    scenes = folder / "scenes"
    small = {"features": LogMel(num_frames=51), "cache_dir": folder / "features"}
    SyntheticScenes(scenes, num_recordings=100, recording_seconds=1, progress=False, **small).prepare_data()
    small_run = [
        "--data",
        scenes,
        "--epochs",
        1,
        "--finetune-epochs",
        1,
        "--fraction",
        0.5,
        "--offline",
        "--out",
        folder,
    ]
    budget = ["--max-macs", "0.6", "--country", "GBR"]
    for repair, more in (("none", []), ("least_squares", []), ("merge", budget)):
        command = [sys.executable, "-m", "recipes.sweeps.run", *map(str, small_run), "--repair", repair, *more]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert "of the test clips" in told.stdout, told.stderr[-2000:]
    assert len(list(folder.glob("dense-*.pt"))) == 1, "all start from the same dense network"
    return folder / "wandb"


@pytest.mark.slow
def test_runs_become_a_csv_and_a_page(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect.main(["--runs", str(runs), "--out", str(tmp_path)])
    with (tmp_path / "runs.csv").open() as file:
        lines = list(csv.DictReader(file))
    setting = ("criterion", "pruning_ratio", "max_macs", "repair", "data/fraction", "seed")
    assert [tuple(line[name] for name in setting) for line in lines] == [
        ("cosine", "0.5", "", "none", "0.5", "0"),
        ("cosine", "0.5", "", "least_squares", "0.5", "0"),
        ("cosine", "", "0.6", "merge", "0.5", "0"),
    ]
    assert all(0 <= float(line["test/accuracy"]) <= 1 for line in lines)
    assert all(float(line["pruning/ratio/network.conv1"]) == 0.5 for line in lines[:2])
    assert 0.4 <= float(lines[2]["pruning/macs_removed"]) < 0.7
    assert float(lines[2]["energy/kwh"]) > 0
    assert lines[0]["pruning/macs"] == lines[1]["pruning/macs"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "cosine, repair least squares, 50% of the filters, 50% of the data" in page
    assert "cosine, repair merge, 60% of the MACs, 50% of the data" in page
    assert 'aria-label="part of its filters that each layer lost"' in page
    assert "the dense network is right on" in page
    assert "3 runs:" in capsys.readouterr().out


@pytest.mark.slow
def test_every_panel_shows_what_the_runs_log(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wandb_workspaces.workspaces import internal

    found = collect.read_offline(runs)
    keys = dashboard.known_keys(found)
    sections, left_out = dashboard.build_sections(keys)
    assert set(sections) >= {"Accuracy and cost", "Criteria and repair", "Data", "Layers", "Learning"}
    panels = [panel for panels in sections.values() for panel in panels]
    assert all(dashboard.panel_keys(panel) <= keys for panel in panels)
    assert all(dashboard.panel_keys(panel) for panel in panels)
    assert {"pruning/ratio/network.conv1", "pruning/similarity/network.conv1"} <= keys
    assert set(left_out) == {"Learning: val/accuracy", "Learning: val/log_loss"}, "the runs had no validation"
    bare, missing = dashboard.build_sections({key for key in keys if not key.startswith("energy/")})
    assert "Energy" not in bare
    assert any("energy/kwh" in names for names in missing.values())
    media = [panel for panel in sections["Layers"] if isinstance(panel, dashboard.wr.MediaBrowser)]
    pictures = {key for run in found for key, value in run.summary.items() if isinstance(value, dict)}
    assert set(media[0].media_keys) <= pictures, "what a media panel shows are pictures"
    dashboard.main(["me/project", "--runs", str(runs), "--dry-run", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("left out, not logged by any run: Learning: val/") == 2
    workspace = (tmp_path / "workspace.json").read_text()
    view = internal.View.model_validate_json(workspace)
    assert len(view.spec.section.panel_bank_config.sections) >= len(sections)
    report = json.loads((tmp_path / "report.json").read_text())
    drawn = [panel for block in report["blocks"] if block["type"] == "panel-grid" for panel in block["panels"]]
    assert len(drawn) == len(panels)
    (heat_map,) = [panel for panel in drawn if panel["view_type"] == "Vega2"]
    assert heat_map["config"]["panel_def_id"] == f"me/{dashboard.CHART}"
    assert "pruning/tables/ratios" in json.dumps(heat_map["config"]["user_query"])


@pytest.mark.slow
def test_the_heat_map_reads_columns_that_its_table_has(runs: Path) -> None:
    spec = json.loads(dashboard.HEAT_MAP.read_text())
    panel = dashboard.heat_map("me")
    asked = set(re.findall(r"\$\{field:(\w+)\}", json.dumps(spec)))
    assert asked == set(panel.chart_fields)
    assert set(re.findall(r"\$\{string:(\w+)\}", json.dumps(spec))) == set(panel.chart_strings)
    tables = sorted(runs.glob("offline-run-*/files/media/table/pruning/tables/ratios_*.table.json"))
    assert len({path.parts[-7] for path in tables}) == 3
    for table in map(json.loads, (path.read_text() for path in tables)):
        assert set(panel.chart_fields.values()) == set(table["columns"])
        assert [name for name, _ in table["data"]][:3] == ["network.conv1", "network.conv2", "network.conv3"]
        assert all(isinstance(name, str) and 0 <= removed < 1 for name, removed in table["data"])


def test_without_the_heat_maps_drawing_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Api:
        told = ""

        def create_custom_chart(self, **arguments: Any) -> str:
            if self.told:
                raise ValueError(self.told)
            assert json.loads(arguments["spec"])["mark"]["type"] == "rect"
            return f"{arguments['entity']}/{arguments['name']}"

    monkeypatch.setattr("wandb.Api", Api)
    assert dashboard.register_heat_map("me")
    Api.told = "A chart of that name already exists"
    assert dashboard.register_heat_map("me")
    Api.told = "the server does not support custom charts"
    assert not dashboard.register_heat_map("me")
    assert "the heat-map of the layers: the server does not support" in capsys.readouterr().out


def fake(name: str, **summary: Any) -> collect.Run:
    config = {"criterion": "l1", "repair": "none", "pruning_ratio": 0.5, "data/fraction": 1.0, "seed": 0}
    return collect.Run(name, "finished", config, {"test/accuracy": 0.5, "pruning/macs": 10, **summary})


def test_seeds_of_a_setting_are_one_network() -> None:
    record = collect.record_of([fake("a"), fake("b", **{"test/accuracy": 0.7})], "here")
    (outcome,) = record.outcomes
    assert outcome.accuracy == (0.5, 0.7)
    assert (outcome.role, outcome.series, outcome.fraction) == ("tuned", "l1", 1.0)


def test_energy_has_its_panels_where_it_was_counted() -> None:
    keys = dashboard.known_keys([fake("a", **{"energy/kwh": 1.0, "energy/repair/kwh": 0.5})])
    sections, _ = dashboard.build_sections(keys)
    assert len(sections["Energy"]) == 2
    assert "Layers" not in sections


def test_wrong_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \*run-\*/\*.wandb in .*expected the folder `wandb`"):
        collect.main(["--runs", str(tmp_path)])
    with pytest.raises(ValueError, match="expected entity/project, found 'project'"):
        dashboard.main(["project", "--runs", str(tmp_path)])


@pytest.mark.parametrize("sweep", sorted((ROOT / "recipes" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_cell_of_a_sweep_is_one_that_can_be_run(sweep: Path, tmp_path: Path) -> None:
    told = yaml.safe_load(sweep.read_text())
    assert told["program"] == "recipes/sweeps/run.py"
    assert re.match(r"# wandb sweep recipes/sweeps/", sweep.read_text())
    for name, entry in told["parameters"].items():
        for value in entry.get("values", [entry.get("value")]):
            options = cell.parse([f"--{name}={value}", "--out", str(tmp_path)])
            assert str(getattr(options, name)) == str(value)
