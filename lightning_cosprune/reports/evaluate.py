"""The accuracy of a network in the midst of a fit, without the fit noticing."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

__all__ = ["can_validate", "validate_copy"]

_TRANSFERS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def can_validate(trainer: Trainer) -> bool:
    """Whether the fit has validation data that this process can look at alone."""
    return bool(trainer.world_size == 1 and trainer.enable_validation and trainer.val_dataloaders)


def validate_copy(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """Validate a copy of the module of a running fit on the fit's validation data.

    A Trainer of its own does it, without loggers and callbacks; random streams stay where they are.

    Args:
        trainer: The Trainer that fits.
        module: A copy of its module, which is not used afterwards.

    Returns:
        What the module logs in validation.
    """
    kind = next(cls for cls in type(trainer).__mro__ if cls.__module__.endswith(".trainer.trainer"))
    device = module.device
    with _quiet(), isolate_rng(), torch.enable_grad():
        other: Any = kind(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index] if device.type == "cuda" else 1,
            precision=trainer.precision,
            logger=False,
            callbacks=[],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=trainer.limit_val_batches,
            use_distributed_sampler=False,
        )
        with _transfers_of(trainer, other, module):
            found = other.validate(module, trainer.val_dataloaders, verbose=False)
    return {name: float(value) for metrics in found for name, value in metrics.items()}


@contextlib.contextmanager
def _transfers_of(trainer: Trainer, other: Any, module: LightningModule) -> Iterator[None]:
    """Let the copy move batches by the hooks of the fit's data module, where that has its own."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    theirs = [
        name
        for name in _TRANSFERS
        if data is not None
        and not getattr(type(data), name).__module__.startswith(("lightning.", "pytorch_lightning."))
    ]
    for name in theirs:
        setattr(module, name, getattr(data, name))
    held = getattr(data, "trainer", None)
    if theirs:
        data.trainer = other
    try:
        yield
    finally:
        if theirs:
            data.trainer = held


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what a Trainer says of itself."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
