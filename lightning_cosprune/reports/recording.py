"""What a callback notes of a run, so that its page can be drawn; none of it can stop the run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_cosprune.network.latency import measure_latency
from lightning_cosprune.network.layers import num_filters
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.repair.report import RepairReport
from lightning_cosprune.reports.clock import PHASES, Clock
from lightning_cosprune.reports.energy import EnergyMonitor
from lightning_cosprune.reports.evaluate import can_validate, validate_copy
from lightning_cosprune.reports.gallery import Gallery
from lightning_cosprune.reports.layers import picture_layer, widths_before
from lightning_cosprune.reports.loggers import log_record, log_setting, log_steps, takes_pictures
from lightning_cosprune.reports.measured import Measured, note_of_inferences, outcomes_of
from lightning_cosprune.reports.page import render_report, write_page
from lightning_cosprune.reports.record import Event, LayerPicture, Phase, PruneRecord, RunRecord, Width
from lightning_cosprune.reports.setting import data_fraction, setting_of
from lightning_cosprune.reports.tables import csv_text, format_outcomes
from lightning_cosprune.reports.viz import import_viz
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["Recorder", "RecordingCallback", "check_report"]

P = ParamSpec("P")
_SETTINGS = ("criterion", "pruning_ratio", "at_epoch", "repair")


def check_report(report: str | Path | None, caller: str) -> None:
    """Refuse what is no path of a page, and a page that could not be drawn.

    Raises:
        ValueError: It is no path, or that of a folder.
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    if report is None:
        return
    if not isinstance(report, (str, Path)) or not str(report) or Path(report).is_dir():
        raise ValueError(
            f'`{caller}(report={report!r})`: expected the path of a file to write, such as "report.html", or None.'
        )
    for module in ("matplotlib", "jinja2", "scipy"):
        import_viz(module)


