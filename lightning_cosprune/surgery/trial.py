"""Whether a cut is right: the smaller network must compute what the dense one does whose readers ignore the channels.

Weights and inputs as they are can hide a wrong cut: a batch norm whose scale starts at zero, dead units, a saturated
output, an example input of silence. So there are two passes, one with the weights and the example as they are and one
with random ones of the same shapes and signs; and not only the outputs are compared, but what every layer computes that
reads removed channels. Training mode, which may go other ways, is tried too where the dense network can be.
What no trial sees: a yes-or-no decision over many channels that falls the same way in all these passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lightning_cosprune.network.channels import Removal
from lightning_cosprune.network.forward import as_call, eager, evaluating, float_tensors, same_random_state, unchanged
from lightning_cosprune.network.pruners import RefusedError, Replacement, slices

__all__ = ["Trial"]

# Summation order differs between a wide and a narrow layer; anything beyond rounding is a wrong cut.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

# Rounding can hide the loss of one filter among many, or a weak coupling such as that of local response normalisation.
# So networks are tried in a wider type where their code allows it; parts of them may insist on float32, and round so.
_TOLERANCE_WIDENED = 1e-6

# In training mode a batch norm blows up the rounding of channels that hardly vary.
_TOLERANCE_TRAINING = 1e-2
_NARROWER = {
    torch.float64: (torch.float16, torch.bfloat16, torch.float32),
    torch.float32: (torch.float16, torch.bfloat16),
}

_OWN = torch.bool
"""In place of a width: every tensor keeps its own data type."""

_LOUD = 100
"""How much louder than the others the channels are that are to go, in the passes on random weights.

Whoever listens to them although no layer is known to read them, be it as softly as local response normalisation, is
heard; those that are known to read them multiply them by zero.
"""

_LARGEST_RECORD = 2**17
"""How many values of one layer's output are compared at most, spread over all of it."""


@dataclass(frozen=True)
class _Pass:
    """One forward pass of the dense network, for the smaller one to repeat."""

    inputs: Any
    drawn: bool
    width: torch.dtype
    seen: dict[str, list[Tensor]]


