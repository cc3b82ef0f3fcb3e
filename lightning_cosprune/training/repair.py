"""The repair that belongs to a prune: of the network and of its averages, against what each was before the cut."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from lightning_cosprune.network.forward import call, evaluating, same_random_state, unchanged
from lightning_cosprune.repair.constant import compensate_constants
from lightning_cosprune.repair.least_squares import refit_least_squares
from lightning_cosprune.repair.merge import merge_removed
from lightning_cosprune.repair.report import RepairReport
from lightning_cosprune.surgery.report import PruningReport
from lightning_cosprune.training.calibration import calibration_batches
from lightning_cosprune.training.distributed import as_on_rank_zero, pool_of, same_buffers
from lightning_cosprune.training.example_input import to_device

__all__ = ["METHODS", "Repair", "check_fits", "check_repair", "dense_copy", "in_a_line"]

METHODS = ("least_squares", "merge", "constant")
_CALLER = "CosineFilterPruning"


def check_repair(repair: Any, caller: str) -> None:
    """Refuse a repair of an unknown name.

    Raises:
        ValueError: With what was found and the names that there are.
    """
    if repair is not None and (not isinstance(repair, str) or repair not in METHODS):
        raise ValueError(
            f'`{caller}(repair={repair!r})`: expected None, {" or ".join(map(repr, METHODS))}. "least_squares" needs '
            "unlabelled samples, see `calibration`; the others need none."
        )


def dense_copy(network: nn.Module, trainer: Trainer) -> nn.Module:
    """The network as it is now, for its own sake: neither the Trainer nor the data are copied with it."""
    memo: dict[int, Any] = {id(shared): shared for shared in (trainer, trainer.datamodule)}  # type: ignore[attr-defined]
    compiled = [vars(module).get("_compiler_ctx") for module in network.modules()]
    memo.update({id(context): None for context in compiled})
    for module in network.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # such as a weight that old-style norms have computed
                memo[id(value)] = value.detach().clone()
    found = copy.deepcopy(network, memo)
    for module, context in zip(found.modules(), compiled, strict=True):
        if context is not None:  # what Lightning makes of a compiled module would run the module that was copied
            for step in ("forward", "training_step", "validation_step", "test_step", "predict_step"):
                vars(module).pop(step, None)
    return found


class Repair:
    """What is done about one prune: networks as they are now are remembered, and repaired after the cut.

    Args:
        trainer: Its precision, processes and training data count.
        method: ``"least_squares"``, ``"merge"`` or ``"constant"``; ``None`` remembers and repairs nothing.
        calibration: For ``"least_squares"``: how many training samples, or an iterable of inputs.
        networks: What will be cut, before the cut; on all processes they are given the first one's buffers.
    """

    def __init__(
        self, trainer: Trainer, method: str | None, calibration: int | Iterable[Any], networks: Sequence[nn.Module]
    ) -> None:
        self._trainer, self._method, self._calibration = trainer, method, calibration
        self._batches: list[Any] = []
        self._dense: dict[nn.Module, nn.Module] = {}
        for network in networks if method else ():
            same_buffers(trainer, network)
            self._dense[network] = dense_copy(network, trainer)

    def carry_out(self, network: nn.Module, report: PruningReport, example_inputs: Any) -> RepairReport | None:
        """Change ``network`` in place: its layers say what the removed filters said.

        Args:
            network: One of the networks that were remembered, after the cut.
            report: What was cut.
            example_inputs: The example input of the cut.

        Raises:
            ValueError: The calibration data are too few or do not fit the network.

        Returns:
            What was changed; ``None`` where nothing was to be done.
        """
        dense = self._dense.pop(network, None)
        if dense is None or not report.layers:
            return None
        device = next(network.parameters()).device  # averages may be kept on another device than the network
        with torch.autocast(device.type, enabled=False):
            if self._method == "least_squares":
                batches = [to_device(batch, device) for batch in self._batches or self._read(dense)]
                found = refit_least_squares(network, dense, batches, report=report, pool=pool_of(self._trainer))
            else:
                by_weights = merge_removed if self._method == "merge" else compensate_constants
                found = by_weights(network, dense, report, example_inputs=to_device(example_inputs, device))
        as_on_rank_zero(self._trainer, network.parameters())
        same_buffers(self._trainer, network)
        return found

    def _read(self, network: nn.Module) -> list[Any]:
        """This process's share of the calibration data, tried on ``network``."""
        trainer = self._trainer
        self._batches = calibration_batches(
            trainer, self._calibration, _CALLER, trainer.global_rank, trainer.world_size
        )
        check_fits(network, self._batches[0])
        return self._batches


def in_a_line(repair: RepairReport) -> str:
    """What a repair did, in a sentence."""
    if repair.error_before is None or repair.error_after is None:
        return f"Repaired {len(repair.layers)} layers by {repair.method}, without data."
    return (
        f"Repaired {len(repair.layers)} layers on {repair.samples:,} unlabelled samples: the outputs differ from those "
        f"before the cut by {repair.error_after:.1%} of their variance, {repair.error_before:.1%} without repair"
        + ("; the old weights were put back." if repair.undone else ".")
    )


def check_fits(network: nn.Module, batch: Any) -> None:
    """Refuse calibration data that the network does not take.

    Raises:
        ValueError: The forward pass failed.
    """
    try:
        with unchanged(network), evaluating(network), torch.no_grad(), same_random_state():
            call(network, batch)
    except Exception as error:
        found = f"{tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise ValueError(
            f"`{_CALLER}(calibration=...)`: expected inputs that {type(network).__name__} takes, without labels, found "
            f"{found}: {type(error).__name__}: {error}. Pass a list of inputs, such as `[inputs for inputs, _ in "
            "loader]`; a part of a module is given what that part reads."
        ) from error
