"""In what the tensors of two networks differ beyond rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "OUTPUT",
    "Difference",
    "compare",
    "differing_channels",
    "reason_of_shape",
    "sample",
]

# Summation order differs between a wide and a narrow layer; anything beyond rounding is a wrong cut.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

_DOUBTFUL = 1e-2
"""A relative error in float32 up to which the pass is repeated in float64."""

_LARGEST_RECORD = 2**17
"""How many values of one layer's input or output are compared at most, spread over all of it."""

OUTPUT = "the network's output"
"""Where a difference is, if it is not at a layer."""


def sample(tensor: Tensor) -> Tensor:
    """Some values of a tensor, or all.

    Returns:
        A copy of values spread over all of it: an odd step meets every row and column.
    """
    step = tensor.numel() // _LARGEST_RECORD | 1
    return tensor.flatten()[::step].clone()


@dataclass(frozen=True)
class Difference:
    """That something else was found than expected; doubtful where it may be rounding that was blown up."""

    reason: str
    doubtful: bool = False


def compare(expected: list[Tensor], found: list[Tensor], where: str, tolerance: float | None) -> Difference | None:
    """In what tensors differ beyond rounding, if so.

    Args:
        expected: Those of the dense network.
        found: Those of the smaller one.
        where: What has made them, for the user.
        tolerance: The greatest error as a part of the largest value; that of the data type where ``None``.

    Returns:
        The first difference.
    """
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        if where == OUTPUT:
            return Difference("its filters are outputs of the network")
        return Difference(f"the cut changes the shape of what {where} computes")
    for dense, pruned in zip(expected, found, strict=True):
        if not dense.numel() or torch.equal(dense, pruned):
            continue
        exact = sample(dense).cpu().double()  # some devices have no float64
        error = (exact - sample(pruned).cpu().double()).abs().max() / exact.abs().max().clamp(min=1e-30)
        at_most = _TOLERANCE.get(dense.dtype, 0.0) if tolerance is None else tolerance
        if not error <= at_most:  # written so that NaN is refused
            return Difference(
                f"the cut changes what the other channels compute: {where} comes out otherwise by up to {error:.1e} of "
                f"its largest value, more than rounding does ({at_most:.0e}). If that is because of a norm over "
                "channels, name it in `normalising`",
                bool(error <= _DOUBTFUL),
            )
    return None


def reason_of_shape(name: str, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What PyTorch says of an input of a wrong shape, if it says anything."""
    try:
        reader.forward(*args, **kwargs)
    except Exception as error:
        return f"it cannot be cut: {type(error).__name__}: {error}"
    return f"the cut changes the shape of what {name} is given"


def differing_channels(expected: Tensor, found: Tensor, axis: int) -> Tensor:
    """Which channels are farther off than a thousandth of the one that is farthest off."""
    error = (expected.double() - found.double()).abs().movedim(axis, 0).flatten(1).amax(dim=1)
    return ~(error <= 1e-3 * error.max()).cpu()
