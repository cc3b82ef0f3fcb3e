"""Callbacks that compare epochs: what they remember of the network before a prune is no measure for the one after."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning.pytorch import Callback

__all__ = ["forget_scores"]


def forget_scores(callbacks: Iterable[Callback]) -> list[str]:
    """Change ``ModelCheckpoint`` and ``EarlyStopping`` callbacks in place: they start anew, as before the first epoch.

    Without that a checkpoint of the dense network stays "best" for the rest of the run, and early stopping counts the
    epochs that the pruned network needs to recover. Checkpoint files that were written stay where they are; they are
    no longer counted, so ``save_top_k`` does not delete them.

    Args:
        callbacks: Those of a Trainer. Callbacks of ``pytorch_lightning`` and of classes derived from these are meant
            too; all others are left alone.

    Returns:
        Names of the callbacks that were changed.
    """
    changed = []
    for callback in callbacks:
        names = {cls.__name__ for cls in type(callback).__mro__}
        if "ModelCheckpoint" in names:
            callback.best_k_models = {}  # type: ignore[attr-defined]
            callback.best_model_path = callback.kth_best_model_path = ""  # type: ignore[attr-defined]
            callback.best_model_score = callback.current_score = None  # type: ignore[attr-defined]
            callback.kth_value = _worst(callback.mode)  # type: ignore[attr-defined]
        elif "EarlyStopping" in names:
            callback.wait_count = 0  # type: ignore[attr-defined]
            callback.best_score = _worst(callback.mode)  # type: ignore[attr-defined]
        else:
            continue
        changed.append(type(callback).__name__)
    return changed


def _worst(mode: str) -> torch.Tensor:
    return torch.tensor(torch.inf if mode == "min" else -torch.inf)