def _at_most_a_warning(what: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Let a failure of a step of reporting be told, on the page too, and nothing else."""

    def decorated(step: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(step)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                step(*args, **kwargs)
            except Exception as error:
                message = f"{what} could not be had: {type(error).__name__}: {error}"
                args[0].notes.append(message)  # type: ignore[attr-defined]
                rank_zero_warn(f"`CosineFilterPruning(report=...)`: {message}. The fit goes on.")

        return guarded

    return decorated


class Recorder:
    """Notes what happens in one run, and writes it down.

    Args:
        path: Of the page; ``None`` where only loggers are told.
        settings: Arguments of the callback, name -> value.
    """

    def __init__(self, path: str | Path | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.settings = settings
        self.notes: list[str] = []
        self.clock = Clock()
        self.has_begun = False
        self._written = False
        self._validated_at = -1
        self._active = False
        self._setting: dict[str, str] = {}
        self._curves: dict[str, list[tuple[float, float]]] = {}
        self._events: list[Event] = []
        self._reports: list[PruningReport] = []
        self._prunes: list[PruneRecord] = []
        self._pictures: tuple[LayerPicture, ...] = ()
        self._widths: tuple[Width, ...] = ()
        self._dense: nn.Module | None = None
        self.measured = Measured()
        self._energy: EnergyMonitor | None = None

    @_at_most_a_warning("The setting of the run")
    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit begins."""
        self.has_begun = True
        self._active = self.path is not None or takes_pictures(trainer.loggers)
        self._energy = next((one for one in trainer.callbacks if isinstance(one, EnergyMonitor)), None)  # type: ignore[attr-defined]
        self._setting = setting_of(trainer, pl_module, self.settings)
        fraction = data_fraction(trainer)
        told: dict[str, Any] = {name: self._setting[name] for name in ("criterion", "repair") if name in self._setting}
        log_setting(trainer.loggers, told if fraction is None else {**told, "data/fraction": fraction})
        self.clock.enter("dense training")

    def phase(self, name: str | None) -> str | None:
        """Another part of the work begins.

        Returns:
            The part that ends.
        """
        if self._energy is not None:
            self._energy.enter(name)
        return self.clock.enter(name)

    @_at_most_a_warning("The pictures of the filters")
    def before(
        self, trainer: Trainer, target: nn.Module, plan: PruningPlan, inputs: Any, copied: Callable[[], nn.Module]
    ) -> None:
        """A cut is about to be made; ``copied`` gives a copy of the network, to time beside the smaller one."""
        self._pictures, self._widths, self._dense = (), (), None
        if not (self._active and trainer.is_global_zero):
            return
        back = self.phase("reporting")
        try:
            modules = dict(target.named_modules())
            self._pictures = tuple(
                picture_layer(modules[name], name, idxs) for name, idxs in plan.pruned.items() if idxs
            )
            self._widths = widths_before(target, inputs)
            self._dense = copied() if self.path is not None and not self._prunes else None
        finally:
            self.phase(back)

    @_at_most_a_warning("The accuracy")
    def measure(self, role: str, trainer: Trainer, copied: Callable[[], Any]) -> None:
        """Validate the network as it is now, where the fit has validation data and a page is wanted."""
        fresh = role == "dense" and self._validated_at == trainer.global_step
        if self.path is None or fresh or not can_validate(trainer):
            return
        back = self.phase("evaluation")
        try:
            self.measured.note(role, "val", validate_copy(trainer, copied()))
        finally:
            self.phase(back)

    @_at_most_a_warning("What was pruned")
    def pruned(
        self, trainer: Trainer, target: nn.Module, report: PruningReport, repair: RepairReport | None, inputs: Any
    ) -> None:
        """A cut was made, and maybe repaired."""
        if trainer.is_global_zero:
            names = dict(target.named_modules())
            widths = tuple(
                Width(width.name, width.before, num_filters(names[width.name]), width.group) for width in self._widths
            )
            cut = {layer.name for layer in report.layers}
            pictures = tuple(picture for picture in self._pictures if picture.name in cut)
            self._prunes.append(PruneRecord(report, repair, pictures, widths))
        epoch = float(trainer.current_epoch)
        self._events.append(Event(epoch, "pruned" if repair is None else "pruned and repaired"))
        self._reports.append(report)
        log_steps(trainer.loggers, self._reports[0].before, self._reports, trainer.global_step)
        self._time(target, inputs)
        self.phase("fine-tuning")

    @_at_most_a_warning("The time of a pass")
    def _time(self, target: nn.Module, inputs: Any) -> None:
        dense, self._dense = self._dense, None
        if dense is not None:
            self.phase("reporting")
            found = measure_latency(target, inputs, beside=dense, seconds=0.4)
            assert found.ratio is not None
            self.measured.latency = [found.median / found.ratio, found.median]

    def note(self, trainer: Trainer) -> None:
        """Keep the metrics of this moment; every process is asked, because some are computed by all together."""
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if getattr(value, "numel", int)() < 2
        }
        self._note(trainer, metrics)

    @_at_most_a_warning("The learning curves")
    def _note(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        batches = trainer.num_training_batches
        done = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        epoch = trainer.current_epoch + (min(done / batches, 1.0) if 0 < batches < float("inf") else 1.0)
        for name, value in metrics.items():
            curve = self._curves.setdefault(name, [])
            if curve and curve[-1][0] == epoch:
                curve.pop()
            curve.append((epoch, value))
        if trainer.validating:
            self._validated_at = trainer.global_step
        self.measured.note("tuned" if self._events else "dense", "val", metrics)

    @_at_most_a_warning("The test results")
    def tested(self, trainer: Trainer) -> None:
        """A test ended."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.measured.note("tuned" if self._events else "dense", "test", metrics)

    def record(self) -> RunRecord:
        """All that was noted so far."""
        seconds = dict(self.clock.seconds)
        monitor = self._energy
        phases: Sequence[Phase] = monitor.phases if monitor is not None and monitor.phases else ()
        if not phases:
            phases = [Phase(name, seconds[name]) for name in PHASES if seconds.get(name)]
        outcomes, notes = outcomes_of(self.measured, [prune.report for prune in self._prunes])
        return RunRecord(
            title=f"Pruning {self._setting.get('network', 'a network')}",
            setting=self._setting,
            outcomes=outcomes,
            prunes=tuple(self._prunes),
            curves={name: tuple(curve) for name, curve in self._curves.items() if len(curve) > 1},
            events=tuple(self._events),
            phases=tuple(phases),
            energy_source=monitor.source if monitor is not None else "",
            notes=(*notes, *note_of_inferences(self.measured.latency, phases), *self.notes),
        )

    @_at_most_a_warning("The report")
    def write(self, trainer: Trainer, pl_module: LightningModule, plans: Sequence[PruningPlan]) -> None:
        """Write the page, tell the loggers, show the table."""
        if not (self._active and trainer.is_global_zero and self._prunes):
            return
        back = self.phase("reporting")
        record, page = self.record(), None
        gallery = Gallery(record)
        try:
            if self.path is not None:
                page = render_report(record, gallery)
                write_page(self.path, page)
                write_page(self.path.with_suffix(".json"), record.to_json())
                write_page(self.path.with_suffix(".csv"), csv_text(record))
                table = format_outcomes(record)
                rank_zero_info(f"{table}\nReport: {self.path}" if table else f"Report: {self.path}")
        finally:
            log_record(trainer, pl_module, gallery, plans, page, again=self._written)
            self._written = True
            self.phase(back)


class RecordingCallback(Callback):
    """A callback that notes what the run does.

    It has a :attr:`recorder` while it runs; what it notes, and when, is in the methods of that.
    """

    recorder: Recorder
    plans: list[PruningPlan]

    def __init__(self) -> None:
        self.recorder = Recorder(None, {})
        self._back: str | None = None

    def start_recording(
        self, trainer: Trainer, pl_module: LightningModule, path: str | Path | None, settings: dict[str, Any]
    ) -> None:
        """Begin anew, at the start of a fit."""
        earlier = self.recorder
        self.recorder = Recorder(path, {name: settings[name] for name in _SETTINGS})
        if not earlier.has_begun:  # what was tested before the fit is the dense network
            self.recorder.measured = earlier.measured
        self.recorder.begin(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Note the metrics of the epoch."""
        self.recorder.note(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the time of evaluations apart."""
        self._back = self.recorder.clock.enter("evaluation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Note the metrics of the validation."""
        self.recorder.clock.enter(self._back)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.recorder.note(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metrics of the test and put them on the page."""
        self.recorder.tested(trainer)
        self.recorder.write(trainer, pl_module, self.plans)

    def finish_recording(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all down, at the end of a fit."""
        self.recorder.write(trainer, pl_module, self.plans)
        self.recorder.clock.enter(None)
