"""What every network of the study is measured by, and the cells that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_cosprune import measure_complexity
from recipes.budget.rivals import Rivals
from recipes.cells import read, write
from recipes.statistics import agreement, correlation

__all__ = ["Budgeted", "Study"]


@dataclass(frozen=True)
class Budgeted:
    """One network within one budget, calibrated on one draw of clips and looked at on test clips."""

    network: str
    fold: int
    seed: int
    cost: str
    share: float
    choice: str
    clips: int
    accuracy: float
    agreement: float
    correlation: float
    params_removed: float
    macs_removed: float
    latency_ratio: float
    plan_seconds: float
    repair_seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        return self.cost, self.share, self.choice, self.clips


class Study:
    """All networks that come of one dense network and one draw of clips; what was measured is not measured again.

    Args:
        network: The dense network's name.
        fold: Fold that was drawn from.
        seed: Of the dense network's training.
        count: Clips that calibrate.
        path: The csv file of the cells.
        rivals: Ways to meet a budget.
        look: A network's accuracy on the test clips, and its scores, ``(clips, classes)``.
    """

    def __init__(
        self,
        network: str,
        fold: int,
        seed: int,
        count: int,
        path: Path,
        rivals: Rivals,
        look: Callable[[nn.Module], tuple[float, Tensor]],
    ) -> None:
        self.network, self.fold, self.seed, self.count = network, fold, seed, count
        self.path, self.rivals, self.look = path, rivals, look
        self.cells = {cell.key: cell for cell in read(path, Budgeted)}
        self.dense = look(rivals.dense)[1]
        self.before = measure_complexity(rivals.dense, rivals.example)

    def run(self, costs: Sequence[str], shares: Sequence[float], choices: Sequence[str]) -> None:
        """Every cell, all choices of one budget one after the other."""
        for cost in costs:
            for share in shares:
                for choice in choices:
                    if (cost, share, choice, self.count) not in self.cells:
                        self._measure(cost, share, choice)

    def _measure(self, cost: str, share: float, choice: str) -> None:
        pruned, planning, repairing = self.rivals.make(cost, share, choice)
        accuracy, scores = self.look(pruned)
        after = measure_complexity(pruned, self.rivals.example)
        cell = Budgeted(
            self.network,
            self.fold,
            self.seed,
            cost,
            share,
            choice,
            self.count,
            accuracy=accuracy,
            agreement=agreement(scores, self.dense),
            correlation=correlation(scores, self.dense),
            params_removed=1 - after.params / self.before.params,
            macs_removed=1 - after.macs / self.before.macs,
            latency_ratio=self.rivals.ratio(pruned),
            plan_seconds=planning,
            repair_seconds=repairing,
        )
        self.cells[cell.key] = cell
        write(self.path, Budgeted, self.cells.values())
        print(cell, flush=True)
