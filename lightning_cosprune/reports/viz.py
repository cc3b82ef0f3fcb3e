"""The optional packages that draw, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["import_viz"]


def import_viz(module: str) -> Any:
    """A module of the extra ``viz``.

    Raises:
        ModuleNotFoundError: It is not installed; the message names the extra.

    Returns:
        The module.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Figures and pages need {error.name}, which comes with the extra `viz`: pip install "
            "'lightning-cosprune[viz]'.",
            name=error.name,
        ) from error
