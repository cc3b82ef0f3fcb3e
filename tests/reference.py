"""The papers read literally: NumPy, float64, a loop for every sum they write. Slow, and meant to be obviously right.

Nothing here is imported from the package. Each function says which formula it spells out; `docs/method.md` matches the
same formulas to the package. The edge rules that the papers leave open are spelled out as the package states them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def prototype(filter_weight: Array) -> Array:
    """Leading left singular vector of (taps, channels), signed by channel 0 of the leading right one."""
    channels = filter_weight.shape[0]
    matrix = filter_weight.reshape(channels, -1).T
    if matrix.shape[0] == 1:
        return matrix[0] / np.linalg.norm(matrix)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    multiplicity = int(np.sum(s >= s[0] * (1 - 1e-13)))
    if multiplicity == 1:
        for channel in range(channels):
            if matrix[:, channel].any() and abs(vt[0, channel]) * s[0] > 1e-14 * np.linalg.norm(matrix[:, channel]):
                return u[:, 0] * np.sign(vt[0, channel])
    for channel in range(channels):
        projection = np.zeros(len(matrix))
        for k in range(multiplicity):
            projection += (u[:, k] @ matrix[:, channel]) * u[:, k]
        if np.linalg.norm(projection) > 1e-14 * np.linalg.norm(matrix[:, channel]):
            return projection / np.linalg.norm(projection)
    raise AssertionError("a zero filter has no prototype")


def dead(weight: Array) -> list[bool]:
    """Filters without a direction: no larger than 2**-23 of the largest."""
    largest = max(np.abs(weight).max(), np.finfo(float).tiny)
    norms = [np.linalg.norm(filter_weight / largest) for filter_weight in weight]
    return [norm <= 2.0**-23 * max(norms) for norm in norms]


def vectors(weight: Array, kind: str = "prototype") -> Array:
    rows = []
    for filter_weight, is_dead in zip(weight, dead(weight), strict=True):
        if kind == "flat":
            row = filter_weight.ravel() * (not is_dead)
        elif is_dead:
            row = np.zeros(math.prod(weight.shape[2:]) if math.prod(weight.shape[2:]) > 1 else weight.shape[1])
        else:
            row = prototype(filter_weight / np.abs(filter_weight).max())
        rows.append(row)
    return np.array(rows)


def cosine_distances(rows: Array) -> Array:
    """D[i, j] = 1 - <v_i, v_j> / (|v_i| |v_j|), pair by pair."""
    count = len(rows)
    distance = np.empty((count, count))
    for i in range(count):
        for j in range(count):
            distance[i, j] = 1 - unit(rows[i]) @ unit(rows[j])
    return distance


def unit(row: Array) -> Array:
    row = row / np.abs(row).max()  # else squares of 1e200 overflow
    return row / np.linalg.norm(row)


def nystrom_distances(rows: Array, columns: int | Sequence[int]) -> Array:
    """C = N^T N[:, chosen], W = C[chosen], D = 1 - C pinv(W) C^T."""
    units = np.array([unit(row) for row in rows])
    chosen = list(range(columns)) if isinstance(columns, int) else list(columns)
    c = units @ units[chosen].T
    s = c @ np.linalg.pinv(c[chosen], rcond=1e-15) @ c.T
    # S is symmetric but for its last bits, which would decide between mutual neighbours where D is not rounded.
    return 1 - (s + s.T) / 2


def greedy(distance: Array, decimals: int | None = None, order_of_ties: str = "stable") -> list[int]:
    """The walk of the published scripts, the diagonal masked: the filters that are kept, in the order of the walk."""
    if decimals is not None:
        distance = np.round(distance, decimals)
    masked = distance.copy()
    np.fill_diagonal(masked, np.inf)
    entries = [(i, int(np.argmin(masked[i])), masked[i].min()) for i in range(len(masked))]
    distances = [entry[2] for entry in entries]
    if order_of_ties == "stable":
        order = sorted(range(len(entries)), key=lambda i: distances[i])
    else:
        order = literal_quicksort(distances)
    kept: list[int] = []
    redundant: list[int] = []
    for index in order:
        i, nearest, _ = entries[index]
        if i not in redundant:
            kept.append(i)
            redundant.append(nearest)
    return kept


def kept(
    weight: Array, kind: str = "prototype", columns: int | Sequence[int] | None = None, decimals: int | None = None
) -> list[int]:
    """The published selection, with the rules for dead filters and copies."""
    rows = vectors(weight, kind)
    alive = [i for i, row in enumerate(rows) if row.any()] or [0]
    if len(alive) == 1:
        return alive
    rows = rows[alive]
    distance = cosine_distances(rows) if columns is None else nystrom_distances(rows, columns)
    found: list[int] = []
    for i in greedy(distance, decimals):
        if not any(np.abs(unit(rows[i]) - unit(rows[j])).max() <= 2e-14 for j in found):
            found.append(i)
    return sorted(alive[i] for i in found)


def ranking(weight: Array, kind: str = "prototype") -> list[set[int]]:
    """What each repetition of the rule removes: the dead, then round by round; last the one that is left."""
    rows = vectors(weight, kind)
    alive = [i for i, row in enumerate(rows) if row.any()] or [0]
    rounds = [set(range(len(rows))) - set(alive)]
    while len(alive) > 1:
        stay = [alive[i] for i in kept(weight[alive], kind)]
        rounds.append(set(alive) - set(stay))
        alive = stay
    return [*rounds, set(alive)]


def l1(weight: Array) -> list[float]:
    return [sum(abs(value) for value in filter_weight.ravel()) for filter_weight in weight]


def l2(weight: Array) -> list[float]:
    return [math.hypot(*filter_weight.ravel()) for filter_weight in weight]


def geometric_median(weight: Array) -> list[float]:
    return [sum(math.dist(one.ravel(), other.ravel()) for other in weight) for one in weight]


def geometric_mean(weight: Array) -> list[float]:
    def mean(values: Array) -> float:
        return (
            0.0 if not values.all() else math.exp(sum(math.log(abs(value)) for value in values.ravel()) / values.size)
        )

    return [(mean(weight) - mean(filter_weight)) ** 2 for filter_weight in weight]


def operator_norm(weight: Array) -> list[float]:
    """(sum over channels of <A_f, v>)^2; v: leading right singular vector of the centred slices, signed by u[0, 0]."""
    shares = [0.0] * len(weight)
    for channel in range(weight.shape[1]):
        slices = weight[:, channel].reshape(len(weight), -1)
        slices = slices - slices.mean(axis=0)
        if not slices.any():
            continue
        u, _, vt = np.linalg.svd(slices, full_matrices=False)
        for f in range(len(weight)):
            shares[f] += float(slices[f] @ (vt[0] * np.sign(u[0, 0])))
    return [share**2 for share in shares]


def literal_quicksort(values: Sequence[float]) -> list[int]:
    """NumPy 1's default argsort for up to 16 values, where it is an insertion sort."""
    assert len(values) <= 16
    order: list[int] = []
    for i, value in enumerate(values):
        place = len(order)
        while place and values[order[place - 1]] > value:
            place -= 1
        order.insert(place, i)
    return order


def eliminate(readings, filters):
    """Backward elimination, literally: each candidate set's readers are solved for anew by least squares.

    ``readings`` are tuples (gram, weight, filters, columns), as in ``ranking.subset.Reading``.
    """

    def cost(removed):
        total = 0.0
        for gram, weight, numbers, columns in readings:
            held = gram + 1e-3 * gram.diagonal().mean() * np.eye(len(gram))
            gone = [c for number, own in zip(numbers, columns, strict=True) if number in removed for c in own]
            kept = [c for c in range(len(gram)) if c not in gone]
            best = np.zeros_like(weight)
            if kept:
                best[kept] = np.linalg.solve(held[np.ix_(kept, kept)], (held @ weight)[kept])
            missed = weight - best
            total += np.trace(missed.T @ held @ missed) / np.trace(weight.T @ gram @ weight)
        return total

    order, costs = [], []
    for _ in range(filters):
        left = [number for number in range(filters) if number not in order]
        order.append(min(left, key=lambda number: cost({*order, number})))
        costs.append(cost(set(order)))
    return order, costs
