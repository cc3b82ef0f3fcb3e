"""What users pass, held against what is expected: numbers of Python, NumPy or tensors without axes, names, paths."""

from __future__ import annotations

import json
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn


def as_whole(value: Any) -> int | None:
    """The whole number that ``value`` is.

    Returns:
        ``None`` where it is none: truth values, fractions, words and what has axes are not.
    """
    plain = _plain(value)
    try:
        return None if isinstance(plain, (bool, Tensor)) else operator.index(plain)
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


def real_number(
    value: Any,
    subject: str,
    expected: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    finite: bool = False,
) -> float:
    """``value`` as a number within bounds.

    Args:
        value: What the user gave.
        subject: As for :func:`whole_number`.
        expected: What it should be, and after a full stop perhaps what to write.
        least: The smallest that is good.
        most: The largest.
        above: What it must be more than.
        finite: Whether it must be finite and no NaN; bounds refuse a NaN in any case.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of bounds.

    Returns:
        A ``float``.
    """
    number = as_real(value)
    if number is None:
        raise TypeError(
            f"{subject.format(repr(value))}: expected {expected}, found {_kind(value)}. Write a number, without quotes."
        )
    bounded = finite or (least, most, above) != (-math.inf, math.inf, -math.inf)
    if bounded and not (least <= number <= most and (above < number or above == -math.inf)):
        raise ValueError(f"{subject.format(repr(value))}: expected {expected}. Write another number.")
    if finite and not math.isfinite(number):
        raise ValueError(f"{subject.format(repr(value))}: expected {expected}. Write a finite number.")
    return number


def one_of(value: Any, subject: str, names: Iterable[str]) -> str:
    """``value`` where it is one of ``names``.

    Raises:
        ValueError: It is none.

    Returns:
        It.
    """
    known = list(names)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{subject.format(_shown(value))}: expected {' or '.join(map(repr, known))}. Choose one.")
    return value


def whole_numbers(value: Any, subject: str, expected: str, least: int = 1, most: float = math.inf) -> tuple[int, ...]:
    """``value`` as whole numbers, none less than ``least`` or more than ``most``.

    Raises:
        TypeError: It is no sequence.
        ValueError: An entry is no such number.

    Returns:
        A tuple of ``int``.
    """
    entries = _entries(value)
    if entries is None:
        raise TypeError(f"{subject.format(_shown(value))}: expected {expected}, found {_kind(value)}. Write a tuple.")
    whole = [as_whole(entry) for entry in entries]
    good = [number is not None and least <= number <= most for number in whole]
    wrong = [entry for entry, is_good in zip(entries, good, strict=True) if not is_good]
    if wrong:
        raise ValueError(
            f"{subject.format(_shown(value))}: expected {expected}, found {_shown(wrong[0])} among them. Write whole "
            f"numbers of at least {least}{f' and at most {most}' if most < math.inf else ''}."
        )
    return tuple(number for number in whole if number is not None)


def names_in(value: Any, subject: str, expected: str) -> tuple[str, ...]:
    """``value`` as a tuple of strings.

    Raises:
        TypeError: It is no sequence of strings.

    Returns:
        The strings.
    """
    return _each(value, lambda name: isinstance(name, str), subject, expected, "Write a list of strings.")


def real_numbers(value: Any, subject: str, expected: str) -> tuple[float, ...]:
    """``value`` as a tuple of numbers, which stay as they are.

    Raises:
        TypeError: It is no sequence of numbers.

    Returns:
        The numbers.
    """
    instead = "Write a tuple of numbers, without quotes."
    return _each(value, lambda entry: as_real(entry) is not None, subject, expected, instead)


def all_of(value: Any, kind: type, subject: str) -> None:
    """Refuse what is no sequence of values of one ``kind``.

    Raises:
        TypeError: With what was found.
    """
    expected, instead = f"a list of `{kind.__name__}`", "Write [...] around a single one."
    _each(value, lambda entry: isinstance(entry, kind), subject, expected, instead)


def path_of(value: Any, subject: str, expected: str) -> Path:
    """``value`` as a path.

    Raises:
        TypeError: It is none.
        ValueError: It is empty.

    Returns:
        The path; a ``~`` at its beginning stays.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"{subject.format(_shown(value))}: expected {expected}, found {_kind(value)}. Write a string or a "
            "`pathlib.Path`."
        )
    if not os.fspath(value):
        raise ValueError(f"{subject.format(_shown(value))}: expected {expected}, found an empty string. Name one.")
    return Path(value)


def check_tensor(value: Any, subject: str, expected: str) -> None:
    """Refuse what is no tensor.

    Raises:
        TypeError: With what was found.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{subject}: expected {expected}, found {_kind(value)}. `torch.as_tensor` makes one of numbers."
        )


def check_module(value: object, subject: str) -> None:
    """Refuse what is no network.

    Raises:
        TypeError: With what was found.
    """
    if not isinstance(value, nn.Module):
        found = f"the class {value.__name__}" if isinstance(value, type) else _kind(value)
        instead = f"Make one of it: {value.__name__}(...)" if isinstance(value, type) else "Pass the network itself"
        raise TypeError(f"{subject}: expected a `torch.nn.Module`, found {found}. {instead}.")


def check_kind(value: object, kind: type, subject: str, source: str) -> None:
    """Refuse what is no ``kind``, with the words ``source`` on where to get one.

    Raises:
        TypeError: With what was found.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{subject}: expected a `{kind.__name__}`, found {_kind(value)}. {source}")


def read_json(text: Any, subject: str, source: str) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
        text: What the user gave.
        subject: As for :func:`whole_number`.
        source: Where to get one, the end of the error.

    Raises:
        TypeError: It is no text.
        ValueError: It is no JSON, or no object.

    Returns:
        A dict.
    """
    if not isinstance(text, (str, bytes)):
        raise TypeError(f"{subject.format(_shown(text))}: expected JSON text, found {_kind(text)}. {source}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{subject.format(_shown(text))}: expected JSON text, found {error}. {source}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{subject.format(_shown(text))}: expected a JSON object, found {_kind(found)}. {source}")
    return found


def _each(value: Any, is_good: Callable[[Any], bool], subject: str, expected: str, instead: str) -> tuple[Any, ...]:
    """The entries of a sequence, all of them good."""
    entries = _entries(value)
    wrong = [value] if entries is None else [entry for entry in entries if not is_good(entry)]
    if wrong or entries is None:
        found = f"{_kind(wrong[0])}, {_shown(wrong[0])}"
        raise TypeError(f"{subject.format(_shown(value))}: expected {expected}, found {found}. {instead}")
    return tuple(entries)


def _entries(value: Any) -> list[Any] | None:
    """What is in a sequence, or ``None`` where it is none."""
    is_one = isinstance(value, (str, bytes, Mapping, nn.Module, type)) or getattr(value, "shape", None) == ()
    return None if is_one or not isinstance(value, Iterable) else list(value)


def _shown(value: Any) -> str:
    return " ".join(f"{value!r:.60}".split())


def _plain(value: Any) -> Any:
    is_scalar = isinstance(value, Tensor) or type(value).__module__ == "numpy"
    return value.item() if is_scalar and getattr(value, "shape", None) == () else value


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
