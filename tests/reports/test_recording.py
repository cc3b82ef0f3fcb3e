"""What a fit writes down of itself, and that nothing else changes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from fits import UsersModule, fit, loader
from torch import nn

from lightning_cosprune import CosineFilterPruning, RunRecord
from lightning_cosprune.reports import recording
from lightning_cosprune.reports.clock import Clock


class Validated(UsersModule):
    """With a validation that logs accuracies as `SceneClassifier` does, and draws a random number."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        torch.rand(1)
        right = (self(batch[0]).argmax(dim=1) == batch[1]).float()
        self.log("val/accuracy", right.mean())
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))
        self.log("val/accuracy_device_a", right[: len(right) // 2].mean())
        self.log("val/accuracy_device_b", right[len(right) // 2 :].mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/accuracy", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def val_dataloader(self) -> Any:
        return loader()

    def test_dataloader(self) -> Any:
        return loader()


def pruning(tmp_path: Path, **options: Any) -> CosineFilterPruning:
    return CosineFilterPruning(
        0.5, **{"at_epoch": 1, "repair": "least_squares", "report": tmp_path / "report.html", **options}
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_fit_leaves_a_page_with_all_that_it_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = pruning(tmp_path)
    torch.manual_seed(0)
    with caplog.at_level("INFO"):
        trainer = fit(Validated(), callback, tmp_path)
    record = RunRecord.from_json((tmp_path / "report.json").read_text())
    assert replace(record, phases=()) == replace(callback.recorder.record(), phases=())
    assert [outcome.role for outcome in record.outcomes] == ["dense", "cut", "repaired", "tuned"]
    assert all(len(outcome.accuracy) == 1 and set(outcome.by_device) == {"a", "b"} for outcome in record.outcomes)
    dense, cut, _, tuned = record.outcomes
    assert dense.accuracy[0] == pytest.approx(dict(record.curves["val/accuracy"])[1.0])
    assert tuned.accuracy[0] == pytest.approx(trainer.callback_metrics["val/accuracy"].item())
    assert cut.macs == (callback.reports[0].after.macs,)
    assert 0 < cut.latency[0] < 1
    assert [epoch for epoch, _ in record.curves["loss"]] == [1, 2, 3]
    assert [(event.epoch, event.name) for event in record.events] == [(1, "pruned and repaired")]
    (prune,) = record.prunes
    assert (prune.report, prune.repair) == (callback.reports[0], callback.repairs[0])
    assert {picture.name for picture in prune.layers} == {layer.name for layer in prune.report.layers}
    joined = [width.name for width in prune.widths if width.group is not None]
    assert joined == ["blocks.0.conv2", "blocks.0.shortcut", "blocks.1.conv2", "blocks.1.shortcut"]
    names = {phase.name for phase in record.phases}
    assert names >= {"dense training", "ranking", "surgery", "repair", "fine-tuning", "evaluation", "reporting"}
    assert record.setting["criterion"] == "cosine"
    assert record.notes == ("Accuracies are those of the validation clips of this run.",)
    assert "accuracy per scene" not in (text := (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "accuracy by device" in text
    assert len(read(tmp_path / "report.csv")) == 4
    assert f"Report: {tmp_path / 'report.html'}" in caplog.text
    assert "as cut" in caplog.text


def test_training_is_the_same_with_a_page_and_without(tmp_path: Path) -> None:
    states = []
    for report in (None, tmp_path / "report.html"):
        torch.manual_seed(0)
        module = Validated()
        fit(module, pruning(tmp_path, report=report), tmp_path)
        states.append((module.state_dict(), torch.random.get_rng_state()))
    (first, draws), (second, draws_too) = states
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(draws, draws_too)


def test_a_test_is_put_on_the_page_too(tmp_path: Path) -> None:
    callback, module = pruning(tmp_path), Validated()
    trainer = fit(module, callback, tmp_path)
    trainer.test(module, verbose=False)
    note = RunRecord.from_json((tmp_path / "report.json").read_text()).notes[1]
    assert note == f"On the test clips the network ended at {trainer.callback_metrics['test/accuracy']:.1%}."


def test_tests_before_and_after_the_fit_are_compared(tmp_path: Path) -> None:
    callback, module = pruning(tmp_path, at_epoch=0), Validated()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    before = trainer.test(module, verbose=False)[0]["test/accuracy"]
    trainer.fit(module, loader())
    after = trainer.test(module, verbose=False)[0]["test/accuracy"]
    dense, tuned = callback.recorder.record().outcomes
    assert (dense.accuracy[0], tuned.accuracy[0]) == pytest.approx((before, after))


def test_steps_of_a_schedule_are_told_one_by_one(tmp_path: Path) -> None:
    fit(Validated(), pruning(tmp_path, at_epoch=[1, 2], repair=None), tmp_path)
    record = RunRecord.from_json((tmp_path / "report.json").read_text())
    assert [event.epoch for event in record.events] == [1, 2]
    assert record.outcomes[0].macs == (record.prunes[0].report.before.macs,)
    assert record.outcomes[-1].macs == (record.prunes[1].report.after.macs,)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "pruned at the start of epoch 1" in text
    assert "pruned at the start of epoch 2" in text


def test_scalars_reach_every_logger(tmp_path: Path) -> None:
    trainer = fit(UsersModule(), CosineFilterPruning(0.5, at_epoch=[1, 2]), tmp_path)
    rows = read(Path(trainer.log_dir) / "metrics.csv")
    told = [row for row in rows if row["pruning/macs"]]
    assert [row["step"] for row in told] == ["3", "6"]
    assert float(told[1]["pruning/ratio/stem"]) == 0.5
    assert float(told[0]["pruning/ratio/stem"]) == 0.25
    callback_macs = [float(row["pruning/macs_after"]) for row in rows if row["pruning/macs_after"]]
    assert [float(row["pruning/macs"]) for row in told] == callback_macs
    assert float(told[1]["pruning/macs_removed"]) > float(told[0]["pruning/macs_removed"]) > 0


def test_what_fails_in_reporting_is_told_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no picture today")

    monkeypatch.setattr(recording, "picture_layer", broken)
    module = Validated()
    with pytest.warns(UserWarning, match="The pictures of the filters could not be had: RuntimeError: no picture"):
        fit(module, pruning(tmp_path), tmp_path)
    assert module.stem.out_channels == 8
    assert "no picture today" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_validation_that_cannot_be_copied_is_left_out(tmp_path: Path) -> None:
    class Own(Validated):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert self.logger is not None, "needs its logger"
            super().validation_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="The accuracy could not be had: AssertionError: needs its logger"):
        fit(Own(), pruning(tmp_path), tmp_path)
    roles = [outcome.role for outcome in RunRecord.from_json((tmp_path / "report.json").read_text()).outcomes]
    assert roles == ["dense", "tuned"]


def test_a_network_that_cannot_be_timed_is_told_of_all_the_same(tmp_path: Path) -> None:
    class Attached(Validated):
        def forward(self, x: Any) -> Any:
            assert self.trainer is not None
            return super().forward(x)

    callback = pruning(tmp_path, repair=None)
    with pytest.warns(
        UserWarning, match="The time of a pass could not be had: ValueError: .*RuntimeError: .*not attached"
    ):
        fit(Attached(), callback, tmp_path)
    record = RunRecord.from_json((tmp_path / "report.json").read_text())
    assert [outcome.role for outcome in record.outcomes] == ["dense", "cut", "tuned"]
    assert len(record.events) == 1


def test_a_page_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    module = UsersModule()
    with pytest.warns(UserWarning, match=r"The report could not be had: (FileExists|NotADirectory)Error"):
        fit(module, pruning(tmp_path, report=tmp_path / "file" / "report.html"), tmp_path)
    assert module.stem.out_channels == 8


@pytest.mark.parametrize("report", [3, "", "."])
def test_wrong_paths(report: Any) -> None:
    with pytest.raises(ValueError, match=r"`CosineFilterPruning\(report=.*expected the path of a file to write"):
        CosineFilterPruning(report=report)


def test_without_the_extra_it_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="need matplotlib, which comes with the extra `viz`"):
        CosineFilterPruning(report="report.html")
    CosineFilterPruning()


class MovesBatches(pl.LightningDataModule):
    """Features are computed on the way to the network, as `DCASEScenes(cache="waveforms")` does it."""

    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        assert self.trainer is not None
        self.seen = (*getattr(self, "seen", ()), self.trainer.training)
        return [2 * batch[0], batch[1]]


def test_batches_of_a_copy_go_the_way_of_the_datas_own_hooks(tmp_path: Path) -> None:
    data = MovesBatches()
    trainer = fit(Validated(), pruning(tmp_path, at_epoch=0, repair=None), tmp_path, data=data, num_sanity_val_steps=0)
    assert data.trainer is trainer
    outcomes = RunRecord.from_json((tmp_path / "report.json").read_text()).outcomes
    assert [outcome.role for outcome in outcomes] == ["dense", "cut", "tuned"]
    assert data.seen.count(False) == (2 + 3) * 3, "two copies and three epochs, three batches each"


def test_the_clock_counts_one_phase_at_a_time() -> None:
    clock = Clock()
    assert clock.enter("repair") is None
    assert clock.enter("evaluation") == "repair"
    assert clock.enter("repair") == "evaluation"
    assert clock.enter(None) == "repair"
    assert set(clock.seconds) == {"repair", "evaluation"}
    assert json.dumps(clock.seconds)
