"""Random values for a trial, in place of those that a network has: these can hide a wrong cut.

How a convolution, linear or recurrent layer itself is cut is a matter of slices; what lies between such layers is in
question. So they are not computed on random weights but stand aside for noise, which costs next to nothing and is as
loud behind the last layer of a network as behind the first.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_cosprune.network.layers import is_depthwise, is_layer

__all__ = ["STATISTICS", "Draws", "StandIns", "Still", "draw", "plain_layers", "tensors_of"]

STATISTICS = ("running_mean", "running_var")
"""Buffers of batch norms that are drawn too."""

_LOUD = 100
"""How much louder than the others the channels are that are to go, in the passes on random values.

Whoever listens to them although no layer is known to read them, be it as softly as local response normalisation, is
heard; those that are known to read them ignore them.
"""

_KEPT = 2**24
"""How many numbers of noise are kept for the next passes, which takes a fraction of the time of drawing them again."""

_FORWARDS = {
    layer.forward
    for layer in (
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        *(nn.Linear, nn.RNN, nn.GRU, nn.LSTM),
    )
}


@dataclass(frozen=True)
class Draws:
    """What stands in for a network's tensors and inputs.

    Attributes:
        tensors: Name of a parameter or statistic -> values of its shape.
        inputs: Noise in the form of the example input.
    """

    tensors: Mapping[str, Tensor]
    inputs: Any

    def loud(self, model: nn.Module, outputs: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """The tensors, with filters that are to go made loud.

        Args:
            model: The network.
            outputs: Name of a module -> channels of its output that are to go.

        Returns:
            Name -> values.
        """
        values = dict(self.tensors)
        for name, idxs in outputs.items():
            layer = model.get_submodule(name)
            if is_layer(layer) and not getattr(layer, "transposed", False):
                for key in (f"{name}.weight" if name else "weight", f"{name}.bias" if name else "bias"):
                    if key in values:
                        values[key] = values[key].clone()
                        values[key][idxs] *= _LOUD
        return values


@dataclass(frozen=True)
class _Form:
    """What a call of a layer looked like.

    Attributes:
        given: Shape and data type of its input.
        made: Shape and data type of each tensor that it returned, and whether that was nowhere negative, as code may
            take its root or log. Units that are off are not to stay so.
        structure: How they were nested.
    """

    given: tuple[torch.Size, torch.dtype]
    made: tuple[tuple[torch.Size, torch.dtype, bool], ...]
    structure: Any


@dataclass
class StandIns:
    """Noise in place of what the layers of a network compute.

    Attributes:
        layers: Name -> layer.
        inputs: Name of a layer -> channels of its input that are to go.
        outputs: Likewise of its output.
    """

    layers: Mapping[str, nn.Module]
    inputs: Mapping[str, Sequence[int]]
    outputs: Mapping[str, Sequence[int]]
    _forms: dict[str, list[_Form | None]] = field(default_factory=dict)
    _noise: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)
    _left: int = _KEPT
    _depthwise: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self._depthwise = frozenset(name for name, layer in self.layers.items() if is_depthwise(layer))

    def learn(self) -> None:
        """Change the layers until their owner puts them back: they note what they are given and return."""
        self._forms.clear()
        self._noise.clear()
        self._left = _KEPT
        for name, layer in self.layers.items():
            layer.register_forward_hook(functools.partial(self._note, name), with_kwargs=True)

    def take_over(self, *, cut: bool) -> None:
        """Change the layers until their owner puts them back: they return noise where they are called as they were.

        Args:
            cut: Whether they have lost the channels.
        """
        calls = dict.fromkeys(self.layers, 0)
        for name, layer in self.layers.items():
            vars(layer)["forward"] = functools.partial(self._answer, name, layer.forward, calls, cut)

    def _note(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = given_to(args, kwargs)
        leaves, structure = tree_flatten(output)
        form = None
        if given is not None and all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
            made = tuple((leaf.shape, leaf.dtype, bool((leaf >= 0).all())) for leaf in leaves)
            form = _Form((given.shape, given.dtype), made, structure)
        self._forms.setdefault(name, []).append(form)

    def _answer(
        self, name: str, forward: Callable[..., Any], calls: dict[str, int], cut: bool, *args: Any, **kwargs: Any
    ) -> Any:
        number, given = calls[name], given_to(args, kwargs)
        calls[name] += 1
        form = next(iter(self._forms.get(name, [])[number:]), None)
        if form is None or given is None:
            return _in_its_type(self.layers[name], forward, given, args, kwargs)
        shape, dtype = form.given
        axis = channel_axis(self.layers[name])
        lost = self.outputs if name in self._depthwise else self.inputs
        gone = len(lost.get(name, ())) if cut else 0
        if given.ndim != len(shape) or given.shape != _fewer(shape, axis, gone):
            return _in_its_type(self.layers[name], forward, given, args, kwargs)
        leaves = []
        for noise, (_, of_leaf, _) in zip(self._draw(name, number, form, axis), form.made, strict=True):
            made = without(noise, self.outputs[name], axis) if cut and name in self.outputs else noise
            kind = given.dtype if of_leaf == dtype else of_leaf
            leaves.append(made.to(given.device, kind, copy=made is noise))  # the network may write into it
        return tree_unflatten(leaves, form.structure)

    def _draw(self, name: str, number: int, form: _Form, axis: int) -> list[Tensor]:
        """What stands for the tensors that a layer returns at one of its calls; what is to go is loud."""
        if (name, number) in self._noise:
            return self._noise[name, number]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {number}".encode()))
        drawn = [_signed(torch.randn(size, generator=generator), int(positive)) for size, _, positive in form.made]
        if name in self.outputs:
            going = torch.tensor(self.outputs[name])
            for noise in drawn:
                noise.index_copy_(axis % noise.ndim, going, noise.index_select(axis, going) * _LOUD)
        if sum(noise.numel() for noise in drawn) <= self._left:
            self._noise[name, number] = drawn
            self._left -= sum(noise.numel() for noise in drawn)
        return drawn


def _in_its_type(
    layer: nn.Module, forward: Callable[..., Any], given: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What a layer computes of an input whose data type may not be that of its own weights."""
    own = layer._parameters
    wrong = {
        key: tensor
        for key, tensor in own.items()
        if tensor is not None and given is not None and tensor.is_floating_point() and tensor.dtype != given.dtype
    }
    if not wrong or isinstance(layer, nn.RNNBase):
        return forward(*args, **kwargs)
    try:
        own.update({key: tensor.to(given.dtype) for key, tensor in wrong.items()})  # type: ignore[union-attr, misc]
        return forward(*args, **kwargs)
    finally:
        own.update(wrong)


