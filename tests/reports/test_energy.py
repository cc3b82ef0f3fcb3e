from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fits import UsersModule, fit, loader

from lightning_cosprune import CosineFilterPruning, EnergyMonitor, RunRecord
from lightning_cosprune.reports.energy import car_miles, emissions_of, energy_of_inferences

pytest.importorskip("codecarbon")


def running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.name.startswith("tqdm")]


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Any:
    before = len(running())
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    end = time.monotonic() + 5
    while len(running()) > before and time.monotonic() < end:
        time.sleep(0.05)
    assert len(running()) <= before, running()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_case_study() -> None:
    kg = emissions_of(watts=250, hours=48, kg_per_kwh=0.432)
    assert kg == pytest.approx(5.184)
    assert round(car_miles(kg)) == 13
    assert energy_of_inferences(0.0036, 100, 1e6) == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"`emissions_of\(hours=-1\)`: expected a finite number of at least 0"):
        emissions_of(250, -1, 0.4)


def test_phases_sum_to_the_whole(tmp_path: Path) -> None:
    class Slow(UsersModule):
        """Each step takes long enough to be seen."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(0.05)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            time.sleep(0.03)

        def val_dataloader(self) -> Any:
            return loader()

    monitor = EnergyMonitor("GBR", every=0.5)
    callback = CosineFilterPruning(0.5, at_epoch=1, repair="least_squares", report=tmp_path / "report.html")
    totals: list[float] = []

    start: list[float] = []
    original_start, original_stop = monitor._start, monitor._stop

    def started() -> None:
        already = monitor.running
        original_start()
        if not already:  # beginning to read the hardware is no part of the work
            start.append(time.perf_counter())

    def stopped() -> None:
        if monitor.running:
            reader, seconds = monitor._reader, time.perf_counter() - start[0]
            original_stop()
            totals.extend([seconds, *reader.totals])

    monitor._start, monitor._stop = started, stopped  # type: ignore[method-assign]
    fit(Slow(), callback, tmp_path, monitor)
    seconds, kwh, kg = totals
    names = [phase.name for phase in monitor.phases]
    assert names == ["dense training", "ranking", "surgery", "repair", "fine-tuning", "evaluation", "reporting"]
    assert sum(phase.seconds for phase in monitor.phases) == pytest.approx(seconds, rel=0.02, abs=0.2)
    assert monitor.kwh == pytest.approx(kwh, rel=0.02)
    assert monitor.kg == pytest.approx(kg, rel=0.02)
    assert monitor.kwh > 0
    by_name = {phase.name: phase.seconds for phase in monitor.phases}
    assert by_name["dense training"] >= 0.15
    assert by_name["fine-tuning"] >= 0.3
    assert by_name["evaluation"] >= 3 * 3 * 0.03
    assert "estimated" in monitor.source or "measured" in monitor.source
    record = RunRecord.from_json((tmp_path / "report.json").read_text())
    assert record.energy_source == monitor.source
    assert any(phase.kwh for phase in record.phases)
    (note,) = [note for note in record.notes if note.startswith("A million forward passes take ")]
    dense, pruned = (outcome.latency[0] for outcome in record.outcomes if outcome.latency)
    watts = 3.6e6 * sum(phase.kwh or 0 for phase in record.phases) / sum(phase.seconds for phase in record.phases)
    assert f"take {1e3 * energy_of_inferences(pruned, watts):,.3g} Wh instead of " in note
    assert f"instead of {1e3 * energy_of_inferences(dense, watts):,.3g} Wh" in note


def test_numbers_reach_the_logger(tmp_path: Path) -> None:
    trainer = fit(UsersModule(), EnergyMonitor("DEU"), tmp_path)
    assert trainer.logger is not None
    text = (Path(trainer.log_dir) / "metrics.csv").read_text()
    for key in ("energy/kwh", "energy/kg_co2", "energy/dense_training/seconds"):
        assert key in text.splitlines()[0].split(",")


def test_nothing_is_counted_in_a_dry_run(tmp_path: Path) -> None:
    monitor = EnergyMonitor("GBR")
    fit(UsersModule(), monitor, tmp_path, fast_dev_run=True)
    assert not monitor.running
    assert monitor.phases == ()


def test_an_exception_stops_it(tmp_path: Path) -> None:
    class Fails(UsersModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("in the midst")

    monitor = EnergyMonitor("GBR")
    with pytest.raises(RuntimeError, match="in the midst"):
        fit(Fails(), monitor, tmp_path)
    assert not monitor.running
    assert [phase.name for phase in monitor.phases] == ["dense training"]


@pytest.mark.slow
def test_an_interrupt_leaves_nothing_running(tmp_path: Path) -> None:
    script = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background, it is not heard
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from fits import UsersModule, fit
from lightning_cosprune import EnergyMonitor
class Waits(UsersModule):
    def training_step(self, batch, batch_idx):
        print("trains", flush=True)
        time.sleep(0.2)
        return super().training_step(batch, batch_idx)
monitor = EnergyMonitor("GBR")
try:
    fit(Waits(), monitor, Path(sys.argv[2]), max_epochs=1000)
finally:
    print("running" if monitor.running else "stopped", [phase.name for phase in monitor.phases], flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == "trains\n"
            run.send_signal(signal.SIGINT)
            told, _ = run.communicate(timeout=60)
        finally:
            run.kill()
    assert told.splitlines()[-1] == "stopped ['dense training']"


def test_wrong_arguments() -> None:
    with pytest.raises(
        ValueError, match=r"`EnergyMonitor\(country='England'\)`: expected an ISO code of three letters"
    ):
        EnergyMonitor("England")
    with pytest.raises(ValueError, match=r"`EnergyMonitor\(every=0\)`: expected seconds above 0"):
        EnergyMonitor("GBR", every=0)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str) -> Any:
        if name == "codecarbon":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="needs codecarbon, which comes with the extra `energy`"):
        EnergyMonitor("GBR")
