"""Optimizers after surgery: every new parameter in its old place, with the state of the filters that were kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_cosprune.network.pruners import Replacement, slices

__all__ = ["Bindings", "check_bound", "check_optimizers", "rebind_optimizers"]


def check_optimizers(optimizers: Iterable[Optimizer]) -> None:
    """Refuse optimizers whose state cannot be cut to the kept filters, before anything is changed.

    Optimizers that wrap others, as SAM and Lookahead do, are looked into.

    Raises:
        TypeError: They are no sequence of optimizers.
        ValueError: A state has a shape of its own, or the optimizer keeps one flat vector over all parameters, or
            parameters at places where they would not be found.
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
    for optimizer in _with_inner(optimizers):
        beside = _held_beside(optimizer)
        if isinstance(optimizer, torch.optim.LBFGS):
            found = "its history as flat vectors over all parameters"
        elif beside:
            found = f"parameters in its attribute {beside!r} beside its groups"
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
    groups, their options and the schedulers that hold them stay the same objects. So it is for optimizers within those.

    Args:
        optimizers: Those that may hold replaced parameters, accepted by :func:`check_optimizers`.
        replacements: In the order in which they were made; a parameter may be replaced more than once.
    """
    optimizers = _with_inner(optimizers)
    slots: dict[int, list[tuple[list[Any], int]]] = {}
    for parameters in _parameter_lists(optimizers):
        for place, parameter in enumerate(parameters):
            slots.setdefault(id(parameter), []).append((parameters, place))
    states = list({id(optimizer.state): optimizer.state for optimizer in optimizers}.values())
    for replacement in replacements:
        held = slots.pop(id(replacement.old), [])
        slots[id(replacement.new)] = held
        for parameters, place in held:
            parameters[place] = replacement.new
        for state in states:
            known = state.pop(replacement.old, None)
            if known is not None:
                state[replacement.new] = {key: _cut(value, replacement) for key, value in known.items()}


class Bindings:
    """What optimizers hold, by reference: a cut makes new tensors and writes into none.

    Args:
        optimizers: As they are now.
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        optimizers = _with_inner(optimizers)
        self._held = [(parameters, list(parameters)) for parameters in _parameter_lists(optimizers)]
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
    held = [id(parameter) for parameters in _parameter_lists(_with_inner(optimizers)) for parameter in parameters]
    return sum(key in alive for key in held), len(held)


def _with_inner(optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """The optimizers and those that they wrap, each once."""
    found: dict[int, Optimizer] = {}
    waiting = list(optimizers)
    while waiting:
        optimizer = waiting.pop(0)
        if id(optimizer) not in found:
            found[id(optimizer)] = optimizer
            for _, entries in _attributes(optimizer):
                waiting += [entry for entry in entries if isinstance(entry, Optimizer)]
    return list(found.values())


def _parameter_lists(optimizers: Iterable[Optimizer]) -> list[list[Any]]:
    """The lists of all groups, each once: a wrapper and what it wraps may share them."""
    lists = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
    return list({id(parameters): parameters for parameters in lists}.values())


def _held_beside(optimizer: Optimizer) -> str | None:
    """The attribute in which an optimizer keeps parameters that its groups hold too."""
    own = {id(parameter) for parameters in _parameter_lists([optimizer]) for parameter in parameters}
    for name, entries in _attributes(optimizer):
        if name not in ("param_groups", "state") and any(id(entry) in own for entry in entries):
            return name
    return None


def _attributes(optimizer: Optimizer) -> Iterator[tuple[str, list[Any]]]:
    for name, value in vars(optimizer).items():
        if isinstance(value, Mapping):
            yield name, [*value.keys(), *value.values()]
        else:
            yield name, list(value) if isinstance(value, (list, tuple, set)) else [value]


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
    if value.ndim and value.shape[replacement.dim] != replacement.old.shape[replacement.dim]:
        return value
    return slices(value, replacement.kept, replacement.dim)
