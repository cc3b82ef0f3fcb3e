"""What a prune did: numbers, a table, a figure and a page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from lightning_cosprune.network.complexity import Complexity
from lightning_cosprune.ranking.filters import filter_vectors, layer_weight
from lightning_cosprune.ranking.similarity import cosine_similarity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_cosprune.planning.plan import PruningPlan

__all__ = ["LayerReport", "PruningReport", "format_table", "plot_filters", "write_html"]


@dataclass(frozen=True)
class LayerReport:
    """One pruned layer.

    Attributes:
        name: Its name in the network.
        filters_before: How many filters it had.
        filters_after: How many are left.
        pruned_idxs: The numbers of those removed, ascending, counted as before the removal.
    """

    name: str
    filters_before: int
    filters_after: int
    pruned_idxs: tuple[int, ...]


@dataclass(frozen=True)
class PruningReport:
    """What one prune removed and saved.

    Attributes:
        before: Costs of the dense network.
        after: Costs of the pruned network, at the same input.
        layers: The layers that lost filters, in the order of the network.
        skipped: Layer name -> why it kept all its filters.
        epoch: The epoch at whose start it happened, where a Trainer ran; else ``None``.
    """

    before: Complexity
    after: Complexity
    layers: tuple[LayerReport, ...]
    skipped: Mapping[str, str]
    epoch: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "skipped", MappingProxyType(dict(self.skipped)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A sealed mapping cannot be pickled; a copy is sealed anew.
        return type(self), (self.before, self.after, self.layers, dict(self.skipped), self.epoch)

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.before.input_shape)
        when = "" if self.epoch is None else f" at the start of epoch {self.epoch}"
        costs = [
            ("parameters", self.before.params, self.after.params),
            ("  trainable", self.before.trainable_params, self.after.trainable_params),
            (f"MACs at {shapes}", self.before.macs, self.after.macs),
            ("bytes", self.before.bytes, self.after.bytes),
        ]
        filters = [(f"filters of {layer.name}", layer.filters_before, layer.filters_after) for layer in self.layers]
        rows = [
            (what, f"{dense:,}", f"{pruned:,}", f"{1 - pruned / dense:.1%}" if dense else "")
            for what, dense, pruned in costs + filters
        ]
        table = format_table(("", "before", "after", "removed"), rows)
        skipped = "".join(f"\n  {name}: {reason}" for name, reason in self.skipped.items())
        return f"Pruned{when}\n{table}" + (f"\nLayers that kept all their filters:{skipped}" if skipped else "")

    def metrics(self) -> dict[str, float]:
        """The numbers for a Trainer's logger.

        Returns:
            ``pruning/<cost>_before`` and ``pruning/<cost>_after`` for ``params``, ``macs`` and ``bytes``, and
            ``pruning/filters/<layer>_before`` and ``..._after``.
        """
        costs = {
            f"pruning/{cost}_{when}": float(getattr(complexity, cost))
            for cost in ("params", "trainable_params", "macs", "bytes")
            for when, complexity in (("before", self.before), ("after", self.after))
        }
        filters = {
            f"pruning/filters/{layer.name}_{when}": float(number)
            for layer in self.layers
            for when, number in (("before", layer.filters_before), ("after", layer.filters_after))
        }
        return costs | filters


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns as wide as their widest cell, the first to the left and the others to the right.

    Returns:
        The lines, joined.
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)])


def plot_filters(model: nn.Module, plan: PruningPlan, layer: str) -> Figure:
    """Draw one layer's similarities and its filters, those that are kept first.

    Left, the cosine similarity of every two filters, where a line divides the kept from the removed; right, each
    filter's spatial prototype, the removed ones crossed out. A kernel of one tap, or in one or three dimensions, has no
    picture; its similarities are drawn alone.

    Args:
        model: The dense network, as it was when ``plan`` was made.
        plan: What is removed.
        layer: Name of a layer in ``plan.pruned``.

    Returns:
        A matplotlib figure.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    figure_module = _import_viz("matplotlib.figure")
    weight = layer_weight(model.get_submodule(layer))
    vectors = filter_vectors(weight).float().cpu()
    kept, pruned = plan.kept[layer], plan.pruned[layer]
    order = kept + list(pruned)
    similarity = cosine_similarity(vectors)[order][:, order]
    pictures = weight.ndim == 4 and weight.shape[2:].numel() > 1

    figure: Figure = figure_module.Figure(figsize=(11.0 if pictures else 4.6, 4.2), layout="constrained")
    figure.suptitle(f"{layer}: {len(kept)} of {len(order)} filters kept", fontsize=11)
    left: Any = figure
    right: Any = None
    if pictures:
        left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(4.4, 6.6)))
    axes = left.subplots()
    image = axes.imshow(similarity.numpy(), vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    left.colorbar(image, ax=axes, label="cosine similarity", shrink=0.85)
    for draw in (axes.axhline, axes.axvline):
        draw(len(kept) - 0.5, color="black", linewidth=1.2)
    step = max(1, len(order) // 16)
    axes.set_xticks(range(0, len(order), step), [str(idx) for idx in order[::step]], fontsize=7)
    axes.set_yticks(range(0, len(order), step), [str(idx) for idx in order[::step]], fontsize=7)
    axes.set_xlabel("filter: kept | removed")
    if right is not None:
        _draw_prototypes(right, vectors.reshape(len(order), *weight.shape[2:]).numpy(), kept, list(pruned))
    return figure


def _draw_prototypes(figure: Any, prototypes: Any, kept: list[int], pruned: list[int]) -> None:
    columns = 8 if len(prototypes) <= 32 else 16
    kept_rows, pruned_rows = -(-len(kept) // columns), -(-len(pruned) // columns)
    limit = abs(prototypes).max()
    grid = figure.subplots(kept_rows + pruned_rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for place, idx in [*enumerate(kept), *enumerate(pruned, start=kept_rows * columns)]:
        axes = grid.flat[place]
        axes.imshow(prototypes[idx], vmin=-limit, vmax=limit, cmap="RdBu_r")
        axes.set_title(str(idx), fontsize=7, pad=2)
        if idx in pruned:
            axes.plot([0, 1], [0, 1], [0, 1], [1, 0], transform=axes.transAxes, color="crimson", linewidth=1)
    figure.suptitle("spatial prototypes: kept, then removed (crossed out)", fontsize=9)


def write_html(
    path: str | os.PathLike[str], title: str, sections: Sequence[tuple[str, str | Figure | Sequence[Sequence[str]]]]
) -> None:
    """Write a page that stands alone: no scripts, no links, pictures inside.

    Args:
        path: The file; its folder is made, and it is replaced in one step.
        title: Of the page.
        sections: Heading and content: text, a table as rows of cells of which the first is the header, or a figure. A
            section with an empty heading goes on with the one before.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    jinja2 = _import_viz("jinja2")
    parts: list[dict[str, Any]] = []
    for heading, content in sections:
        if isinstance(content, str):
            parts.append({"heading": heading, "text": content})
        elif isinstance(content, Sequence):
            parts.append({"heading": heading, "header": content[0], "rows": content[1:]})
        else:
            picture = io.BytesIO()
            content.savefig(picture, format="png", dpi=110)
            parts.append({"heading": heading, "picture": base64.b64encode(picture.getvalue()).decode()})
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    partial.write_text(page.render(title=title, parts=parts), encoding="utf-8")
    partial.replace(target)


def _import_viz(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Figures and pages need {error.name}, which comes with the extra `viz`: pip install "
            "'lightning-cosprune[viz]'.",
            name=error.name,
        ) from error


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #1c2330; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dae3; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e6e9ef; }
  th:first-child, td:first-child { text-align: left; }
  th { font-weight: 600; border-bottom: 2px solid #aab3c2; }
  img { max-width: 100%; }
  .wide { overflow-x: auto; }
  p { white-space: pre-line; max-width: 50rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for part in parts %}
{% if part.heading %}<h2>{{ part.heading }}</h2>{% endif %}

{% if part.text is defined %}<p>{{ part.text }}</p>
{% elif part.picture is defined %}<img alt="{{ part.heading }}" src="data:image/png;base64,{{ part.picture }}">
{% else %}<div class="wide"><table>
<thead><tr>{% for cell in part.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% endfor %}
</body>
</html>
"""
