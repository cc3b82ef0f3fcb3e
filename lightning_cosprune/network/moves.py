"""Where the numbers of channels go in each step between layers: a rule for each kind of step of PyTorch.

A step that moves values moves the numbers too. Where a step computes a value from several, their channels go together.
What no rule is made for leaves the channels that it meets doubtful.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lightning_cosprune.network.origins import LARGEST, Ledger, Size, compact, flat

__all__ = ["DIVIDING_CALLS", "Steps", "Told"]


class Told(int):
    """A whole number that remembers which attribute of which module it was, or which entry of it."""

    origin: tuple[str, str, int | None]


class Steps(Ledger):
    """The rules.

    Attributes:
        evenly: Whether the call at hand divides by how many channels there are.
        told: The attributes among its arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self._of_layers: dict[int, str] = {}
        self.evenly = False
        self.told: list[Told] = []

    def follow(self, step: Any, args: Any, kwargs: Any, made: Any) -> None:
        """Note where the numbers go in one step."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in given:
            if id(tensor) in self._of_layers:
                self._doubt_layer(self._of_layers[id(tensor)])
        if not any(tensor in self._numbers for tensor in given):
            return
        name = step._schema.name.removeprefix("aten::")
        try:
            self._follow(name, step, args, kwargs, given, made)
        except (RuntimeError, IndexError, TypeError, ValueError):  # what no rule was made for
            for tensor in given:
                self._doubt(tensor)

    def _follow(self, name: str, step: Any, args: Any, kwargs: Any, given: list[Tensor], made: Any) -> None:
        first = next(tensor for tensor in given if tensor in self._numbers)
        numbers = self._numbers[first]
        spatial = _SPATIAL.search(name)
        if name.endswith("_like") or name.startswith("new_") or name in ("zero_", "fill_", "bernoulli"):
            return
        if step._schema.is_mutable:
            self._follow_in_place(step, args, given)
        elif name in _PASSING:
            self._set(made, numbers)
        elif name in ("view", "_unsafe_view", "reshape"):
            self._reshape(first, numbers, made)
        elif name == "constant_pad_nd" and all(
            numbers.shape[-1 - place] == 1
            for place in range(len(args[1]) // 2)
            if any(args[1][2 * place : 2 * place + 2])
        ):
            self._set(made, numbers)
        elif name in _MOVING:
            self._divide(name, step, args, kwargs, first, numbers, made)
            if name.endswith("channel_shuffle"):
                groups = numbers.movedim(1, 0).unflatten(0, (args[1], -1)) if numbers.shape[1] > 1 else numbers[None]
                self._join(*torch.broadcast_tensors(groups[:1], groups))
            self._move(name, step, args, kwargs, made)
        elif name == "glu":
            axis = args[1] if len(args) > 1 else -1
            parts = numbers.expand_as(first).narrow(axis, 0, first.shape[axis]).chunk(2, axis)
            parts = tuple(compact(part) for part in parts)
            if numbers.shape[axis] > 1:
                self._even([flat(part) for part in parts])
                self._join(*parts)
            self._set(made, parts[0])
        elif torch.Tag.pointwise in step.tags:
            self._combine(given, made)
        elif name in _REDUCING:
            self._reduce(step, args, kwargs, first, numbers, made)
        elif name in _ALONG:
            axis = _argument(step, args, kwargs, "dim")
            if axis is None or numbers.shape[axis] > 1:
                self._doubt(first)
            else:
                for leaf in tree_leaves(made):
                    self._set(leaf, numbers)
        elif spatial is not None:
            if any(size > 1 for size in numbers.shape[-int(spatial[1]) :]):
                self._doubt(first)
            else:
                self._set(made[0] if isinstance(made, (tuple, list)) else made, numbers)
        elif name in ("mm", "bmm"):
            self._contract(args[0], args[1], made)
        elif name in ("addmm", "baddbmm"):
            self._contract(args[1], args[2], made)
            self._doubt(args[0])
        else:
            for tensor in given:
                self._doubt(tensor)

    def _follow_in_place(self, step: Any, args: Any, given: list[Tensor]) -> None:
        target = args[0]
        if torch.Tag.pointwise not in step.tags or not isinstance(target, Tensor):
            for tensor in given:
                self._doubt(tensor)
            return
        before = self._numbers.get(target)
        after = self._combine(given, target, keep=False)
        if before is not None and before.shape == after.shape and bool((before != 0).all()):
            return
        if target._base is not None:
            for tensor in given:
                self._doubt(tensor)
        else:
            self._set(target, after)

    def _combine(self, given: Sequence[Tensor], made: Tensor, keep: bool = True) -> Tensor:
        """Values that are computed from several, each from those in its own place: their channels go together."""
        found = [(tensor, self._numbers[tensor]) for tensor in given if tensor in self._numbers]
        aligned = [(tensor, _padded(numbers, made.ndim), _padded_shape(tensor, made.ndim)) for tensor, numbers in found]
        varying = [axis for axis in range(made.ndim) if any(one.shape[axis] > 1 for _, one, _ in aligned)]
        result = None
        for tensor, numbers, shape in aligned:
            if any(shape[axis] == 1 for axis in varying):
                self._doubt(tensor)  # one for all channels
                continue
            if result is None:
                result = numbers
                continue
            result, numbers = torch.broadcast_tensors(result, numbers)
            self._join(result, numbers)
            result = torch.where(result != 0, result, numbers)
        if result is None:
            result = torch.zeros([1] * made.ndim, dtype=torch.float64, device="cpu")
        if keep:
            self._set(made, result)
        return result

    def _reshape(self, given: Tensor, numbers: Tensor, made: Tensor) -> None:
        shape = list(made.shape)
        if numbers.shape[0] == 1 and given.ndim and made.ndim and given.shape[0] == made.shape[0]:
            shape[0], moved = 1, numbers.expand(1, *given.shape[1:])
        else:
            moved = numbers.expand_as(given)
        if moved.numel() > LARGEST:
            raise ValueError
        moved = compact(moved.reshape(shape))
        before = [axis for axis in range(numbers.ndim) if numbers.shape[axis] > 1]
        after = [axis for axis in range(moved.ndim) if moved.shape[axis] > 1]
        if len(before) == 1 and len(after) == 2 and moved.numel() == numbers.numel():
            # Groups of channels, as of a shuffle: those at the same place of each go together.
            table = moved.movedim(after, (0, 1)).flatten(1)
            self._join(*torch.broadcast_tensors(table[:1], table))
        self._set(made, moved)

    def _divide(self, name: str, step: Any, args: Any, kwargs: Any, given: Tensor, numbers: Tensor, made: Any) -> None:
        """Note what must hold for channels to be divided as before."""
        if name not in _DIVIDING:
            return
        if name == "index":  # channels that are chosen by number
            if any(chosen is not None and numbers.shape[axis] > 1 for axis, chosen in enumerate(args[1])):
                self._doubt(given)
            return
        axis = _argument(step, args, kwargs, "dim") or 0
        axis %= given.ndim
        if numbers.shape[axis] == 1:
            return
        size = given.shape[axis]
        if name in ("split", "split_with_sizes"):
            parts = [self._slice(numbers, axis, *bounds) for bounds in _bounds([one.shape[axis] for one in made])]
            if isinstance(args[1], (list, tuple)):
                told: list[Any] = [one.origin for one in self.told] if self.told == list(args[1]) else [None]
            else:
                told = [self._said(args[1])] * len(parts)
            if self.evenly or None in told:
                self._even(parts)
                return
            by_attribute: dict[Any, list[np.ndarray]] = {}
            for origin, bounds, part in zip(told, _bounds([one.shape[axis] for one in made]), parts, strict=True):
                by_attribute.setdefault(origin, []).append(part)
                self._result.sizes.append(Size(origin[0], origin[1], origin[2], self._each(numbers, axis, *bounds)))
            for same in by_attribute.values():
                self._even(same)
        elif name == "slice":
            start, end, by = (_argument(step, args, kwargs, key) for key in ("start", "end", "step"))
            start, end, by = start or 0, size if end is None else end, by or 1
            if by > 1:
                rows = numbers.movedim(axis, 0)
                for place in range(by):
                    others = rows[place::by]
                    self._join(*torch.broadcast_tensors(rows[: len(others) * by : by], others))
                return
            for bound in (start, end):
                bound = bound + size if bound < 0 else bound
                if not 0 < bound < size:
                    continue
                origin = self._said(bound)
                if origin is not None:
                    self._result.sizes.append(Size(*origin, self._each(numbers, axis, 0, bound)))
                else:
                    each = math.gcd(bound, size)
                    self._even([self._slice(numbers, axis, at, at + each) for at in range(0, size, each)])
        elif sum(one > 1 for one in numbers.shape) == 1:  # chosen by number
            self._doubt(given)

    def _said(self, number: int) -> tuple[str, str, int | None] | None:
        return next((told.origin for told in self.told if told == number), None)

    def _slice(self, numbers: Tensor, axis: int, start: int, end: int) -> np.ndarray:
        return flat(numbers.narrow(axis, start, end - start))

    def _each(self, numbers: Tensor, axis: int, start: int, end: int) -> np.ndarray:
        """The number of each channel, where it has several the first."""
        first: np.ndarray = numbers.movedim(axis, 0)[start:end].flatten(1)[:, 0].numpy().astype(np.int64)
        return first

    def _move(self, name: str, step: Any, args: Any, kwargs: Any, made: Any) -> None:
        if name == "cat":
            tensors, axis = args[0], (_argument(step, args, kwargs, "dim") or 0)
            wide = [
                self._numbers.get(one, torch.zeros([1] * one.ndim, dtype=torch.float64, device="cpu"))
                for one in tensors
            ]
            axis %= made.ndim
            kept = [axis] + [other for other in range(made.ndim) if any(one.shape[other] > 1 for one in wide)]
            shapes = [[one.shape[a] if a in kept else 1 for a in range(made.ndim)] for one in tensors]
            parts = [one.expand(shape) for one, shape in zip(wide, shapes, strict=True) if len(shape) == one.ndim]
            self._set(made, compact(torch.cat(parts, axis)))
            return

        def as_numbers(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            numbers = self._numbers.get(leaf)
            return (torch.zeros((), dtype=torch.float64, device="cpu") if numbers is None else numbers).expand(
                leaf.shape
            )

        if sum(leaf.numel() for leaf in tree_leaves(made)) > 16 * LARGEST:
            raise ValueError
        if name == "constant_pad_nd":
            args = args[:2]
        moved = step(*tree_map(as_numbers, args), **kwargs)
        for tensor, numbers in zip(tree_leaves(made), tree_leaves(moved), strict=True):
            self._set(tensor, compact(numbers))

    def _reduce(self, step: Any, args: Any, kwargs: Any, given: Tensor, numbers: Tensor, made: Any) -> None:
        axes = _argument(step, args, kwargs, "dim")
        axes = list(range(given.ndim)) if axes in (None, []) else [axes] if isinstance(axes, int) else list(axes)
        if any(numbers.shape[axis] > 1 for axis in axes):
            self._doubt(given)
            return
        for leaf in tree_leaves(made):
            same = leaf.ndim == given.ndim
            gone = {axis % given.ndim for axis in axes}
            left = [size for axis, size in enumerate(numbers.shape) if axis not in gone]
            self._set(leaf, numbers if same else numbers.reshape(left))

    def _contract(self, left: Tensor, right: Tensor, made: Tensor) -> None:
        found = []
        for tensor, summed, passing in ((left, -1, -2), (right, -2, -1)):
            numbers = self._numbers.get(tensor)
            if numbers is not None and numbers.shape[summed] > 1:
                self._doubt(tensor)
            elif numbers is not None and bool(numbers.any()):
                found.append((tensor, numbers, passing))
        if len(found) == 1:
            self._set(made, found[0][1])
        else:
            for tensor, *_ in found:
                self._doubt(tensor)


def _padded(numbers: Tensor, ndim: int) -> Tensor:
    return numbers.reshape([1] * (ndim - numbers.ndim) + list(numbers.shape))


def _padded_shape(tensor: Tensor, ndim: int) -> list[int]:
    return [1] * (ndim - tensor.ndim) + list(tensor.shape)


def _bounds(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for size in sizes:
        yield start, start + size
        start += size


def _argument(step: Any, args: Any, kwargs: Any, name: str) -> Any:
    for place, argument in enumerate(step._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


_PASSING = {"clone", "detach", "alias", "_to_copy", "lift_fresh", "positive"}
_DIVIDING = {"split", "split_with_sizes", "slice", "select", "unbind", "index_select", "index", "gather"}
DIVIDING_CALLS = {"split", "split_with_sizes", "narrow", "__getitem__"}
_MOVING = {
    *_DIVIDING,
    *("permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "cat", "stack", "flip", "roll", "repeat"),
    *("constant_pad_nd", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
}
_REDUCING = {
    *("mean", "sum", "amax", "amin", "max", "min", "std", "var", "var_mean", "std_mean", "logsumexp", "prod"),
    *("linalg_vector_norm", "norm"),
}
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "topk"}
_SPATIAL = re.compile(r"(?:pool|upsample_[a-z]+|grid_sampler_|reflection_pad|replication_pad)(\d)d")
