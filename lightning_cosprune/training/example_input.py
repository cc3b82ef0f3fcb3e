"""The example input that finds out which layer reads which, taken from the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset

__all__ = ["find_example_inputs", "input_of", "look_at_a_batch", "to_device"]


def find_example_inputs(trainer: Trainer, pl_module: LightningModule, target: nn.Module, given: Any) -> Any:
    """What was given, else the target's ``example_input_array``, else one sample of the training data.

    Returns:
        The input in the Trainer's precision, on the device of the LightningModule.
    """
    inputs = getattr(target, "example_input_array", None) if given is None else given
    if inputs is None:
        batch = look_at_a_batch(trainer.train_dataloader)
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        inputs = input_of(batch, "CosineFilterPruning(example_inputs=None)", "example_inputs")[:1]
    return to_device(trainer.precision_plugin.convert_input(inputs), pl_module.device)


def look_at_a_batch(loader: Any) -> Any:
    """One training batch, without a step of the sampler or a draw from the random streams that training will use.

    Raises:
        ValueError: There are none.

    Returns:
        The first sample alone, collated, where samples can be asked for by number; else the first batch.
    """
    with isolate_rng():
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            batch = next(iter(loader), None)
            if batch is None:
                raise ValueError(
                    "`CosineFilterPruning(example_inputs=None)`: expected training data, of which one sample tells "
                    f"which layer reads which, found none: the {type(getattr(loader, 'dataset', loader)).__name__} "
                    "gave no batch. Let it give some, or pass `example_inputs`."
                )
            return batch
        if loader.batch_size is None and loader.batch_sampler is None:  # the data set makes whole batches itself
            return loader.collate_fn(loader.dataset[0])
        if hasattr(loader.dataset, "__getitems__"):
            return loader.collate_fn(loader.dataset.__getitems__([0]))
        return loader.collate_fn([loader.dataset[0]])


def input_of(batch: Any, caller: str, parameter: str) -> Tensor:
    """The input in a training batch: the batch itself, or the first entry of a tuple or list.

    Args:
        batch: What a loader gave.
        caller: What an error is about.
        parameter: What the user may pass instead.

    Returns:
        A tensor whose first axis counts samples.

    Raises:
        ValueError: The batch is a mapping or something else whose input cannot be told.
    """
    inputs = batch[0] if isinstance(batch, Sequence) and not isinstance(batch, str) and batch else batch
    if isinstance(inputs, Tensor) and inputs.ndim:
        return inputs
    found = (
        f"a mapping with the keys {', '.join(map(str, inputs))}"
        if isinstance(inputs, Mapping)
        else type(inputs).__name__
    )
    instead = (
        ", or set `example_input_array` in the LightningModule"
        if parameter == "example_inputs"
        else " as a list of inputs"
    )
    raise ValueError(
        f"`{caller}`: expected training batches that are a tensor or start with one, found {found}. Pass "
        f"`{parameter}`{instead}."
    )


def to_device(inputs: Any, device: torch.device | str) -> Any:
    """``inputs`` with every tensor in it on ``device``."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)
