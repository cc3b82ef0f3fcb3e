"""Norms over channels in a trial: those of the masked dense network range over the channels that are kept.

A norm over fewer channels computes something else; what a right cut keeps is all that is before and behind it. So the
dense network's norms are given the kept channels alone, with what belongs to them, and everything else of that network
stays as it is. The channels that are to go pass them by, as loud as they are: who listens to them is heard.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.pruners import RefusedError
from lightning_cosprune.surgery.draws import given_to, kept_channels

__all__ = ["NarrowNorms"]


class NarrowNorms:
    """The norms of one network that lose channels.

    Args:
        modules: Name -> norm.
        lost: Name of a norm -> channels that are to go.
    """

    def __init__(self, modules: Mapping[str, nn.Module], lost: Mapping[str, Sequence[int]]) -> None:
        self.modules, self._lost = modules, lost
        self._given: dict[str, torch.Size] = {}
        self._axes: dict[str, int] = {}
        self._cut: dict[str, nn.Module] = {}

    def axis(self, name: str) -> int | None:
        """The axis, from the first, that counts channels of what a norm is given; ``None`` before it was masked."""
        return self._axes.get(name)

    def listen(self) -> list[torch.utils.hooks.RemovableHandle]:
        """Change the cut network's norms: they note the shape of what they are given.

        Returns:
            What removes that again.
        """
        return [
            module.register_forward_pre_hook(functools.partial(self._note, name), with_kwargs=True)
            for name, module in self.modules.items()
        ]

    def learn_cut(self) -> None:
        """Keep the norms as they are now, in the cut network."""
        self._cut = {name: _twin(module) for name, module in self.modules.items()}

    def mask(self) -> None:
        """Change the dense network's norms until their owner puts them back: they range over what is kept."""
        for name, module in self.modules.items():
            vars(module)["forward"] = functools.partial(self._answer, name, module)

    def _note(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = given_to(args, kwargs)
        if given is not None:
            self._given.setdefault(name, given.shape)

    def _answer(self, name: str, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        given, lost = given_to(args, kwargs), self._lost[name]
        if given is None:
            raise RefusedError(f"{name}, a norm over channels, is given something else than a tensor")
        axis = self._axes.setdefault(name, self._find_axis(name, given.shape))
        kept = kept_channels(lost, given.shape[axis] - len(lost)).to(given.device)
        narrow = given.index_select(axis, kept)
        dense = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        cut = {**dict(self._cut[name].named_parameters()), **dict(self._cut[name].named_buffers())}
        tensors = {key: _part(tensor, cut[key].shape, kept) for key, tensor in dense.items()}
        call = ((narrow, *args[1:]), kwargs) if args else ((), {**kwargs, "input": narrow})
        made = torch.func.functional_call(self._cut[name], tensors, *call)
        if not isinstance(made, Tensor) or made.shape != narrow.shape:
            raise RefusedError(f"{name}, a norm over channels, does not return as many values as it is given")
        return given.to(made.dtype).index_copy(axis, kept, made)

    def _find_axis(self, name: str, dense: torch.Size) -> int:
        cut = self._given.get(name, dense)
        pairs = list(zip(dense, cut, strict=True)) if len(dense) == len(cut) else []
        axes = [axis for axis, (wide, narrow) in enumerate(pairs) if wide != narrow]
        if len(axes) != 1 or pairs[axes[0]][0] - pairs[axes[0]][1] != len(self._lost[name]):
            raise RefusedError(f"{name}, a norm over channels, is not given one channel less for each that goes")
        return axes[0]


def _part(tensor: Tensor, shape: torch.Size, kept: Tensor) -> Tensor:
    """The slices ``kept`` of a tensor, along the axis on which it is to be shorter."""
    for axis, (wide, narrow) in enumerate(zip(tensor.shape, shape, strict=True)):
        if wide != narrow:
            tensor = tensor.index_select(axis, kept.to(tensor.device))
    return tensor


def _twin(module: nn.Module) -> nn.Module:
    """The same module once more, with the same tensors, without hooks of its own."""
    twin = module.__new__(type(module))
    vars(twin).update(vars(module))
    for key, value in vars(module).items():
        if key.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")):
            vars(twin)[key] = OrderedDict()
        elif type(value) in (dict, OrderedDict):
            vars(twin)[key] = value.copy()
    vars(twin)["_modules"] = {name: part and _twin(part) for name, part in module._modules.items()}
    return twin
