"""Numbers of filters that a user gives to a network."""

from __future__ import annotations

from collections.abc import Sequence


def check_widths(caller: str, widths: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
    """The widths, where there are as many as in the full network and each is positive.

    Args:
        caller: The network, the beginning of the error.
        widths: What was given.
        full: Those of the published network.

    Returns:
        ``widths`` as a tuple.

    Raises:
        ValueError: With what was found and what to write instead.
    """
    whole = all(isinstance(width, int) and not isinstance(width, bool) for width in widths)
    if len(widths) != len(full) or not whole or min(widths) < 1:
        least = min(widths, default=None) if whole else f"not a whole number: {list(widths)}"
        raise ValueError(
            f"`{caller}(widths={tuple(widths)})`: expected {len(full)} positive whole numbers, one a layer, found "
            f"{len(widths)}, the least of them {least}. The full network has {tuple(full)}."
        )
    return tuple(widths)


def check_classes(caller: str, num_classes: int, hint: str = "DCASE's scenes are 10.") -> None:
    """Refuse a network that tells nothing apart.

    Args:
        caller: The network, the beginning of the error.
        num_classes: What was given.
        hint: What one would write, the end of the error.

    Raises:
        ValueError: It is less than 1.
    """
    if num_classes < 1:
        raise ValueError(f"`{caller}(num_classes={num_classes})`: expected at least 1. {hint}")
