"""What batch norms tell of the values that a layer reads, without data: how each channel is spread, and so its mean."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from lightning_cosprune.calibration.observe import observe

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

__all__ = ["Told", "channel_view", "channels_first", "listen", "told_by_norms"]

_STRATA = 32


@dataclass(frozen=True, eq=False)
class Told:
    """The values that a layer reads.

    Attributes:
        means: Mean of each channel at each place, as a batch of one; for a linear layer of each feature.
        curves: Mean of each channel over all places, in each of several equally likely cases.
        known: Which channels are told; the others are what the example input made of them.
    """

    means: Tensor
    curves: Float[Tensor, "cases channels"]
    known: Bool[Tensor, " channels"]


def _strata(count: int) -> Float[Tensor, " count"]:
    r"""Means of a standard normal variable within ``count`` equally likely ranges, ascending.

    .. math:: z_k = n \left( \varphi(q_{k-1}) - \varphi(q_k) \right), \quad \Phi(q_k) = k / n

    The mean of :math:`\phi(\beta + \gamma z_k)` is that of :math:`\phi(\beta + \gamma z)` exactly wherever
    :math:`\phi` is straight within each range: for a ReLU up to the one range that has its kink.

    Returns:
        Their mean is 0.
    """
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    quantiles = torch.special.ndtri(edges)
    density: Tensor = (-quantiles.square() / 2).exp() / math.sqrt(2 * math.pi)
    means: Tensor = count * (density[:-1] - density[1:])
    return means


def told_by_norms(
    dense: nn.Module,
    example_inputs: Any,
    readers: Mapping[str, nn.Module],
    *,
    folded: Set[str] = frozenset(),
    together: bool = False,
) -> dict[str, Told]:
    r"""Reader -> what batch norms tell of its input.

    In evaluation mode channel :math:`c` behind a batch norm is spread about as :math:`\beta_c + \gamma_c z` with a
    standard normal :math:`z`. So the network is run with such values in place of every batch norm's outputs, the same
    at every place, and the activation, pooling or depthwise convolution in between does to them what it does. Behind a
    ReLU and a ReLU6 the mean that is found is

    .. math:: m = \gamma \varphi(t) + \beta \Phi(t), \quad m_6 = m - \gamma \varphi(u) - (\beta - 6) \Phi(u), \quad
        t = \beta / \gamma, \; u = (\beta - 6) / \gamma .

    Conventions:
        - Behind a max pooling it is the mean as if a window's values were equal; the true one is larger.
        - Branches that are summed count as independent.
        - A channel is known if it comes out the same whatever the network is given.

    Args:
        dense: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments.
        readers: Layers, by name.
        folded: Batch norms whose scale's sign was taken into the filters before it, so that it counts as positive here.
        together: Whether the channels of one batch norm rise and fall together instead of each by itself.

    Returns:
        One for each layer that the forward pass reaches once, or each time with inputs of one shape.
    """
    # Without batch norms all that comes out the same is what two inputs happen to leave at zero.
    has_norms = any(isinstance(module, _BatchNorm) for module in dense.modules())
    with _spread_norms(dense, folded, together) as choose:
        first = listen(dense, [example_inputs] * _STRATA, readers, choose)
        other = listen(dense, [tree_map(_something_else, example_inputs)], readers, choose)
    found: dict[str, Told] = {}
    for name in first.keys() & other.keys():
        one, two = first[name].curves[0], other[name].curves[0]
        known = ((one - two).abs() <= 1e-6 * one.abs().clamp_min(1)) & has_norms
        found[name] = Told(first[name].means, first[name].curves, known)
    return found


def listen(
    dense: nn.Module,
    inputs: Sequence[Any],
    readers: Mapping[str, nn.Module],
    before: Callable[[int], None] | None = None,
) -> dict[str, Told]:
    """Reader -> what it reads in several forward passes; every channel counts as known.

    Args:
        dense: The network; left as it was found.
        inputs: Each for one forward pass.
        readers: Layers, by name.
        before: Is told the number of each pass.

    Returns:
        One for each layer that is reached, always with inputs of one shape.
    """
    sums: dict[str, tuple[Tensor, int]] = {}
    curves: dict[str, list[Tensor]] = {}
    changing: set[str] = set()
    for number, batch in enumerate(inputs):
        if before is not None:
            before(number)
        seen: dict[str, list[Tensor]] = {}

        def note(name: str, given: Tensor, _: Tensor, seen: dict[str, list[Tensor]] = seen) -> None:
            values = channels_first(readers[name], given).double()
            total, count = sums.get(name, (torch.zeros_like(values[:1]), 0))
            if total.shape[1:] != values.shape[1:]:
                changing.add(name)
                return
            sums[name] = total + values.sum(dim=0, keepdim=True), count + len(values)
            seen.setdefault(name, []).append(values.transpose(0, 1).flatten(1).mean(dim=1))

        observe(dense, batch, list(readers), note)
        for name, calls in seen.items():
            curves.setdefault(name, []).append(torch.stack(calls).mean(dim=0))
    return {
        name: Told(total / count, torch.stack(curves[name]), torch.ones_like(curves[name][0], dtype=torch.bool))
        for name, (total, count) in sums.items()
        if name not in changing
    }


def channels_first(reader: nn.Module, inputs: Tensor) -> Tensor:
    """A layer's inputs with the batch on axis 0 and channels on axis 1; a linear layer's as rows."""
    if isinstance(reader, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    dimensions = len(reader.kernel_size)  # type: ignore[arg-type]
    return inputs.unsqueeze(0) if inputs.ndim == dimensions + 1 else inputs


def channel_view(reader: nn.Module, values: Tensor) -> Tensor:
    """One value a channel, shaped to multiply a layer's inputs as :func:`channels_first` has them."""
    ones = 0 if isinstance(reader, nn.Linear) else len(reader.kernel_size)  # type: ignore[arg-type]
    return values.reshape(1, -1, *[1] * ones)


def _something_else(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.is_floating_point():
        generator = torch.Generator().manual_seed(0)
        return leaf + torch.randn(leaf.shape, generator=generator).to(leaf)
    return leaf


@contextlib.contextmanager
def _spread_norms(dense: nn.Module, folded: Set[str], together: bool) -> Iterator[Callable[[int], None]]:
    """Put values of a normal distribution in place of batch norms' outputs; yields what chooses the case."""
    z, case = _strata(_STRATA), 0
    generator = torch.Generator().manual_seed(0)

    def choose(number: int) -> None:
        nonlocal case
        case = number

    def spread(order: Tensor, positive: bool) -> Callable[..., Tensor]:
        def hook(norm: Any, _: Any, output: Tensor) -> Tensor:
            value = z[order[:, case]].to(output)
            if norm.affine:
                scale = norm.weight.detach().to(output)
                value = value * (scale.abs() if positive else scale) + norm.bias.detach().to(output)
            return value.reshape(-1, *[1] * (output.ndim - 2)).expand_as(output).clone()

        return hook

    with contextlib.ExitStack() as handles:
        for name, norm in dense.named_modules():
            if isinstance(norm, _BatchNorm):
                rows = 1 if together else norm.num_features
                order = torch.stack([torch.randperm(_STRATA, generator=generator) for _ in range(rows)])
                hook = spread(order.expand(norm.num_features, -1), name in folded)
                handles.callback(norm.register_forward_hook(hook).remove)
        yield choose
