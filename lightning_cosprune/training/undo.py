"""A prune that fails half way, or is interrupted, leaves the network and its optimizers as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim import Optimizer

from lightning_cosprune.network.rollback import whole_or_not_at_all
from lightning_cosprune.surgery.optim import Bindings

__all__ = ["as_before_on_failure"]


@contextlib.contextmanager
def as_before_on_failure(network: nn.Module, optimizers: Sequence[Optimizer] = ()) -> Iterator[None]:
    """Let ``network`` and ``optimizers`` be changed whole or not at all: what raises within is undone to the last bit.

    That goes for an interrupt from the keyboard too, after which Lightning may write a checkpoint.

    Yields:
        Nothing.
    """
    bound = Bindings(optimizers)
    try:
        with whole_or_not_at_all(network):
            yield
    except BaseException:
        bound.restore()
        raise