class Still(TorchDispatchMode):
    """Code that draws numbers within is given the same number for each, whatever the shape is.

    Numbers from distributions that are continuous are one half, and so is every chance that something happens.
    PyTorch's generator stays where it was: if it has moved afterwards, something was drawn that is not held still.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch loads the compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one step."""
        name = func._schema.name.removeprefix("aten::")
        if name not in _DRAWING and name != "native_dropout":
            return func(*args, **(kwargs or {}))
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            made = func(*args, **(kwargs or {}))
        if name == "native_dropout":
            made[0].copy_(args[0])
        elif isinstance(made, Tensor):
            made.fill_(0.5)
        return made


_DRAWING = {
    *("rand", "rand_like", "randn", "randn_like", "normal", "normal_", "uniform_", "exponential_", "cauchy_"),
    *("log_normal_", "bernoulli", "bernoulli_", "geometric_", "poisson"),
}


def plain_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> layer whose weight is stored, and that computes what PyTorch's own layer of its kind does."""
    return {
        name: module
        for name, module in model.named_modules()
        if (is_layer(module) or isinstance(module, nn.RNNBase))
        and type(module).forward in _FORWARDS
        and not module._forward_pre_hooks
        and not parametrize.is_parametrized(module)
    }


def given_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a layer is called with, where that is a tensor."""
    given = args[0] if args else kwargs.get("input")
    return given if isinstance(given, Tensor) else None


def channel_axis(layer: nn.Module) -> int:
    """The axis, from the last, that counts channels of what a layer is given and returns."""
    return -1 - len(layer.kernel_size) if isinstance(layer, nn.modules.conv._ConvNd) else -1


def kept_channels(removed: Sequence[int], left: int) -> Tensor:
    """Numbers of the channels that are left, counted before the cut; nobody writes into them."""
    return _kept_channels(tuple(removed), left)


@functools.lru_cache(maxsize=512)  # each layer's are asked for several times in each of several passes
def _kept_channels(removed: tuple[int, ...], left: int) -> Tensor:
    keep = torch.ones(left + len(removed), dtype=torch.bool)
    keep[torch.tensor(removed, dtype=torch.long)] = False
    return keep.nonzero()[:, 0]


def without(tensor: Tensor, removed: Sequence[int], axis: int) -> Tensor:
    """A tensor without some of the channels on an axis."""
    return tensor.index_select(axis, kept_channels(removed, tensor.shape[axis] - len(removed)).to(tensor.device))


def _fewer(shape: torch.Size, axis: int, gone: int) -> torch.Size:
    sizes = list(shape)
    sizes[axis] -= gone
    return torch.Size(sizes)


def draw(model: nn.Module, example_inputs: Any, without: Collection[nn.Module] = ()) -> Draws:
    """Draw values for the floating-point parameters and batch-norm statistics, and for the input.

    Args:
        model: The network; left as it was found.
        example_inputs: As for ``apply_plan``.
        without: Layers whose parameters are not needed.

    Returns:
        The same at every call for the same network.
    """
    generator = torch.Generator().manual_seed(0)
    unneeded = {id(parameter) for layer in without for parameter in layer.parameters(recurse=False)}
    tensors = {
        name: _draw_weight(tensor.detach(), generator)
        for name, tensor in tensors_of(model).items()
        if id(tensor) not in unneeded
        and tensor.is_floating_point()
        and (isinstance(tensor, nn.Parameter) or name.endswith(STATISTICS))
    }
    return Draws(tensors, tree_map(lambda leaf: _draw_input(leaf, generator), example_inputs))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without those of compiled parts (TorchScript), which cannot be replaced."""
    compiled = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(compiled)}


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of about unit size that is nowhere negative where ``tensor`` is not, for code may take its root or log."""
    noise = torch.randn(
        tensor.shape, generator=generator, dtype=torch.float64 if tensor.dtype == torch.float64 else None
    )
    return _signed(noise, _sign(tensor)).to(tensor.device)


def _sign(tensor: Tensor) -> int:
    """1 where it is nowhere negative, -1 where it is nowhere positive, else 0."""
    return 1 if bool((tensor >= 0).all()) else -1 if bool((tensor <= 0).all()) else 0


def _signed(noise: Tensor, sign: int) -> Tensor:
    return noise.abs_().add_(0.5).mul_(sign) if sign else noise


def _draw_weight(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """In place of a parameter or statistic, at a scale that lets signals through many layers."""
    noise = _noise_like(tensor, generator)
    fan_in = tensor[0].numel() if tensor.ndim > 1 and max(tensor.shape) < tensor.numel() else 1
    return noise.mul_((2 / fan_in) ** 0.5) if fan_in > 1 else noise


def _draw_input(leaf: Any, generator: torch.Generator) -> Any:
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.numel() < 2:
        return leaf
    scale = leaf.detach().abs().max().to(torch.float32).nan_to_num(1.0, 1.0, 1.0)
    silent = not bool(scale)
    noise = _noise_like(leaf.detach(), generator) if not silent else torch.randn(leaf.shape, generator=generator)
    return (noise if silent else noise / 2 * scale.to(noise)).to(leaf)
