"""Telling loggers things."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn

__all__ = ["telling"]


def telling(logger: Any, what: str, tell: Callable[[], Any]) -> None:
    """Tell a logger something; if it cannot take it, that is a warning, and the fit goes on."""
    try:
        tell()
    except Exception as error:
        rank_zero_warn(
            f"{type(logger).__name__} did not take {what}: {type(error).__name__}: {error}. The fit goes on."
        )
