"""The studies: each in its small form, on synthetic scenes; what a row says; what is refused."""

from __future__ import annotations

import difflib
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from lightning_cosprune.models import CPMobile
from recipes import main as recipes
from recipes.cells import read
from recipes.study.grid import Grid, lineage
from recipes.study.networks import ClipPatches
from recipes.study.row import Point, Row, slug
from recipes.study.rule import MAX_BYTES, MAX_MACS, rule_counts

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in (ROOT / "recipes").glob("*/grid.yaml"))

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LightningCLI 2.6 and jsonargparse 4.53
    # A smoke run is shorter than one batch norm or one schedule would like.
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where studies are run from: their folders as in the repository, all that is written elsewhere."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")}
    yield tmp_path
    for name, level in levels.items():  # what the program hides, other tests look for
        logging.getLogger(name).setLevel(level)


def rows(folder: Path) -> dict[tuple[str, str], Row]:
    found = [row for path in folder.glob("rows/*.csv") for row in read(path, Row)]
    return {row.cell: row for row in found}


def run(*arguments: object) -> int:
    return recipes.main([str(argument) for argument in arguments])


def test_all_studies_are_there() -> None:
    assert STUDIES == ["dcase", "icassp2023", "interspeech2022", "panns", "widths"]


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_the_small_form_of_every_study(study: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--study", f"recipes/{study}", "--smoke", "--out", "out") == 0
    found = rows(here / "out" / "smoke" / study / "synthetic")
    grid = Grid(ROOT / "recipes" / study, smoke=True)
    assert set(found) == {(job.run, job.variant) for job in grid.jobs()}
    for row in found.values():
        assert 0 <= row.accuracy <= 1
        assert row.data == "synthetic"
        assert row.command.startswith("python -m recipes.main ")
        assert str(here) not in row.command
        assert row.clips_in_all >= row.clips_seen
        assert math.isnan(row.kwh)
    pruned = [row for row in found.values() if row.criterion]
    assert pruned
    dense = max(row.params for row in found.values())
    assert all(row.params < dense for row in pruned)
    # Rivals of one variant are of one size: what differs is the choice alone.
    for variant in {row.variant for row in pruned}:
        assert len({row.kept for row in pruned if row.variant == variant}) == 1

    capsys.readouterr()
    folder = ["--out", "out/smoke", "--into", "tables", "--figures", "figures"]
    run("summarize", "--study", f"recipes/{study}", *folder)
    told = capsys.readouterr().out
    for name, variant in found:
        assert f"| {name} | {variant} |" in told
    assert (here / "figures" / f"{study}.png").stat().st_size > 5000
    # The csv alone gives the same.
    before = (here / "tables" / "tables.md").read_bytes(), (here / "tables" / "results.csv").read_bytes()
    run("summarize", "--study", f"recipes/{study}", "--out", "gone", *folder[2:])
    assert ((here / "tables" / "tables.md").read_bytes(), (here / "tables" / "results.csv").read_bytes()) == before
    # Rows whose files are on another machine stay.
    next((here / "out" / "smoke" / study / "synthetic" / "rows").glob("*.csv")).unlink()
    run("summarize", "--study", f"recipes/{study}", *folder)
    assert ((here / "tables" / "tables.md").read_bytes(), (here / "tables" / "results.csv").read_bytes()) == before


MEASURED = [study for study in STUDIES if (ROOT / "recipes" / study / "results.csv").is_file()]


@pytest.mark.skipif(not MEASURED, reason="no study has been measured yet")
@pytest.mark.parametrize("study", MEASURED)
def test_the_tables_are_those_of_the_rows(study: str, here: Path) -> None:
    into = here / "tables"
    into.mkdir()
    for name in ("results.csv", "curves.csv"):
        source = ROOT / "recipes" / study / name
        if source.is_file():
            (into / name).write_bytes(source.read_bytes())
    run("summarize", "--study", f"recipes/{study}", "--out", "gone", "--into", "tables", "--figures", "figures")
    for name in ("results.csv", "tables.md"):
        assert (into / name).read_bytes() == (ROOT / "recipes" / study / name).read_bytes(), name


def test_a_run_is_done_once_and_tested_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", "recipes/interspeech2022/dense.yaml", "--trainer.max_epochs", 1, "--study.curve_every", 1]
    config += ["--data.cache_dir", here / "features"]
    assert run("fit", *config) == 0
    folder = here / "runs" / "interspeech2022" / "synthetic"
    (path,) = folder.glob("rows/*.csv")
    first = path.read_bytes()
    (row,) = read(path, Row)
    assert row.command.split()[-2:] == ["--data.cache_dir", "features"]
    assert str(here) not in row.command
    (row,) = read(path, Row)
    assert (row.run, row.epochs, row.clips_seen, row.kept, row.params) == ("dense", 1, 60, "16/16/32", 46_246)
    (point,) = read(folder / "curves" / path.name, Point)
    assert point.accuracy == row.accuracy
    assert (point.epoch, point.clips_in_all) == (1, 60)
    assert not list((folder / "partial").glob("*"))  # what it could have gone on from

    run("fit", *config)
    assert path.read_bytes() == first
    run("test", *config)
    (again,) = read(next(folder.glob("tests/*.csv")), Row)
    assert (again.accuracy, again.log_loss, again.params) == (row.accuracy, row.log_loss, row.params)
    with pytest.raises(ValueError, match=r"one of other settings at .*dense-fold1-seed0.csv. Delete it"):
        run("fit", *config, "--trainer.max_epochs", 2)

    # Of the same seed the cut is the same, whatever is done after it.
    for epochs in (0, 1):
        cosine = ["--config", "recipes/interspeech2022/cosine.yaml", "--trainer.max_epochs", epochs]
        run("prune", *cosine, "--study.variant", f"{epochs} epochs")
    found = rows(folder)
    assert found["cosine", "0 epochs"].kept == found["cosine", "1 epochs"].kept != row.kept
    assert found["cosine", "1 epochs"].clips_in_all == 120
    assert found["cosine", "0 epochs"].fraction == 0
    run("test", "--config", "recipes/interspeech2022/cosine.yaml", "--study.variant", "1 epochs")


def test_a_killed_run_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes.study import experiment

    class Killed(RuntimeError):
        pass

    def kill(_: object, trainer: pl.Trainer, *__: object) -> None:
        if trainer.current_epoch == 2:
            raise Killed

    config = ["--config", "recipes/interspeech2022/dense.yaml", "--trainer.max_epochs", 4, "--study.curve_every", 1]
    config += ["--study.checkpoint_every", 1, "--study.out"]
    run("fit", *config, "whole")
    with monkeypatch.context() as patched:
        patched.setattr(experiment.Curve, "on_train_epoch_start", kill)
        with pytest.raises(Killed):
            run("fit", *config, "killed")
    assert not list(here.glob("killed/*/*/rows/*"))
    run("fit", *config, "killed")
    whole, killed = (rows(here / out / "interspeech2022" / "synthetic")["dense", ""] for out in ("whole", "killed"))
    assert killed.clips_seen == whole.clips_seen == 240
    curves = [
        [(point.epoch, point.clips_in_all) for point in read(next(here.glob(f"{out}/*/*/curves/*")), Point)]
        for out in ("whole", "killed")
    ]
    assert curves[0] == curves[1] == [(1, 60), (2, 120), (3, 180), (4, 240)]


def test_one_run_by_its_number_does_what_it_needs(here: Path) -> None:
    jobs = Grid(ROOT / "recipes" / "interspeech2022", smoke=True).jobs()
    number = next(place for place, job in enumerate(jobs) if (job.run, job.variant) == ("l1", "C1+C2+C3, 0 %"))
    assert run("run", "--study", "recipes/interspeech2022", "--smoke", "--index", number) == 0
    assert set(rows(here / "runs" / "smoke" / "interspeech2022" / "synthetic")) == {
        ("dense", ""),
        ("l1", "C1+C2+C3, 0 %"),
    }
    with pytest.raises(ValueError, match=r"`--index 99`: expected a number from 0 to 16"):
        run("run", "--study", "recipes/interspeech2022", "--smoke", "--index", 99)


def test_the_page_counts_the_runs_of_a_study() -> None:
    last = len(Grid(ROOT / "recipes" / "widths").jobs()) - 1
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert f"#SBATCH --array=0-{last}\n" in page
    assert f"index: {{min: 0, max: {last}, " in page


def test_an_agent_of_a_sweep_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    told = {}

    class Run:
        summary = told

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *_: object) -> None:
            told["ended"] = True

    monkeypatch.setattr(wandb, "init", lambda name: told.update(name=name) or Run())
    config = ["fit", "--config", "recipes/interspeech2022/dense.yaml", "--trainer.max_epochs", 0]
    run(*config)
    assert not told
    monkeypatch.setenv("WANDB_SWEEP_ID", "some")
    run(*config)
    assert told["name"] == "dense"
    assert told["params"] == 46_246
    assert told["ended"]


