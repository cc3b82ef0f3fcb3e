"""What the dense network computes where the pruned one is repaired, taken down in one pass over calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune.calibration.batches import first_sample, num_samples
from lightning_cosprune.calibration.moments import Pool
from lightning_cosprune.calibration.observe import observe
from lightning_cosprune.calibration.positions import chosen_positions, positions_a_sample
from lightning_cosprune.network.forward import float_tensors
from lightning_cosprune.network.rectifiers import find_sequels
from lightning_cosprune.network.rows import num_positions, output_rows, weight_rows

__all__ = ["Seen", "Targets"]


@dataclass
class Seen:
    """What one call of a layer computed in the dense network, at the positions that are looked at."""

    positions: Tensor
    rows: Tensor  # samples, positions, kept filters
    shape: torch.Size  # of the whole output


class Targets:
    """What the dense network computes, in one pass over the calibration data.

    Attributes:
        calls: Layer name -> how often it is called in a forward pass, in the order of the first calls.
        seen: For each batch, layer name -> one entry for each call.
        outputs: For each batch the network's outputs.
        sequels: Layer name -> what is done with its output.
    """

    def __init__(
        self,
        pruned: nn.Module,
        dense: nn.Module,
        batches: Sequence[Any],
        layers: Mapping[str, nn.Module],
        kept: Mapping[str, list[int]],
        pool: Pool | None,
    ) -> None:
        samples = sum(map(num_samples, batches))
        if pool is not None:
            samples = int(pool([torch.tensor(samples)])[0])
        columns = {name: weight_rows(pruned.get_submodule(name)).shape[2] for name in layers}
        wanted = {name: positions_a_sample(columns[name], samples) for name in layers}
        generator = torch.Generator().manual_seed(0)
        self.calls: dict[str, int] = {}
        self.seen: list[dict[str, list[Seen]]] = []
        self.outputs: list[list[Tensor]] = []
        for batch in tqdm(batches, desc="Listening to the dense network", unit="batch", delay=2, leave=False):
            seen: dict[str, list[Seen]] = {}

            def note(name: str, _: Tensor, output: Tensor, seen: dict[str, list[Seen]] = seen) -> None:
                positions = chosen_positions(num_positions(layers[name], output), wanted[name], generator)
                positions = positions.to(output.device)
                index = torch.tensor(kept[name], device=output.device)
                rows = output_rows(layers[name], output, positions).index_select(2, index)
                seen.setdefault(name, []).append(Seen(positions, rows, output.shape))

            self.outputs.append(float_tensors(observe(dense, batch, list(layers), note)))
            self.seen.append(seen)
            for name, calls in seen.items():
                self.calls[name] = max(self.calls.get(name, 0), len(calls))
        example = first_sample(batches[0])
        self.sequels = find_sequels(dense, example, layers)
