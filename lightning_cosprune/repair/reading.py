"""Which channels of a layer's input belong to which filters, and how the layer is made to read others for them."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.channels import ChannelGroup, channel_graph
from lightning_cosprune.network.computed import stored_weight
from lightning_cosprune.network.rectifiers import Sequel
from lightning_cosprune.network.rows import num_positions, output_rows, set_weight_rows, weight_rows
from lightning_cosprune.repair.kept import readers_of_removed
from lightning_cosprune.surgery.report import PruningReport

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "CutGroup",
    "add_bias",
    "add_rows",
    "channels_left",
    "cut_groups",
    "example_of",
    "mapped_rows",
    "mean_response",
    "pass_norms",
    "place_of_bias",
    "readers_to_change",
    "reading_of",
]


@dataclass(frozen=True, eq=False)
class CutGroup:
    """Coupled layers that lost filters, and where the filters are found again.

    Attributes:
        group: The layers, as they are coupled in the dense network.
        kept: Numbers of the filters that are left, ascending.
        removed: Numbers of the others, ascending.
        inputs: Layer that reads them -> its input channels of each filter; several behind a flatten.
        followers: Depthwise convolution that passes them on -> its channel of each filter.
    """

    group: ChannelGroup
    kept: list[int]
    removed: list[int]
    inputs: Mapping[str, Int[Tensor, "filters copies"]]
    followers: Mapping[str, Int[Tensor, " filters"]]

    def removed_inputs(self, reader: str) -> list[int]:
        """Channels of a reader's input that went with the filters."""
        return sorted(self.inputs[reader][self.removed].flatten().tolist())


def example_of(dense: nn.Module, example_inputs: Any, caller: str) -> Any:
    """``example_inputs``, or where they are ``None`` what the network carries with it.

    Raises:
        ValueError: It carries none.

    Returns:
        Inputs of one forward pass.
    """
    if example_inputs is None:
        example_inputs = getattr(dense, "example_input_array", None)
    if example_inputs is None:
        raise ValueError(
            f"`{caller}(example_inputs=None)`: expected inputs of one forward pass, to find out which layer reads "
            f"which, found none, and {type(dense).__name__} has no `example_input_array`. Pass `example_inputs`; "
            "their values do not matter."
        )
    return example_inputs


