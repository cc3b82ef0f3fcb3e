"""Optimizers after surgery: every new parameter in its old place, with the state of the filters that were kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_cosprune.network.pruners import Replacement, slices

__all__ = ["Bindings", "check_bound", "check_optimizers", "rebind_optimizers"]


def check_optimizers(optimizers: Iterable[Optimizer]) -> None:
    """Refuse optimizers whose state cannot be cut to the kept filters, before anything is changed.

    Raises:
        TypeError: They are no sequence of optimizers.
        ValueError: A state has a shape of its own, or the optimizer keeps one flat vector over all parameters.
    """
    many = isinstance(optimizers, Iterable) and getattr(optimizers, "shape", None) != ()
    wrong = [one for one in optimizers if not isinstance(one, Optimizer)] if many else None
    if wrong is None or wrong:
        alone = isinstance(optimizers, Optimizer)
        raise TypeError(
            f"`optimizers=...`: expected a list of optimizers of PyTorch, found "
            f"{type(wrong[0] if wrong else optimizers).__name__}"
            f"{' without a list' if alone else ''}. Write `optimizers=[optimizer]`."
        )
    for optimizer in optimizers:
        if isinstance(optimizer, torch.optim.LBFGS):
            found = "its history as flat vectors over all parameters"
        else:
            shape = next(
                (
                    f"a state {key!r} of shape {tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}"
                    for parameter, state in optimizer.state.items()
                    for key, value in state.items()
                    if not _fits(value, parameter)
                ),
                None,
            )
            if shape is None:
                continue
            found = shape
        raise ValueError(
            f"{type(optimizer).__name__} keeps {found}, which cannot be cut to the kept filters. Prune before training "
            "with `apply_plan` and make the optimizer afterwards, or train with another optimizer, such as "
            "torch.optim.Adam."
        )


def rebind_optimizers(optimizers: Iterable[Optimizer], replacements: Sequence[Replacement]) -> None:
    """Change ``optimizers`` in place: each replaced parameter gives way to its successor, its state cut alike.

    A state tensor is cut along the dimension in which the parameter was cut; where it has size one there, as the
    factored moments of Adafactor have, and where it is a single number, as step counts are, it is kept whole. Parameter
    groups, their options and the schedulers that hold them stay the same objects.

    Args:
        optimizers: Those that may hold replaced parameters, accepted by :func:`check_optimizers`.
        replacements: In the order in which they were made; a parameter may be replaced more than once.
    """
    for optimizer in optimizers:
        slots = {
            id(parameter): (group["params"], place)
            for group in optimizer.param_groups
            for place, parameter in enumerate(group["params"])
        }
        for replacement in replacements:
            slot = slots.pop(id(replacement.old), None)
            if slot is None:
                continue
            parameters, place = slot
            parameters[place] = replacement.new
            slots[id(replacement.new)] = slot
            state = optimizer.state.pop(replacement.old, None)
            if state is not None:
                optimizer.state[replacement.new] = {key: _cut(value, replacement) for key, value in state.items()}


class Bindings:
    """What optimizers hold, by reference: a cut makes new tensors and writes into none.

    Args:
        optimizers: As they are now.
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        optimizers = list(optimizers)
        self._held = [(group["params"], list(group["params"])) for one in optimizers for group in one.param_groups]
        self._states = [
            (one.state, {parameter: dict(state) for parameter, state in one.state.items()}) for one in optimizers
        ]

    def restore(self) -> None:
        """Change the optimizers back."""
        for parameters, old in self._held:
            parameters[:] = old
        for state, known in self._states:
            state.clear()
            state.update(known)


def check_bound(optimizers: Iterable[Optimizer], modules: Iterable[nn.Module]) -> tuple[int, int]:
    """Count how many of the parameters that ``optimizers`` hold are parameters of ``modules``.

    Returns:
        Parameters of the optimizers that are alive, and all that they hold. The two differ where an optimizer still
        steps tensors that no module uses any more.
    """
    alive = {id(parameter) for module in modules for parameter in module.parameters()}
    held = [
        id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]
    ]
    return sum(key in alive for key in held), len(held)


def _is_whole(value: object, parameter: Tensor) -> bool:
    """Whether a state says something of the parameter as a whole, such as a step count."""
    return not isinstance(value, Tensor) or (value.numel() == 1 and value.shape != parameter.shape)


def _fits(value: object, parameter: Tensor) -> bool:
    if _is_whole(value, parameter):
        return True
    assert isinstance(value, Tensor)
    sizes = zip(value.shape, parameter.shape, strict=False)
    return value.ndim == parameter.ndim and all(size in (1, full) for size, full in sizes)


def _cut(value: object, replacement: Replacement) -> object:
    if _is_whole(value, replacement.old):
        return value
    assert isinstance(value, Tensor)
    if value.shape[replacement.dim] != replacement.old.shape[replacement.dim]:
        return value
    return slices(value, replacement.kept, replacement.dim)
