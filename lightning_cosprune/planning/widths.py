"""How many filters each group keeps, so that all limits are met and the least is lost."""

# ruff: noqa: F722 - jaxtyping writes the axes of an array in a string

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["EVENNESS", "Costs", "choose_widths"]

Costs = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Widths ``(candidates, groups)`` -> name of a cost -> that of each candidate, not falling with any width."""

EVENNESS = 2.0
"""How much evenness is worth where errors are estimates; recipes/budget/README.md has what was tried."""

_EXACT = 200_000
"""Up to so many combinations of widths all are tried."""

_JUMPS = (1, 2, 4, 8, 16)
_CHECKPOINTS = 50
_SWAPS = 20
_MIXED = (0.25, 0.5, 0.75)


def choose_widths(
    options: Sequence[Int[np.ndarray, " widths"]],
    errors: Sequence[Float[np.ndarray, " widths"]],
    costs: Costs,
    limits: Mapping[str, float],
    *,
    evenness: float = 0.0,
) -> Int[np.ndarray, " groups"] | None:
    r"""The widths of least error among those that meet every limit.

    Minimised is the sum of the groups' errors :math:`e_g`. They are estimates, and where many widths :math:`w_g` of the
    :math:`d_g` filters do nearly as well, what is least is so by chance. With ``evenness`` :math:`\kappa` those count
    more that keep a like part of each group:

    .. math:: \Bigl(1 + \kappa \operatorname{Var}_g \log \frac{w_g}{d_g}\Bigr) \sum_g e_g(w_g)

    Where there are up to 200,000 combinations all of them are tried. Otherwise the best is taken of a family that does
    not depend on how tight the limits are: for each mixture of the limited costs a path that starts at full widths and
    takes again and again the step, up to sixteen widths far, of least error per cost; at fifty points on its way
    filters are exchanged between groups as long as the error falls and the cost does not rise; with ``evenness`` also
    what lies a quarter, half and three quarters of the way from each state of a path to the same part of each group at
    the same cost, in logarithms; and beside the paths the same part of each group, and one common error for all.

    As the family is the same for all limits, a tighter limit never gives a network that costs more of what is limited.

    Args:
        options: For each group the widths that may be chosen, ascending.
        errors: For each group the error at each of them.
        costs: What widths cost.
        limits: Name of a cost -> the most it may be.
        evenness: :math:`\kappa`; 0 where the errors are exact, :data:`EVENNESS` where they are estimates.

    Returns:
        The width of each group; ``None`` where not even the least widths meet the limits.
    """
    search = _Search(options, errors, costs, sorted(limits), evenness)
    bounds = np.array([limits[name] for name in sorted(limits)])
    best: tuple[float, float, tuple[int, ...]] | None = None
    for places in search.candidates():
        spent = search.costs_of(places)
        fits = (spent <= bounds).all(axis=1)
        if not fits.any():
            continue
        error, total = search.score_of(places[fits]), (spent[fits] / search.dense).sum(axis=1)
        first = np.lexsort((total, error))[0]
        found = (float(error[first]), float(total[first]), tuple(places[fits][first].tolist()))
        best = found if best is None or found < best else best
    return None if best is None else search.widths_of(np.array([best[2]]))[0]


class _Search:
    """Everything a search looks up; states are places in the groups' options, ``(candidates, groups)``."""

    def __init__(
        self,
        options: Sequence[np.ndarray],
        errors: Sequence[np.ndarray],
        costs: Costs,
        names: Sequence[str],
        evenness: float,
    ) -> None:
        self.groups = len(options)
        longest = max(map(len, options))
        self.last = np.array([len(widths) - 1 for widths in options])
        self._options = np.stack([np.pad(widths, (0, longest - len(widths)), "edge") for widths in options])
        self._errors = np.stack([np.pad(of_group, (0, longest - len(of_group)), "edge") for of_group in errors])
        self._costs, self._names, self._evenness = costs, list(names), evenness
        self.dense = self.costs_of(self.last[None])[0]

    def widths_of(self, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._options[np.arange(self.groups), places]
        return found

    def error_of(self, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = self._errors[np.arange(self.groups), places].sum(axis=1)
        return found

    def score_of(self, places: np.ndarray) -> np.ndarray:
        """The error, the greater the less even the widths are."""
        shares = np.log(self.widths_of(places) / self._options[np.arange(self.groups), self.last])
        found: np.ndarray = self.error_of(places) * (1 + self._evenness * shares.var(axis=1))
        return found

    def costs_of(self, places: np.ndarray) -> np.ndarray:
        found = self._costs(self.widths_of(places))
        return np.stack([found[name] for name in self._names], axis=1)

    def candidates(self) -> Iterator[np.ndarray]:
        """States worth a look, in parcels."""
        sizes = tuple((self.last + 1).tolist())
        if math.prod(sizes) <= _EXACT:
            grid = np.indices(sizes).reshape(self.groups, -1).T
            yield from np.array_split(grid, max(1, len(grid) // 20_000))
            return
        yield self._uniform()
        yield self._common_error()
        for mixture in _mixtures(len(self._names)):
            price = mixture / self.dense
            path = self._path(price)
            yield path
            if self._evenness:
                yield from self._evened(path, price)

    def _uniform(self) -> np.ndarray:
        shares = np.linspace(0, 1, 4 * self._options.shape[1])[:, None]
        wanted = shares * self._options[np.arange(self.groups), self.last]
        found: np.ndarray = (self._options[None] < wanted[:, :, None]).sum(axis=2)
        return self._within(found)

    def _common_error(self) -> np.ndarray:
        levels = np.unique(self._errors)[:, None, None]
        reached = self._errors[None] > levels
        return self._within(reached.sum(axis=2))

    def _evened(self, path: np.ndarray, price: np.ndarray) -> Iterator[np.ndarray]:
        """What lies between each state of a path and the same part of each group at the same cost."""
        ladder = self._uniform()
        steps = np.searchsorted(self.costs_of(ladder) @ price, self.costs_of(path) @ price)
        even = np.log(self.widths_of(ladder[np.minimum(steps, len(ladder) - 1)]))
        for part in _MIXED:
            wanted = np.exp((1 - part) * np.log(self.widths_of(path)) + part * even)
            reached = (self._options[None] <= wanted[:, :, None] + 1e-9).sum(axis=2) - 1
            yield self._within(np.maximum(reached, 0))

    def _within(self, places: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.minimum(places, self.last)
        return found

    def _path(self, price: np.ndarray) -> np.ndarray:
        """Every state on the way from full widths to the least, where a unit of each cost has its price."""
        state = self.last.copy()
        states = [state.copy()]
        spent = self.costs_of(state[None]) @ price
        step = float(spent[0]) / _CHECKPOINTS
        checkpoint = float(spent[0]) - step
        while state.any():
            moves = [(group, jump) for group in range(self.groups) for jump in _JUMPS if jump <= state[group]]
            moved = np.repeat(state[None], len(moves), axis=0)
            moved[np.arange(len(moves)), [group for group, _ in moves]] -= [jump for _, jump in moves]
            saved = spent[0] - self.costs_of(moved) @ price
            lost = self.error_of(moved) - self.error_of(state[None])
            ratio = np.where(saved > 0, lost / np.maximum(saved, 1e-300), np.inf)
            # Where nothing is saved, as within a block of a kernel, the least lost.
            chosen = int(np.lexsort((-saved, lost, ratio))[0])
            group, jump = moves[chosen]
            for _ in range(jump):
                state[group] -= 1
                states.append(state.copy())
            spent = self.costs_of(state[None]) @ price
            if spent[0] <= checkpoint:
                checkpoint = float(spent[0]) - step
                state = self._exchanged(state, float(spent[0]), price)
                states.append(state.copy())
                spent = self.costs_of(state[None]) @ price
        return np.stack(states)

    def _exchanged(self, state: np.ndarray, spent: float, price: np.ndarray) -> np.ndarray:
        """The state after exchanges between two groups that lower the error and do not raise the cost."""
        pairs = [
            (up, down, rise, fall)
            for up, down in itertools.permutations(range(self.groups), 2)
            for rise, fall in ((1, 1), (1, 2), (2, 1), (1, 4), (4, 1), (4, 4))
        ]
        up, down, rise, fall = (np.array(column) for column in zip(*pairs, strict=True)) if pairs else [np.zeros(0)] * 4
        for _ in range(_SWAPS if pairs else 0):
            possible = (state[up] + rise <= self.last[up]) & (state[down] >= fall)
            rows = np.arange(int(possible.sum()))
            moved = np.repeat(state[None], len(rows), axis=0)
            moved[rows, up[possible]] += rise[possible]
            moved[rows, down[possible]] -= fall[possible]
            if not len(rows):
                break
            error = np.where(self.costs_of(moved) @ price <= spent, self.error_of(moved), np.inf)
            chosen = int(error.argmin())
            if not error[chosen] < self.error_of(state[None])[0] - 1e-12:
                break
            state = moved[chosen]
        return state


def _mixtures(costs: int) -> Float[np.ndarray, "mixtures costs"]:
    """Weights of several costs that sum to one, evenly spread."""
    parts = {1: 1, 2: 4}.get(costs, 2)
    shares = [share for share in itertools.product(range(parts + 1), repeat=costs) if sum(share) == parts]
    return np.array(shares, dtype=float) / parts