class Trial:
    """What the dense network computes without the channels that are to go, taken down before the cut.

    Args:
        model: The network; left as it was found, as by :meth:`check`.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        removals: What will be cut, counted as the network is now.
        width: The data type that narrower floating-point types are widened to, where the network can compute in it.

    Raises:
        RefusedError: The dense network cannot show whether the cut is right.
        ValueError: It computes no finite numbers because a weight or the example input is none.
    """

    def __init__(self, model: nn.Module, example_inputs: Any, removals: Sequence[Removal], width: torch.dtype) -> None:
        self._model = model
        self._readers = {name: model.get_submodule(name) for removal in removals for name in removal.inputs}
        self._inputs = _merged([removal.inputs for removal in removals])
        self._outputs = _merged([removal.outputs for removal in removals])
        for name, reader in self._readers.items():
            _check_reader(name, reader)
        tensors = _tensors_of(model)
        self._names = {id(tensor): name for name, tensor in tensors.items()}
        generator = torch.Generator().manual_seed(0)
        self._drawn = {
            name: _draw_weight(tensor.detach(), generator)
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and (isinstance(tensor, nn.Parameter) or name.endswith(_STATISTICS))
        }
        for name, idxs in self._outputs.items():
            layer = model.get_submodule(name)
            if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) and not getattr(layer, "transposed", False):
                for key in (f"{name}.weight" if name else "weight", f"{name}.bias" if name else "bias"):
                    if key in self._drawn:
                        self._drawn[key][idxs] *= _LOUD
        noise = tree_map(lambda leaf: _draw_input(leaf, generator), example_inputs)
        self._passes = [
            *self._passes_that_show([example_inputs], False, width),
            *self._passes_that_show([noise, example_inputs], True, width),
        ]
        self._trained: list[Tensor] = []
        self._is_steady = False
        with contextlib.suppress(Exception):  # such as a batch norm that is given a single value
            first, again = (self._train(self._masked_values, seed) for seed in (0, 1))
            self._trained = first if all(bool(tensor.isfinite().all()) for tensor in first) else []
            self._is_steady = all(torch.equal(*pair) for pair in zip(first, again, strict=True))

    def check(self, replacements: Sequence[Replacement]) -> None:
        """Compare the network, which was cut since.

        Args:
            replacements: The parameters that were replaced, in the order of their replacement.

        Raises:
            RefusedError: It does not compute the same.
        """
        self._cut_drawn(replacements)
        for wanted in self._passes:
            found = self._run(wanted.inputs, self._values(wanted.drawn, wanted.width), wanted.width, {}, set())
            tolerance = _TOLERANCE_WIDENED if wanted.width is torch.float64 else None
            for name, expected in wanted.seen.items():
                _compare(expected, found.get(name, []), name, tolerance)
        if not self._trained:
            return
        try:
            trained = self._train(self._values)
        except Exception as error:
            raise RefusedError(
                f"it cannot be cut: in training mode the forward pass fails then: {type(error).__name__}: {error}"
            ) from error
        # What dropout and its like draw depends on the shapes that they meet: there the shapes alone are compared.
        _compare(self._trained, trained, _OUTPUT, _TOLERANCE_TRAINING if self._is_steady else float("inf"))

    def _passes_that_show(self, candidates: Sequence[Any], drawn: bool, width: torch.dtype) -> list[_Pass]:
        """Try the candidates in turn, until a pass has reached every layer that reads removed channels.

        Returns:
            All passes that could be made: those that reached less, as where the data decide which way they go, are of
            use all the same.
        """
        passes: list[_Pass] = []
        reached: set[str] = set()
        reason = ""
        for inputs in candidates:
            try:
                dtype, seen = self._run_as_wide_as_possible(inputs, drawn, width, reached)
            except Exception as error:  # The network may refuse random inputs in any way.
                reason = f"{type(error).__name__}: {error}"
                continue
            if not all(bool(tensor.isfinite().all()) for tensors in seen.values() for tensor in tensors):
                if not drawn:
                    _check_finite(self._model, inputs)
                reason = "not all that is computed is finite"
                continue
            passes.append(_Pass(inputs, drawn, dtype, seen))
            silent = [name for name in self._readers if name not in reached]
            if not silent or not drawn:  # an example of silence is no fault of the network
                return passes
            reason = f"{silent[0]}, which reads it, was given nothing but zeros"
        kind = "random weights" if drawn else "the example input"
        raise RefusedError(f"it cannot be shown to be right on {kind}: {reason}")

    def _run_as_wide_as_possible(
        self, inputs: Any, drawn: bool, width: torch.dtype, reached: set[str]
    ) -> tuple[torch.dtype, dict[str, list[Tensor]]]:
        try:
            return width, self._run(inputs, self._masked_values(drawn, width), width, self._outputs, reached)
        except Exception:  # Code that insists on a data type fails in any way; as it stands it ran before.
            return _OWN, self._run(inputs, self._masked_values(drawn, _OWN), _OWN, self._outputs, reached)

    def _masked_values(self, drawn: bool, width: torch.dtype) -> dict[str, Tensor]:
        values = self._values(drawn, width)
        for name, reader in self._readers.items():
            for key in _input_weights(name, reader):
                weight = values[key] if key in values else self._model.get_parameter(key)
                values[key] = _masked(reader, weight, self._inputs[name])
        return values

    def _values(self, drawn: bool, width: torch.dtype) -> dict[str, Tensor]:
        """What a pass computes with in place of the network's own tensors."""
        values = {}
        for name, tensor in _tensors_of(self._model).items():
            dtype = _widened(tensor.dtype, width)
            if drawn and name in self._drawn:
                values[name] = self._drawn[name].to(dtype)
            elif dtype != tensor.dtype:
                values[name] = tensor.detach().to(dtype)
        return values

    def _cut_drawn(self, replacements: Sequence[Replacement]) -> None:
        for replacement in replacements:
            name = self._names.pop(id(replacement.old))
            self._names[id(replacement.new)] = name
            self._drawn[name] = slices(self._drawn[name], replacement.kept, replacement.dim)
        for name, idxs in self._outputs.items():
            for statistic in _STATISTICS:
                key = f"{name}.{statistic}" if name else statistic
                if key in self._drawn:
                    self._drawn[key] = _without(self._drawn[key], idxs, 0)

    def _run(
        self,
        inputs: Any,
        values: dict[str, Tensor],
        width: torch.dtype,
        removed: dict[str, list[int]],
        reached: set[str],
    ) -> dict[str, list[Tensor]]:
        """One forward pass in evaluation mode: the network's outputs and those of every reader.

        Returns:
            Name of a reader -> what it computes, without the channels ``removed`` from its own output. The names of
            readers that are given anything but zeros are added to ``reached``.
        """
        seen: dict[str, list[Tensor]] = {}

        def note(name: str, reader: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if any(bool(leaf.any()) for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)):
                reached.add(name)
            tensors = float_tensors(output)
            if name in removed:
                tensors = [_without(tensor, removed[name], _channel_axis(reader)) for tensor in tensors]
            seen.setdefault(name, []).extend(_sample(tensor) for tensor in tensors)

        args, kwargs = as_call(tree_map(lambda leaf: _to_width(leaf, width), inputs))
        with unchanged(self._model), evaluating(self._model), torch.no_grad(), same_random_state(), eager():
            for name, reader in self._readers.items():
                reader.register_forward_hook(lambda *call, name=name: note(name, *call))
            outputs = torch.func.functional_call(self._model, values, args, kwargs)
        seen[_OUTPUT] = float_tensors(outputs)
        return seen

    def _train(self, values_of: Callable[[bool, torch.dtype], dict[str, Tensor]], seed: int = 0) -> list[Tensor]:
        """What the network returns in training mode, for the last of the passes."""
        wanted = self._passes[-1]
        values = values_of(wanted.drawn, wanted.width)
        values |= {name: value.clone() for name, value in values.items() if name.endswith(_STATISTICS)}
        args, kwargs = as_call(tree_map(lambda leaf: _to_width(leaf, wanted.width), wanted.inputs))
        with unchanged(self._model), torch.no_grad(), same_random_state(seed), eager():
            self._model.train()
            return float_tensors(torch.func.functional_call(self._model, values, args, kwargs))


