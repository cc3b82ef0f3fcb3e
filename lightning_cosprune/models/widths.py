"""Numbers of filters, and other sizes, that a user gives to a network."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_cosprune.arguments import as_whole, real_number, whole_number, whole_numbers

LARGEST = 2**20
"""No network has more filters, classes, bands or frames: what is larger is a slip, and would fill the memory."""


def check_widths(caller: str, widths: Sequence[int], full: Sequence[int]) -> tuple[int, ...]:
    """The widths, where there are as many as in the full network and each is positive.

    Args:
        caller: The network, the beginning of the error.
        widths: What was given.
        full: Those of the published network.

    Returns:
        ``widths`` as a tuple.

    Raises:
        TypeError: They are no sequence.
        ValueError: With what was found and what to write instead.
    """
    expected = f"{len(full)} positive whole numbers, one a layer"
    whole = whole_numbers(widths, f"`{caller}(widths={{}})`", expected, 1, LARGEST)
    if len(whole) != len(full):
        raise ValueError(
            f"`{caller}(widths={whole})`: expected {expected}, found {len(whole)}. The full network has {tuple(full)}."
        )
    return whole


def check_classes(caller: str, num_classes: int, hint: str = "DCASE's scenes are 10.") -> int:
    """Refuse a network that tells nothing apart.

    Args:
        caller: The network, the beginning of the error.
        num_classes: What was given.
        hint: What one would write, the end of the error.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is less than 1.

    Returns:
        ``num_classes``.
    """
    number = as_whole(num_classes)
    if number is not None and number < 1:
        raise ValueError(f"`{caller}(num_classes={num_classes})`: expected at least 1. {hint}")
    return whole_number(num_classes, f"`{caller}(num_classes={{}})`", 1, LARGEST)


def check_dropout(caller: str, **probabilities: float) -> None:
    """Refuse what is no probability of dropping an activation.

    Args:
        caller: The network, the beginning of the error.
        **probabilities: By the names of the arguments.

    Raises:
        TypeError: One is no number.
        ValueError: One is outside of [0, 1].
    """
    for name, value in probabilities.items():
        real_number(value, f"`{caller}({name}={{}})`", "a probability in [0, 1], such as 0.3", least=0, most=1)
