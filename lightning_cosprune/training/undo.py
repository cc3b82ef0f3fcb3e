"""A prune that fails half way, or is interrupted, leaves the network and its optimizers as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.surgery.optim import Bindings

__all__ = ["as_before_on_failure"]


@contextlib.contextmanager
def as_before_on_failure(network: nn.Module, optimizers: Sequence[Optimizer] = ()) -> Iterator[None]:
    """Let ``network`` and ``optimizers`` be changed whole or not at all: what raises within is undone to the last bit.

    That goes for an interrupt from the keyboard too, after which Lightning may write a checkpoint.

    Yields:
        Nothing.
    """
    before = Snapshot(network)
    # The cut makes new tensors, a repair writes into those that are there.
    contents = [(tensor, tensor.detach().clone()) for tensor in (*network.parameters(), *network.buffers())]
    bound = Bindings(optimizers)
    try:
        yield
    except BaseException:
        before.restore()
        with torch.no_grad():
            for tensor, content in contents:
                tensor.copy_(content)
        bound.restore()
        raise
