"""Weights & Biases: the pictures, tables, numbers and files of a run, and a logger that never stops a fit."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_warn

from lightning_cosprune.arguments import real_number
from lightning_cosprune.network.structure import STRUCTURE, describe_structure
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.reports.draw_layers import widths_of
from lightning_cosprune.reports.gallery import tables_of
from lightning_cosprune.reports.record import RunRecord
from lightning_cosprune.reports.tables import ratios_of
from lightning_cosprune.reports.theme import to_png

__all__ = ["SafeWandbLogger", "log_to_wandb"]


class SafeWandbLogger(WandbLogger):
    """Lightning's ``WandbLogger``, which does not stop or hold up a fit when W&B cannot be reached.

    Where the run cannot be begun online within ``init_timeout`` seconds, it is kept offline, and the warning says how
    to sync it; where that fails too, as on a full disk, nothing is logged. What fails later is told once. If W&B goes
    away in the midst of the run, its numbers and pictures stay in the run's folder, and ``wandb sync`` uploads them. At
    the end of the process W&B is waited for ``finish_timeout`` seconds.

    Args:
        *args: As for ``WandbLogger``.
        init_timeout: Seconds to wait for an answer when the run begins, and when artifacts are handed over.
        finish_timeout: Seconds to wait for uploads at the end.
        **kwargs: As for ``WandbLogger``.

    Raises:
        ModuleNotFoundError: The extra ``wandb`` is not installed.
    """

    def __init__(self, *args: Any, init_timeout: float = 30.0, finish_timeout: float = 60.0, **kwargs: Any) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"`SafeWandbLogger` needs {error.name}, which comes with the extra `wandb`: pip install "
                "'lightning-cosprune[wandb]'.",
                name=error.name,
            ) from error
        for name, seconds in (("init_timeout", init_timeout), ("finish_timeout", finish_timeout)):
            expected = "seconds, a finite number above 0"
            real_number(seconds, f"`SafeWandbLogger({name}={{}})`", expected, above=0, finite=True)
        self.answer_timeout = init_timeout
        kwargs.setdefault("settings", wandb.Settings(init_timeout=init_timeout, finish_timeout=finish_timeout))
        self._told = False
        super().__init__(*args, **kwargs)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run: online, else offline, else one that takes all and keeps nothing."""
        begin: Callable[[Any], Any] = WandbLogger.experiment.fget  # type: ignore[attr-defined]
        if self._experiment is not None:
            return self._experiment
        for mode in (None, "offline", "disabled"):
            if mode is not None:
                self._wandb_init["mode"] = mode
            try:
                run = begin(self)
            except Exception as error:
                if mode == "disabled":
                    raise
                self._experiment = None
                following = "kept offline" if mode is None and not self._offline else "not logged"
                rank_zero_warn(f"W&B could not begin the run: {error}. It is {following}; the fit goes on.")
                continue
            if mode == "offline":
                rank_zero_warn(f"Upload the run later: wandb sync {Path(run.dir).parent}")
            return run
        raise AssertionError("a disabled run cannot fail to begin")

    def finish(self) -> None:
        """End the run; beside the fit, this is what may wait for W&B or for the disk."""
        if self._experiment is not None:
            run, self._experiment = self._experiment, None
            self._guarded(lambda _: run.finish())

    def _guarded(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if not self._told:
                self._told = True
                rank_zero_warn(f"W&B did not take what was logged: {type(error).__name__}: {error}. The fit goes on.")
            return None


def _guard(name: str) -> Callable[..., Any]:
    method = getattr(WandbLogger, name)

    @functools.wraps(method)
    def guarded(self: SafeWandbLogger, *args: Any, **kwargs: Any) -> Any:
        return self._guarded(method, *args, **kwargs)

    return guarded


for _name in (
    "log_metrics",
    "log_hyperparams",
    "log_table",
    "log_text",
    "log_image",
    "watch",
    "finalize",
    "after_save_checkpoint",
):
    setattr(SafeWandbLogger, _name, _guard(_name))


def log_to_wandb(
    logger: Any,
    step: int,
    pl_module: LightningModule | None,
    record: RunRecord,
    plans: Sequence[PruningPlan],
    figures: Mapping[str, Any],
    page: str | None,
) -> None:
    """Tell a ``WandbLogger`` all of a run.

    Pictures are logged as ``pruning/<name>``, tables as ``pruning/tables/<name>``, at the Trainer's global step; an
    artifact of type ``pruning`` holds plan, report and page, one of type ``model`` the pruned network, which
    :func:`load_pruned` reads.

    Args:
        logger: The logger.
        step: The Trainer's global step.
        pl_module: The pruned network; ``None`` where it was kept before.
        record: What is known of the run.
        plans: Of each prune.
        figures: Name -> figure.
        page: The report page, where it was made.
    """
    wandb = importlib.import_module("wandb")
    run = logger.experiment
    with tempfile.TemporaryDirectory() as folder:
        pictures = {}
        for place, (name, one) in enumerate(figures.items()):
            path = Path(folder) / f"{place}.png"
            path.write_bytes(to_png(one))
            pictures[f"pruning/{name}"] = wandb.Image(str(path))
        run.log({**pictures, "trainer/global_step": step})
    for name, value in _summary(record).items():
        run.summary[name] = value
    tables = {
        f"pruning/tables/{name}": wandb.Table(columns=[cell or "network" for cell in rows[0]], data=rows[1:])
        for name, rows in tables_of(record).items()
    }
    if record.prunes:  # in numbers, for charts; in the order of the network, with layers that lost nothing
        lost = ratios_of([prune.report for prune in record.prunes])
        rows = [[width.name, lost.get(width.name, 0.0)] for width in widths_of(record.prunes[0])]
        tables["pruning/tables/ratios"] = wandb.Table(columns=["layer", "removed"], data=rows)
    texts = {"record.json": record.to_json(), **({"report.html": page} if page else {})}
    texts |= {f"plan-{place}.json": plan.to_json() for place, plan in enumerate(plans)}
    with _staged_within(run), tempfile.TemporaryDirectory() as folder:
        told = wandb.Artifact(f"pruning-{run.id}", type="pruning")
        for name, text in texts.items():
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            told.add_file(str(path))
        artifacts = [told]
        if pl_module is not None:
            network = wandb.Artifact(f"pruned-network-{run.id}", type="model", metadata=_summary(record))
            path = Path(folder) / "pruned.ckpt"
            torch.save({"state_dict": pl_module.state_dict(), STRUCTURE: describe_structure(pl_module)}, path)
            network.add_file(str(path))
            artifacts.append(network)

        def hand_over() -> None:
            run.log({**tables, "trainer/global_step": step})
            for artifact in artifacts:
                run.log_artifact(artifact)

        _within(getattr(logger, "answer_timeout", 30.0), hand_over)


def _within(seconds: float, call: Callable[[], Any]) -> None:
    """Call in a thread of its own and wait so long for it.

    Before wandb takes an artifact, and each table is one, it asks its server, and asks again for minutes.

    Raises:
        TimeoutError: It was not done by then. It goes on, and ends with the process.
    """
    failed: list[Exception] = []

    def guarded() -> None:
        try:
            call()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=guarded, name="artifacts for W&B", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise TimeoutError(
            f"W&B did not answer within {seconds:g} s; its numbers and pictures are kept, tables and artifacts are not"
        )


def _summary(record: RunRecord) -> dict[str, float]:
    """Numbers by which runs are compared, of the networks that were measured."""
    found = {
        f"pruning/accuracy_{outcome.role}": outcome.accuracy[0]
        for outcome in record.outcomes
        if outcome.accuracy and outcome.role != "rival"
    }
    for outcome in record.outcomes:
        if outcome.latency and outcome.role in ("dense", "tuned"):
            found[f"pruning/latency_{outcome.role}"] = outcome.latency[0]
    return found


@contextlib.contextmanager
def _staged_within(run: Any) -> Iterator[None]:
    """Keep the files of artifacts within the run's folder, so that an offline run can be moved with them."""
    held = os.environ.get("WANDB_DATA_DIR")
    folder = Path(run.dir).parent if run.dir and Path(run.dir).is_dir() else None
    if folder is not None:
        os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop("WANDB_DATA_DIR", None)
            if held is not None:
                os.environ["WANDB_DATA_DIR"] = held
