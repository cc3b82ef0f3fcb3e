"""Dataclasses as plain dicts, lists, strings and numbers, and back by their annotations."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["from_plain", "to_plain"]


def to_plain(value: Any) -> Any:
    """The value in what JSON has; numbers that JSON lacks become their names."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_plain(kind: Any, value: Any) -> Any:
    """What :func:`to_plain` made plain, of the annotated type ``kind``.

    Raises:
        ValueError: A field is missing or there is one too many.

    Returns:
        An equal value.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (kind,) = (choice for choice in inner if choice is not type(None))
        return None if value is None else from_plain(kind, value)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        try:
            return kind(**{name: from_plain(hints[name], entry) for name, entry in value.items()})  # type: ignore[operator]
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"`from_plain`: expected the fields {', '.join(hints)} of {kind}, found {value!r:.200}."
            ) from error
    if origin is not None and issubclass(origin, Mapping):
        return {key: from_plain(inner[1], entry) for key, entry in value.items()}
    if origin is tuple:
        return tuple(from_plain(inner[0], entry) for entry in value)
    return float(value) if kind is float else value
