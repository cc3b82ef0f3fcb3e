import torch
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import plan_pruning
from lightning_cosprune.reports.figures import plot_filters


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(384, 5))


def test_kept_filters_come_first_and_removed_ones_are_crossed_out() -> None:
    model = network()
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.25)
    figure = plot_filters(model, plan, "0.0")
    kept, pruned = plan.kept["0.0"], plan.pruned["0.0"]
    matrix = figure.subfigs[0].axes[0]
    assert [int(label.get_text()) for label in matrix.get_xticklabels()] == kept + pruned
    tiles = [axes for axes in figure.subfigs[1].axes if axes.images]
    assert [int(axes.get_title()) for axes in tiles] == kept + pruned
    assert [bool(axes.lines) for axes in tiles] == [False] * len(kept) + [True] * len(pruned)


def test_a_kernel_of_one_tap_has_similarities_only() -> None:
    model = network()
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    figure = plot_filters(model, plan, "1")
    assert not figure.subfigs
    assert figure.axes[0].images[0].get_array().shape == (6, 6)
