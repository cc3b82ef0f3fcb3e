"""Tables and the picture of a study, from the rows of its runs or from its csv alone."""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.cells import read, write
from recipes.statistics import interval
from recipes.study.grid import Grid, lineage
from recipes.study.picture import draw
from recipes.study.row import Point, Row

Cell = tuple[str, str]


def summarize(options: argparse.Namespace) -> str:
    """Write results.csv, curves.csv, tables.md and the picture of a study; returns the tables.

    Rows and curves are gathered from the runs' folder. Those of other runs stay in the csv files as they are, and from
    these alone everything comes out as it was.
    """
    grid = Grid(options.study)
    name = options.study.resolve().name
    into: Path = options.into or options.study
    into.mkdir(parents=True, exist_ok=True)
    folder = options.out / name
    rows = gather(folder, "*/rows/*.csv", Row, into / "results.csv")
    points = gather(folder, "*/curves/*.csv", Point, into / "curves.csv")
    if not rows:
        raise ValueError(
            f"`summarize --study {options.study}`: expected rows below {folder} or in {into / 'results.csv'}, found "
            f"none. Run `python -m recipes.main run --study {options.study}` first."
        )
    order = [(job.run, job.variant) for job in grid.jobs()]
    parts = []
    for data in dict.fromkeys(row.data for row in rows):
        of_data = [row for row in rows if row.data == data]
        parts.append(f"## {data}\n\n{setting(of_data)}\n\n{table(of_data, grid.content, order)}")
        if data == of_data[0].data and points:
            parts.append(cost_table(points, grid.content.get("levels", []), order))
    if grid.content.get("note"):
        parts.append(str(grid.content["note"]).strip())
    text = "\n\n".join(part for part in parts if part) + "\n"
    (into / "tables.md").write_text(text, encoding="utf-8")
    if "figure" in grid.content:
        options.figures.mkdir(parents=True, exist_ok=True)
        draw(rows, grid.content["figure"], order).savefig(options.figures / f"{name}.png", dpi=110)
    return text


def gather(folder: Path, pattern: str, kind: type, out: Path) -> list[Any]:
    """The rows of all files of the runs, and those of ``out`` of runs that are not among them; written to ``out``."""
    found = [row for path in sorted(folder.glob(pattern)) for row in read(path, kind)]
    before = read(out, kind)
    if not found:
        return before
    done = {row.of for row in found}
    found += [row for row in before if row.of not in done]
    found.sort(key=lambda row: [(isinstance(value, str), value) for value in list(vars(row).values())[:9]])
    write(out, kind, found)
    return read(out, kind)  # with as many digits as there are in the file


def setting(rows: Sequence[Row]) -> str:
    folds, seeds = sorted({row.fold for row in rows}), sorted({row.seed for row in rows})
    machines = sorted({row.machine for row in rows})
    commits = sorted({row.commit for row in rows})
    return (
        f"Folds {', '.join(map(str, folds))}, seeds {', '.join(map(str, seeds))}. {'; '.join(machines)}. "
        f"{'; '.join(sorted({row.versions for row in rows}))}. "
        f"Commit{'s' if len(commits) > 1 else ''} {', '.join(commits) or 'not known'}."
    )


def table(rows: Sequence[Row], content: Mapping[str, Any], order: Sequence[Cell]) -> str:
    """One line a cell: mean and spread, differences within fold and seed with their intervals, what was published."""
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.cell].append(row)
    dense_run, rival = (content.get("against", {}).get(key) for key in ("dense", "rival"))
    published: Mapping[str, Mapping[str, Any]] = content.get("published", {})
    heads = ["run", "variant", "filters", "parameters", "MACs (M)", "accuracy %", "networks"]
    heads += [f"- {dense_run}"] if dense_run else []
    heads += [f"- {rival}"] if rival else []
    columns: Mapping[str, float] = content.get("columns", {})
    heads += [name.replace("_", " ") for name in columns]
    heads += ["published %"] if published else []
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for cell in sorted(cells, key=lambda one: order.index(one) if one in order else len(order)):
        mine = cells[cell]
        run, variant = cell
        entries = [run, variant, _same(row.kept for row in mine)]
        entries += [_mean((row.params for row in mine), 0), _mean((row.macs / 1e6 for row in mine), 2)]
        entries += [spread([100 * row.accuracy for row in mine]), str(len(mine))]
        if dense_run:
            entries.append(difference(mine, _of(cells, dense_run, variant)) if run != dense_run else "")
        if rival:
            entries.append(difference(mine, _of(cells, rival, variant)) if run != rival else "")
        entries += [_column([float(getattr(row, name)) for row in mine], scale) for name, scale in columns.items()]
        if published:
            entries.append(_published(published.get(run, {}).get(variant or "all")))
        lines.append(f"| {' | '.join(entries)} |")
    return "\n".join(lines)


def cost_table(points: Sequence[Point], levels: Sequence[float], order: Sequence[Cell]) -> str:
    """What it took each kind of network, with all that it builds on, to recognise so many of the test clips."""
    cells: dict[Cell, dict[tuple[int, int], list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        cells[point.run, point.variant][point.fold, point.seed].append(point)
    if not levels:
        return ""
    lines = [
        "| run | variant | accuracy % reached | networks that reach it | clips seen | seconds | kWh, estimated |",
        "|---|---|---|---|---|---|---|",
    ]
    for run, variant in sorted(cells, key=lambda one: order.index(one) if one in order else len(order)):
        curves = cells[run, variant].values()
        for level in levels:
            first = [
                min(
                    (point for point in curve if 100 * point.accuracy >= level), key=lambda one: one.epoch, default=None
                )
                for curve in curves
            ]
            there = [point for point in first if point is not None]
            entries = [run, variant, f"{level:g}", f"{len(there)} of {len(first)}"]
            entries += [
                _mean((point.clips_in_all for point in there), 0),
                _mean((point.seconds_in_all for point in there), 0),
                _mean((point.kwh_in_all for point in there if not math.isnan(point.kwh_in_all)), 4),
            ]
            lines.append(f"| {' | '.join(entries)} |")
    return "\n".join(lines)


def _of(cells: Mapping[Cell, list[Row]], run: str, variant: str) -> list[Row]:
    """The rows of another run: of this variant, or of what it is a case of."""
    return next((cells[run, one] for one in lineage(variant) if (run, one) in cells), [])


def difference(mine: Sequence[Row], others: Sequence[Row]) -> str:
    """Points of accuracy beside the others of the same folds and seeds, with the interval of the mean."""
    theirs = {row.pair: row.accuracy for row in others}
    pairs = [100 * (row.accuracy - theirs[row.pair]) for row in mine if row.pair in theirs]
    if not pairs:
        return ""
    mean, half = interval(pairs)
    return f"{mean:+.1f}" if math.isinf(half) else f"{mean:+.1f} ± {half:.1f}"


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


def _mean(values: Iterable[float], digits: int) -> str:
    found = list(values)
    return f"{statistics.mean(found):,.{digits}f}" if found else ""


def _column(values: Sequence[float], scale: float) -> str:
    known = [scale * value for value in values if not math.isnan(value)]
    return f"{statistics.mean(known):,.2f}" if known else ""


def _same(values: Iterable[str]) -> str:
    found = set(values)
    if len(found) > 1:
        return "an outcome"
    (only,) = found
    return only if only.count("/") < 6 else ""


def _published(found: Any) -> str:
    if found is None:
        return ""
    return f"{found[0]} ± {found[1]}" if isinstance(found, list) else str(found)
