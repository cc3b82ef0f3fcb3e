"""Picture of how much a network suffers where a single group of layers is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_cosprune.arguments import check_kind
from lightning_cosprune.planning.sensitivity import Sensitivity
from lightning_cosprune.reports.viz import import_viz

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_sensitivity"]

_LABELS = {
    "response": "error of the outputs, part of their variance",
    "similarity": "distance to the nearest kept filter, mean",
    "score": "score",
}


def plot_sensitivity(found: Sensitivity) -> Figure:
    """Draw one line for each group of layers, over the part of its filters that is removed.

    Args:
        found: What :func:`sensitivity` measured.

    Returns:
        A matplotlib figure.

    Raises:
        ModuleNotFoundError: The extra ``viz`` is not installed.
    """
    check_kind(found, Sensitivity, "`plot_sensitivity(found=...)`", "`sensitivity` returns one.")
    figure: Figure = import_viz("matplotlib.figure").Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    colours = import_viz("matplotlib").colormaps["viridis"]
    for number, (name, curve) in enumerate(found.curves.items()):
        colour = colours(number / max(len(found.curves) - 1, 1))
        axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, color=colour, label=name)
    axes.axhline(found.dense, color="grey", linewidth=0.8, linestyle=":", label="all filters")
    axes.set_xscale("log", base=2)
    axes.invert_xaxis()
    axes.set_xlabel("filters kept")
    axes.set_ylabel(_LABELS[found.measure])
    figure.legend(loc="outside right upper", fontsize=7)
    return figure
