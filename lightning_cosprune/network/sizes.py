"""Attributes by which modules of a user's own say how many channels there are in the parts that they divide."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["change_size", "sizes_changed", "write_sizes"]

_CHANGED = "_lightning_cosprune_sizes"
"""Attribute of a module that names those of its attributes that a cut has changed."""


def change_size(module: nn.Module, attribute: str, entry: int | None, gone: int) -> None:
    """Change ``module`` in place: an attribute, or one entry of it, is so much less, and known to be a size."""
    value = getattr(module, attribute)
    if entry is None:
        value -= gone
    else:
        value = type(value)(one - gone if place == entry else one for place, one in enumerate(value))
    write_sizes(module, {attribute: value})


def write_sizes(module: nn.Module, sizes: dict[str, Any]) -> None:
    """Change ``module`` in place: its attributes are these, and known to be sizes."""
    for attribute, size in sizes.items():
        vars(module)[attribute] = size
    if sizes:
        vars(module)[_CHANGED] = sorted({*vars(module).get(_CHANGED, ()), *sizes})


def sizes_changed(module: nn.Module) -> dict[str, Any]:
    """Attributes that cuts have changed, with their values."""
    return {attribute: vars(module)[attribute] for attribute in vars(module).get(_CHANGED, ())}
