"""The example input that finds out which layer reads which, taken from the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

__all__ = ["first_input", "look_at_a_batch"]


def look_at_a_batch(loader: Any) -> Any:
    """One training batch, without a step of the sampler or a draw from the random streams that training will use.

    Returns:
        The first sample alone, collated, where samples can be asked for by number; else the first batch.
    """
    with isolate_rng():
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
            return next(iter(loader))
        if loader.batch_size is None and loader.batch_sampler is None:  # the data set makes whole batches itself
            return loader.collate_fn(loader.dataset[0])
        if hasattr(loader.dataset, "__getitems__"):
            return loader.collate_fn(loader.dataset.__getitems__([0]))
        return loader.collate_fn([loader.dataset[0]])


def first_input(batch: Any) -> Any:
    """The input of the first sample of a training batch: the batch itself, or the first entry of a tuple or list.

    Returns:
        A batch of one.

    Raises:
        ValueError: The batch is a mapping or something else whose input cannot be told.
    """
    inputs = batch[0] if isinstance(batch, Sequence) and not isinstance(batch, str) and batch else batch
    if isinstance(inputs, Tensor) and inputs.ndim:
        return inputs[:1]
    found = (
        f"a mapping with the keys {', '.join(map(str, inputs))}"
        if isinstance(inputs, Mapping)
        else type(inputs).__name__
    )
    raise ValueError(
        "`CosineFilterPruning(example_inputs=None)`: expected training batches that are a tensor or start with one, "
        f"found {found}. Pass `example_inputs`, or set `example_input_array` in the LightningModule."
    )
