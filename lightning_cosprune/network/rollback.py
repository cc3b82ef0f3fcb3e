"""A network as it was: what is written down before a trial, and put back after it."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["Snapshot", "unchanged"]


class Snapshot:
    """Every module's attributes, parameters, buffers and hooks, by reference: surgery replaces tensors and writes none.

    Args:
        model: The network as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._contents: list[tuple[Any, Any]] = []
        for module in model.modules():
            attributes = vars(module)
            # Registries, hooks, and the list of weights that recurrent layers keep beside their registry. They are put
            # back in place, because the handles that remove hooks know the very containers.
            containers = [value for value in attributes.values() if type(value) in (dict, OrderedDict, list, set)]
            self._contents += [(container, copy.copy(container)) for container in (attributes, *containers)]

    def restore(self) -> None:
        """Change the network back, to the last bit."""
        for container, content in self._contents:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what happens to ``model``'s modules within, such as states that a forward pass carries on.

    Buffers are copies meanwhile, for code may write into them.
    """
    before = Snapshot(model)
    for module in model.modules():
        buffers = module._buffers
        buffers.update({name: buffer.clone() for name, buffer in buffers.items() if buffer is not None})
    try:
        yield
    finally:
        before.restore()
