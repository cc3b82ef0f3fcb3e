"""A network as it was: what is written down before a trial, and put back after it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["Snapshot", "uninterrupted", "whole_or_not_at_all"]


class Snapshot:
    """Every module's attributes, parameters, buffers and hooks, by reference: surgery replaces tensors and writes none.

    Args:
        model: The network as it is now.
        parts: Names of its modules that may change, without what is in them; all of them where ``None``.
    """

    def __init__(self, model: nn.Module, parts: Iterable[str] | None = None) -> None:
        self._contents: list[tuple[Any, Any]] = []
        for module in model.modules() if parts is None else map(model.get_submodule, parts):
            attributes = vars(module)
            # Registries, hooks, and the list of weights that recurrent layers keep beside their registry. They are put
            # back in place, because the handles that remove hooks know the very containers.
            containers = [value for value in attributes.values() if type(value) in (dict, OrderedDict, list, set)]
            self._contents += [
                (container, container.copy() if container else ()) for container in (attributes, *containers)
            ]

    def restore(self) -> None:
        """Change the network back, to the last bit."""
        with uninterrupted():
            for container, content in self._contents:
                container.clear()
                if content:
                    (container.extend if isinstance(container, list) else container.update)(content)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until all within is done: half of it would leave a network that is neither one nor the other.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():  # Ctrl-C reaches no other
        yield
        return
    waiting: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *come: waiting.append(come))
    try:
        yield
    finally:
        # `None` is a handler that was not set from Python.
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def whole_or_not_at_all(network: nn.Module) -> Iterator[None]:
    """Let ``network`` be changed, its weights written into too; what raises within is undone to the last bit.

    That goes for an interrupt from the keyboard too, after which its owner may go on or save.

    Yields:
        Nothing.
    """
    before = Snapshot(network)
    # A cut makes new tensors, a repair writes into those that are there.
    contents = [(tensor, tensor.detach().clone()) for tensor in (*network.parameters(), *network.buffers())]
    try:
        yield
    except BaseException:
        with uninterrupted(), torch.no_grad():
            before.restore()
            for tensor, content in contents:
                tensor.copy_(content)
        raise