_OUTPUT = "the network's output"
_STATISTICS = ("running_mean", "running_var")


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without those of compiled parts (TorchScript), which cannot be replaced."""
    compiled = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(compiled)}


def _merged(parts: Sequence[Any]) -> dict[str, list[int]]:
    return {name: sorted({idx for part in parts for idx in part.get(name, ())}) for part in parts for name in part}


def _widened(dtype: torch.dtype, width: torch.dtype) -> torch.dtype:
    return width if dtype in _NARROWER.get(width, ()) else dtype


def _to_width(leaf: Any, width: torch.dtype) -> Any:
    return leaf.to(_widened(leaf.dtype, width)) if isinstance(leaf, Tensor) else leaf


def _without(tensor: Tensor, idxs: Sequence[int], axis: int) -> Tensor:
    keep = torch.ones(tensor.shape[axis], dtype=torch.bool)
    keep[torch.tensor(idxs, dtype=torch.long)] = False
    return tensor.index_select(axis, keep.nonzero()[:, 0].to(tensor.device))


def _check_finite(model: nn.Module, example_inputs: Any) -> None:
    """Say where it comes from that a forward pass does not give finite numbers, where that can be told."""
    if not all(_is_finite(leaf) for leaf in tree_leaves(example_inputs)):
        raise ValueError(
            "`apply_plan(example_inputs=...)`: expected finite numbers, found NaN or infinity. Pass a sample that the "
            "network could be trained on, or noise of its shape."
        )
    for name, tensor in _tensors_of(model).items():
        if not _is_finite(tensor):
            raise ValueError(
                f"`apply_plan(model=...)`: expected finite numbers in {name}, found NaN or infinity in "
                f"{int((~tensor.isfinite()).sum())} of {tensor.numel()}, so that the network computes nothing that a "
                "cut could be compared with. Training has diverged, or the checkpoint is damaged."
            )


def _is_finite(leaf: Any) -> bool:
    return not isinstance(leaf, Tensor) or bool(leaf.isfinite().all())


# Random weights and inputs


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of about unit size that is nowhere negative where ``tensor`` is not, for code may take its root or log."""
    noise = torch.randn(
        tensor.shape, generator=generator, dtype=torch.float64 if tensor.dtype == torch.float64 else None
    )
    if bool((tensor >= 0).all()):
        noise = noise.abs_().add_(0.5)
    elif bool((tensor <= 0).all()):
        noise = noise.abs_().add_(0.5).neg_()
    return noise.to(tensor.device)


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


