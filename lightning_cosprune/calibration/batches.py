"""Calibration data as a list of batches, as large as they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_cosprune.network.forward import call, evaluating, float_tensors, same_random_state, unchanged

__all__ = ["as_batches", "check_runs", "first_sample", "merged", "num_samples"]

_HELD = 3 * 2**28
"""Bytes that the largest output of a layer may take for a whole batch: 768 MiB."""


def as_batches(calibration: Iterable[Any], caller: str, parameter: str = "calibration") -> list[Any]:
    """Calibration data as a list, for they are read more than once.

    Raises:
        TypeError: They cannot be iterated over.
        ValueError: There are none, or they are one tensor instead of an iterable of inputs.

    Returns:
        One entry a forward pass.
    """
    if isinstance(calibration, (Tensor, Mapping, str, bytes)):
        raise ValueError(
            f"`{caller}({parameter}=...)`: expected an iterable of inputs, one a forward pass, found a "
            f"{type(calibration).__name__}. Write `[inputs]` for a single batch."
        )
    if (
        not isinstance(calibration, Iterable)
        or isinstance(calibration, nn.Module)
        or getattr(calibration, "shape", None) == ()
    ):
        raise TypeError(
            f"`{caller}({parameter}=...)`: expected an iterable of inputs, one a forward pass, found a "
            f"{type(calibration).__name__}. Write `[inputs]` for a single batch."
        )
    batches = list(calibration)
    if not batches:
        raise ValueError(f"`{caller}({parameter}=...)`: expected at least one input, found none. Pass [inputs].")
    return batches


def check_runs(model: nn.Module, batches: Sequence[Any], caller: str, parameter: str = "calibration") -> None:
    """Refuse inputs on which ``model`` does not run; of several of one kind and shape the first is tried.

    Raises:
        ValueError: With the place of the entry and what the forward pass says.
    """
    tried: set[Any] = set()
    for number, batch in enumerate(batches):
        leaves = tree_leaves(batch)
        kind = tuple((type(leaf), getattr(leaf, "shape", None), getattr(leaf, "dtype", None)) for leaf in leaves)
        if kind in tried:
            continue
        tried.add(kind)
        try:
            with unchanged(model), evaluating(model), torch.no_grad(), same_random_state():
                float_tensors(call(model, batch))
        except Exception as error:  # a network may fail in any way
            raise ValueError(
                f"`{caller}({parameter}=...)`: expected inputs of {type(model).__name__}, one a forward pass, found "
                f"{_described(batch)} in place {number}, with which its forward pass fails: {type(error).__name__}: "
                f"{error}. Pass a list of tensors, of tuples of positional or mappings of keyword arguments."
            ) from error


def _described(batch: Any) -> str:
    return f"a tensor of shape {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"a {type(batch).__name__}"


def num_samples(batch: Any) -> int:
    """How many samples one entry of calibration data holds: the length of its first tensor."""
    first = next((leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), None)
    return 1 if first is None else len(first)


def first_sample(batch: Any) -> Any:
    """The first sample of a batch, as a batch of one; what is not as long as the batch is the same for all samples."""
    samples = num_samples(batch)
    return tree_map(
        lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == samples else leaf, batch
    )


def merged(model: nn.Module, batches: Sequence[Any]) -> list[Any]:
    """The same samples in fewer batches: neighbours that are single tensors of one shape are put together.

    Args:
        model: The network; what its layers return for one sample decides how large a batch may be. Left as it was
            found.
        batches: One entry a forward pass.

    Returns:
        Batches in the order of the samples; those that are no single tensors as they are.
    """
    if len(batches) < 2 or not all(isinstance(batch, Tensor) and batch.ndim > 1 for batch in batches):
        return list(batches)
    most = max(_HELD // max(_largest_output(model, first_sample(batches[0])), 1), 1)
    found: list[list[Tensor]] = []
    for batch in batches:
        alike = found and (found[-1][0].shape[1:], found[-1][0].dtype) == (batch.shape[1:], batch.dtype)
        if alike and sum(map(len, found[-1])) + len(batch) <= most:
            found[-1].append(batch)
        else:
            found.append([batch])
    return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in found]


def _largest_output(model: nn.Module, sample: Any) -> int:
    """Bytes of the largest tensor that a module returns."""
    largest = 0

    def note(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        sizes = (leaf.numel() * leaf.element_size() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        largest = max(largest, *sizes, 0)

    with unchanged(model), evaluating(model), torch.no_grad(), same_random_state():
        for module in model.modules():
            module.register_forward_hook(note)  # taken off with all else that is changed here
        call(model, sample)
    return largest
