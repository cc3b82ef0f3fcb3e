"""What was run, in words that make runs comparable."""

from __future__ import annotations

import platform
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

__all__ = ["data_fraction", "setting_of"]


def setting_of(trainer: Trainer, pl_module: LightningModule, settings: dict[str, Any]) -> dict[str, str]:
    """Network, arguments of the callback, data and machine.

    Args:
        trainer: That fits.
        pl_module: What is fitted.
        settings: Arguments of the callback.

    Returns:
        Name -> value, in the order in which they are told.
    """
    network = getattr(pl_module, "network", None)
    inner = type(network).__name__ if isinstance(network, torch.nn.Module) else type(pl_module).__name__
    fraction = data_fraction(trainer)
    return {
        "network": inner,
        **{name.replace("_", " "): _told(value) for name, value in settings.items()},
        "epochs": str(trainer.max_epochs),
        **({} if fraction is None else {"fraction of the training data": f"{fraction:g}"}),
        "precision": str(trainer.precision),
        "machine": (
            f"{type(trainer.accelerator).__name__.removesuffix('Accelerator')}, {torch.get_num_threads()} threads of "
            f"{platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}"
        ),
    }


def data_fraction(trainer: Trainer) -> float | None:
    """The share of the training data that the data module says it gives, or ``None`` where it does not say."""
    fraction = getattr(trainer.datamodule, "train_fraction", None)  # type: ignore[attr-defined]
    return float(fraction) if isinstance(fraction, (int, float)) else None


def _told(value: Any) -> str:
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return "none" if value is None else str(value)
