"""The order of NumPy 1's default ``argsort``, which decides between equal distances in the published selections."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["numpy1_argsort"]

_INSERTION = 15  # a stretch whose last position is at most this far from its first is sorted by insertion


def numpy1_argsort(values: Sequence[float]) -> list[int]:
    """The permutation that sorts ``values``, with equal ones in the order of NumPy 1's default ``argsort``.

    That is introsort, compiled without wide vector instructions: quicksort about the median of the first, middle and
    last value; insertion sort, which keeps equal values in order, for stretches of up to 16; and heapsort for a stretch
    that is still to be split after 2 log2(n) splits. So up to 16 values are sorted stably and more are not.

    Where the CPU has AVX-512, NumPy 1.25 and later sort by another algorithm, and where it has AVX2, NumPy 2 does; they
    order equal values differently. The order here is that of NumPy 1 up to 1.24 on any CPU, and of later versions, 2.4
    included, where ``NPY_DISABLE_CPU_FEATURES`` names those instructions.

    Args:
        values: Numbers without NaN.

    Returns:
        Positions in ``values``, the position of the smallest first.

    Source: Musser, "Introspective sorting and selection algorithms", 1997.

    Example:
        >>> numpy1_argsort([0.5, 0.1, 0.5, 0.1])
        [1, 3, 0, 2]
    """
    order = list(range(len(values)))
    waiting = [(0, len(order) - 1, 2 * (len(order).bit_length() - 1))]
    while waiting:
        low, high, splits_left = waiting.pop()
        if splits_left < 0:
            _heapsort(values, order, low, high)
            continue
        # Only a stretch that has waited is checked against the limit of splits, not one that is split on at once.
        while high - low > _INSERTION:
            middle = _split(values, order, low, high)
            splits_left -= 1
            if middle - low < high - middle:
                waiting.append((middle + 1, high, splits_left))
                high = middle - 1
            else:
                waiting.append((low, middle - 1, splits_left))
                low = middle + 1
        _insertion_sort(values, order, low, high)
    return order


def _split(values: Sequence[float], order: list[int], low: int, high: int) -> int:
    """Partition ``order[low : high + 1]`` about the median of three; the position where the median ends up."""
    middle = low + (high - low) // 2
    for left, right in ((low, middle), (middle, high), (low, middle)):
        if values[order[right]] < values[order[left]]:
            order[left], order[right] = order[right], order[left]
    pivot = values[order[middle]]
    order[middle], order[high - 1] = order[high - 1], order[middle]
    left, right = low, high - 1
    while True:
        left += 1
        while values[order[left]] < pivot:
            left += 1
        right -= 1
        while pivot < values[order[right]]:
            right -= 1
        if left >= right:
            break
        order[left], order[right] = order[right], order[left]
    order[left], order[high - 1] = order[high - 1], order[left]
    return left


def _insertion_sort(values: Sequence[float], order: list[int], low: int, high: int) -> None:
    # A list's own sort is stable, and a stable order is unique: what insertion would give, sooner.
    order[low : high + 1] = sorted(order[low : high + 1], key=values.__getitem__)


def _heapsort(values: Sequence[float], order: list[int], low: int, high: int) -> None:
    """Sort ``order[low : high + 1]`` by a binary max-heap."""
    heap = order[low : high + 1]

    def sift(entry: int, hole: int, size: int) -> None:
        while (child := 2 * hole + 1) < size:
            if child + 1 < size and values[heap[child]] < values[heap[child + 1]]:
                child += 1
            if not values[entry] < values[heap[child]]:
                break
            heap[hole] = heap[child]
            hole = child
        heap[hole] = entry

    for hole in reversed(range(len(heap) // 2)):
        sift(heap[hole], hole, len(heap))
    for last in reversed(range(1, len(heap))):
        entry, heap[last] = heap[last], heap[0]
        sift(entry, 0, last)
    order[low : high + 1] = heap
