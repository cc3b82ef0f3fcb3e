"""One csv file: the columns that are needed, in rows that know their line, and what every such file must be."""

from __future__ import annotations

import codecs
import csv
import io
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
        OSError: The file cannot be read.
        ValueError: The file is no UTF-8 text, does not parse, lacks a column or rows, leaves a field empty, has spaces
            or quotes around one, or names a file twice.
    """
    kind = "tab" if separator == "\t" else "comma"
    try:
        table = _parse(path, columns, separator, name, owner)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
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
    _check_cells(table, columns, name, owner)
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


def _parse(path: Path, columns: list[str], separator: str, name: str, owner: str) -> pd.DataFrame:
    text = _text(path, name, owner)
    first = text.split("\n", 1)[0].rstrip("\r").split(separator)
    has_header = path.suffix != ".txt" or "filename" in first
    names = [*columns, *map(str, range(len(first) - len(columns)))][: len(first)]
    # No quoting and no skipped lines: so a row's number is its line in the file.
    table = pd.read_csv(
        io.StringIO(text),
        sep=separator,
        header=0 if has_header else None,
        names=None if has_header else names,
        dtype="string",
        keep_default_na=False,
        quoting=csv.QUOTE_NONE,
        skip_blank_lines=False,
    )
    return table.assign(line=np.arange(len(table)) + 1 + has_header)


def _text(path: Path, name: str, owner: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise type(error)(
            f"{owner}: expected {name} to be readable, found {error.strerror!r}. Give this user the right to read it."
        ) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            f'{owner}: expected UTF-8 text in {name}, found UTF-16, as Excel\'s "Unicode text" is. Save it as UTF-8.'
        )
    try:
        return content.decode("utf-8-sig")  # without the mark that spreadsheet programs put in front
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        shown = content.splitlines()[line - 1].decode("latin-1")
        raise ValueError(
            f"{owner}: expected UTF-8 text in {name}, found other bytes in line {line}, perhaps {shown!r:.120} in "
            "latin-1. Save the file as UTF-8."
        ) from error


def _check_cells(table: pd.DataFrame, columns: list[str], name: str, owner: str) -> None:
    """Refuse what another program has put around or into the cells: no file and no scene would be found by it."""
    for column in columns:
        for wrong, what, instead in (
            (r"^\s|\s$", "a space at its beginning or end", "Take the spaces out"),
            (r'^".*"$', "quotes around it", "Save the file without quotes"),
        ):
            found = table[column].str.contains(wrong, regex=True).to_numpy(dtype=bool)
            if found.any():
                row = table[found].iloc[0]
                raise ValueError(
                    f"{owner}: expected a {column} as it is in {name} line {row['line']}, found {what}: "
                    f"{row[column]!r}; so it is in {int(found.sum())} rows. {instead}."
                )
    backslashes = table["filename"].str.contains("\\", regex=False).to_numpy(dtype=bool)
    if backslashes.any():
        row = table[backslashes].iloc[0]
        raise ValueError(
            f"{owner}: expected filenames with / between folders in {name}, found {row['filename']!r} in line "
            f"{row['line']}; so it is in {int(backslashes.sum())} rows. Write "
            f"{row['filename'].replace(chr(92), '/')!r}."
        )
