"""Which layers share channels, and what goes with a filter: Torch-Pruning's graph, asked with care."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from tqdm.auto import tqdm

from lightning_cosprune.network.computed import plain_weights
from lightning_cosprune.network.groups import ChannelGroup, Removal
from lightning_cosprune.network.layers import has_filters, is_depthwise, is_layer, num_filters
from lightning_cosprune.network.norms import is_norm_over_channels
from lightning_cosprune.network.origins import READ, WRITTEN, Place
from lightning_cosprune.network.parts import Units
from lightning_cosprune.network.pruners import RefusedError, Replacement, careful_slicing
from lightning_cosprune.network.reach import Arrival, UnfollowedError, follow
from lightning_cosprune.network.refusals import CutError, refusal_of_layer, refusal_of_norm
from lightning_cosprune.network.trace import trace
from lightning_cosprune.network.units import FollowedChannels
from lightning_cosprune.network.watch import find_origins

__all__ = ["ChannelGraph", "ChannelGroup", "CutError", "Removal", "channel_graph", "channel_groups", "graph_of_groups"]


def channel_groups(model: nn.Module, example_inputs: Any, names: Iterable[str] | None = None) -> list[ChannelGroup]:
    """Which layers of ``model`` share their output channels, from one traced forward pass.

    Args:
        model: The network; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        names: Layers to start from; every convolution and linear layer where ``None``.

    Returns:
        One group for every layer that is named, or set of coupled ones; depthwise convolutions follow the layer that
        feeds them and have no group of their own.

    Raises:
        ValueError: The forward pass fails, or returns nothing that a gradient could flow from.
    """
    return channel_graph(model, example_inputs).groups(names)


def channel_graph(
    model: nn.Module,
    example_inputs: Any,
    normalising: Mapping[str, nn.Module] | None = None,
    strict: bool = False,
) -> ChannelGraph:
    """The graph of a network; one that somebody still holds, where neither the network nor the input is another.

    Args:
        model: The network; left as it was found.
        example_inputs: As for :func:`channel_groups`.
        normalising: As for :class:`ChannelGraph`.
        strict: As for :class:`ChannelGraph`.

    Returns:
        A graph of its groups, which lives as long as somebody holds it.

    Raises:
        ValueError: The forward pass fails.
    """
    known = _KNOWN.get(id(model))
    if known is not None and known.is_of(model, example_inputs, normalising or {}, strict):
        return known
    graph = _KNOWN[id(model)] = ChannelGraph(model, example_inputs, normalising, strict)
    return graph


_KNOWN: WeakValueDictionary[int, ChannelGraph] = WeakValueDictionary()
"""The last graph of each network: what is planned is carried out next, and rehearsed many times where there is a
budget."""


def graph_of_groups(model: nn.Module, example_inputs: Any, groups: Iterable[ChannelGroup]) -> ChannelGraph:
    """The graph that knows some groups of another graph of the same network, with the same norms over channels."""
    names = {name for group in groups for name in group.norms}
    own = {name: model.get_submodule(name) for name in names}
    return channel_graph(
        model, example_inputs, {name: module for name, module in own.items() if not is_norm_over_channels(module)}
    )


class ChannelGraph:
    """Which layer reads which, found in one forward pass; all its numbers are those of the network as it was then.

    Args:
        model: The network; left as it was found.
        example_inputs: As for :func:`channel_groups`.
        normalising: Norms over channels of the user's own.
        strict: Refuse filters that a norm over channels normalises.

    Attributes:
        norms: Norms over channels, by name.

    Raises:
        ValueError: The forward pass fails.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        normalising: Mapping[str, nn.Module] | None = None,
        strict: bool = False,
    ) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._names = {module: name for name, module in self._modules.items()}
        self._declared = declared = dict(normalising or {})
        self._strict = strict
        self._inputs = example_inputs
        self._tensors = dict(model.named_parameters())
        self.norms = frozenset(
            name for name, module in self._modules.items() if name in declared or is_norm_over_channels(module)
        )
        with plain_weights(model):
            self._graph, self._calls = trace(model, example_inputs, {type(module) for module in declared.values()})
            origins = find_origins(model, example_inputs, self.norms)
        self._numbers = None
        if origins is not None:
            self._numbers = FollowedChannels(self._modules, self._graph, self._calls, origins, self.norms, strict)
        self._groups: dict[str, tuple[ChannelGroup, ...]] = {}
        self._units: dict[ChannelGroup, Units] = {}
        self._arrivals: dict[str, list[Arrival]] = {}

    def is_of(self, model: nn.Module, example_inputs: Any, normalising: Mapping[str, nn.Module], strict: bool) -> bool:
        """Whether it is the graph that such a network would have: the same modules and parameters, and equal inputs."""
        ours, theirs = (tree_flatten(inputs) for inputs in (self._inputs, example_inputs))
        return (
            model is self._model
            and strict == self._strict
            and _same(normalising, self._declared)
            and _same(dict(model.named_modules()), self._modules)
            and _same(dict(model.named_parameters()), self._tensors)
            and ours[1] == theirs[1]
            and all(map(_equal, ours[0], theirs[0]))
        )

    def groups(self, names: Iterable[str] | None = None) -> list[ChannelGroup]:
        """The groups of some layers, in the order of the network.

        Args:
            names: The layers; all that have filters of their own where ``None``.

        Returns:
            Each group once.
        """
        wanted = None if names is None else set(names)
        roots = [
            name for name, module in self._modules.items() if has_filters(module) and (wanted is None or name in wanted)
        ]
        bar = tqdm(roots, desc="Following channels", unit="layer", delay=2, leave=False)
        return list(dict.fromkeys(group for name in bar for group in self.groups_of(name)))

    def groups_of(self, name: str) -> tuple[ChannelGroup, ...]:
        """The layers that lose filters when layer ``name`` does.

        Returns:
            One group where they lose the same filters, several where other parts of the layer go with other layers;
            each with the reason why none of its filters may go, if that is so.
        """
        if name not in self._groups:
            group = self._find_group(name)
            units = self._in_parts(name, group)
            if units is None:
                self._groups.update(dict.fromkeys(group.layers, (group,)))
            else:
                assert self._numbers is not None
                found = {self._numbers.group_of(one): one for one in units}
                self._units |= found
                for layer in {layer for one in found for layer in one.layers}:
                    self._groups[layer] = tuple(one for one in found if layer in one.layers)
        return self._groups[name]

    def _in_parts(self, name: str, group: ChannelGroup) -> list[Units] | None:
        """The units of a layer, where more is known of them than Torch-Pruning's graph says."""
        if self._numbers is None or self._modules[name] not in self._graph.module2node:
            return None
        units = self._numbers.parts.together(name)
        if units is None or any(self._numbers.parts.together(other) is None for other in group.layers):
            return None
        if len(units) == 1 and units[0].blocks == group.blocks and not self._numbers.parts.sized(units[0]):
            (one,) = units
            if not self._numbers.group_of(one).places and name in self._arrivals and self._agrees(name, one):
                return None
        return units

    def _agrees(self, name: str, units: Units) -> bool:
        """Whether Torch-Pruning's graph finds the filters of a layer at the same places."""
        assert self._numbers is not None
        found = dict(self._numbers.parts.channels(units))
        channels, owners = found[WRITTEN, name]
        if len(channels) != len(units.sets) or (channels != np.arange(len(channels))).any():
            return False
        filter_of = channels[np.argsort(owners)]
        theirs: dict[Place, tuple[np.ndarray, np.ndarray]] = {}
        for arrival in self._arrivals[name]:
            other = self._names.get(arrival.node.module)
            if other is not None:
                place = READ if _reads(arrival) else WRITTEN, other
                channels, owners = arrival.first()
                before = theirs.get(place, (channels[:0], owners[:0]))
                theirs[place] = np.concatenate([before[0], channels]), np.concatenate([before[1], owners])
        ours = {place: both for place, both in found.items() if place[0] in (READ, WRITTEN)}
        if set(ours) != set(theirs):
            return False
        for place, (channels, numbers) in ours.items():
            where, whose = theirs[place]
            order = np.argsort(where, kind="stable")
            if len(where) != len(channels) or (where[order] != channels).any():
                return False
            if (whose[order] != filter_of[numbers]).any():
                return False
        return True

    def _find_group(self, name: str) -> ChannelGroup:
        layer = self._modules[name]
        filters = num_filters(layer)
        if layer not in self._graph.module2node:
            return ChannelGroup((name,), filters, self._calls.why_untraced(layer))
        try:
            arrivals = self._followed(name)
        except UnfollowedError as error:
            return ChannelGroup((name,), filters, self._why_unfollowed(error))
        coupled, followers, norms = {layer}, set(), set()
        refusals: list[str] = []
        groups: dict[str, int] = {}
        is_read = is_output = False
        for arrival in arrivals:
            module = arrival.node.module
            other = self._names.get(module) if isinstance(module, nn.Module) else None
            if arrival.node.type == tp.ops.OPTYPE.OUTPUT:
                is_output = True
            if other is None:
                continue
            makes = self._graph.is_out_channel_pruning_fn(arrival.handler)
            channels, owners = arrival.first()
            is_whole = bool((channels == owners).all())
            if makes and is_depthwise(module):
                followers.add(module)
            if other in self.norms:
                norms.add(module)
                refusals += refusal_of_norm(module, other, self._strict)
            refusals += refusal_of_layer(module, other)
            if makes and has_filters(module):
                coupled.add(module)
                if num_filters(module) != filters or not is_whole:
                    mixed = "an operation mixes its own filters" if module is layer else ""
                    refusals.append(mixed or f"coupled to only a part of {other}")
            if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not is_depthwise(module):
                groups[other] = module.groups
                if (module.out_channels if makes else module.in_channels) != filters or not is_whole:
                    refusals.append(f"{other} is a grouped convolution of which these channels are only a part")
            if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
                blocks = _blocks_of_norm(module, channels, owners, filters)
                if blocks is None:
                    refusals.append(f"{other} normalises over groups of channels, of which these are only a part")
                else:
                    groups[other] = blocks
            is_read = is_read or _reads(arrival)
        sealed = [reason for one in coupled if (reason := self._calls.read_by_sealed(one, self._names)) is not None]
        if sealed:
            refusals.insert(0, sealed[0])
        elif is_output or not is_read:
            refusals.insert(0, "its filters are outputs of the network")
        evenly = math.lcm(*groups.values())
        if evenly > 1 and (filters % evenly or filters == evenly):
            counts = " and ".join(f"{name} has {count} groups" for name, count in groups.items())
            refusals.append(f"its {filters} filters cannot be removed evenly: {counts}")
        in_order = [
            tuple(name for name, module in self._modules.items() if module in some)
            for some in (coupled, followers, norms)
        ]
        return ChannelGroup(in_order[0], filters, next(iter(refusals), None), evenly, *in_order[1:])

    @property
    def dividing(self) -> set[str]:
        """Names of modules of which a cut may change attributes that say how large parts of channels are."""
        return set() if self._numbers is None else self._numbers.dividing

    @property
    def called(self) -> list[str]:
        """Names of the layers that the forward pass called, in the order of their first calls."""
        return [self._names[layer] for layer in self._calls.layers]

    def feeders(self, name: str) -> list[str]:
        """The layers that layer ``name`` reads, with no other layer in between.

        Returns:
            Their names, the nearest first; none where the forward pass did not reach ``name``.
        """
        start = self._graph.module2node.get(self._modules[name])
        waiting = deque([] if start is None else start.inputs)
        seen, found = set(waiting), []
        while waiting:
            node = waiting.popleft()
            if node.module in self._names and is_layer(node.module):
                found.append(self._names[node.module])
                continue
            fresh = [source for source in node.inputs if source not in seen]
            seen.update(fresh)
            waiting += fresh
        return found

    def removal(self, group: ChannelGroup, idxs: Sequence[int]) -> Removal:
        """What goes with filters, or units, ``idxs`` of a group.

        Returns:
            The channels of every module concerned.

        Raises:
            RefusedError: A module has no such channels.
        """
        units = self._units_of(group)
        if units is not None:
            assert self._numbers is not None
            return self._numbers.removal(units, idxs)
        name = group.layers[0]
        outputs: dict[str, list[int]] = {}
        inputs: dict[str, list[int]] = {}
        parameters: list[nn.Parameter] = []
        reached: dict[str, list[int]] = {}
        steps = []
        try:
            arrivals = self._followed(name)
        except UnfollowedError as error:
            raise RefusedError(self._why_unfollowed(error)) from None
        wanted = np.array(idxs, int)
        for arrival in arrivals:
            channels = arrival.of(wanted)
            if not channels:
                continue
            module = arrival.node.module
            if isinstance(module, nn.Parameter):
                parameters.append(module)
            elif module in self._names:
                available = self._channels_of(arrival.node, arrival.handler)
                if available is not None and max(channels) >= available:
                    raise RefusedError(f"in which order its channels reach {self._names[module]} is not understood")
                (inputs if _reads(arrival) else outputs).setdefault(self._names[module], []).extend(channels)
                if _reads(arrival):
                    reached.setdefault(self._names[module], []).extend(arrival.first()[0].tolist())
            else:
                continue  # an operation: nothing of it is cut
            steps.append((arrival.node, arrival.handler, channels))
        return Removal(outputs, inputs, tuple(parameters), reached, tuple(steps))

    def _units_of(self, group: ChannelGroup) -> Units | None:
        """The units of a group, which may come from another graph of the same network."""
        self.groups_of(group.layers[0])
        return self._units.get(group)

    def readers(self, group: ChannelGroup) -> dict[str, Tensor]:
        """Where the filters, or units, of a group arrive, in each layer that takes them in and ends them.

        Returns:
            Name of a layer -> channels of its input, int64 ``(filters, channels)``: several of one filter where a
            flattening stands between. A layer that takes in only some of them, or in no order that is understood, is
            left out.
        """
        filters = group.filters
        arrived: dict[str, list[tuple[int, int]]] = {}
        units = self._units_of(group)
        if units is not None:
            assert self._numbers is not None
            for (kind, other), (channels, numbers) in self._numbers.parts.channels(units).items():
                if kind == READ:
                    arrived[other] = list(zip(numbers.tolist(), channels.tolist(), strict=True))
        for arrival in [] if units is not None else self._followed(group.layers[0]):
            if _reads(arrival) and arrival.node.module in self._names:
                channels, owners = arrival.first()
                pairs = zip(owners.tolist(), channels.tolist(), strict=True)
                arrived.setdefault(self._names[arrival.node.module], []).extend(pairs)
        found = {}
        for reader, arrivals in arrived.items():
            table = torch.tensor(sorted(set(arrivals)))
            counts = table[:, 0].bincount(minlength=filters)
            if bool((counts == counts[0]).all()):
                found[reader] = table[:, 1].reshape(filters, -1)
        return found

    def cut(self, removals: Sequence[Removal]) -> list[Replacement]:
        """Change the network, which must be as it was traced: all of ``removals`` at once, unchecked.

        Returns:
            The parameters that were replaced, in the order of their replacement.

        Raises:
            CutError: A part of the network cannot be cut; it is left half cut.
        """
        steps: dict[tuple[Any, Callable[..., Any]], set[int]] = {}
        for removal in removals:
            for node, handler, channels in removal.steps:
                steps.setdefault((node, handler), set()).update(channels)
        if self._numbers is not None:
            self._numbers.resize(frozenset().union(*(removal.sets for removal in removals)))
        with careful_slicing() as replacements:
            for (node, handler), going in steps.items():
                handler.__self__.pruning_dim = node.pruning_dim  # type: ignore[attr-defined]
                try:
                    cut = handler(node.module, sorted(going))
                except Exception as error:  # Torch-Pruning may fail in any way
                    raise CutError(self._names.get(node.module, ""), error) from error
                if isinstance(node.module, nn.Parameter):
                    owner, _, key = self._graph._param_to_name[node.module].rpartition(".")
                    setattr(self._modules[owner], key, cut)
        return replacements

    def _followed(self, name: str) -> list[Arrival]:
        """Where the filters of a layer arrive; found once."""
        if name not in self._arrivals:
            layer = self._modules[name]
            node = self._graph.module2node[layer]
            handler = self._graph.get_pruner_of_module(layer).prune_out_channels
            filters = num_filters(layer)
            self._arrivals[name] = follow(node, handler, filters, self._channels_of, self._graph.troubles)
        return self._arrivals[name]

    def _why_unfollowed(self, error: UnfollowedError) -> str:
        """For the user, with the layers around the step where it happened."""
        if error.node is None:
            return _UNFOLLOWED
        before, after = (self._nearest(error.node, way) for way in ("inputs", "outputs"))
        around = [f"{word} {name}" for word, name in (("behind", before), ("before", after)) if name is not None]
        step = (error.node.grad_fn or "an operation").rstrip("0123456789").removesuffix("Backward")
        return f"its channels meet a step ({step}) {' and '.join(around)} that cannot be followed: {error}"

    def _nearest(self, node: Any, way: str) -> str | None:
        waiting = deque(getattr(node, way))
        seen = set(waiting)
        while waiting:
            one = waiting.popleft()
            if one.module in self._names and is_layer(one.module):
                return str(self._names[one.module])
            fresh = [other for other in getattr(one, way) if other not in seen]
            seen.update(fresh)
            waiting += fresh
        return None

    def _channels_of(self, node: Any, handler: Callable[..., Any]) -> int | None:
        if node.module not in self._names:
            return None
        reads = handler.__name__ == "prune_in_channels"
        count = self._graph.get_in_channels(node) if reads else self._graph.get_out_channels(node)
        return None if count is None else int(count)


_UNFOLLOWED = "its channels are reshaped in ways that cannot be followed, as into windows or patches"


def _same(some: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether the same objects stand under the same names."""
    return some.keys() == others.keys() and all(one is others[name] for name, one in some.items())


def _equal(one: Any, other: Any) -> bool:
    """Whether two leaves of an input are alike in all that a network could go by."""
    if one is other:
        return True
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and isinstance(one, (int, float, str)) and one == other
    known = one.shape == other.shape and one.dtype == other.dtype and one.device == other.device
    return known and torch.equal(one, other)


def _reads(arrival: Arrival) -> bool:
    """Whether this is a layer that takes the channels in and ends them, not one that passes them on."""
    return bool(arrival.handler.__name__ == "prune_in_channels" and isinstance(arrival.node.module, nn.Module))


def _blocks_of_norm(norm: nn.GroupNorm, channels: np.ndarray, owners: np.ndarray, filters: int) -> int | None:
    """Into how many blocks the filters of a layer fall, of which each is a group of ``norm``; ``None`` where not so."""
    size = norm.num_channels // norm.num_groups
    starts = np.unique(channels - owners)
    if len(channels) != filters or len(starts) != 1:
        return None
    return None if int(starts[0]) % size or filters % size else filters // size