def test_a_run_that_fails_is_named_and_the_others_are_done(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "study"
    folder.mkdir()
    source = (ROOT / "recipes" / "interspeech2022" / "dense.yaml").read_text(encoding="utf-8")
    small = source.replace("max_epochs: 30", "max_epochs: 1")
    (folder / "good.yaml").write_text(small)
    (folder / "bad.yaml").write_text(small.replace("DCASE2021Baseline", "ResNet"))
    (folder / "grid.yaml").write_text(
        yaml.safe_dump({"runs": [{"command": "fit", "configs": ["bad.yaml", "good.yaml"]}]})
    )
    assert run("run", "--study", folder) == 1
    found = capsys.readouterr()
    assert "`model.network=ResNet`: expected DCASE2021Baseline, " in found.err
    assert "good, fold 1, seed 0: accuracy" in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--pruning.critierion", "l1"], "unknown key 'critierion' of 'pruning'. Did you mean 'criterion'?"),
        (["fit", "--config", "wrong.yaml"], "unknown key 'ratio' of 'pruning'. Did you mean 'pruning_ratio'?"),
        (["fit", "--trainer.max_epochs", "many"], 'Parser key "trainer.max_epochs"'),
        (["fit", "--config", "nowhere.yaml"], "File does not exist"),
        (["fit"], "`trainer.max_epochs=None` of fit: expected a number of epochs"),
        (["train"], "`recipes.main train`: expected one of fit, prune, test, run, summarize"),
        (["run", "--study", "nowhere"], "expected a folder with grid.yaml, found none"),
        (["fit", "--data", "nowhere", "--trainer.max_epochs", "1"], "nowhere"),
        (["fit", "--model.options", '{"wide": 3}', "--trainer.max_epochs", "1"], "expected arguments of DCASE2021"),
        (["fit", "--model.weights", "a.pth", "--trainer.max_epochs", "1"], "expected one of Cnn14, Cnn10, Cnn6"),
    ],
)
def test_wrong_input_is_one_readable_line(arguments: list[str], message: str, here: Path) -> None:
    (here / "wrong.yaml").write_text("pruning: {ratio: 0.5}\n")
    with pytest.raises((ValueError, OSError)) as found:
        run(*arguments)
    assert message in str(found.value)


