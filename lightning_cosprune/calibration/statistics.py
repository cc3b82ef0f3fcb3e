"""Batch norms whose statistics are those of calibration data: a control that every comparison of repairs needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cosprune.calibration.batches import as_batches
from lightning_cosprune.network.forward import call, evaluating, same_random_state

__all__ = ["reestimate_batch_norms"]


def reestimate_batch_norms(model: nn.Module, calibration: Iterable[Any]) -> None:
    """Change ``model`` in place: its batch norms' running statistics become those of ``calibration``.

    Front to back: each batch norm normalises by the statistics of the batch, as in training, and keeps their mean over
    batches; all else, dropout included, is in evaluation mode. A dense network gains by it too where test data differ
    from training data, so that a repair is to be compared with a dense network that had the same.

    Args:
        model: The network.
        calibration: Unlabelled inputs, one entry a forward pass; large batches are better than small ones.

    Raises:
        ValueError: There are no calibration data.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> reestimate_batch_norms(norm, [torch.tensor([[1.0], [3.0]])])
        >>> norm.running_mean
        tensor([2.])
    """
    batches = as_batches(calibration, "reestimate_batch_norms")
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    try:
        with evaluating(model), torch.no_grad(), same_random_state():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # PyTorch's way to say: the mean over batches
                norm.train()
            for batch in batches:
                call(model, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
