"""One forward pass in which the numbers of channels go beside the values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from lightning_cosprune.network.forward import (
    call,
    evaluating,
    float_tensors,
    outside_inference_mode,
    same_random_state,
    unchanged,
)
from lightning_cosprune.network.layers import is_depthwise, is_layer, num_filters
from lightning_cosprune.network.moves import DIVIDING_CALLS, Steps, Told
from lightning_cosprune.network.origins import FIXED, HELD, LARGEST, READ, WRITTEN, Origins, Place

__all__ = ["find_origins"]


def find_origins(model: nn.Module, example_inputs: Any, norms: frozenset[str]) -> Origins | None:
    """Run the network once and follow its channels.

    Args:
        model: The network; left as it was found.
        example_inputs: As for :func:`~lightning_cosprune.network.channels.channel_groups`.
        norms: Names of the norms over channels.

    Returns:
        ``None`` where the network does not run so.
    """
    watch = _Watch(model, norms)
    try:
        with unchanged(model), evaluating(model), torch.inference_mode(False), torch.no_grad(), same_random_state():
            watch.listen()
            inputs = tree_map(outside_inference_mode, example_inputs)
            with _Numbers(watch), _Following(watch):
                outputs = call(model, inputs)
            watch.end(float_tensors(outputs))
    except Exception:  # of the user's code, which may not take to being watched
        return None
    return watch.found()


class _Watch(Steps):
    """What modules do, beside the steps between them."""

    def __init__(self, model: nn.Module, norms: frozenset[str]) -> None:
        super().__init__()
        self._model, self._norms = model, norms
        self._paused = False

    def listen(self) -> None:
        """Change the network until its owner puts it back."""
        inside: set[nn.Module] = set()
        for name, module in self._model.named_modules():
            if module in inside:
                continue
            handle: Callable[..., Any] | None = None
            if isinstance(module, torch.jit.ScriptModule):
                handle = self._sealed
            elif is_layer(module):
                handle = self._depthwise if is_depthwise(module) else self._layer
            elif isinstance(module, nn.RNNBase):
                handle = self._recurrent
            elif name in self._norms or isinstance(module, (nn.modules.batchnorm._NormBase, nn.PReLU)):
                handle = self._norm
            if handle is not None:
                inside.update(module.modules())
                for tensor in (*module.parameters(), *module.buffers()):
                    self._of_layers[id(tensor)] = name
                vars(module)["forward"] = functools.partial(self._run, handle, name, module, module.forward)
            elif not type(module).__module__.startswith("torch."):
                self._mark(name, module)
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            if id(tensor) not in self._of_layers and tensor.is_floating_point() and 1 < tensor.numel() <= LARGEST:
                first = self._numbered((HELD, name), tensor.numel())
                self._result.shapes[name] = tensor.shape
                self._set(
                    tensor,
                    first + torch.arange(tensor.numel(), dtype=torch.float64, device="cpu").reshape(tensor.shape),
                )

    def _mark(self, name: str, module: nn.Module) -> None:
        for key, value in list(vars(module).items()):
            if type(value) is int and value > 1:
                vars(module)[key] = _told(value, name, key, None)
            elif type(value) in (list, tuple) and value and all(type(one) is int for one in value):
                vars(module)[key] = type(value)(_told(one, name, key, entry) for entry, one in enumerate(value))

    def _run(self, handle: Callable[..., None], name: str, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if self._paused:
            return forward(*args, **kwargs)
        self._paused = True
        try:
            with _pop_mode_temporarily(), _disable_current_modes():
                made = forward(*args, **kwargs)
                handle(name, module, args[0] if args else kwargs.get("input"), made)
        finally:
            self._paused = False
        return made

    def _sealed(self, _: str, __: nn.Module, given: Any, ___: Any) -> None:
        for leaf in tree_leaves(given):
            self._doubt(leaf)

    def _layer(self, name: str, layer: Any, given: Any, made: Any) -> None:
        axis = -1 - len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else -1
        self._arrive((READ, name), given, axis)
        first = self._numbered((WRITTEN, name), num_filters(layer))
        if isinstance(made, Tensor):
            self._set(made, _along(first, num_filters(layer), made.ndim, axis))
        groups = getattr(layer, "groups", 1)
        if groups > 1:
            for place in ((READ, name), (WRITTEN, name)):
                start, count = self._result.places[place]
                self._even(np.array_split(np.arange(start, start + count), groups))

    def _depthwise(self, name: str, layer: Any, given: Any, made: Any) -> None:
        self._pass(name, given, made, -1 - len(layer.kernel_size))

    def _recurrent(self, name: str, _: Any, given: Any, made: Any) -> None:
        if isinstance(given, nn.utils.rnn.PackedSequence):
            self._doubt(given.data)
            return
        self._arrive((READ, name), given, -1)
        output = made[0]
        if isinstance(output, Tensor):
            first = self._numbered((FIXED, name), output.shape[-1])
            self._set(output, _along(first, output.shape[-1], output.ndim, -1))

    def _norm(self, name: str, norm: Any, given: Any, made: Any) -> None:
        numbers = self._numbers.get(given) if isinstance(given, Tensor) else None
        if numbers is None:
            return
        if name in self._norms and not isinstance(norm, nn.GroupNorm | nn.LocalResponseNorm):
            varying = [axis for axis in range(given.ndim) if numbers.shape[axis] > 1]
            known = type(norm) in (nn.LayerNorm, nn.RMSNorm)  # a class of one's own may turn its input around
            if known and all(given.ndim - axis > len(norm.normalized_shape) for axis in varying):
                self._set(made, numbers)  # over positions alone
                return
            if len(varying) != 1 or (known and varying != [given.ndim - len(norm.normalized_shape)]):
                self._doubt(given)
                return
            axis = varying[0] - given.ndim
        else:
            axis = 1 - given.ndim
            if isinstance(norm, nn.PReLU) and norm.num_parameters == 1:
                self._set(made, numbers)
                return
            if numbers.shape[axis] == 1:
                self._doubt(given) if name in self._norms else self._set(made, numbers)
                return
        self._pass(name, given, made, axis)
        if isinstance(norm, nn.GroupNorm) and norm.num_groups > 1:
            self._even(np.split(self._channels((WRITTEN, name)), norm.num_groups))

    def _pass(self, name: str, given: Any, made: Any, axis: int) -> None:
        """A module that changes each channel by itself, with something of its own for each."""
        self._arrive((WRITTEN, name), given, axis)
        numbers = self._numbers.get(given)
        if isinstance(made, Tensor) and numbers is not None:
            same = made.ndim == given.ndim and made.shape[axis] == given.shape[axis]
            self._set(made, numbers) if same else self._doubt(given)

    def _arrive(self, place: Place, given: Any, axis: int) -> None:
        """Channels of a place are whatever lies in them."""
        if not isinstance(given, Tensor):
            return
        count = given.shape[axis]
        first = self._numbered(place, count)
        numbers = self._numbers.get(given)
        if numbers is None:
            return
        table = numbers.movedim(axis, 0).flatten(1) if numbers.ndim > 1 else numbers[:, None]
        self._join(torch.arange(first, first + count, dtype=torch.float64, device="cpu")[:, None], table)


class _Numbers(TorchFunctionMode):
    """Sees the calls of Python code: whether channels are divided by how many there are, or by a number."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        evenly, told = self._watch.evenly, self._watch.told
        self._watch.evenly = name in ("chunk", "tensor_split")
        self._watch.told = list(_numbers_in((args, kwargs))) if name in DIVIDING_CALLS else []
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._watch.evenly, self._watch.told = evenly, told


class _Following(TorchDispatchMode):
    """Sees every step."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch loads the compiler, which takes seconds

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._watch.follow(func, args, kwargs or {}, made)
        return made


def _numbers_in(arguments: Any) -> Iterator[Told]:
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, slice):
            yield from (one for one in (leaf.start, leaf.stop) if isinstance(one, Told))
        elif isinstance(leaf, Told):
            yield leaf


def _told(value: int, module: str, attribute: str, entry: int | None) -> Told:
    told = Told(value)
    told.origin = (module, attribute, entry)
    return told


def _along(first: int, count: int, ndim: int, axis: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = count
    return torch.arange(first, first + count, dtype=torch.float64, device="cpu").reshape(shape)
