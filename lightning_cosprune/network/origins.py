"""From which filters each value comes: numbers of filters go through a forward pass beside the values.

Torch-Pruning's graph knows which step follows which, and guesses from sizes where channels lie behind a reshape. Here
the steps that move values move the numbers too, so wherever a channel ends up it is known whose it is: behind splits,
slices, concatenations, transpositions and flattening in any order. Where a step is not known, its channels are said to
be doubtful, and the graph alone is believed.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_cosprune.network.forward import (
    call,
    evaluating,
    float_tensors,
    outside_inference_mode,
    same_random_state,
    unchanged,
)
from lightning_cosprune.network.layers import is_depthwise, is_layer, num_filters

__all__ = ["FIXED", "HELD", "READ", "WRITTEN", "Even", "Origins", "Place", "Size", "find_origins"]

READ, WRITTEN, HELD, FIXED = "read", "written", "held", "fixed"

Place = tuple[str, str]
"""Where numbers of channels belong: ``READ`` by a layer or ``WRITTEN`` by a module, with its name; ``HELD`` by a tensor
of the network with its name; ``FIXED`` as units of a recurrent layer."""

_LARGEST = 2**22
"""How many numbers one tensor may have at most where they cannot be kept by channel."""


@dataclass(frozen=True)
class Even:
    """Parts of a tensor's channels that must lose the same number each, such as those of a chunk.

    Attributes:
        parts: The numbers of each of them.
    """

    parts: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Size:
    """An attribute of a module of the user's own that says how many channels a part has.

    Attributes:
        module: Name of the module.
        attribute: Its attribute.
        entry: Which entry, where that is a sequence.
        channels: The numbers of the part.
    """

    module: str
    attribute: str
    entry: int | None
    channels: np.ndarray


@dataclass
class Origins:
    """What a forward pass says of channels. Each has a number of its own, from 1 on.

    Attributes:
        places: Place -> number of its first channel, and how many it has.
        shapes: Name of a tensor that is ``HELD`` -> its shape.
        owner: For each number, that of the set of channels that can only go together; 0 for number 0.
        doubtful: Sets of which not all is known.
        outputs: Sets that the network returns.
        evens: Parts that lose the same.
        sizes: Attributes that say how large parts are.
    """

    places: dict[Place, tuple[int, int]] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    owner: np.ndarray = field(default_factory=lambda: np.zeros(1, int))
    doubtful: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()
    evens: list[Even] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)

    def of(self, place: Place) -> np.ndarray:
        """The set of each channel of a place."""
        first, count = self.places[place]
        return self.owner[first : first + count]


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


class _Told(int):
    """A whole number that remembers which attribute it was."""

    origin: tuple[str, str, int | None]


class _Watch:
    """The numbers that go with the tensors of one forward pass, of length one on axes where all are the same."""

    def __init__(self, model: nn.Module, norms: frozenset[str]) -> None:
        self._model, self._norms = model, norms
        self._result = Origins()
        self._next = 1
        self._numbers = WeakTensorKeyDictionary()
        self._pairs: list[np.ndarray] = []
        self._doubts: list[np.ndarray] = []
        self._ends: list[np.ndarray] = []
        self._of_layers: dict[int, str] = {}
        self._paused = False
        self.evenly = False
        self.told: list[_Told] = []

    # Modules

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
            if id(tensor) not in self._of_layers and tensor.is_floating_point() and 1 < tensor.numel() <= _LARGEST:
                first = self._numbered((HELD, name), tensor.numel())
                self._result.shapes[name] = tensor.shape
                self._set(tensor, first + torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape))

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
        own = torch.arange(first, first + count, dtype=torch.float64)[:, None].expand(count, table.shape[1])
        self._join(own, table.expand(count, -1))

    # Steps between modules

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
            parts = tuple(_compact(part) for part in parts)
            if numbers.shape[axis] > 1:
                self._even([_flat(part) for part in parts])
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
            result = torch.zeros([1] * made.ndim, dtype=torch.float64)
        if keep:
            self._set(made, result)
        return result

    def _reshape(self, given: Tensor, numbers: Tensor, made: Tensor) -> None:
        shape = list(made.shape)
        if numbers.shape[0] == 1 and given.ndim and made.ndim and given.shape[0] == made.shape[0]:
            shape[0], moved = 1, numbers.expand(1, *given.shape[1:])
        else:
            moved = numbers.expand_as(given)
        if moved.numel() > _LARGEST:
            raise ValueError
        moved = _compact(moved.reshape(shape))
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
        return _flat(numbers.narrow(axis, start, end - start))

    def _each(self, numbers: Tensor, axis: int, start: int, end: int) -> np.ndarray:
        """The number of each channel, where it has several the first."""
        first: np.ndarray = numbers.movedim(axis, 0)[start:end].flatten(1)[:, 0].numpy().astype(np.int64)
        return first

    def _move(self, name: str, step: Any, args: Any, kwargs: Any, made: Any) -> None:
        if name == "cat":
            tensors, axis = args[0], (_argument(step, args, kwargs, "dim") or 0)
            wide = [self._numbers.get(one, torch.zeros([1] * one.ndim, dtype=torch.float64)) for one in tensors]
            axis %= made.ndim
            kept = [axis] + [other for other in range(made.ndim) if any(one.shape[other] > 1 for one in wide)]
            shapes = [[one.shape[a] if a in kept else 1 for a in range(made.ndim)] for one in tensors]
            parts = [one.expand(shape) for one, shape in zip(wide, shapes, strict=True) if len(shape) == one.ndim]
            self._set(made, _compact(torch.cat(parts, axis)))
            return

        def as_numbers(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
                return leaf
            numbers = self._numbers.get(leaf)
            return (torch.zeros((), dtype=torch.float64) if numbers is None else numbers).expand(leaf.shape)

        if sum(leaf.numel() for leaf in tree_leaves(made)) > 16 * _LARGEST:
            raise ValueError
        if name == "constant_pad_nd":
            args = args[:2]
        moved = step(*tree_map(as_numbers, args), **kwargs)
        for tensor, numbers in zip(tree_leaves(made), tree_leaves(moved), strict=True):
            self._set(tensor, _compact(numbers))

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

    # Numbers

    def _numbered(self, place: Place, count: int) -> int:
        known = self._result.places.get(place)
        if known is None:
            known = self._result.places[place] = self._next, count
            self._next += count
        elif known[1] != count:
            raise ValueError  # another number of channels at each call
        return known[0]

    def _channels(self, place: Place) -> np.ndarray:
        first, count = self._result.places[place]
        return np.arange(first, first + count)

    def _set(self, tensor: Any, numbers: Tensor) -> None:
        if isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex()):
            if numbers.ndim != tensor.ndim:
                raise ValueError
            self._numbers[tensor] = numbers

    def _join(self, some: Tensor, others: Tensor) -> None:
        both = (some != 0) & (others != 0) & (some != others)
        if bool(both.any()):
            pairs = np.stack([some[both].numpy().astype(np.int64), others[both].numpy().astype(np.int64)], axis=1)
            self._pairs.append(np.unique(pairs, axis=0) if len(pairs) > 1 else pairs)

    def _even(self, parts: Sequence[np.ndarray]) -> None:
        if len(parts) > 1:
            self._result.evens.append(Even(tuple(parts)))

    def _doubt(self, tensor: Any) -> None:
        numbers = self._numbers.get(tensor) if isinstance(tensor, Tensor) else None
        if numbers is not None:
            self._doubts.append(_flat(numbers))

    def _doubt_layer(self, name: str) -> None:
        for place in ((READ, name), (WRITTEN, name)):
            if place in self._result.places:
                self._doubts.append(self._channels(place))

    def end(self, outputs: Sequence[Tensor]) -> None:
        """Note what the network returns."""
        for tensor in outputs:
            numbers = self._numbers.get(tensor)
            if numbers is not None:
                self._ends.append(_flat(numbers))

    def found(self) -> Origins:
        """What there is to know."""
        result = self._result
        result.owner = _components(self._next, self._pairs)
        held = [self._channels(place) for place in result.places if place[0] == FIXED]
        result.doubtful = _sets(result.owner, [*self._doubts, *held])
        result.outputs = _sets(result.owner, self._ends)
        result.evens = [Even(tuple(result.owner[part] for part in even.parts)) for even in result.evens]
        result.sizes = [
            Size(size.module, size.attribute, size.entry, result.owner[size.channels]) for size in result.sizes
        ]
        return result


class _Numbers(TorchFunctionMode):
    """Sees the calls of Python code: whether channels are divided by how many there are, or by a number."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        evenly, told = self._watch.evenly, self._watch.told
        self._watch.evenly = name in ("chunk", "tensor_split")
        self._watch.told = list(_numbers_in((args, kwargs))) if name in _DIVIDING_CALLS else []
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


