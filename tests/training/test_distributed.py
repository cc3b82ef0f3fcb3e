"""Two processes on one machine; each test has a time limit, for what goes wrong between processes is often a hang."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import processes
import pytest
import torch
from asserts import assert_same
from fits import UsersModule
from lightning.pytorch.strategies import DDPStrategy

from lightning_cosprune import CosineFilterPruning, PrunableMixin
from lightning_cosprune.training import distributed

PRUNED = {"pruning": {"pruning_ratio": 0.5, "at_epoch": [0, 1]}}


def launch(folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return processes.launch("ddp_run.py", folder, json.dumps(options))


def ends(folder: Path, rank: int) -> dict:
    return torch.load(folder / f"rank{rank}.pt", weights_only=True)


def assert_processes_agree(folder: Path) -> None:
    """Equal parameters and optimizers; batch-norm statistics are each process's own until the next forward pass."""
    first, second = ends(folder, 0), ends(folder, 1)
    statistics = ("running_mean", "running_var")
    for name, tensor in first["weights"].items():
        assert name.endswith(statistics) or torch.equal(second["weights"][name], tensor), name
    assert_same(first["optimizer"], second["optimizer"])
    assert first["reports"] == second["reports"]
    assert first["repairs"] == second["repairs"]
    assert first["wrapped"]
    assert second["wrapped"]
    assert len(first["weights"]["stem.weight"]) == 8


@pytest.mark.parametrize(
    "ddp",
    [
        pytest.param({"static_graph": True, "gradient_as_bucket_view": True}, marks=pytest.mark.thorough),
        {"find_unused_parameters": True, "gradient_as_bucket_view": True},
    ],
    ids=str,
)
def test_processes_end_bit_identical(ddp, tmp_path):
    run = launch(tmp_path, ddp=ddp, **PRUNED)
    assert run.returncode == 0, run.stderr
    assert_processes_agree(tmp_path)
    assert len(ends(tmp_path, 0)["reports"]) == 2


def test_two_processes_train_as_one_with_their_batches_together(tmp_path):
    """Without batch norm, which sees the batch of its own process only."""
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    for folder, options in (("two", {"ddp": {}, "batch_size": 4}), ("one", {"devices": 1, "batch_size": 8})):
        run = launch(tmp_path / folder, module="WithoutBatchNorm", **options, **PRUNED)
        assert run.returncode == 0, run.stderr
    assert_processes_agree(tmp_path / "two")
    two, one = ends(tmp_path / "two", 0), ends(tmp_path / "one", 0)
    assert two["reports"] == one["reports"]
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough  # as one that repairs does
def test_a_run_on_two_processes_resumes(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "rest").mkdir()
    run = launch(tmp_path / "whole", ddp={}, **PRUNED)
    assert run.returncode == 0, run.stderr
    run = launch(tmp_path / "rest", ddp={}, ckpt_path=str(tmp_path / "whole" / "epoch=1.ckpt"), **PRUNED)
    assert run.returncode == 0, run.stderr
    for rank in (0, 1):
        whole, rest = ends(tmp_path / "whole", rank), ends(tmp_path / "rest", rank)
        assert_same(dict(rest["weights"]), dict(whole["weights"]))
        assert_same(rest["optimizer"], whole["optimizer"])


def test_one_process_decides_for_all(tmp_path):
    """Both when to prune and what, though each process would choose otherwise; its averages follow."""
    run = launch(tmp_path, ddp={}, callback="Whatever", pruning={"pruning_ratio": 0.5}, average=True)
    assert run.returncode == 0, run.stderr
    assert_processes_agree(tmp_path)
    ((first,), (second,)) = (ends(tmp_path, rank)["averages"] for rank in (0, 1))
    assert_same(first, second)
    assert len(first["stem.weight"]) == 8


