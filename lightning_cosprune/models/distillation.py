"""How far a student is from its teacher, and how it is run while it learns from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_cosprune.arguments import as_real

__all__ = ["as_evaluated", "check_distillation", "distillation_loss", "in_modes"]


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float | None = None) -> Tensor:
    r"""Distance of a student's outputs from its teacher's, in single precision or better.

    .. math::
        \frac{1}{NK} \sum_{n, k} (s_{nk} - t_{nk})^2 \quad \text{or} \quad
        \frac{T^2}{N} \sum_n \mathrm{KL}(\mathrm{softmax}(t_n / T) \,\|\, \mathrm{softmax}(s_n / T))

    Args:
        student: Class scores before softmax, ``(batch, classes, ...)``, or any other output.
        teacher: Those of the teacher, of the same shape; no gradient goes there.
        temperature: :math:`T` of the divergence; the squared error where ``None``.

    Returns:
        A scalar, 0 where both are the same.

    Raises:
        ValueError: The shapes differ.

    Source: Ba and Caruana, NeurIPS 2014 (squared error of logits); Hinton, Vinyals and Dean, 2015 (temperature).

    Example:
        >>> distillation_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
        tensor(2.)
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"`distillation_loss(student=..., teacher=...)`: expected outputs of one shape, found "
            f"{tuple(student.shape)} from the student and {tuple(teacher.shape)} from the teacher. Pass a teacher with "
            "the same classes."
        )
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    if temperature is None:
        return functional.mse_loss(student, teacher)
    axis = min(1, student.ndim - 1)
    wanted = (teacher / temperature).log_softmax(axis)
    found = (student / temperature).log_softmax(axis)
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(axis).mean()


def as_evaluated(student: nn.Module, batch_norm: str = "frozen", dropout: bool = False) -> dict[nn.Module, bool]:
    """Put ``student`` in evaluation mode, for gradients: it is compared with a teacher that evaluates.

    Args:
        student: Its modules' modes are changed.
        batch_norm: ``"frozen"`` normalises by running statistics and keeps them; ``"training"`` by those of the batch.
        dropout: Whether dropout goes on.

    Returns:
        The mode that each module had, for :func:`in_modes`.
    """
    modes = {module: module.training for module in student.modules()}
    student.eval()
    for module in modes:
        if (
            (dropout and isinstance(module, _DropoutNd))
            or (batch_norm == "training" and isinstance(module, _BatchNorm))
            # cuDNN computes gradients of recurrent layers in training mode only.
            or (isinstance(module, nn.RNNBase) and (dropout or not module.dropout))
        ):
            module.training = modes[module]
    return modes


def in_modes(modes: dict[nn.Module, bool]) -> None:
    """Give modules the modes back that :func:`as_evaluated` found."""
    for module, mode in modes.items():
        module.training = mode


def check_distillation(caller: str, alpha: Any, temperature: Any, batch_norm: Any = "frozen") -> None:
    """Refuse options out of range.

    Raises:
        ValueError: With what was found and what to write instead.
    """
    share = as_real(alpha)
    if share is None or not 0 < share <= 1:
        raise ValueError(
            f"`{caller}(alpha={alpha!r})`: expected the teacher's share of the loss, above 0 and at most 1. Write 1 to "
            "learn from the teacher alone, without labels."
        )
    warmth = None if temperature is None else as_real(temperature)
    if temperature is not None and (warmth is None or not 0 < warmth < float("inf")):
        raise ValueError(
            f"`{caller}(temperature={temperature!r})`: expected None for the squared error of the outputs, or a "
            "positive number for the divergence of their softmax. Write 4.0 for a soft one."
        )
    if not isinstance(batch_norm, str) or batch_norm not in ("frozen", "training"):
        raise ValueError(
            f'`{caller}(batch_norm={batch_norm!r})`: expected "frozen" or "training". "frozen" keeps the statistics '
            "that pruning and repair left."
        )
