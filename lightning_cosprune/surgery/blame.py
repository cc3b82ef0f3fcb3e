"""Which of several cuts is at fault where a network that lost them all fails, or computes something else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor, nn

from lightning_cosprune.network.channels import Removal
from lightning_cosprune.network.pruners import RefusedError

__all__ = ["Fault", "TrialFailedError", "at_failure", "at_input", "failing_module", "touching"]


@dataclass(frozen=True)
class Fault:
    """What went wrong, and which removals may be the cause.

    Attributes:
        reason: For the user.
        suspects: Numbers of removals; none where it may be any of them.
        certain: Whether each of them is at fault, rather than one or another.
        doubtful: Whether it may be no fault at all, but rounding.
    """

    reason: str
    suspects: frozenset[int] = frozenset()
    certain: bool = False
    doubtful: bool = False


class TrialFailedError(RefusedError):
    """Cuts that cannot be made together.

    Attributes:
        faults: What went wrong, one entry or more.
    """

    def __init__(self, *faults: Fault) -> None:
        super().__init__(faults[0].reason)
        self.faults = faults


def touching(removals: Sequence[Removal], names: Iterable[str]) -> frozenset[int]:
    """Numbers of the removals that take channels of the inputs or outputs of some modules."""
    wanted = set(names)
    return frozenset(number for number, removal in enumerate(removals) if wanted & {*removal.inputs, *removal.outputs})


def at_input(
    removals: Sequence[Removal], reader: str, feeders: Iterable[str], differing: Tensor | None
) -> tuple[frozenset[int], bool]:
    """Which removals have to do with what a layer is given.

    Args:
        removals: All that were made.
        reader: A layer that is given something else than in the dense network.
        feeders: The layers that it reads.
        differing: Which channels of its input differ, counted as in the dense network, where that can be told.

    Returns:
        The numbers of those that reach it, and if that says more, of those that reach it where it differs; and whether
        they are at fault for certain.
    """
    near = [number for number, removal in enumerate(removals) if reader in removal.inputs]
    if differing is not None and near:
        wrong = set(differing.tolist())
        within = {number: wrong & set(removals[number].reached[reader]) for number in near}
        if set().union(*within.values()) == wrong:
            near = [number for number in near if within[number]]
            return frozenset(near), len(near) == 1
    wanted = set(feeders)
    near += [number for number, removal in enumerate(removals) if wanted & {*removal.outputs}]
    return frozenset(near), len(set(near)) == 1


def at_failure(
    removals: Sequence[Removal], model: nn.Module, error: BaseException, called: Sequence[str], finished: set[str]
) -> frozenset[int]:
    """Numbers of the removals that have to do with an exception in the forward pass of the cut network.

    Args:
        removals: All that were made.
        model: The network.
        error: The exception.
        called: Names of the layers of the dense network's forward pass, in the order of their calls.
        finished: Those of them that came through this time.

    Returns:
        Those that touch the module that fails; if none does, as where its code is a function of tensors, those that
        touch the next layer, or else the last.
    """
    failing = failing_module(error, model)
    found = touching(removals, [failing] if failing is not None else [])
    if not found:
        following = [name for name in called if name not in finished]
        found = touching(removals, following[:1])
    if not found:
        found = touching(removals, [name for name in called if name in finished][-1:])
    return found


def failing_module(error: BaseException, model: nn.Module) -> str | None:
    """Name of the innermost module of ``model`` whose code an exception came from."""
    names = {module: name for name, module in model.named_modules()}
    found = None
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            found = names[owner]
        trace = trace.tb_next
    return found
