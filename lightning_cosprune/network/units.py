"""Groups of channels that were followed from step to step, part by part, and what goes with their units."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from lightning_cosprune.network.calls import Calls
from lightning_cosprune.network.graph import DependencyGraph
from lightning_cosprune.network.groups import ChannelGroup, Removal
from lightning_cosprune.network.layers import has_filters, is_depthwise, num_filters
from lightning_cosprune.network.origins import HELD, READ, WRITTEN, Origins, Place
from lightning_cosprune.network.parts import Parts, Units
from lightning_cosprune.network.pruners import RefusedError
from lightning_cosprune.network.refusals import CutError, refusal_of_layer, refusal_of_norm
from lightning_cosprune.network.sizes import change_size

__all__ = ["FollowedChannels"]


class FollowedChannels:
    """What the numbers that went through a network say of its groups.

    Args:
        modules: Name -> module of the network.
        graph: Torch-Pruning's graph, which knows how modules are cut.
        calls: What was called.
        origins: What is known of the channels.
        norms: Names of the norms over channels.
        strict: Refuse filters that a norm over channels normalises.

    Attributes:
        parts: The units of each layer.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        graph: DependencyGraph,
        calls: Calls,
        origins: Origins,
        norms: Collection[str],
        strict: bool,
    ) -> None:
        self._modules, self._graph, self._calls, self._origins = modules, graph, calls, origins
        self._norms, self._strict = norms, strict
        self._names = {module: name for name, module in modules.items()}
        self.parts = Parts(origins, [name for name, module in modules.items() if has_filters(module)])
        self._nodes: dict[Place, Any] = {}

    @property
    def dividing(self) -> set[str]:
        """Names of modules of which a cut may change attributes that say how large parts of channels are."""
        return {size.module for size in self._origins.sizes}

    def group_of(self, units: Units) -> ChannelGroup:
        """Units as a group."""
        found = self.parts.channels(units)
        refusals = []
        followers, norms = set(), set()
        is_read = False
        for kind, other in found:
            module = self._modules.get(other)
            is_read = is_read or kind == READ
            if kind == HELD:
                if isinstance(self._held(other), nn.Parameter):
                    if self._axis_of(other) is None:
                        refusals.append(f"its channels meet entries of {other} that are no slices of it")
                else:
                    refusals.append(f"its channels meet the buffer {other}, which cannot be cut with them")
            elif module is not None:
                refusals += refusal_of_layer(module, other)
                if kind == WRITTEN and is_depthwise(module):
                    followers.add(other)
                if other in self._norms:
                    norms.add(other)
                    refusals += refusal_of_norm(module, other, self._strict)
        sealed = [self._calls.read_by_sealed(self._modules[layer], self._names) for layer in units.layers]
        if any(sealed):
            refusals.insert(0, next(filter(None, sealed)))
        elif units.is_output or not is_read:
            refusals.insert(0, "its filters are outputs of the network")
        refusals += [units.refusal] if units.refusal else []
        places, widths = [], []
        for layer in units.layers:
            own: list[list[int]] = [[] for _ in units.sets]
            for channel, number in zip(*(part.tolist() for part in found[WRITTEN, layer]), strict=True):
                own[number].append(channel)
            places.append(tuple(map(tuple, own)))
            widths.append(num_filters(self._modules[layer]))
        count = len(units.sets)
        whole = tuple((number,) for number in range(count))
        in_parts = any(one != whole for one in places) or any(width != count for width in widths)
        return ChannelGroup(
            units.layers,
            count,
            next(iter(refusals), None),
            units.blocks,
            tuple(name for name in self._modules if name in followers),
            tuple(name for name in self._modules if name in norms),
            tuple(places) if in_parts else (),
            tuple(widths) if in_parts else (),
        )

    def _held(self, name: str) -> Any:
        owner, _, key = name.rpartition(".")
        return getattr(self._modules[owner], key)

    def _axis_of(self, name: str) -> int | None:
        """The axis of a parameter along which it has one slice for each channel."""
        shape = self._origins.shapes[name]
        owner = self._origins.of((HELD, name)).reshape(shape)
        for axis in range(len(shape)):
            table = np.moveaxis(owner, axis, 0).reshape(shape[axis], -1)
            if shape[axis] > 1 and (table == table[:, :1]).all():
                return axis
        return None

    def removal(self, units: Units, idxs: Sequence[int]) -> Removal:
        """What goes with some of the units.

        Returns:
            The channels of every module concerned.
        """
        going = np.zeros(len(units.sets), bool)
        going[np.array(idxs, int)] = True
        outputs: dict[str, list[int]] = {}
        inputs: dict[str, list[int]] = {}
        reached: dict[str, list[int]] = {}
        parameters: list[nn.Parameter] = []
        steps = []
        for (kind, other), (channels, numbers) in self.parts.channels(units).items():
            gone = channels[going[numbers]].tolist()
            if not gone:
                continue
            if kind == HELD:
                axis = self._axis_of(other)
                node, handler = self._step((kind, other), self._held(other), axis)
                parameters.append(node.module)
                shape = self._origins.shapes[other]
                gone = sorted(set(np.unravel_index(np.array(gone), shape)[axis or 0].tolist()))
            else:
                node, handler = self._step((kind, other), self._modules[other])
                (inputs if kind == READ else outputs)[other] = gone
                if kind == READ:
                    reached[other] = channels.tolist()
            steps.append((node, handler, gone))
        sets = frozenset(units.sets[going].tolist())
        return Removal(outputs, inputs, tuple(parameters), reached, tuple(steps), sets)

    def _step(self, place: Place, part: Any, axis: int | None = None) -> tuple[Any, Callable[..., Any]]:
        """Torch-Pruning's node of a module or parameter, or one like it, and what removes its channels."""
        if place not in self._nodes:
            node = self._graph.module2node.get(part) if axis is None else None
            if node is None:  # nothing that the network returns hangs on it
                node = _Node(part, -1 if axis is None else axis)
            self._nodes[place] = node
        pruner = self._graph.get_pruner_of_module(part)
        return self._nodes[place], pruner.prune_in_channels if place[0] == READ else pruner.prune_out_channels

    def resize(self, going: frozenset[int]) -> None:
        """Change the attributes of modules that say how many channels there are in the parts of what they divide.

        Args:
            going: Numbers of the sets of channels that go.

        Raises:
            CutError: One attribute would have to stand for several sizes.
        """
        if not going:
            return
        changed: dict[tuple[str, str, int | None], int] = {}
        for size in self._origins.sizes:
            gone = int(np.isin(size.channels, list(going)).sum())
            key = size.module, size.attribute, size.entry
            if changed.setdefault(key, gone) != gone:
                refusal = f"{size.attribute} stands for parts that would be of several sizes"
                raise CutError(size.module, RefusedError(refusal))
        for (name, attribute, entry), gone in changed.items():
            if gone:
                change_size(self._modules[name], attribute, entry, gone)


@dataclass(frozen=True, eq=False)
class _Node:
    """What Torch-Pruning knows of a module that is cut."""

    module: Any
    pruning_dim: int
