"""Pruning on many processes: one of them decides, all of them cut, and none goes on unless all agree."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_cosprune.calibration.moments import Pool
from lightning_cosprune.network.structure import describe_structure
from lightning_cosprune.training.checkpoint import PrunableMixin

__all__ = [
    "StoppedError",
    "as_on_rank_zero",
    "check_strategy",
    "decided_by_rank_zero",
    "pool_of",
    "same_buffers",
    "same_on_all_ranks",
    "unwrapped",
]

T = TypeVar("T")


class StoppedError(RuntimeError):
    """This process stops because another one failed, or did something else; all of them know."""


def check_strategy(trainer: Trainer, pl_module: LightningModule) -> None:
    """Refuse strategies under which the processes' networks could come apart or lose parameters.

    Raises:
        ValueError: The strategy shards the network, or is not known to survive a prune, or cannot give the smaller
            weights back to the process that called ``fit``.
    """
    strategy: Any = trainer.strategy
    name = type(strategy).__name__
    if strategy.restore_checkpoint_after_setup or name in (
        "FSDPStrategy",
        "DeepSpeedStrategy",
        "ModelParallelStrategy",
    ):
        raise ValueError(
            f"`CosineFilterPruning` with {name}: expected a strategy that keeps the network whole on every process, "
            "found one that shards it. Prune first, then shard: run the prune in a `fit` on one process, or with "
            "`apply_plan`, and give the smaller network to the sharded `fit`."
        )
    # On one process too: it is not the one that called `fit`.
    if getattr(strategy, "_start_method", "popen") != "popen" and not isinstance(pl_module, PrunableMixin):
        raise ValueError(
            f"`CosineFilterPruning` with processes started by {strategy._start_method!r}: expected a LightningModule "
            f"with `PrunableMixin`, found {type(pl_module).__name__}. After training the smaller weights go back into "
            "the dense module of the process that called `fit`. Write "
            f'`class {type(pl_module).__name__}(PrunableMixin, LightningModule)`, or use `strategy="ddp"`.'
        )
    if trainer.world_size == 1:
        return
    if name != "DDPStrategy":
        raise ValueError(
            f'`CosineFilterPruning` with {name} on {trainer.world_size} processes: expected `strategy="ddp"`, the only '
            "one on many processes that is known to go on correctly after a prune. Use it, or prune on one process "
            "with `apply_plan` before."
        )
    if strategy._ddp_comm_hook is not None or strategy._model_averaging_period is not None:
        raise ValueError(
            "`CosineFilterPruning` with `DDPStrategy(ddp_comm_hook=...)`: expected no communication hook, because what "
            "hooks remember of each parameter does not fit the smaller ones. Leave it out, or prune on one process "
            "with `apply_plan` before."
        )
    if strategy._layer_sync is not None or any(isinstance(layer, nn.SyncBatchNorm) for layer in pl_module.modules()):
        raise ValueError(
            "`CosineFilterPruning` with `SyncBatchNorm` on many processes: expected batch norms of each process's own, "
            "because a prune with synchronised ones has not been tested. Leave out `sync_batchnorm=True`, or prune on "
            "one process with `apply_plan` before."
        )


def decided_by_rank_zero(trainer: Trainer, decide: Callable[[], T]) -> T:
    """What ``decide`` returns on the first process, on all of them; the others do not call it.

    Raises:
        RuntimeError: On the others, where ``decide`` raised on the first; there its own error is raised.

    Returns:
        A pickled copy, except on the first process.
    """
    decided: T | None = None
    failed: Exception | None = None
    if trainer.global_rank == 0:
        try:
            decided = decide()
        except Exception as error:  # told to the others, who would wait for ever, and raised below
            failed = error
    message, decided = trainer.strategy.broadcast((None if failed is None else str(failed), decided), 0)
    if failed is not None:
        raise failed
    if message is not None:
        raise RuntimeError(f"The first process failed, so this one stops as well: {message}")
    return decided  # type: ignore[return-value]


@contextlib.contextmanager
def same_on_all_ranks(trainer: Trainer, module: nn.Module) -> Iterator[None]:
    """Change ``module`` on every process, then compare: all of them must have come out the same, or all stop.

    Raises:
        RuntimeError: The change failed on another process, or the structures differ afterwards.

    Yields:
        Nothing.
    """
    failed: Exception | None = None
    try:
        yield
    except StoppedError:
        raise
    except Exception as error:  # told to the others, who would wait for ever, and raised below
        failed = error
    if trainer.world_size > 1:
        differently = (
            "The processes pruned differently: {groups} do not have the same network. Training on would mix different "
            "filters. Please report this network as a bug of lightning_cosprune."
        )
        _compare(trainer, failed, "" if failed is not None else _fingerprint(module), differently)
    if failed is not None:
        raise failed


def pool_of(trainer: Trainer) -> Pool | None:
    """What sums tensors over all processes within :func:`same_on_all_ranks`, in float64; ``None`` for one process.

    Before each sum the processes tell each other that they are about to form it. A process that fails goes on to the
    end of :func:`same_on_all_ranks` and tells that in its place, so that the others stop instead of waiting.

    Returns:
        A function of a list of tensors, which must have the same shapes on all processes.
    """
    if trainer.world_size == 1:
        return None

    def pool(tensors: list[Tensor]) -> list[Tensor]:
        _meet(trainer, f"sum {[tuple(tensor.shape) for tensor in tensors]}")
        found = []
        for tensor in tensors:
            total = tensor.to(trainer.strategy.root_device, torch.float64, copy=True).contiguous()
            torch.distributed.all_reduce(total)
            found.append(total.to(tensor.device, tensor.dtype))
        return found

    return pool


def same_buffers(trainer: Trainer, module: nn.Module) -> None:
    """Change ``module`` in place: it has the first process's buffers, as the next training step would see to.

    That is what DistributedDataParallel does at each step, unless told otherwise by ``broadcast_buffers=False``.
    """
    strategy: Any = trainer.strategy
    if trainer.world_size > 1 and strategy._ddp_kwargs.get("broadcast_buffers", True):
        as_on_rank_zero(trainer, module.buffers())


@torch.no_grad()
def as_on_rank_zero(trainer: Trainer, tensors: Iterable[Tensor]) -> None:
    """Change ``tensors`` in place: they have the first process's values, however the others' machines round."""
    if trainer.world_size == 1:
        return
    tensors = list(tensors)
    _meet(trainer, f"share {[tuple(tensor.shape) for tensor in tensors]}")
    for tensor in tensors:
        whole = tensor.detach().to(trainer.strategy.root_device).contiguous()
        torch.distributed.broadcast(whole, 0)
        tensor.copy_(whole)


def _meet(trainer: Trainer, about: str) -> None:
    """Wait until all processes are about to do the same."""
    _compare(trainer, None, about, "The processes {groups} came apart while pruning, so all of them stop.")


def _compare(trainer: Trainer, failed: Exception | None, found: str, differently: str) -> None:
    outcomes: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(outcomes, (failed is not None, found if failed is None else str(failed)))
    if failed is not None:
        return
    for rank, (has_failed, text) in enumerate(outcomes):
        if has_failed:
            raise StoppedError(f"Process {rank} failed, so this one stops as well: {text}")
    if len(set(outcomes)) > 1:
        groups = [[rank for rank, other in enumerate(outcomes) if other == one] for one in sorted(set(outcomes))]
        raise StoppedError(differently.format(groups=" and ".join(map(str, groups))))


@contextlib.contextmanager
def unwrapped(trainer: Trainer) -> Iterator[None]:
    """Take the network out of its DistributedDataParallel wrapper, and wrap it anew afterwards.

    The wrapper's reducer has buckets of the old shapes and hooks on every parameter; both go with it.

    Yields:
        Nothing.
    """
    strategy: Any = trainer.strategy
    if not isinstance(strategy.model, nn.parallel.DistributedDataParallel):
        yield
        return
    strategy.model = trainer.lightning_module
    gc.collect()  # the reducer takes its hooks off when it is destroyed, and it is part of a reference cycle
    yield
    strategy.configure_ddp()


def _fingerprint(module: nn.Module) -> str:
    """Structure and parameters in a few characters; buffers such as batch-norm statistics differ between processes."""
    digest = hashlib.sha256(json.dumps(describe_structure(module), sort_keys=True).encode())
    for parameter in module.parameters():
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
