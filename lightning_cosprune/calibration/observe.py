"""What goes into a layer and comes out of it while a network reads calibration data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.forward import call, evaluating, same_random_state, unchanged

__all__ = ["Observer", "observe", "observed_inputs"]

Observer = Callable[[str, Tensor, Tensor], None]
"""Is told the name of a layer, its input and its output, at every call."""


class _Enough(Exception):
    """Ends a forward pass of which nothing more is asked."""


def observe(model: nn.Module, batch: Any, layers: Sequence[str], observer: Observer) -> Any:
    """Run one batch in evaluation mode, without gradients or a trace, and tell ``observer`` of every call of a layer.

    Args:
        model: The network.
        batch: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        layers: Names of the layers.
        observer: Is told of their calls.

    Returns:
        What the network returns.
    """

    def hook(name: str) -> Callable[..., None]:
        def told(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            observer(name, _given(args, kwargs), output)

        return told

    with _running(model), contextlib.ExitStack() as handles:
        for name in layers:
            handle = model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True)
            handles.callback(handle.remove)
        return call(model, batch)


def observed_inputs(model: nn.Module, batch: Any, layer: str, calls: int) -> list[Tensor]:
    """What the layer is given at each of its calls in one forward pass, which ends with the last of them."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = _given(args, kwargs).detach()
        if len(seen) == calls - 1:
            seen.append(inputs)
            raise _Enough
        seen.append(inputs.clone())  # what follows this call may change it in place

    with _running(model):
        handle = model.get_submodule(layer).register_forward_pre_hook(hook, with_kwargs=True)
        try:
            call(model, batch)
        except _Enough:
            pass
        finally:
            handle.remove()
    return seen


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The input of a layer, which may be passed by its name."""
    inputs: Tensor = args[0] if args else kwargs["input"]
    return inputs


@contextlib.contextmanager
def _running(model: nn.Module) -> Iterator[None]:
    with unchanged(model), evaluating(model), torch.no_grad(), same_random_state():
        yield
