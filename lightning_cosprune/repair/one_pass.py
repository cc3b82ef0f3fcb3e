"""All layers repaired within one forward pass, each just before it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.network.forward import call, evaluating, same_random_state
from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.repair.report import RepairedLayer
from lightning_cosprune.repair.targets import Targets

__all__ = ["Refit", "repair_in_one_pass"]

Refit = Callable[[str, Sequence[Sequence[Tensor]]], RepairedLayer]


def repair_in_one_pass(pruned: nn.Module, batch: Any, targets: Targets, refit: Refit) -> list[RepairedLayer]:
    """Change ``pruned`` in place: where all data are one batch, what a layer is given is there just before it runs.

    The layers before it were repaired in the same pass, so nothing is computed twice. Each layer must be called once.

    Args:
        pruned: The network after the cut.
        batch: All calibration data.
        targets: What the dense network computes.
        refit: Changes a layer, given its name and what it is given, for each batch and each call.

    Returns:
        The layers, in the order of their repair.
    """
    repaired: dict[str, RepairedLayer] = {}
    progress = tqdm(total=len(targets.calls), desc="Repairing", unit="layer", delay=2, leave=False)

    def repair(name: str, given: Tensor) -> None:
        if name not in repaired:
            repaired[name] = refit(name, [[given.detach()]])
            progress.update()

    before = Snapshot(pruned)
    kept = [(buffer, buffer.clone()) for buffer in pruned.buffers()]
    written = {
        id(pruned.get_submodule(sequel.batch_norm).running_mean)
        for sequel in targets.sequels.values()
        if sequel.batch_norm is not None
    }
    try:
        with evaluating(pruned), torch.no_grad(), same_random_state(), progress:
            for name in targets.calls:
                pruned.get_submodule(name).register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: repair(name, args[0] if args else kwargs["input"]),
                    with_kwargs=True,
                )
            call(pruned, batch)
    finally:
        before.restore()  # takes the hooks off, too
        # A network may write states into its buffers; a repair writes running means alone.
        for buffer, content in kept:
            if id(buffer) not in written and not torch.equal(buffer, content):
                buffer.copy_(content)
    return list(repaired.values())