REPAIRED = {"pruning": {"pruning_ratio": 0.5, "at_epoch": [0, 2], "repair": "least_squares", "calibration": 13}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"average": True}, marks=pytest.mark.thorough),
        {"sabotage": "round_otherwise"},
        pytest.param({"ddp": {"broadcast_buffers": False}}, marks=pytest.mark.thorough),
        {"pruning": {**REPAIRED["pruning"], "criterion": "response"}},
    ],
    ids=str,
)
def test_processes_repair_alike(options, tmp_path):
    """Each reads its share of the calibration data: seven samples and six."""
    run = launch(tmp_path, **{"ddp": {}, **REPAIRED, **options})
    assert run.returncode == 0, run.stderr
    assert_processes_agree(tmp_path)
    first, second = ends(tmp_path, 0), ends(tmp_path, 1)
    assert_same(first["averages"], second["averages"])
    assert [samples for _, samples, _ in first["repairs"]] == [13, 13]
    assert all("the network's output" in text and not math.isnan(error) for text, _, error in first["repairs"])


@pytest.mark.thorough  # the repair with data is done alike
@pytest.mark.parametrize("method", ["merge", "constant"])
def test_processes_repair_alike_without_data(method, tmp_path):
    run = launch(tmp_path, ddp={}, pruning={"pruning_ratio": 0.5, "at_epoch": 1, "repair": method})
    assert run.returncode == 0, run.stderr
    assert_processes_agree(tmp_path)


def test_a_repair_on_two_processes_is_that_on_one(tmp_path):
    """To what rounding and the parts that are held out make of it."""
    errors = {}
    for folder, options in (("two", {"ddp": {}, "batch_size": 4}), ("one", {"devices": 1, "batch_size": 8})):
        (tmp_path / folder).mkdir()
        pruning = {"pruning_ratio": 0.5, "at_epoch": 1, "repair": "least_squares", "calibration": 24}
        run = launch(tmp_path / folder, module="WithoutBatchNorm", pruning=pruning, epochs=2, **options)
        assert run.returncode == 0, run.stderr
        ((_, samples, errors[folder]),) = ends(tmp_path / folder, 0)["repairs"]
        assert samples == 24
    assert errors["two"] == pytest.approx(errors["one"], rel=0.25)


def test_a_repair_on_two_processes_resumes(tmp_path):
    for folder, options in (("whole", {}), ("rest", {"ckpt_path": str(tmp_path / "whole" / "epoch=1.ckpt")})):
        (tmp_path / folder).mkdir()
        run = launch(tmp_path / folder, ddp={}, **REPAIRED, **options)
        assert run.returncode == 0, run.stderr
    for rank in (0, 1):
        whole, rest = ends(tmp_path / "whole", rank), ends(tmp_path / "rest", rank)
        assert_same(dict(rest["weights"]), dict(whole["weights"]))
        assert_same(rest["optimizer"], whole["optimizer"])


def test_processes_that_come_apart_in_the_repair_stop(tmp_path):
    run = launch(tmp_path, ddp={}, sabotage="come_apart", **REPAIRED)
    assert run.returncode != 0
    assert "came apart while pruning, so all of them stop" in run.stderr


def test_processes_that_cut_different_filters_stop(tmp_path):
    run = launch(tmp_path, ddp={}, sabotage="disagree", pruning={"pruning_ratio": 0.25})
    assert run.returncode != 0
    assert "The processes pruned differently: [0] and [1] do not" in run.stderr.replace("[1] and [0]", "[0] and [1]")


def test_what_every_process_can_tell_at_the_start_stops_each_by_itself(tmp_path):
    run = launch(tmp_path, ddp={}, pruning={"layers": ["nowhere"]})
    assert run.returncode != 0
    assert "`layers='nowhere'`: expected" in run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"sabotage": "fail_on_rank_1", "pruning": {"pruning_ratio": 0.5}},
            "no memory on this one",
            marks=pytest.mark.thorough,
        ),
        ({"sabotage": "fail_in_the_repair_on_rank_1", **REPAIRED}, "no memory on this one"),
        pytest.param({"sabotage": "fail_on_rank_1", **REPAIRED}, "no memory on this one", marks=pytest.mark.thorough),
    ],
)
def test_a_failure_on_one_process_stops_all(options, message, tmp_path):
    run = launch(tmp_path, ddp={}, **options)
    assert run.returncode != 0
    assert message in run.stderr
    assert "so this one stops as well" in run.stderr


