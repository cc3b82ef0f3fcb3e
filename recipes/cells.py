"""Results as rows of a csv file, one file a network, written beside its place and renamed."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

Cell = TypeVar("Cell")

_KINDS = {"int": int, "float": float, "str": str}


def read(path: Path, kind: type[Cell]) -> list[Cell]:
    """The rows of ``path`` as values of the dataclass ``kind``; none where there is no such file."""
    if not path.is_file():
        return []
    kinds = {field.name: _KINDS[str(field.type)] for field in fields(kind)}  # type: ignore[arg-type]
    with path.open(encoding="utf-8", newline="") as file:
        return [kind(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def write(path: Path, kind: type[Cell], cells: Iterable[Any]) -> None:
    """Write ``cells`` with a header; numbers have six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)], lineterminator="\n")  # type: ignore[arg-type]
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in asdict(cell).items()} for cell in cells)
    partial.replace(path)


def _rounded(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
