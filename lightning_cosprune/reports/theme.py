"""Colours and letters of figures, and how a figure becomes part of a page that is light or dark.

Figures are drawn in the colours of the light page. In a page each colour becomes a CSS variable, which the page sets
by what the reader prefers; letters stay letters, in the font of the page.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "FIGURE_WIDTH",
    "SERIES",
    "axes_at",
    "colour_of",
    "css_variables",
    "figure",
    "label_rows",
    "row_height",
    "signed_colours",
    "styled",
    "to_png",
    "to_svg",
]

FIGURE_WIDTH = 4.1
"""Inches; on a telephone letters of a figure as wide can still be read."""

_LONGEST = 28

COLOURS = {
    "ink": ("#1b2430", "#e8ecf2"),
    "muted": ("#5d6878", "#9fabbc"),
    "grid": ("#dde2ea", "#323b48"),
    "faint": ("#c3cbd8", "#4b5666"),
    "removed": ("#c8402f", "#ff7e6b"),
    "kept": ("#2566b8", "#6aa9ff"),
    "repaired": ("#16805c", "#44c997"),
    "tuned": ("#7a3fc0", "#bb8cff"),
    "series0": ("#2667b9", "#6ba9fe"),
    "series1": ("#c2620c", "#ffa04d"),
    "series2": ("#17805d", "#45c998"),
    "series3": ("#a8327e", "#f28ac9"),
    "series4": ("#6b5b12", "#d6bf4e"),
    "series5": ("#0b7a8f", "#4fd0e6"),
    "series6": ("#7b4020", "#d99a74"),
    "series7": ("#56606f", "#a7b2c2"),
}
"""Name -> colour on a light and on a dark page. No two are equal, so that each can be told again in a drawing."""

SERIES = tuple(name for name in COLOURS if name.startswith("series"))

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lightning_cosprune",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["faint"][0],
    "axes.labelcolor": COLOURS["muted"][0],
    "axes.titlecolor": COLOURS["ink"][0],
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "text.color": COLOURS["ink"][0],
    "xtick.color": COLOURS["muted"][0],
    "ytick.color": COLOURS["muted"][0],
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": COLOURS["grid"][0],
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.usetex": False,
    "text.hinting": "none",  # as in the pages; hinted letters take longer to paint
    "axes.unicode_minus": True,
}


def colour_of(name: str) -> str:
    """The colour of that name, as figures are drawn in it."""
    return COLOURS[name][0]


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in our style, whatever the user's is, and leave that as it was."""
    matplotlib = import_viz("matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def figure(height: float, width: float = FIGURE_WIDTH, *, laid_out: bool = True) -> Any:
    """An empty figure of so many inches; without ``laid_out`` for :func:`axes_at`, which is faster."""
    return import_viz("matplotlib.figure").Figure((width, height), layout="constrained" if laid_out else None)


def axes_at(drawn: Figure, left: float, top: float, right: float, bottom: float, **settings: Any) -> Any:
    """Axes between these inches from the left and from the top edge of a figure."""
    width, height = drawn.get_size_inches()
    place = (left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height)
    return drawn.add_axes(place, **settings)


def row_height(labels: Sequence[str]) -> float:
    """Inches that a row with such a label takes; a long label stands above its row."""
    return 0.24 if max(map(len, labels), default=0) <= _LONGEST else 0.36


def label_rows(axes: Any, labels: Sequence[str], *, lift: float = 0.18) -> None:
    """Name the rows of a picture, rows 0, 1, ... from the top: beside them, or above where that would take the room.

    Args:
        axes: Where the rows are.
        labels: A name a row.
        lift: How far above the middle of its row a long name begins, in rows.
    """
    axes.tick_params(axis="y", length=0)
    if max(map(len, labels), default=0) <= _LONGEST:
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        return
    axes.set_yticks([])
    axes.set_ylim(len(labels) - 0.5, -0.75)
    for row, label in enumerate(labels):
        axes.text(
            0.0,
            row - lift,
            label,
            transform=axes.get_yaxis_transform(),
            va="bottom",
            fontsize=7.5,
            color=colour_of("muted"),
        )


def signed_colours() -> Any:
    """Colours of values in [-1, 1]: blue and red, the clearer the nearer to zero, so that any page may lie behind."""
    colours = import_viz("matplotlib.colors")
    steps = [-1 + place / 24 for place in range(49)]  # few steps make small files
    below, above = colours.to_rgb("#2b6cb8"), colours.to_rgb("#d1432f")
    return colours.ListedColormap([(*(below if step < 0 else above), abs(step)) for step in steps])


def css_variables(dark: bool) -> str:
    """The colours as CSS declarations."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


def to_svg(drawn: Figure, prefix: str, title: str) -> str:
    """A figure as an ``<svg>`` element for a page of ours.

    Args:
        drawn: The figure.
        prefix: What its names begin with, different for each figure of a page.
        title: What it shows, for readers who do not see it.

    Returns:
        The element, with the colours as CSS variables.
    """
    with styled():
        _lay_out(drawn)
        written = io.StringIO()
        drawn.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(<image\b[^>]*?)\sid="[^"]*"', r"\1", text)  # equal pictures have one name, which nobody uses
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"font: ([^;\"]*)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"\n\s*", "\n", text).replace("base64,\n", "base64,")
    for name, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    head = f'<svg role="img" aria-label="{escaped}"'
    return re.sub(r'<svg (?:height|width)="[^"]*"', head, text, count=1).replace(
        f'height="{drawn.get_figheight() * 72:g}pt"', "", 1
    )


def to_png(drawn: Figure, dpi: int = 120) -> bytes:
    """A figure as a PNG on white, for loggers."""
    with styled():
        _lay_out(drawn)
        written = io.BytesIO()
        drawn.savefig(written, format="png", dpi=dpi, facecolor="white")
    return written.getvalue()


def _lay_out(drawn: Figure) -> None:
    """Find each part's place once; matplotlib would at every writing, and draw the figure twice to do so."""
    engine = drawn.get_layout_engine()
    if engine is not None:
        engine.execute(drawn)
        drawn.set_layout_engine(None)
