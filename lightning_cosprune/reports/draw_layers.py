"""Pictures of the filters: how wide the layers were and are, how alike their filters were, what stands for what."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cosprune.reports.layers import in_cells
from lightning_cosprune.reports.record import LayerPicture, PruneRecord, Width
from lightning_cosprune.reports.theme import FIGURE_WIDTH, axes_at, colour_of, figure, signed_colours, styled
from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_pairs", "draw_similarity", "draw_widths", "widths_of"]


def widths_of(prune: PruneRecord) -> tuple[Width, ...]:
    """The layers that a prune is drawn with: all of the network where it was at hand, else those that lost filters."""
    return prune.widths or tuple(
        Width(layer.name, layer.filters_before, layer.filters_after) for layer in prune.report.layers
    )


def draw_widths(prune: PruneRecord) -> Figure:
    """A bar a layer, as long as the layer was wide, filled as far as it is; coupled layers are joined on the left."""
    widths = widths_of(prune)
    with styled():
        drawn = figure(0.55 + 0.25 * max(len(widths), 2))
        axes = drawn.subplots()
        rows = np.arange(len(widths))
        before = np.array([width.before for width in widths])
        after = np.array([width.after for width in widths])
        # A network of 16 and of 2,048 filters a layer: by the root both can be seen.
        scale = np.sqrt if before.max() > 16 * before.min() else np.asarray
        axes.barh(rows, scale(before), height=0.62, color=colour_of("grid"))
        axes.barh(rows, scale(after), height=0.62, color=colour_of("kept"))
        longest = scale(before).max()
        for row, width in enumerate(widths):
            told = f"{width.before:,}"
            if width.after < width.before:
                told = f"{width.before:,} → {width.after:,}  \N{MINUS SIGN}{1 - width.after / width.before:.0%}"
            axes.text(scale(np.float64(width.before)) + 0.015 * longest, row, told, va="center", fontsize=8)
        groups: dict[int, list[int]] = {}
        for row, width in enumerate(widths):
            if width.group is not None:
                groups.setdefault(width.group, []).append(row)
        for place, joined in enumerate(groups.values()):
            x = -longest * (0.025 + 0.02 * (place % 3))
            axes.plot([x, x], [joined[0], joined[-1]], color=colour_of("series1"), linewidth=1.4, clip_on=False)
            axes.plot([x] * len(joined), joined, "o", color=colour_of("series1"), markersize=3.5, clip_on=False)
        left = -longest * 0.085 if groups else 0.0
        axes.set_xlim(left, longest * 1.42)
        axes.set_ylim(len(widths) - 0.4, -0.6)
        axes.set_yticks(rows, [_short(width.name) for width in widths])
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
    return drawn  # type: ignore[no-any-return]


def draw_similarity(picture: LayerPicture, pruned_idxs: tuple[int, ...]) -> Figure:
    """The similarities of a layer's filters, like ones beside each other, between their dendrogram and the removed."""
    cells = np.frombuffer(base64.b64decode(picture.similarity), dtype=np.int8).reshape(picture.cells, -1) / 127
    places = len(picture.order)
    with styled():
        lines = 2 if _cell_note(picture) else 1
        drawn = figure(3.77 + 0.13 * lines, laid_out=False)
        middle = axes_at(drawn, 0.96, 0.23, 3.66, 2.93)
        left = axes_at(drawn, 0.2, 0.23, 0.88, 2.93, sharey=middle)
        right = axes_at(drawn, 3.78, 0.23, 3.94, 2.93, sharey=middle)
        bounds = (0, places, places, 0)
        image = middle.imshow(
            cells, vmin=-1, vmax=1, cmap=signed_colours(), interpolation="none", extent=bounds, aspect="auto"
        )
        middle.set_xticks([])
        middle.spines[:].set_visible(True)
        middle.set_xlabel(f"{picture.filters:,} filters, like ones together" + _cell_note(picture))
        _draw_tree(left, picture)
        gone = set(pruned_idxs)
        marks = in_cells(np.array([idx in gone for idx in picture.order], dtype=float), 256)
        red = import_viz("matplotlib.colors").to_rgb(colour_of("removed"))
        shades = import_viz("matplotlib.colors").ListedColormap([(*red, alpha / 15) for alpha in range(16)])
        strip = {"vmin": 0, "vmax": 1, "cmap": shades, "extent": (0, 1, places, 0), "aspect": "auto"}
        right.imshow(marks[:, None], interpolation="none", **strip)
        right.set_xticks([])
        right.spines[:].set_visible(False)
        right.set_title("removed", loc="right", color=colour_of("removed"), fontsize=8)
        foot = 3.31 + 0.13 * lines
        bar = drawn.colorbar(image, axes_at(drawn, 0.14, foot, 3.94, foot + 0.09), orientation="horizontal")
        bar.set_ticks([-1, -0.5, 0, 0.5, 1])
        bar.set_label("cosine similarity")
        bar.outline.set_visible(False)
        bar.ax.tick_params(size=0)
    return drawn  # type: ignore[no-any-return]


