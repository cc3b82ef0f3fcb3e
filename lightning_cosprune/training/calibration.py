"""Calibration data of a run: training samples without their labels, read behind the back of the training."""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_cosprune.arguments import as_whole
from lightning_cosprune.calibration.batches import as_batches
from lightning_cosprune.network.forward import evaluating
from lightning_cosprune.training.example_input import input_of, to_device

__all__ = ["calibration_batches", "check_calibration", "spread_over"]

_LARGEST = 32
"""Samples of a batch, at most."""


def check_calibration(calibration: Any, caller: str) -> int | Iterable[Any]:
    """Refuse what is neither a number of samples nor an iterable of inputs, as far as can be told without reading it.

    Raises:
        ValueError: With what was found and what to write instead.

    Returns:
        The number as an ``int``, or the iterable.
    """
    number = as_whole(calibration)
    if number is not None and number > 0:
        return number
    refused = isinstance(calibration, (int, Tensor, Mapping, str)) or not isinstance(calibration, Iterable)
    empty = isinstance(calibration, Sequence) and not calibration
    if refused or empty:
        of_one = isinstance(calibration, Tensor)
        found = f"a tensor of shape {tuple(calibration.shape)}" if of_one else repr(calibration)
        raise ValueError(
            f"`{caller}(calibration=...)`: expected a number of training samples, 1 or more, or an iterable of inputs, "
            f"one a forward pass, found {found}. "
            + ("Write `[inputs]` for a single batch." if of_one else "Write 16 for sixteen training samples.")
        )
    inputs: Iterable[Any] = calibration
    return inputs


def calibration_batches(
    trainer: Trainer, calibration: int | Iterable[Any], caller: str, rank: int = 0, world_size: int = 1
) -> list[Any]:
    """One process's share of the calibration data, in the Trainer's precision and on the LightningModule's device.

    A number of samples is spread over those that the training loader's sampler may give, whatever it gives in this
    epoch; of a data set without numbers the first ones are taken. Labels are not looked at: the input is the batch, or
    its first entry. Hooks that move batches are called as in validation, so that what they augment in training only
    stays as it is, and what they compute for the network is computed; transforms within the data set are applied as it
    applies them, from a fixed seed. The random streams of training stay where they are.

    Args:
        trainer: Its training data are read.
        calibration: How many samples, or inputs, one entry a forward pass.
        caller: Name that an error is about.
        rank: Number of the process.
        world_size: How many processes share the data.

    Returns:
        Batches of at most 32 samples, or every ``world_size``-th entry of the iterable.

    Raises:
        ValueError: There are too few samples, or it cannot be told which entry of a batch is the input.
    """
    device = trainer.lightning_module.device
    if not isinstance(calibration, int):
        entries = as_batches(calibration, caller)
        if len(entries) < world_size:
            raise ValueError(
                f"`{caller}(calibration=...)`: expected an input for each of {world_size} processes, found "
                f"{len(entries)}. Split them into more: `inputs.split(8)`."
            )
        convert = trainer.precision_plugin.convert_input
        return [to_device(convert(entry), device) for entry in entries[rank::world_size]]
    if calibration < world_size:
        raise ValueError(
            f"`{caller}(calibration={calibration})`: expected a sample for each of {world_size} processes. Raise it "
            f"to {world_size} or more."
        )
    share = len(range(rank, calibration, world_size))
    found: list[Any] = []
    count = 0
    with isolate_rng(), _as_in_validation(trainer):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the stream that transforms draw from
        for batch in _batches(trainer.train_dataloader, calibration, caller, rank, world_size):
            inputs = input_of(_moved(trainer, batch), f"{caller}(calibration={calibration})", "calibration")
            inputs = inputs[: share - count]
            found += inputs.split(_LARGEST)
            count += len(inputs)
            if count == share:
                return [to_device(inputs, device) for inputs in found]
    raise _too_few(caller, calibration, count)


def spread_over(numbers: Sequence[int], wanted: int) -> list[int]:
    """Draw one number, from a fixed seed, of each of ``wanted`` stretches of equal length."""
    draw, count = random.Random(0), len(numbers)
    edges = [stretch * count // wanted for stretch in range(wanted + 1)]
    return [numbers[draw.randrange(first, end)] for first, end in itertools.pairwise(edges)]


def _batches(loader: Any, wanted: int, caller: str, rank: int, world_size: int) -> Iterator[Any]:
    """This process's samples in batches as the loader would make them, on the CPU; more where they cannot be counted.

    Raises:
        ValueError: There are too few.

    Yields:
        A batch.
    """
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        numbers = _numbers(loader)
        if loader.batch_sampler is None:  # the data set makes whole batches itself
            mixed = random.Random(0).sample(numbers, len(numbers))
            yield from (loader.collate_fn(loader.dataset[number]) for number in mixed[rank::world_size])
            return
        if len(numbers) < wanted:
            raise _too_few(caller, wanted, len(numbers))
        chosen = spread_over(numbers, wanted)[rank::world_size]
        for start in range(0, len(chosen), _LARGEST):
            yield loader.collate_fn(_fetched(loader.dataset, chosen[start : start + _LARGEST]))
        return
    if isinstance(loader, DataLoader):  # without its workers, which may be at work already
        loader = DataLoader(loader.dataset, loader.batch_size, collate_fn=loader.collate_fn)
    yield from loader


def _numbers(loader: DataLoader[Any]) -> list[int]:
    """Which samples the loader's sampler may give, ascending: the same in every epoch and on every process."""
    sampler: Any = loader.batch_sampler or loader.sampler
    dataset: Any = loader.dataset
    while True:
        if type(sampler) is BatchSampler:
            sampler = sampler.sampler
        elif isinstance(sampler, DistributedSampler) and hasattr(sampler.dataset, "_sampler"):
            sampler = sampler.dataset._sampler  # Lightning's wrapper around the user's own
        else:
            break
    if type(sampler) in (SequentialSampler, RandomSampler, DistributedSampler):
        return list(range(len(dataset)))
    # A copy: many samplers count their passes or hold a random stream.
    given = itertools.islice(copy.deepcopy(sampler, {id(dataset): dataset}), len(dataset))
    return sorted({int(number) for entry in given for number in (entry if isinstance(entry, Iterable) else [entry])})


def _fetched(dataset: Any, numbers: list[int]) -> Any:
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(numbers)
    return [dataset[number] for number in numbers]


def _too_few(caller: str, wanted: int, found: int) -> ValueError:
    return ValueError(
        f"`{caller}(calibration={wanted})`: expected as many training samples, found {found}. Lower `calibration`, or "
        "pass an iterable of other inputs."
    )


@contextlib.contextmanager
def _as_in_validation(trainer: Trainer) -> Iterator[None]:
    stage = trainer.state.stage
    trainer.validating = True
    try:
        with evaluating(trainer.lightning_module):
            yield
    finally:
        trainer.state.stage = stage


def _moved(trainer: Trainer, batch: Any) -> Any:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
