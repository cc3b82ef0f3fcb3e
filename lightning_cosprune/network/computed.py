"""Weights that are computed at each call: weight norm and spectral norm, by the older hooks and by parametrizations.

Cut is what they are computed from, so that what is computed is the slice of what was computed, and the norm stays.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lightning_cosprune.network.pruners import RefusedError, Replacement, replaced

__all__ = [
    "PlainWeights",
    "computed_weight",
    "effective_weight",
    "is_computed",
    "plain_weights",
    "stored_weight",
    "write_weight",
]

_ITERATIONS = 50
"""Steps of the power method; what it has not reached then is made up for by the length of a vector."""


class ComputedWeight(ABC):
    """How the weight of one layer is computed.

    Args:
        layer: A convolution or linear layer.
        rule: The hook of the layer, or its only parametrization.
        places: Name of a tensor in the formula -> the module that holds it, and its name there.
    """

    def __init__(self, layer: nn.Module, rule: Any, places: dict[str, tuple[nn.Module, str]]) -> None:
        self.layer, self.rule, self.places = layer, rule, places
        self.tensors: dict[str, Any] = {key: getattr(*place) for key, place in places.items()}

    @abstractmethod
    def compute(self) -> Tensor:
        """The weight, as in evaluation mode."""

    @abstractmethod
    def cut(self, kept: Tensor, axis: int) -> list[Replacement]:
        """Keep the slices ``kept`` of the weight; the layer itself has them after :meth:`put`.

        Returns:
            The parameters that were replaced.

        Raises:
            RefusedError: There is no such weight.
        """

    @abstractmethod
    def write(self, weight: Tensor) -> None:
        """Change the layer in place: its weight becomes ``weight``."""

    @property
    @abstractmethod
    def main(self) -> nn.Parameter:
        """The parameter that has the shape of the weight."""

    def lost_with(self, axis: int) -> list[nn.Parameter]:
        """Parameters that lose a slice where the weight loses one along ``axis``."""
        size = self.main.shape[axis]
        held = [tensor for tensor in self.tensors.values() if isinstance(tensor, nn.Parameter)]
        return [tensor for tensor in held if tensor.ndim > axis and tensor.shape[axis] == size > 1]

    def put(self) -> None:
        """Change the modules that hold the tensors."""
        for key, (module, name) in self.places.items():
            held = module._parameters if isinstance(self.tensors[key], nn.Parameter) else module._buffers
            held[name] = self.tensors[key]

    @property
    def refusal(self) -> str | None:
        """Why it cannot be cut, if so."""
        return None

    @property
    def by_hook(self) -> bool:
        """Whether a hook sets the weight before each call."""
        return not isinstance(self.rule, nn.Module)


class _Normed(ComputedWeight):
    """Weight norm: a direction for each filter, and its length."""

    @property
    def main(self) -> nn.Parameter:
        return self.tensors["v"]  # type: ignore[no-any-return]

    def compute(self) -> Tensor:
        return torch._weight_norm(self.tensors["v"], self.tensors["g"], self.rule.dim)

    @property
    def refusal(self) -> str | None:
        groups = getattr(self.layer, "groups", 1)
        if self.rule.dim == 1 and groups > 1 and self.layer.in_channels != groups:
            return "is normalised across its groups, which would keep different channels"
        return None

    def cut(self, kept: Tensor, axis: int) -> list[Replacement]:
        g, v = self.tensors["g"], self.tensors["v"]
        done = [replaced(v, kept, axis)]
        if self.rule.dim == axis:
            done.append(replaced(g, kept, axis))
        else:
            # The lengths shrink by what was cut out of the directions.
            before, after = (
                torch.norm_except_dim(one.detach().to(torch.promote_types(one.dtype, torch.float32)), 2, self.rule.dim)
                for one in (v, done[0].new)
            )
            whole = torch.arange(g.shape[0] if g.ndim else 1, device=g.device)
            changed = replaced(g, whole, 0)
            with torch.no_grad():
                done[0].new.masked_fill_(after == 0, 1)  # nothing is left, but a direction cannot be zero
                changed.new.copy_(g * (after / before))
            done.append(changed)
        self.tensors["v"], self.tensors["g"] = (one.new for one in done)
        return done

    def write(self, weight: Tensor) -> None:
        lengths = torch.norm_except_dim(weight, 2, self.rule.dim)
        # Where nothing is left the direction stays, for it cannot be zero.
        self.tensors["v"].copy_(torch.where(lengths > 0, weight, self.tensors["v"]))
        self.tensors["g"].copy_(lengths)


class _Spectral(ComputedWeight):
    """Spectral norm: a matrix divided by its largest singular value, found with two vectors that are kept.

    A slice has a smaller norm than the whole. So that it is divided by the same number as before, one of its vectors is
    made longer; the first step of training finds vectors of length one again, and with them norm one.
    """

    @property
    def main(self) -> nn.Parameter:
        return self.tensors["weight"]  # type: ignore[no-any-return]

    def compute(self) -> Tensor:
        weight: Tensor = self.tensors["weight"]
        return weight / self._divisor(weight)

    def cut(self, kept: Tensor, axis: int) -> list[Replacement]:
        divisor = self._divisor(self.tensors["weight"].detach())
        done = replaced(self.tensors["weight"], kept, axis)
        vectors = self._vectors(done.new.detach(), divisor)
        self.tensors |= {"weight": done.new, "u": vectors[0], "v": vectors[1]}
        return [done]

    def write(self, weight: Tensor) -> None:
        self.tensors["weight"].copy_(weight)
        for key, vector in zip(("u", "v"), self._vectors(weight, weight.new_ones(())), strict=True):
            self.tensors[key].copy_(vector)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.rule.dim, 0).flatten(1)

    def _divisor(self, weight: Tensor) -> Tensor:
        divisor: Tensor = self.tensors["u"] @ (self._matrix(weight) @ self.tensors["v"])
        return divisor

    def _vectors(self, weight: Tensor, divisor: Tensor) -> tuple[Tensor, Tensor]:
        matrix = self._matrix(weight).to(torch.promote_types(weight.dtype, torch.float32))
        right = matrix[matrix.norm(dim=1).argmax()]
        for _ in range(_ITERATIONS):
            left = nn.functional.normalize(matrix @ right, dim=0)
            right = nn.functional.normalize(matrix.T @ left, dim=0)
        largest = left @ (matrix @ right)
        if not bool(largest):
            raise RefusedError("nothing would be left of its spectral norm")
        return (left * (divisor / largest)).to(weight), right.to(weight)


def computed_weight(layer: nn.Module) -> ComputedWeight | None:
    """How the weight of a layer is computed, where it is and that can be cut."""
    if parametrize.is_parametrized(layer):
        lists: Any = layer.parametrizations
        if list(lists) != ["weight"] or len(lists.weight) != 1:
            return None
        (held,) = (lists.weight,)
        rule = held[0]
        if type(rule) is parametrizations._WeightNorm:
            return _Normed(layer, rule, {"g": (held, "original0"), "v": (held, "original1")})
        if type(rule) is parametrizations._SpectralNorm and held.original.ndim > 1:
            return _Spectral(layer, rule, {"weight": (held, "original"), "u": (rule, "_u"), "v": (rule, "_v")})
        return None
    rules = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, (WeightNorm, SpectralNorm))]
    if len(rules) != 1 or rules[0].name != "weight":
        return None
    if isinstance(rules[0], WeightNorm):
        return _Normed(layer, rules[0], {"g": (layer, "weight_g"), "v": (layer, "weight_v")})
    names = {"weight": "weight_orig", "u": "weight_u", "v": "weight_v"}
    return _Spectral(layer, rules[0], {key: (layer, name) for key, name in names.items()})


def is_computed(layer: nn.Module) -> bool:
    """Whether the weight of a layer is computed in any way."""
    return parametrize.is_parametrized(layer) or any(name in layer._parameters for name in ("weight_g", "weight_orig"))


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that a layer multiplies by in evaluation mode.

    Asking a layer for it may change what it is computed from, or give what a call long ago was computed with.

    Returns:
        A tensor that need not be the layer's own.
    """
    computed = computed_weight(layer) if is_computed(layer) else None
    weight: Any = layer.weight if computed is None else computed.compute()
    return weight  # type: ignore[no-any-return]


