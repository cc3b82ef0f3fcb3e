"""One csv file: the columns that are needed, in rows that know their line, and what every such file must be."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path


def read_rows(
    path: Path, columns: list[str], *, name: str, owner: str, optional: bool = False, separator: str = "\t"
) -> pd.DataFrame:
    """The rows of a file, without blank ones.

    Args:
        path: The file. One that ends in ``.txt`` need not have a header; its columns have the order asked for then.
        columns: The columns asked for, ``filename`` among them.
        name: Of the file, in errors.
        owner: Whose file it is, the beginning of every error.
        optional: Whether all but ``filename`` and ``scene_label`` may be missing.
        separator: What is between two columns, a tab or a comma.

    Returns:
        Those columns that are there, as text, and the ``line`` of each row.

    Raises:
        ValueError: The file does not parse, lacks a column or rows, leaves a field empty, or names a file twice.
    """
    kind = "tab" if separator == "\t" else "comma"
    try:
        table = _parse(path, columns, separator)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{owner}: expected a {kind}-separated table in {name}, found one that does not parse ({error}). Download "
            "or unpack it again."
        ) from error
    if optional:
        columns = [column for column in columns if column in table.columns or column in ("filename", "scene_label")]
    missing = [column for column in columns if column not in table.columns]
    if missing:
        found = [str(column) for column in table.columns if column != "line"]
        raise ValueError(
            f"{owner}: expected the column{'s' * (len(missing) > 1)} {', '.join(missing)} in {name}, found "
            f"{', '.join(found)}. The first line names the columns, separated by {kind}s."
        )
    table = table[[*columns, "line"]]
    empty = table[columns].fillna("") == ""
    blank = empty.all(axis=1)
    table, empty = table[~blank], empty[~blank]
    if empty.to_numpy().any():
        row, column = np.argwhere(empty.to_numpy())[0]
        raise ValueError(
            f"{owner}: expected a {columns[column]} in {name} line {table['line'].iloc[row]}, found none. Fill it in "
            "or take the row out."
        )
    doubled = table.duplicated("filename")
    if doubled.any():
        second = table[doubled].iloc[0]
        first = table["line"][table["filename"] == second["filename"]].iloc[0]
        raise ValueError(
            f"{owner}: expected each file once in {name}, found {second['filename']!r} in lines {first} and "
            f"{second['line']}; {int(doubled.sum())} rows are doubled. Take the doubles out."
        )
    if not len(table):
        raise ValueError(f"{owner}: expected rows in {name}, found only its header. Download or unpack it again.")
    return table.reset_index(drop=True)


def _parse(path: Path, columns: list[str], separator: str) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().rstrip("\r\n").split(separator)
    has_header = path.suffix != ".txt" or "filename" in first
    names = [*columns, *map(str, range(len(first) - len(columns)))][: len(first)]
    # No quoting and no skipped lines: so a row's number is its line in the file. utf-8-sig drops the mark that
    # spreadsheet programs put in front.
    table = pd.read_csv(
        path,
        sep=separator,
        header=0 if has_header else None,
        names=None if has_header else names,
        dtype="string",
        keep_default_na=False,
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
        encoding="utf-8-sig",
    )
    return table.assign(line=np.arange(len(table)) + 1 + has_header)
