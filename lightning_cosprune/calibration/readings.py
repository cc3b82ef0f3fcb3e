"""What the layers that read some filters are given, measured on calibration data: what criterion "response" goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.calibration.batches import num_samples
from lightning_cosprune.calibration.moments import Moments
from lightning_cosprune.calibration.observe import observe
from lightning_cosprune.calibration.positions import chosen_positions, positions_a_sample
from lightning_cosprune.network.rows import input_rows, num_positions, weight_rows
from lightning_cosprune.ranking.subset import Reading

__all__ = ["input_covariances", "input_moments", "readings_of"]

_LARGEST = 2304
"""Up to so many inputs of a filter the taps of a channel are told apart; beyond, each counts as one more position."""


def input_covariances(model: nn.Module, batches: Sequence[Any], layers: Sequence[str]) -> dict[str, list[Tensor]]:
    """Layer name -> the covariance of the inputs of each of its groups, in float64, from one pass over the data.

    A layer that the data do not reach is missing.

    Args:
        model: The network; left as it was found.
        batches: Calibration data, one entry a forward pass.
        layers: Names of convolutions, transposed ones and linear layers.

    Returns:
        For each group ``(columns, columns)``: channel by channel and tap by tap as in
        :func:`~lightning_cosprune.network.rows.input_rows`, or channel by channel where a layer is too large.
    """
    moments = input_moments(model, batches, layers)
    return {name: [one.xx / max(one.count, 1) for one in groups] for name, (groups,) in moments.items()}


def input_moments(
    model: nn.Module, batches: Sequence[Any], layers: Sequence[str], parts: int = 1
) -> dict[str, list[list[Moments]]]:
    """Layer name -> for each part of the data the moments of the inputs of each of its groups, from one pass.

    Args:
        model: The network; left as it was found.
        batches: Calibration data, one entry a forward pass.
        layers: Names of convolutions, transposed ones and linear layers.
        parts: Into how many parts the samples fall: the first ones, the next ones, and so on, so that neighbours, such
            as patches of one clip, are rarely told apart.

    Returns:
        ``parts`` lists of one for each group; a layer that the data do not reach is missing.
    """
    modules = {name: model.get_submodule(name) for name in layers}
    sums: dict[str, list[list[Moments]]] = {}
    generator = torch.Generator().manual_seed(0)
    samples = sum(map(num_samples, batches))
    done = 0

    def note(name: str, given: Tensor, output: Tensor) -> None:
        layer = modules[name]
        groups, _, columns = weight_rows(layer).shape
        wanted = positions_a_sample(columns, samples)
        positions = chosen_positions(num_positions(layer, output), wanted, generator).to(given.device)
        rows = input_rows(layer, given, positions, output.shape)
        # A layer may be given more rows than there are samples, as where a network looks at patches of its own.
        place = done + torch.arange(len(rows), device=given.device) * num_samples(batch) / len(rows)
        part_of_row = (place * parts / samples).long().clamp_max_(parts - 1)
        width = columns if columns <= _LARGEST else columns // _taps(layer)
        held = sums.setdefault(name, [[Moments(width, 0, given.device) for _ in range(groups)] for _ in range(parts)])
        for part in part_of_row.unique().tolist():
            own = rows[part_of_row == part].flatten(0, 1)
            if columns > _LARGEST:
                own = own.unflatten(2, (-1, _taps(layer))).movedim(3, 0).flatten(0, 1)
            for group, one in enumerate(held[part]):
                one.add(own[:, group], own.new_zeros(len(own), 0))

    for batch in tqdm(batches, desc="Measuring what layers read", unit="batch", delay=2, leave=False):
        observe(model, batch, list(modules), note)
        done += num_samples(batch)
    return sums


def readings_of(
    model: nn.Module, readers: Mapping[str, Tensor], covariances: Mapping[str, Sequence[Tensor]]
) -> list[Reading]:
    """The layers that read one group of filters, as :func:`~lightning_cosprune.ranking.subset.rank_by_response` asks.

    Args:
        model: The network.
        readers: Name of a layer -> channels of its input in which each filter arrives, ``(filters, channels)``.
        covariances: What :func:`input_covariances` measured.

    Returns:
        One for each reader, and of a grouped one for each group that reads some of the filters.
    """
    found = []
    for name, channels in readers.items():
        if name not in covariances:
            continue
        layer = model.get_submodule(name)
        rows = weight_rows(layer)
        taps = _taps(layer)
        size = rows.shape[2] // taps  # channels of a group
        for group, covariance in enumerate(covariances[name]):
            inside = ((channels // size) == group).all(dim=1)
            if not inside.any():
                continue
            places = channels[inside] - group * size
            weight = rows[group].T  # columns, filters
            if len(covariance) < len(weight):
                # Taps are positions here: what each of them is multiplied by counts as an output of its own.
                columns, weight = places, weight.unflatten(0, (size, taps)).flatten(1)
            else:
                columns = (places[:, :, None] * taps + torch.arange(taps)).flatten(1)
            # Channels of others, as of a concatenation, are no matter of this group.
            own = columns.flatten().to(covariance.device)
            numbers = torch.arange(columns.numel()).reshape(columns.shape)
            found.append(Reading(covariance[own][:, own], weight[own], inside.nonzero()[:, 0], numbers))
    return found


def _taps(layer: nn.Module) -> int:
    size = 1
    for taps in getattr(layer, "kernel_size", ()):
        size *= int(taps)
    return size
