"""Which layers share channels, and what goes with a filter: Torch-Pruning's graph, asked with care."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from lightning_cosprune.network.calls import Calls
from lightning_cosprune.network.forward import (
    call,
    evaluating,
    float_tensors,
    forward_failed,
    outside_inference_mode,
    same_random_state,
    unchanged,
)
from lightning_cosprune.network.layers import has_filters, is_depthwise, num_filters
from lightning_cosprune.network.pruners import (
    ConvPruner,
    InstanceNormPruner,
    RecurrentPruner,
    RefusedError,
    Replacement,
    as_one_node,
    careful_slicing,
)

__all__ = ["ChannelGraph", "ChannelGroup", "Removal", "channel_groups"]


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose filters must be removed together, such as those that feed one residual sum.

    Attributes:
        layers: Their names, in the order in which the model registers them.
        filters: How many filters each of them has.
        refusal: Why none of these filters may be removed, or ``None``.
        blocks: Into how many blocks of equal size the filters fall, each of which must lose the same number. More than
            one where a grouped convolution has or reads these channels.
        followers: Depthwise convolutions that lose the same channels.
    """

    layers: tuple[str, ...]
    filters: int
    refusal: str | None = None
    blocks: int = 1
    followers: tuple[str, ...] = ()

    def check(self, idxs: Sequence[int]) -> None:
        """Refuse filters that cannot be removed from these layers.

        Raises:
            RefusedError: With the reason.
        """
        if self.refusal is not None:
            raise RefusedError(self.refusal)
        size = self.filters // self.blocks
        counts = [0] * self.blocks
        for idx in idxs:
            counts[idx // size] += 1
        if len(set(counts)) > 1:
            raise RefusedError(
                f"grouped: each of the {self.blocks} blocks of {size} filters must lose the same number, found "
                f"{', '.join(map(str, counts))}"
            )


@dataclass(frozen=True)
class Removal:
    """What goes with some filters of one group of layers.

    Attributes:
        outputs: Name of a module -> channels of its output that go, of the layers themselves and of the norms and
            depthwise convolutions that pass the channels on.
        inputs: Name of a layer that reads the channels and ends them -> channels of its input that go.
        parameters: Parameters that are no layer's weight and lose slices, such as a learned scale.
    """

    outputs: Mapping[str, list[int]]
    inputs: Mapping[str, list[int]]
    parameters: tuple[nn.Parameter, ...]


def channel_groups(model: nn.Module, example_inputs: Any) -> list[ChannelGroup]:
    """Which layers of ``model`` share their output channels, from one traced forward pass.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.

    Returns:
        One group for every convolution and linear layer, or set of coupled ones; depthwise convolutions follow the
        layer that feeds them and have no group of their own.

    Raises:
        ValueError: The forward pass fails, or returns nothing that a gradient could flow from.
    """
    graph = ChannelGraph(model, example_inputs)
    groups: dict[str, ChannelGroup] = {}
    for name, module in model.named_modules():
        if has_filters(module) and name not in groups:
            group = graph.group(name)
            groups.update(dict.fromkeys(group.layers, group))
    return list(dict.fromkeys(groups.values()))


class ChannelGraph:
    """Which layer reads which, found in one forward pass; good for one cut of each group.

    Args:
        model: The network; left as it was found.
        example_inputs: As for :func:`channel_groups`.

    Raises:
        ValueError: The forward pass fails.
    """

    def __init__(self, model: nn.Module, example_inputs: Any) -> None:
        self._modules = dict(model.named_modules())
        self._names = {module: name for name, module in self._modules.items()}
        self._graph, self._calls = _trace(model, example_inputs)

    def group(self, name: str) -> ChannelGroup:
        """The layers that lose their filter ``i`` when layer ``name`` does.

        Returns:
            With the reason why none of them may, if that is so.
        """
        layer = self._modules[name]
        filters = num_filters(layer)
        if layer not in self._graph.module2node:
            return ChannelGroup((name,), filters, self._calls.why_untraced(layer))
        coupled, followers = {layer}, set()
        refusals: list[str] = []
        groups: dict[str, int] = {}
        is_read = is_output = False
        for item in self._items(layer, range(filters)):
            dependency, idxs = item
            module = dependency.target.module
            other = self._names.get(module) if isinstance(module, nn.Module) else None
            if dependency.target.type == tp.ops.OPTYPE.OUTPUT:
                is_output = True
            if other is None:
                continue
            makes = self._graph.is_out_channel_pruning_fn(dependency.handler)
            is_whole = list(idxs) == list(item.root_idxs)
            if makes and is_depthwise(module):
                followers.add(module)
            refusals += _refusal(module, other)
            if makes and has_filters(module):
                coupled.add(module)
                if num_filters(module) != filters or not is_whole:
                    mixed = "an operation mixes its own filters" if module is layer else ""
                    refusals.append(mixed or f"coupled to only a part of {other}")
            if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not is_depthwise(module):
                groups[other] = module.groups
                if (module.out_channels if makes else module.in_channels) != filters or not is_whole:
                    refusals.append(f"{other} is a grouped convolution of which these channels are only a part")
            is_read = is_read or _reads(dependency)
        sealed = [reason for one in coupled if (reason := self._calls.read_by_sealed(one, self._names)) is not None]
        if sealed:
            refusals.insert(0, sealed[0])
        elif is_output or not is_read:
            refusals.insert(0, "its filters are outputs of the network")
        blocks = math.lcm(*groups.values())
        if blocks > 1 and (filters % blocks or filters == blocks):
            counts = " and ".join(f"{name} has {count} groups" for name, count in groups.items())
            refusals.append(f"its {filters} filters cannot be removed evenly: {counts}")
        in_order = [
            tuple(name for name, module in self._modules.items() if module in some) for some in (coupled, followers)
        ]
        return ChannelGroup(in_order[0], filters, next(iter(refusals), None), blocks, in_order[1])

    def removal(self, name: str, idxs: Sequence[int]) -> Removal:
        """What would go with filters ``idxs`` of layer ``name``, counted as the network is now.

        Returns:
            The channels of every module concerned.

        Raises:
            RefusedError: A module has no such channels.
        """
        outputs: dict[str, list[int]] = {}
        inputs: dict[str, list[int]] = {}
        parameters: list[nn.Parameter] = []
        for dependency, channels in self._items(self._modules[name], idxs):
            module = dependency.target.module
            if isinstance(module, nn.Parameter):
                parameters.append(module)
            elif module in self._names:
                reads = _reads(dependency)
                available = self._graph.get_in_channels(module) if reads else self._graph.get_out_channels(module)
                if available is not None and max(channels) >= available:
                    raise RefusedError(f"in which order its channels reach {self._names[module]} is not understood")
                (inputs if reads else outputs).setdefault(self._names[module], []).extend(channels)
        return Removal(outputs, inputs, tuple(parameters))

    def readers(self, name: str) -> dict[str, Tensor]:
        """Where the filters of layer ``name`` arrive, in each layer that takes them in and ends them.

        Returns:
            Name of a layer -> channels of its input, int64 ``(filters, channels)``: several of one filter where a
            flattening stands between. A layer that takes in only some of them, or in no order that is understood, is
            left out.
        """
        filters = num_filters(self._modules[name])
        arrived: dict[str, list[tuple[int, int]]] = {}
        for item in self._items(self._modules[name], range(filters)):
            dependency, channels = item
            if _reads(dependency) and dependency.target.module in self._names:
                pairs = zip(map(int, item.root_idxs), map(int, channels), strict=True)
                arrived.setdefault(self._names[dependency.target.module], []).extend(pairs)
        found = {}
        for reader, arrivals in arrived.items():
            table = torch.tensor(sorted(set(arrivals)))
            counts = table[:, 0].bincount(minlength=filters)
            if bool((counts == counts[0]).all()):
                found[reader] = table[:, 1].reshape(filters, -1)
        return found

    def cut(self, name: str, idxs: Sequence[int]) -> list[Replacement]:
        """Change the network: filters ``idxs`` of layer ``name`` go, with all that belongs to them, unchecked.

        Returns:
            The parameters that were replaced, in the order of their replacement.
        """
        with careful_slicing() as replacements:
            self._items(self._modules[name], idxs).prune(record_history=False)
        return replacements

    def _items(self, layer: nn.Module, idxs: Sequence[int]) -> tp.dependency.Group:
        """What loses channels with filters ``idxs`` of ``layer``; made afresh, as each cut makes older groups wrong."""
        pruner = self._graph.get_pruner_of_module(layer)
        with _quiet():
            return self._graph.get_pruning_group(layer, pruner.prune_out_channels, list(idxs))


def _reads(dependency: tp.dependency.Dependency) -> bool:
    """Whether this is a layer that takes the channels in and ends them, not one that passes them on."""
    return bool(dependency.handler.__name__ == "prune_in_channels" and isinstance(dependency.target.module, nn.Module))


def _refusal(module: nn.Module, name: str) -> list[str]:
    """Why a layer of this kind cannot be cut, if so."""
    if isinstance(module, nn.modules.conv._ConvNd) and module.in_channels != module.out_channels == module.groups > 1:
        return [f"{name} has one filter in each of its {module.groups} groups"]  # no depthwise one, as it may seem
    if isinstance(module, nn.GroupNorm):
        return [f"{name} normalises over groups of channels"]
    if isinstance(module, nn.LayerNorm):
        return [f"{name} normalises over channels"]
    if isinstance(module, (nn.MultiheadAttention, nn.Embedding)):
        return [f"{name} is a {type(module).__name__}, whose channels cannot be removed"]
    computed = {"weight_g", "weight_orig"} & set(module._parameters)
    if parametrize.is_parametrized(module) or computed:
        return [f"the weight of {name} is parametrized; remove the parametrization before pruning"]
    return []


# Tracing


def _trace(model: nn.Module, example_inputs: Any) -> tuple[tp.DependencyGraph, Calls]:
    """Record which layer reads which in one forward pass; the model is left as it was found.

    Every floating-point parameter requires grad meanwhile: Torch-Pruning follows autograd's graph, which has no edges
    through frozen layers.

    Returns:
        Torch-Pruning's graph of the layers, and what was called.

    Raises:
        ValueError: The forward pass fails.
    """
    frozen = [
        parameter for parameter in model.parameters() if not parameter.requires_grad and parameter.is_floating_point()
    ]
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    graph = tp.DependencyGraph()
    convolutions = ConvPruner()
    graph.REGISTERED_PRUNERS[tp.ops.OPTYPE.CONV] = convolutions
    graph._in_channel_pruning_fn.add(convolutions.prune_in_channels)
    graph._out_channel_pruning_fn.add(convolutions.prune_out_channels)
    pruners: dict[type[nn.Module], Any] = {type(layer): RecurrentPruner() for layer in recurrent}
    pruners |= {
        type(module): InstanceNormPruner()
        for module in model.modules()
        if isinstance(module, nn.modules.instancenorm._InstanceNorm)
    }
    calls = Calls()
    arguments = example_inputs if isinstance(example_inputs, (Mapping, Sequence)) else (example_inputs,)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            same_random_state(),
            unchanged(model),
            evaluating(model),
            _quiet(),
        ):
            for parameter in frozen:
                parameter.requires_grad_(True)
            calls.listen(model)
            for layer in recurrent:
                layer.forward = functools.partial(as_one_node, layer.forward)
            graph.build_dependency(
                model,
                tree_map(outside_inference_mode, arguments),
                forward_fn=lambda module, inputs: float_tensors(call(module, inputs)),
                customized_pruners=pruners,
                verbose=False,
            )
    except Exception as error:
        raise forward_failed(model, error) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return graph, calls


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Torch-Pruning's notes on operations it has no rule for: where it guesses wrong, the trial fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch_pruning")
        yield