def test_the_command_line_gives_one_line_and_a_status(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.main"]
    found = subprocess.run([*command, "fit", "--dta.fold", "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.strip().startswith("error: unknown key 'dta.fold'. Did you mean 'data.fold'?")
    told = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(word in told for word in ("--config", "--study", "--data", "--index", "summarize"))


@pytest.mark.parametrize(
    ("study", "one", "other"),
    [
        ("interspeech2022", "cosine", "l1"),
        ("interspeech2022", "cosine", "random"),
        ("interspeech2022", "cosine", "scratch"),
        ("interspeech2022", "cosine", "cosine_repaired"),
        ("icassp2023", "cosine", "cosine_nystrom"),
        ("icassp2023", "cosine", "scratch"),
        ("panns", "operator_norm", "cosine"),
        ("panns", "operator_norm", "operator_norm_repaired"),
        ("panns", "operator_norm", "scratch"),
        ("dcase", "pruned", "pruned_distilled"),
        ("dcase", "pruned", "pruned_unrepaired"),
        ("dcase", "pruned", "scratch"),
        ("widths", "one_step", "one_step_distilled"),
        ("widths", "one_step", "one_step_cosine"),
        ("widths", "one_step", "one_step_unrepaired"),
        ("widths", "one_step", "steps"),
        ("widths", "steps", "steps_distilled"),
        ("widths", "narrow", "narrow_distilled"),
    ],
)
def test_rivals_differ_in_one_line(study: str, one: str, other: str) -> None:
    texts = [
        [
            line
            for line in (ROOT / "recipes" / study / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
            if not line.startswith("#")
        ]
        for name in (one, other)
    ]
    changes = [line for line in difflib.ndiff(*texts) if line[0] in "+-"]
    assert 1 <= len(changes) <= 2, changes
    assert sum(line[0] == "+" for line in changes) == 1


@pytest.mark.parametrize("study", STUDIES)
def test_every_file_of_a_study_is_read_and_used(study: str) -> None:
    from recipes.study.cli import Distillation, Study, _keys

    folder = ROOT / "recipes" / study
    used = {job.config.name for job in Grid(folder).jobs()}
    assert used == {path.name for path in folder.glob("*.yaml")} - {"grid.yaml"}
    kinds = {"distillation": Distillation, "study": Study}
    for path in folder.glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for group in set(content) - {"seed_everything"} if path.name != "grid.yaml" else ():
            assert set(content[group] or {}) <= set(_keys(group)), (path, group, kinds)
    for job in Grid(folder).jobs()[:1]:
        assert job.arguments("synthetic", Path("runs"))[0] == job.command


def test_what_a_variant_is_a_case_of() -> None:
    assert lineage("2x, 50 %") == ["2x, 50 %", "2x", ""]
    assert lineage("") == [""]
    assert slug("cosine", "C1, 50 %", "fold1") == "cosine-C1_50_percent-fold1"


def test_the_rules_own_count() -> None:
    found = rule_counts(CPMobile(), torch.zeros(1, 1, 256, 65))
    assert found == (122_296, 29_419_156)
    assert found[0] <= MAX_BYTES
    assert found[1] <= MAX_MACS
    with_bias = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    assert rule_counts(with_bias, torch.zeros(1, 1, 4, 4)) == (2 * (20 + 27), 20 * 4 + 27)


def test_patches_of_a_clip_are_averaged() -> None:
    class Sums(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1:] == (1, 96, 4)
            return x.sum(dim=(1, 2, 3))[:, None]

    x = torch.rand(2, 1, 4, 200)
    first, second, third = (x[..., start : start + 96].sum(dim=(1, 2, 3)) for start in (0, 48, 96))
    torch.testing.assert_close(ClipPatches(Sums())(x)[:, 0], (first + second + third) / 3)
    assert ClipPatches(Sums())(x[..., :50]).shape == (2, 1)
