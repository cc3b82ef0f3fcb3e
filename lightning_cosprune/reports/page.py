"""The page of a run: the answer in figures first, then the pictures, then all numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_cosprune.arguments import check_kind, path_of
from lightning_cosprune.data.disk import writing_to, written_beside
from lightning_cosprune.reports.gallery import Gallery, Pictures, ends_of
from lightning_cosprune.reports.headline import headline_of
from lightning_cosprune.reports.record import Outcome, PruneRecord, RunRecord
from lightning_cosprune.reports.tables import csv_text, latex_rows, layer_rows, norm_rows, outcome_rows, skipped_rows
from lightning_cosprune.reports.theme import css_variables, to_svg
from lightning_cosprune.reports.viz import import_viz

__all__ = ["Block", "render_report", "write_page", "write_report"]

_OPEN = 3
"""So many layers are shown at once; the others open at a touch."""


_LARGEST = 1_500_000
"""Characters of pictures after which the filters of further layers are not drawn; a page stays below 2 MB."""


@dataclass
class Block:
    """One thing under a heading: words, a table, a picture, or text to copy.

    Attributes:
        title: Above it, smaller than the heading.
        text: Words.
        rows: A table, the header first.
        picture: An ``<svg>`` element.
        copy: Text to be copied.
        beside: A picture that stands beside it where there is room.
        folded: Whether it opens only at a touch.
    """

    title: str = ""
    text: str = ""
    rows: Sequence[Sequence[str]] = ()
    picture: str = ""
    copy: str = ""
    beside: str = ""
    folded: bool = False


class _Drawer:
    """Turns pictures into elements with names of their own, and counts their characters."""

    def __init__(self) -> None:
        self._count = 0
        self.drawn = 0

    def __call__(self, pictures: Pictures, name: str, title: str) -> str:
        drawn = pictures[name]()
        if drawn is None:
            return ""
        self._count += 1
        text = to_svg(drawn, f"f{self._count}", title)
        self.drawn += len(text)
        return text


def write_report(path: str | os.PathLike[str], record: RunRecord) -> None:
    """Write the page of a run: one file, which asks nobody for anything.

    Args:
        path: The file; its folder is made, and it is replaced in one step.
        record: What is known of the run; what is not known is left out.

    Raises:
        TypeError: ``path`` is no path, or ``record`` no record.
        ModuleNotFoundError: The extra ``viz`` is not installed.
        OSError: The file cannot be written, as where the disk is full; one that was there stays.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_cosprune import RunRecord, apply_plan, plan_pruning
        >>> model, inputs = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 3)), torch.zeros(1, 1, 9, 9)
        >>> report = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
        >>> write_report("runs/report.html", RunRecord.of([report]))  # doctest: +SKIP
    """
    path = path_of(path, "`write_report(path={})`", "the file to write")
    check_kind(record, RunRecord, "`write_report(record=...)`", "`RunRecord.of` makes one of reports.")
    write_page(path, render_report(record))


def write_page(path: str | os.PathLike[str], text: str) -> None:
    """Write a text, such as a page that is rendered already; see :func:`write_report`."""
    target, content = Path(path), text.encode()
    owner = f"Report {target.name}"
    with writing_to(target.parent, owner, len(content), "what was there is untouched"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as file:
            file.write(content)


def render_report(record: RunRecord, gallery: Gallery | None = None) -> str:
    """The page of a run as HTML.

    Args:
        record: What is known of the run.
        gallery: Pictures of it that are shared with others.

    Returns:
        The text of the page.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    jinja2 = import_viz("jinja2")
    gallery = gallery or Gallery(record)
    draw, run = _Drawer(), gallery.run
    sections: list[tuple[str, list[Block]]] = [
        ("Accuracy and cost", _accuracy(record, run, draw)),
        *(
            (_title_of(record, prune), _prune(prune, pictures, draw))
            for prune, pictures in zip(record.prunes, gallery.prunes, strict=True)
        ),
        ("Learning", [Block(picture=draw(run, "learning", "learning curves"))]),
        ("For whom", _groups(record, run, draw)),
        ("Time and energy", _phases(record, run, draw)),
        ("Norms that range over fewer channels", [Block(rows=norm_rows(record))] if norm_rows(record) else []),
        ("What kept its filters, and why", [Block(rows=skipped_rows(record))] if skipped_rows(record) else []),
        *((heading, [Block(rows=rows)]) for heading, rows in record.tables.items()),
        ("What was run", [Block(rows=[["", ""], *map(list, record.setting.items())])] if record.setting else []),
        ("To copy", _copies(record)),
    ]
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("lightning_cosprune.reports", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page: str = templates.get_template("page.html.jinja").render(
        title=record.title,
        headline=headline_of(record),
        notes=record.notes,
        sections=[(heading, blocks) for heading, blocks in sections if any(map(_is_filled, blocks))],
        light=css_variables(dark=False),
        dark=css_variables(dark=True),
    )
    return page


def _accuracy(record: RunRecord, run: Pictures, draw: _Drawer) -> list[Block]:
    measured = [outcome for outcome in record.outcomes if outcome.accuracy]
    return [
        _side_by_side(
            draw(run, "tradeoff", "accuracy against multiply-accumulates"),
            draw(run, "accuracies", "accuracy of each network"),
            text=_reading(measured),
        ),
        Block(rows=outcome_rows(record) if record.outcomes else ()),
        _side_by_side(
            draw(run, "fractions", "accuracy against data"),
            draw(run, "ratios", "part of its filters that each layer lost"),
        ),
    ]


def _side_by_side(*drawn: str, text: str = "") -> Block:
    """Two pictures, or what there is of them; the text says nothing without any."""
    shown = [*filter(None, drawn), "", ""]
    return Block(text=text if shown[0] else "", picture=shown[0], beside=shown[1])


def _reading(measured: Sequence[Outcome]) -> str:
    seeds = max((len(outcome.accuracy) for outcome in measured), default=0)
    costs = [outcome.macs for outcome in measured if outcome.macs]
    words = f"Means of {seeds} seeds; bars are standard deviations, ticks the seeds." if seeds > 1 else ""
    apart = " Networks of the same cost are drawn side by side." if len(set(costs)) < len(costs) else ""
    return (words + apart).strip()


def _title_of(record: RunRecord, prune: PruneRecord) -> str:
    if len(record.prunes) == 1 and prune.report.epoch is None:
        return "Filters"
    return f"Filters, pruned at the start of epoch {prune.report.epoch}"


def _prune(prune: PruneRecord, pictures: Pictures, draw: _Drawer) -> list[Block]:
    coupled = any(width.group is not None for width in prune.widths)
    blocks = [
        Block(
            text="Filters before and after." + (" Layers that are joined lose the same filters." if coupled else ""),
            picture=draw(pictures, "widths", "filters before and after along the network"),
            beside=draw(pictures, "repair", "what each repaired layer computes wrongly"),
        ),
        Block(rows=layer_rows(prune), folded=len(prune.report.layers) > _OPEN, title="The layers as a table"),
    ]
    removed = {layer.name: layer.pruned_idxs for layer in prune.report.layers}
    if prune.layers:
        blocks.append(
            Block(
                text="Left, which filters are alike. Right, removed filters (framed red), each beside the kept one "
                "(blue) that stands for it, and what part of it that explains: the squared cosine of the two."
            )
        )
    left_out = []
    for place, picture in enumerate(prune.layers):
        lost = removed[picture.name]
        if draw.drawn > _LARGEST:
            left_out.append(picture.name)
            continue
        drawn = len(picture.pairs)
        which = "" if drawn == len(lost) else f"; {drawn} are drawn, from the best explained to the least"
        blocks.append(
            Block(
                title=f"{picture.name}: {len(lost):,} of {picture.filters:,} filters removed{which}",
                picture=draw(pictures, f"similarity/{picture.name}", f"similarity of the filters of {picture.name}"),
                beside=draw(
                    pictures, f"filters/{picture.name}", f"removed filters of {picture.name} beside their partners"
                ),
                folded=place >= _OPEN,
            )
        )
    if left_out:
        blocks.append(Block(text=f"Not drawn, so that the page stays small: {', '.join(left_out)}."))
    return blocks


def _groups(record: RunRecord, run: Pictures, draw: _Drawer) -> list[Block]:
    scenes, devices = draw(run, "scenes", "accuracy by scene"), draw(run, "devices", "accuracy by device")
    ends = ends_of(record)
    text = f"Accuracy of each scene and recording device: {ends[0].label}, then {ends[1].label}." if ends else ""
    many = draw(run, "networks_by_device", "accuracy of each network by device")
    return [_side_by_side(scenes, devices, text=text), Block(picture=many)]


def _phases(record: RunRecord, run: Pictures, draw: _Drawer) -> list[Block]:
    phases, energy = draw(run, "phases", "seconds and energy by phase"), draw(run, "energy", "energy of each network")
    return [_side_by_side(phases, energy, text=f"Energy: {record.energy_source}." if record.energy_source else "")]


def _copies(record: RunRecord) -> list[Block]:
    if not record.outcomes:
        return []
    return [
        Block(title="csv, a line a network and seed", copy=csv_text(record), folded=True),
        Block(title="LaTeX rows", copy=latex_rows(record), folded=True),
    ]


def _is_filled(block: Block) -> bool:
    return bool(block.rows or block.picture or block.copy or block.text)