# Layers that read channels


def _input_weights(name: str, reader: nn.Module) -> list[str]:
    """Full names of the weights that multiply what ``reader`` reads."""
    keys = (
        [key for key in reader._parameters if key.startswith("weight_ih_l0")]
        if isinstance(reader, nn.RNNBase)
        else ["weight"]
    )
    return [f"{name}.{key}" if name else key for key in keys]


def _check_reader(name: str, reader: nn.Module) -> None:
    if not isinstance(reader, (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase)):
        raise RefusedError(f"read by {name}, a {type(reader).__name__}, for which the cut cannot be checked")


def _masked(reader: Any, weight: Tensor, idxs: Sequence[int]) -> Tensor:
    """The weight that multiplies input channels ``idxs`` by zero."""
    groups, axis = (
        (reader.groups, int(not reader.transposed)) if isinstance(reader, nn.modules.conv._ConvNd) else (1, 1)
    )
    keep = torch.ones(weight.shape[axis] * (groups if axis else 1), dtype=weight.dtype, device=weight.device)
    keep[torch.tensor(idxs, dtype=torch.long, device=weight.device)] = 0
    if not axis:
        return weight.detach() * keep.view(-1, *[1] * (weight.ndim - 1))
    blocks = weight.detach().unflatten(0, (groups, -1))  # each block of filters reads its own channels
    masked: Tensor = (blocks * keep.view(groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)
    return masked


def _channel_axis(reader: nn.Module) -> int:
    return -1 - len(reader.kernel_size) if isinstance(reader, nn.modules.conv._ConvNd) else -1


# Comparison


def _sample(tensor: Tensor) -> Tensor:
    """Values spread over all of ``tensor``; an odd step meets every row and column."""
    step = tensor.numel() // _LARGEST_RECORD | 1
    return tensor.flatten()[::step].clone()


def _compare(expected: list[Tensor], found: list[Tensor], where: str, tolerance: float | None) -> None:
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        if where == _OUTPUT:
            raise RefusedError("its filters are outputs of the network")
        raise RefusedError(f"the cut changes the shape of what {where} computes")
    for dense, pruned in zip(expected, found, strict=True):
        if not dense.numel():
            continue
        exact = dense.cpu().double()  # some devices have no float64
        error = (exact - pruned.cpu().double()).abs().max() / exact.abs().max().clamp(min=1e-30)
        at_most = _TOLERANCE.get(dense.dtype, 0.0) if tolerance is None else tolerance
        if not error <= at_most:  # written so that NaN is refused
            raise RefusedError(
                f"the cut changes what the other channels compute (relative error {error:.1e} in {where}, at most "
                f"{at_most:.0e} is rounding)"
            )
