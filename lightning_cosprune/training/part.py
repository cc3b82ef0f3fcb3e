"""The part of a LightningModule that a callback is about."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import nn

__all__ = ["part_of"]


def part_of(pl_module: LightningModule, name: str | None, caller: str) -> nn.Module:
    """The part of the LightningModule of that name, or all of it.

    Raises:
        ValueError: There is none; the message is about ``caller``.

    Returns:
        The module.
    """
    if name is None:
        return pl_module
    try:
        return pl_module.get_submodule(name)
    except AttributeError:
        children = ", ".join(child for child, _ in pl_module.named_children())
        raise ValueError(
            f"`{caller}(module={name!r})`: expected the name of a submodule of {type(pl_module).__name__}, found none "
            f"of that name. Its submodules are: {children}."
        ) from None
