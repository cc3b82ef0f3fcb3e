"""Criterion "response": which filters the kept ones can speak for, on calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_cosprune.calibration.batches import as_batches, check_runs
from lightning_cosprune.calibration.readings import input_covariances, readings_of
from lightning_cosprune.network.channels import ChannelGroup, graph_of_groups
from lightning_cosprune.network.layers import is_layer
from lightning_cosprune.ranking.subset import Reading, rank_by_response

__all__ = ["ResponseRanking"]


class ResponseRanking:
    """Ranks the filters of each group; measured in one pass over the data, with all filters of the network in place.

    Args:
        model: The network; left as it was found.
        example_inputs: As for ``plan_pruning``.
        groups: Those that may be asked for.
        calibration: Inputs, one entry a forward pass; labels are not looked at.

    Raises:
        ValueError: There are no calibration data.
    """

    def __init__(
        self, model: nn.Module, example_inputs: Any, groups: Sequence[ChannelGroup], calibration: Iterable[Any]
    ) -> None:
        batches = as_batches(calibration, "plan_pruning")
        check_runs(model, batches, "plan_pruning")
        graph = graph_of_groups(model, example_inputs, groups)
        self._model = model
        self._readers = {
            group: {
                name: channels for name, channels in graph.readers(group).items() if is_layer(model.get_submodule(name))
            }
            for group in groups
        }
        names = {name for readers in self._readers.values() for name in readers}
        self._covariances = input_covariances(model, batches, sorted(names))

    def order(self, group: ChannelGroup, removals: int) -> Tensor | None:
        """The filters to remove.

        Args:
            group: One of the groups.
            removals: How many are wanted.

        Returns:
            The first to go first; ``None`` where no layer that the data reach reads them.
        """
        readings = self.readings(group)
        return rank_by_response(readings, group.filters, removals)[0] if readings else None

    def readings(self, group: ChannelGroup) -> list[Reading]:
        """What the layers that read the filters are given, of those that the data reach."""
        return readings_of(self._model, self._readers[group], self._covariances)
