"""A network as it was: what is written down before a trial, and put back after it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn

__all__ = ["Snapshot"]


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
