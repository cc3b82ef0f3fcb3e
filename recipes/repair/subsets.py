# Question: do searches published as stronger find better filters to keep than one that removes them one by one?
# Command:  .venv/bin/python -m recipes.repair.subsets --weights yamnet.pt --data ESC-10
# Measured: README.md beside this file.
"""What the readers of each layer of YAMNet lose with the filters that several searches remove, as many of each.

One by one is criterion ``"response"``. Exchange goes on from there as OSSCAR does (Meng et al., ICML 2024): as long as
it costs less, a removed filter comes back and a kept one goes. Pivoted QR is the choice of LinDeps (arXiv 2507.21573):
the filter comes next of which those that are kept already say the least, whatever its readers make of it. Both are our
own code after their descriptions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.models import YAMNet
from lightning_cosprune.network.channels import channel_groups
from lightning_cosprune.planning.response import ResponseRanking
from lightning_cosprune.ranking.subset import RIDGE, Reading, rank_by_response
from recipes.cells import write
from recipes.repair.yamnet_esc10 import load_clips

CLIPS = 80
PARTS = (0.25, 0.5)
EXAMPLE = (1, 1, 96, 64)
TRIED = 3
"""Removed filters that an exchange is tried with, those first that would bring back most."""


@dataclass(frozen=True)
class Row:
    """The filters of one layer that one search removes."""

    fold: int
    layer: str
    filters: int
    removed: int
    search: str
    loss: float
    exchanges: int
    seconds: float


class Losses:
    """What the readers of some filters lose with a set of them, and with one more or one less.

    Args:
        readings: The layers that read the filters.
        filters: How many there are.
    """

    def __init__(self, readings: Sequence[Reading], filters: int) -> None:
        self.filters = filters
        self._readers = [_Reader(reading, filters) for reading in readings]

    def of(self, kept: Tensor) -> float:
        """The loss with ``kept`` filters left, as a part of the variance of what the readers compute."""
        return sum(reader.lost(kept) for reader in self._readers)

    def gains(self, kept: Tensor) -> Tensor:
        """How much less would be lost with each removed filter back; infinitely little of those that are kept."""
        return torch.stack([reader.gains(kept) for reader in self._readers]).sum(dim=0).masked_fill(kept, -torch.inf)

    def costs(self, kept: Tensor) -> Tensor:
        """How much more would be lost without each kept filter; infinitely much of those that are removed."""
        return torch.stack([reader.costs(kept) for reader in self._readers]).sum(dim=0).masked_fill(~kept, torch.inf)


class _Reader:
    def __init__(self, reading: Reading, filters: int) -> None:
        gram, self._weight = reading.gram.double(), reading.weight.double()
        self._gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
        self._total = float((self._weight * (self._gram @ self._weight)).sum())
        self._numbers, self._columns, self._filters = reading.filters, reading.columns, filters

    def _split(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Columns of the kept filters, and of the removed ones."""
        held = kept[self._numbers]
        return self._columns[held].flatten(), self._columns[~held].flatten()

    def _beside(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Covariance of what is removed given what is kept, and the columns of it."""
        held, gone = self._split(kept)
        left = self._gram[gone][:, gone]
        if len(held):
            whitened = torch.linalg.solve_triangular(
                torch.linalg.cholesky(self._gram[held][:, held]), self._gram[held][:, gone], upper=False
            )
            left = left - whitened.T @ whitened
        return left, gone

    def lost(self, kept: Tensor) -> float:
        left, gone = self._beside(kept)
        return float((self._weight[gone] * (left @ self._weight[gone])).sum()) / self._total

    def gains(self, kept: Tensor) -> Tensor:
        left, gone = self._beside(kept)
        return self._by_filter(left, left @ self._weight[gone], ~kept)

    def costs(self, kept: Tensor) -> Tensor:
        held, gone = self._split(kept)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._gram[held][:, held]))
        refitted = self._weight[held] + inverse @ (self._gram[held][:, gone] @ self._weight[gone])
        return self._by_filter(inverse, refitted, kept)

    def _by_filter(self, matrix: Tensor, values: Tensor, of: Tensor) -> Tensor:
        """Of each filter ``tr v' M^-1 v`` with its block of the matrix and its rows of the values."""
        width = self._columns.shape[1]
        count = len(matrix) // width
        places = torch.arange(count)
        blocks = matrix.view(count, width, count, width)[places, :, places]
        rows = values.view(count, width, -1)
        solved = torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), rows, upper=False)
        found = torch.zeros(self._filters, dtype=torch.float64)
        found[self._numbers[of[self._numbers]]] = solved.square().sum(dim=(1, 2)) / self._total
        return found