def draw_pairs(picture: LayerPicture) -> Figure:
    """Removed filters, each beside the kept one that stands for it; above, how much of each is explained by that."""
    pairs = picture.pairs
    columns = 2 if _wide(picture) > 1.5 else 3 if len(pairs) <= 9 else 4
    rows = -(-len(pairs) // columns)
    # In units of the width of one filter's picture, of which a pair and the gap after it take 2.35.
    unit = FIGURE_WIDTH / (columns * 2.35)
    cell_height, label = 1 / _wide(picture), 0.27 / unit
    height = rows * (cell_height + label) * unit
    with styled():
        drawn = figure(1.4 + height, laid_out=False)
        _draw_explained(axes_at(drawn, 0.48, 0.25, 3.94, 0.95), picture)
        axes = axes_at(drawn, 0.0, 1.4, FIGURE_WIDTH, 1.4 + height)
        box, colours = import_viz("matplotlib.patches").Rectangle, signed_colours()
        boxes = []
        for place, pair in enumerate(pairs):
            row, column = divmod(place, columns)
            x, y = column * 2.35 + 0.1, row * (cell_height + label)
            for shift, taps in ((0.0, pair.removed_taps), (1.1, pair.partner_taps)):
                axes.imshow(
                    np.reshape(taps, pair.shape),
                    vmin=-1,
                    vmax=1,
                    cmap=colours,
                    interpolation="none",
                    extent=(x + shift, x + shift + 1, y + cell_height, y),
                )
                boxes.append(box((x + shift, y), 1, cell_height))
            told = f"{pair.removed} ≈ {pair.partner} · {max(pair.cosine, 0) ** 2:.0%}"
            axes.text(x + 1.05, y + cell_height + 0.1 * label, told, ha="center", va="top", fontsize=7)
        edges = [colour_of("removed"), colour_of("kept")] * len(pairs)
        many = import_viz("matplotlib.collections").PatchCollection
        axes.add_collection(many(boxes, facecolors="none", edgecolors=edges, linewidths=0.9))
        axes.set_xlim(0, columns * 2.35)
        axes.set_ylim(rows * (cell_height + label), -0.05)
        axes.set_aspect("equal")
        axes.set_axis_off()
    return drawn  # type: ignore[no-any-return]


def _wide(picture: LayerPicture) -> float:
    """Columns a row of a filter's picture, within what can be drawn."""
    shape = picture.pairs[0].shape if picture.pairs else (1, 1)
    return min(max(shape[1] / shape[0], 0.5), 4.0)


def _draw_explained(axes: Any, picture: LayerPicture) -> None:
    bins = np.linspace(0, 1, 21)
    one_tap = int(np.prod(picture.kernel or (1,))) == 1
    axes.hist(picture.explained, bins, color=colour_of("kept"), alpha=0.85, label="by one")
    outlined = [(picture.together, "series2", "by all kept")]
    if not one_tap:
        outlined.append((picture.by_weights, "series1", "by one, all its weights"))
    for values, colour, label in outlined:
        axes.hist(values, bins, histtype="step", color=colour_of(colour), linewidth=1.4, label=label)
    axes.legend(loc="upper left", ncols=3, borderpad=0, handlelength=1.2, bbox_to_anchor=(0, 1.28), columnspacing=1)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(import_viz("matplotlib.ticker").PercentFormatter(1))
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    axes.set_xlabel("explained by what stands for it")
    axes.set_ylabel("removed")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _draw_tree(axes: Any, picture: LayerPicture) -> None:
    lines = import_viz("matplotlib.collections").LineCollection(
        [
            [(low_height, low + 0.5), (height, low + 0.5), (height, high + 0.5), (high_height, high + 0.5)]
            for low, high, low_height, high_height, height in picture.tree
        ],
        colors=colour_of("muted"),
        linewidths=0.8,
    )
    axes.add_collection(lines)
    top = max((joint[4] for joint in picture.tree), default=1.0)
    axes.set_xlim(top * 1.03 or 1.0, 0)
    axes.set_yticks([])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.set_xlabel("1 \N{MINUS SIGN} mean cosine")
    axes.xaxis.get_major_locator().set_params(nbins=2)


def _cell_note(picture: LayerPicture) -> str:
    if picture.cells == len(picture.order):
        return ""
    side = len(picture.order) / picture.cells
    shown = "" if len(picture.order) == picture.filters else f" of {len(picture.order):,}"
    return f"\n(a cell is the mean of {side:.3g} by {side:.3g}{shown})"


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