def stored_weight(layer: nn.Module) -> nn.Parameter | None:
    """The parameter that has the shape of a layer's weight: the weight, or what it is computed from.

    Returns:
        ``None`` where it is computed in a way that is not known.
    """
    computed = computed_weight(layer) if is_computed(layer) else None
    return layer._parameters.get("weight") if computed is None else computed.main


@torch.no_grad()
def write_weight(layer: nn.Module, weight: Tensor) -> None:
    """Change a layer in place, or what its weight is computed from: it multiplies by ``weight`` from now on."""
    computed = computed_weight(layer) if is_computed(layer) else None
    if computed is None:
        layer.weight.copy_(weight)  # type: ignore[operator]
        return
    computed.write(weight.to(computed.compute()))
    if computed.by_hook:
        vars(layer)["weight"] = computed.compute()


class PlainWeights:
    """Layers whose computed weights are plain parameters for a while.

    Args:
        model: The network that they are in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._by_weight: dict[int, ComputedWeight] = {}
        self._undo: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self._by_weight)

    def computed(self, weight: Tensor) -> ComputedWeight | None:
        """How the weight of a layer is computed that is a plain parameter now."""
        return self._by_weight.get(id(weight))

    def carry_over(self, replacements: Sequence[Replacement]) -> list[Replacement]:
        """Cut what the weights are computed from, as the weights were cut.

        Returns:
            The parameters that are replaced when the layers are as they were again, in order.

        Raises:
            RefusedError: That cannot be done; the layer is named, and some are cut.
        """
        owners = dict(self._by_weight)
        found: list[Replacement] = []
        for replacement in replacements:
            computed = owners.pop(id(replacement.old), None)
            if computed is None:
                found.append(replacement)
            else:
                owners[id(replacement.new)] = computed
                try:
                    found += computed.cut(replacement.kept, replacement.dim)
                except RefusedError as refusal:
                    raise RefusedError(f"{self._names[computed.layer]}: {refusal}") from refusal
        return found

    def _begin(self, computed: ComputedWeight) -> None:
        layer = computed.layer
        sources = [tensor for tensor in computed.tensors.values() if isinstance(tensor, nn.Parameter)]
        with torch.inference_mode(False), torch.no_grad():
            weight = nn.Parameter(computed.compute().clone(), any(source.requires_grad for source in sources))
        self._by_weight[id(weight)] = computed
        names = {name for module, name in computed.places.values() if module is layer}
        held, buffers, hooks = dict(layer._parameters), dict(layer._buffers), dict(layer._forward_pre_hooks)
        kind, parts = type(layer), dict(layer._modules)
        shown = vars(layer).pop("weight", None) if computed.by_hook else None
        self._undo.append((computed, dict(computed.tensors), held, buffers, hooks, kind, parts, shown))
        if computed.by_hook:
            _fill(layer._forward_pre_hooks, {key: hook for key, hook in hooks.items() if hook is not computed.rule})
            _fill(layer._buffers, {key: buffer for key, buffer in buffers.items() if key not in names})
        else:
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            _fill(layer._modules, {key: part for key, part in parts.items() if key != "parametrizations"})
        others = {key: parameter for key, parameter in held.items() if key not in names}
        _fill(layer._parameters, {"weight": weight, **others})

    def _end(self) -> None:
        while self._undo:
            computed, tensors, held, buffers, hooks, kind, parts, shown = self._undo.pop()
            layer = computed.layer
            now = dict(layer._parameters)
            _fill(layer._parameters, {key: now.get(key, parameter) for key, parameter in held.items()})
            if computed.by_hook:
                _fill(layer._forward_pre_hooks, hooks)
                _fill(layer._buffers, buffers)
            else:
                _fill(layer._modules, parts)
                layer.__class__ = kind
            computed.put()
            if computed.by_hook:
                whole = all(tensor is tensors[key] for key, tensor in computed.tensors.items())
                with torch.no_grad():
                    vars(layer)["weight"] = shown if whole and shown is not None else computed.compute()


@contextlib.contextmanager
def plain_weights(model: nn.Module) -> Iterator[PlainWeights]:
    """Let weights that are computed be plain parameters of their layers, with the values of evaluation mode.

    What is computed in ways of others, or from tensors that several layers share, stays as it is.

    Yields:
        What carries over to the sources what happens to the weights.
    """
    computed = [one for layer in model.modules() if is_computed(layer) and (one := computed_weight(layer)) is not None]
    uses = Counter(id(tensor) for one in computed for tensor in one.tensors.values())
    plain = PlainWeights(model)
    try:
        for one in computed:
            if all(uses[id(tensor)] == 1 for tensor in one.tensors.values()):
                plain._begin(one)
        yield plain
    finally:
        plain._end()


def _fill(container: Any, content: dict[Any, Any]) -> None:
    """In place, because handles that remove hooks, and snapshots, know the very container."""
    container.clear()
    container.update(content)