def exchange(losses: Losses, kept: Tensor) -> tuple[Tensor, int]:
    """Bring back a removed filter and remove a kept one, as long as that costs less.

    Returns:
        The filters that are kept in the end, and how often that was done.
    """
    now, count = losses.of(kept), 0
    while True:
        for back in losses.gains(kept).topk(min(TRIED, int((~kept).sum()))).indices.tolist():
            other = kept.clone()
            other[back] = True
            other[losses.costs(other).argmin()] = False
            if (then := losses.of(other)) < now * (1 - 1e-6):
                kept, now, count = other, then, count + 1
                break
        else:
            return kept, count


def pivoted(readings: Sequence[Reading], filters: int, keep: int) -> Tensor:
    """Keep the filter of which the kept ones say the least, then the next one."""
    kept = torch.zeros(filters, dtype=torch.bool)
    left = [reading.gram.double() / reading.gram.diagonal().sum() for reading in readings]
    for _ in range(keep):
        unsaid = torch.zeros(filters, dtype=torch.float64)
        for gram, reading in zip(left, readings, strict=True):
            unsaid.index_add_(0, reading.filters, gram.diagonal()[reading.columns].sum(dim=1))
        chosen = int(unsaid.masked_fill(kept, -torch.inf).argmax())
        kept[chosen] = True
        for gram, reading in zip(left, readings, strict=True):
            columns = reading.columns[reading.filters == chosen].flatten()
            block = gram[columns][:, columns]
            block.diagonal().add_(1e-12)  # where nothing is left to say
            said = torch.linalg.solve_triangular(torch.linalg.cholesky(block), gram[columns], upper=False)
            gram.addmm_(said.T, said, alpha=-1)
    return kept


def compare(readings: Sequence[Reading], filters: int, removed: int) -> dict[str, tuple[float, int, float]]:
    """Search -> what the readers lose by its choice, its exchanges, and its seconds of processor time."""
    losses = Losses(readings, filters)
    found: dict[str, tuple[float, int, float]] = {}
    one_by_one = torch.ones(filters, dtype=torch.bool)

    def note(search: str, make: Callable[[], tuple[Tensor, int]]) -> None:
        start = time.process_time()
        kept, count = make()
        found[search] = losses.of(kept), count, time.process_time() - start

    def eliminated() -> tuple[Tensor, int]:
        one_by_one[rank_by_response(readings, filters, removed)[0]] = False
        return one_by_one, 0

    def drawn() -> tuple[Tensor, int]:
        order = torch.randperm(filters, generator=torch.Generator().manual_seed(0))
        return torch.zeros(filters, dtype=torch.bool).index_fill(0, order[removed:], True), 0

    note("one by one", eliminated)
    note("exchange", lambda: exchange(losses, one_by_one))
    note("pivoted QR", lambda: (pivoted(readings, filters, filters - removed), 0))
    note("random", drawn)
    return found


def study(dense: nn.Module, calibration: Sequence[Any], fold: int, parts: Sequence[float]) -> list[Row]:
    """All layers of one network on one draw of clips."""
    example = torch.zeros(EXAMPLE)
    groups = [group for group in channel_groups(dense, example) if group.refusal is None]
    responses = ResponseRanking(dense, example, groups, calibration)
    rows = []
    for group in groups:
        if readings := responses.readings(group):
            for part in parts:
                removed = int(part * group.filters)
                for search, measured in compare(readings, group.filters, removed).items():
                    rows.append(Row(fold, group.layers[0], group.filters, removed, search, *measured))
                    print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="subsets", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--weights", type=Path, required=True, help="yamnet.pt or yamnet.tflite")
    parser.add_argument("--data", type=Path, required=True, help="ESC-10, in DCASE layout or its author's")
    parser.add_argument("--folds", type=int, nargs="+", default=[1])
    parser.add_argument("--parts", type=float, nargs="+", default=PARTS)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--out", type=Path, default=Path("recipes/repair/subsets.csv"))
    options = parser.parse_args(arguments)
    dense, clips = YAMNet.from_pretrained(options.weights).eval(), load_clips(options.data)
    rows = []
    for fold in options.folds:
        own = clips.of_fold(fold)
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(fold))][: options.clips]
        rows += study(dense, [clips.patches[own].flatten(0, 1)], fold, options.parts)
        write(options.out, Row, rows)


if __name__ == "__main__":
    main()