def test_spawned_processes_give_the_smaller_network_back(tmp_path):
    run = launch(tmp_path, ddp={"start_method": "spawn"}, module="Prunable", **PRUNED)
    assert run.returncode == 0, run.stderr
    after = torch.load(tmp_path / "after.pt", weights_only=True)
    assert_same(dict(after), dict(ends(tmp_path, 0)["weights"]))


# What is refused


class Prunable(PrunableMixin, UsersModule):
    pass


@pytest.mark.parametrize(
    ("strategy", "module", "message"),
    [
        (
            "ddp_spawn",
            UsersModule,
            r"started by 'spawn': expected a LightningModule with `PrunableMixin`, found UsersMo",
        ),
        ("sync_batchnorm", UsersModule, "with `SyncBatchNorm` on many processes: expected"),
        (DDPStrategy(ddp_comm_hook=print), UsersModule, r"ddp_comm_hook=...\)`: expected no communication hook"),
        ("ddp_spawn", Prunable, None),
        ("ddp", UsersModule, None),
    ],
)
def test_strategies(strategy, module, message):
    options = {"strategy": "ddp", "sync_batchnorm": True} if strategy == "sync_batchnorm" else {"strategy": strategy}
    trainer = pl.Trainer(accelerator="cpu", devices=2, **options, logger=False, enable_checkpointing=False)
    if message is None:
        CosineFilterPruning().setup(trainer, module(), "fit")
        return
    with pytest.raises(ValueError, match=message):
        CosineFilterPruning().setup(trainer, module(), "fit")


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_one_process_that_is_started_gives_its_weights_back_like_many(strategy):
    options = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    with pytest.raises(ValueError, match="expected a LightningModule with `PrunableMixin`, found UsersModule"):
        CosineFilterPruning().setup(pl.Trainer(strategy=strategy, **options), UsersModule(), "fit")
    CosineFilterPruning().setup(pl.Trainer(strategy=strategy, **options), Prunable(), "fit")
    CosineFilterPruning().setup(pl.Trainer(strategy="ddp", **options), UsersModule(), "fit")


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_shard_are_refused_by_name(name, monkeypatch):
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    shards = type(name, (type(trainer.strategy),), {})
    monkeypatch.setattr(trainer.strategy, "__class__", shards)
    with pytest.raises(ValueError, match=f"with {name}: expected a strategy that keeps .*Prune first, then shard"):
        CosineFilterPruning().setup(trainer, UsersModule(), "fit")


def test_an_unknown_strategy_on_many_processes_is_refused():
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    trainer.strategy.__class__ = type("HomeMadeStrategy", (DDPStrategy,), {})
    with pytest.raises(ValueError, match='HomeMadeStrategy on 2 processes: expected `strategy="ddp"`'):
        CosineFilterPruning().setup(trainer, UsersModule(), "fit")


@pytest.mark.parametrize(
    ("ddp", "processes", "alike"), [({}, 2, True), ({"broadcast_buffers": False}, 2, False), ({}, 1, False)]
)
def test_buffers_are_made_alike_where_a_training_step_would_do_it(ddp, processes, alike, monkeypatch):
    done = []
    monkeypatch.setattr(distributed, "as_on_rank_zero", lambda _, tensors: done.extend(tensors))
    trainer = SimpleNamespace(world_size=processes, strategy=DDPStrategy(**ddp))
    distributed.same_buffers(trainer, torch.nn.BatchNorm1d(2))
    assert len(done) == (3 if alike else 0)