def _numbers_in(arguments: Any) -> Iterator[_Told]:
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, slice):
            yield from (one for one in (leaf.start, leaf.stop) if isinstance(one, _Told))
        elif isinstance(leaf, _Told):
            yield leaf


def _told(value: int, module: str, attribute: str, entry: int | None) -> _Told:
    told = _Told(value)
    told.origin = (module, attribute, entry)
    return told


def _along(first: int, count: int, ndim: int, axis: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = count
    return torch.arange(first, first + count, dtype=torch.float64).reshape(shape)


def _compact(numbers: Tensor) -> Tensor:
    """The same, of length one along each axis on which nothing changes."""
    for axis in range(numbers.ndim):
        if numbers.shape[axis] > 1:
            one = numbers.narrow(axis, 0, 1)
            if numbers.stride(axis) == 0 or bool((numbers == one).all()):
                numbers = one
    return numbers.clone() if numbers.numel() < 2**12 else numbers


def _flat(numbers: Tensor) -> np.ndarray:
    flat: np.ndarray = numbers.flatten().numpy().astype(np.int64)
    return np.unique(flat[flat != 0])


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


def _components(count: int, pairs: Sequence[np.ndarray]) -> np.ndarray:
    """For each number the smallest that it is joined to, over any number of others."""
    owner = np.arange(count)
    if not pairs:
        return owner
    some, others = np.concatenate(pairs).T
    while True:
        least = np.minimum(owner[some], owner[others])
        before = owner.copy()
        np.minimum.at(owner, owner[some], least)
        np.minimum.at(owner, owner[others], least)
        owner = owner[owner]
        if (owner == before).all():
            return owner


def _sets(owner: np.ndarray, numbers: Sequence[np.ndarray]) -> frozenset[int]:
    return frozenset(owner[np.concatenate(numbers)].tolist()) if numbers else frozenset()


_PASSING = {"clone", "detach", "alias", "_to_copy", "lift_fresh", "positive"}
_DIVIDING = {"split", "split_with_sizes", "slice", "select", "unbind", "index_select", "index", "gather"}
_DIVIDING_CALLS = {"split", "split_with_sizes", "narrow", "__getitem__"}
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