def readers_to_change(pruned: nn.Module, dense: nn.Module, caller: str) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Layers that read fewer channels than before and may be given other weights, and the others with the reason.

    Raises:
        ValueError: No layer reads fewer channels.

    Returns:
        Both by name; of the first the dense network's layers.
    """
    readers = readers_of_removed(pruned, dense)
    if not readers:
        raise ValueError(
            f"`{caller}(pruned=..., dense=...)`: expected a layer that reads fewer channels than in the dense network, "
            "found none. `dense` must be the network before the cut, and `pruned` the one after it."
        )
    skipped = {name: reason for name, reason in readers.items() if reason is not None}
    for name in readers:
        weight = None if name in skipped else stored_weight(pruned.get_submodule(name))
        if name not in skipped and (weight is None or not weight.requires_grad):
            skipped[name] = "its weight is computed in a way that is not known" if weight is None else "frozen"
    return {name: dense.get_submodule(name) for name in readers if name not in skipped}, skipped


def cut_groups(dense: nn.Module, example_inputs: Any, kept: Mapping[str, Sequence[int]]) -> list[CutGroup]:
    """Groups of coupled layers that lost filters, and who reads what they lost.

    Args:
        dense: The network before the cut.
        example_inputs: Inputs of one forward pass.
        kept: Layer name -> its filters that are left.

    Returns:
        The groups, in the order of the network.
    """
    graph = channel_graph(dense, example_inputs)
    found: list[CutGroup] = []
    for group in graph.groups():
        gone = {name: set(range(group.width(name))).difference(kept[name]) for name in group.layers if name in kept}
        removed = group.units_of(gone)
        if not removed or any(set(group.filters_of(name, removed)) - gone.get(name, set()) for name in group.layers):
            continue
        left = [unit for unit in range(group.filters) if unit not in set(removed)]
        outputs = graph.removal(group, range(group.filters)).outputs
        followers = {follower: torch.tensor(outputs[follower]) for follower in group.followers}
        if group.places and any(len(channels) != group.filters for channels in followers.values()):
            continue
        found.append(CutGroup(group, left, removed, graph.readers(group), followers))
    return found


def reading_of(groups: Iterable[CutGroup], reader: str) -> list[CutGroup]:
    """The groups whose channels a layer reads."""
    return [group for group in groups if reader in group.inputs]


def pass_norms(groups: Iterable[CutGroup], report: PruningReport | None) -> bool:
    """Whether filters of some groups pass norms over channels on their ways, which then hang on all of them together.

    Args:
        groups: The groups.
        report: What was cut; knows norms of the user's own too.

    Returns:
        Whether any does.
    """
    scaled = {layer for ahead in report.norms.values() for layer in ahead} if report is not None else set()
    return any(one.group.norms or scaled & {*one.group.layers} for one in groups)


def channels_left(layer: nn.Module, smaller: nn.Module, groups: Sequence[CutGroup], reader: str) -> list[int] | None:
    """Numbers of a reader's input channels that are still there, ascending.

    Args:
        layer: The reader in the dense network.
        smaller: The reader in the pruned one.
        groups: Groups whose channels it reads.
        reader: Its name.

    Returns:
        ``None`` where they are not as many as the pruned reader has.
    """
    key = "in_features" if isinstance(layer, nn.Linear) else "in_channels"
    gone = {channel for group in groups for channel in group.removed_inputs(reader)}
    left = [channel for channel in range(getattr(layer, key)) if channel not in gone]
    return left if len(left) == getattr(smaller, key) else None


def mapped_rows(
    layer: nn.Module, filters: Sequence[int], left: Sequence[int], to_left: Float[Tensor, "channels left"]
) -> Float[Tensor, "groups filters columns"]:
    r"""Weights that read the channels that are left, where each channel is a sum of these: :math:`x = B x_{left}`.

    .. math:: W'_{f k t} = \sum_c W_{f c t} B_{c k}, \quad t \text{ a tap of the kernel}

    Args:
        layer: The reader in the dense network.
        filters: Its filters that are left.
        left: Its input channels that are left.
        to_left: The matrix :math:`B`; what lies across the groups of a grouped convolution is not looked at.

    Returns:
        As :func:`~lightning_cosprune.network.rows.weight_rows` of the pruned reader, in float64.
    """
    rows = weight_rows(layer).double()
    groups, each, columns = rows.shape
    channels = len(to_left) // groups
    to_left = to_left.to(rows)
    mapped = []
    for group in range(groups):
        own = [number % each for number in filters if number // each == group]
        inside = [place for place, channel in enumerate(left) if channel // channels == group]
        block = to_left[group * channels : (group + 1) * channels][:, inside]
        by_tap = rows[group, own].reshape(len(own), channels, columns // channels)
        mapped.append(torch.einsum("fct,ck->fkt", by_tap, block).flatten(1))
    return torch.stack(mapped)


@torch.no_grad()
def mean_response(layer: Any, inputs: Tensor) -> Float[Tensor, " filters"]:
    """What a layer adds to its bias on average over the places of its output, in float64.

    Args:
        layer: A convolution, a transposed one, or a linear layer.
        inputs: A batch of one.

    Returns:
        The average.
    """
    output = layer(inputs.to(layer.weight)).double() - layer(torch.zeros_like(inputs).to(layer.weight)).double()
    positions = torch.arange(num_positions(layer, output), device=output.device)
    return output_rows(layer, output, positions).mean(dim=(0, 1))


def place_of_bias(pruned: nn.Module, name: str, sequel: Sequel) -> tuple[Tensor, int] | str:
    """Where a bias can be written, and with which sign: a running mean is subtracted.

    Returns:
        Or why there is no such place.
    """
    own = pruned.get_submodule(name)._parameters.get("bias")
    if own is not None:
        return (own, 1) if own.requires_grad else "its bias is frozen"
    if sequel.batch_norm is None:
        return "it has no bias, nor a batch norm behind it that could take one"
    norm: Any = pruned.get_submodule(sequel.batch_norm)
    return norm.running_mean, -1


@torch.no_grad()
def add_bias(place: tuple[Tensor, int], amount: Float[Tensor, " filters"]) -> None:
    """Change a layer's bias, or what stands for it, in place."""
    tensor, sign = place
    tensor.copy_(tensor.double() + sign * amount.to(tensor.device))


@torch.no_grad()
def add_rows(layer: nn.Module, rows: Float[Tensor, "groups filters columns"]) -> None:
    """Change a layer's weight in place."""
    set_weight_rows(layer, weight_rows(layer).double() + rows)
