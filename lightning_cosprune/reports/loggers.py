"""What the Trainer's loggers are told of a run: scalars to all, pictures and tables to those that take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_cosprune.network.complexity import Complexity
from lightning_cosprune.planning.plan import PruningPlan
from lightning_cosprune.reports.gallery import Gallery, tables_of
from lightning_cosprune.reports.record import RunRecord
from lightning_cosprune.reports.tables import ratios_of
from lightning_cosprune.reports.telling import telling
from lightning_cosprune.reports.wandb import log_to_wandb
from lightning_cosprune.surgery.report import PruningReport

__all__ = ["is_a", "log_record", "log_setting", "log_steps", "takes_pictures"]


def is_a(logger: Any, name: str) -> bool:
    """Whether a logger is of the class of that name, of `lightning` or `pytorch_lightning`, or derived from it."""
    return any(cls.__name__ == name for cls in type(logger).__mro__)


def takes_pictures(loggers: Iterable[Any]) -> bool:
    """Whether one of the loggers shows pictures."""
    return any(
        is_a(logger, "TensorBoardLogger") or (is_a(logger, "WandbLogger") and _keeps(logger)) for logger in loggers
    )


def _keeps(logger: Any) -> bool:
    """Whether W&B is switched on."""
    return not getattr(logger.experiment, "disabled", False)


def log_setting(loggers: Iterable[Any], setting: Mapping[str, Any]) -> None:
    """Tell loggers what makes runs comparable, as hyperparameters: ``criterion``, ``repair``, ``data/fraction``."""
    for logger in loggers:
        telling(logger, "the setting", partial(logger.log_hyperparams, dict(setting)))


def log_steps(loggers: Iterable[Any], dense: Complexity, reports: Sequence[PruningReport], step: int) -> None:
    """Tell loggers what the network costs now, beside what it cost at first.

    Logged are ``pruning/<cost>`` and ``pruning/<cost>_removed``, a part of the first, for macs, params and bytes, and
    ``pruning/ratio/<layer>``, the part of its filters that a layer has lost so far.

    Args:
        loggers: Of the Trainer.
        dense: Costs before the first prune.
        reports: Of all prunes so far.
        step: The Trainer's global step.
    """
    now = reports[-1].after
    found: dict[str, float] = {}
    for cost in ("macs", "params", "bytes"):
        old, new = getattr(dense, cost), getattr(now, cost)
        found[f"pruning/{cost}"] = float(new)
        found[f"pruning/{cost}_removed"] = 1 - new / old if old else 0.0
    found |= {f"pruning/ratio/{layer}": ratio for layer, ratio in ratios_of(reports).items()}
    for logger in loggers:
        telling(logger, "what was pruned", partial(logger.log_metrics, found, step=step))


def log_record(
    trainer: Trainer,
    pl_module: LightningModule,
    gallery: Gallery,
    plans: Sequence[PruningPlan],
    page: str | None,
    *,
    again: bool = False,
) -> None:
    """Tell the loggers all at the end of a fit: W&B everything, TensorBoard pictures and tables.

    Args:
        trainer: Its loggers are told.
        pl_module: The pruned network, which W&B keeps as an artifact.
        gallery: What is known of the run, and its pictures.
        plans: Of each prune.
        page: The report page, where it was made.
        again: Whether they were told before, so that layers and network are the same.
    """
    pictured = [logger for logger in trainer.loggers if takes_pictures([logger])]
    record, figures = gallery.record, dict(gallery.figures(layers=not again)) if pictured else {}
    for logger in pictured:
        if is_a(logger, "WandbLogger"):
            network = None if again else pl_module
            tell = partial(log_to_wandb, logger, trainer.global_step, network, record, plans, figures, page)
        else:
            tell = partial(_log_to_tensorboard, logger, record, figures, trainer.global_step)
        telling(logger, "the report", tell)


def _log_to_tensorboard(logger: Any, record: RunRecord, figures: Mapping[str, Any], step: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for name, drawn in figures.items():
        FigureCanvasAgg(drawn)
        drawn.set_facecolor("white")
        logger.experiment.add_figure(f"pruning/{name}", drawn, step, close=False)
    for name, rows in tables_of(record).items():
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)
        logger.experiment.add_text(f"pruning/{name}", text, step)
