"""Numbers as users have them: of Python, of NumPy, or tensors without axes."""

from __future__ import annotations

import numbers
import operator
from typing import Any

from torch import Tensor


def as_whole(value: Any) -> int | None:
    """The whole number that ``value`` is.

    Returns:
        ``None`` where it is none: truth values, fractions, words and what has axes are not.
    """
    plain = _plain(value)
    try:
        return None if isinstance(plain, bool) else operator.index(plain)
    except TypeError:
        return None


def as_real(value: Any) -> float | None:
    """The number that ``value`` is.

    Returns:
        ``None`` where it is none.
    """
    plain = _plain(value)
    return None if isinstance(plain, bool) or not isinstance(plain, numbers.Real) else float(plain)


def whole_number(value: Any, subject: str, least: int, most: int | None = None) -> int:
    """``value`` as a whole number within bounds.

    Args:
        value: What the user gave.
        subject: What an error is about, the call with the parameter and ``{}`` in the place of its value.
        least: The smallest that is good.
        most: The largest, if there is one.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is out of bounds.

    Returns:
        An ``int``.
    """
    number = as_whole(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    if number is None:
        raise TypeError(
            f"{subject.format(repr(value))}: expected a whole number {bounds}, found {_kind(value)}. Write {least} or "
            "more, without quotes and without a point."
        )
    if number < least or (most is not None and number > most):
        raise ValueError(f"{subject.format(repr(value))}: expected a whole number {bounds}. Write {least} or more.")
    return number


def real_number(value: Any, subject: str, expected: str) -> float:
    """``value`` as a number.

    Args:
        value: What the user gave.
        subject: What an error is about, the call with the parameter and ``{}`` in the place of its value.
        expected: What it should be.

    Raises:
        TypeError: It is no number.

    Returns:
        A ``float``.
    """
    number = as_real(value)
    if number is None:
        raise TypeError(
            f"{subject.format(repr(value))}: expected {expected}, found {_kind(value)}. Write a number, without quotes."
        )
    return number


def _plain(value: Any) -> Any:
    is_scalar = isinstance(value, Tensor) or type(value).__module__ == "numpy"
    return value.item() if is_scalar and getattr(value, "shape", None) == () else value


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
