import base64

import numpy as np
import pytest
import torch
from torch import nn

from lightning_cosprune.reports.layers import CELLS, MOST_FILTERS, MOST_PAIRS, in_cells, picture_layer, widths_before


def layer(rows: list[list[float]]) -> nn.Conv2d:
    """One input channel, kernels of 1 x 2: filters that can be reckoned with by hand."""
    conv = nn.Conv2d(1, len(rows), (1, 2))
    conv.weight.data = torch.tensor(rows)[:, None, None]
    return conv


def test_partners_are_the_nearest_kept_filters_and_explain_the_squared_cosine() -> None:
    conv = layer([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [-2.0, 0.0], [2.0, 0.0]])
    picture = picture_layer(conv, "conv", [2, 3, 4])
    found = {pair.removed: (pair.partner, pair.cosine) for pair in picture.pairs}
    assert found == {2: (1, pytest.approx(0.8)), 3: (1, pytest.approx(0)), 4: (0, pytest.approx(1))}
    assert picture.explained == pytest.approx((0.64, 0, 1), abs=1e-4)
    assert picture.by_weights == pytest.approx((0.64, 0, 1), abs=1e-4)
    assert [pair.removed for pair in picture.pairs] == [4, 2, 3], "the best explained first"
    drawn = next(pair for pair in picture.pairs if pair.removed == 2)
    assert drawn.removed_taps == pytest.approx((0.75, 1.0))
    assert drawn.shape == (1, 2)


def test_the_tree_joins_copies_first_and_the_heat_map_follows_it() -> None:
    conv = layer([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.1, 1.0]])
    picture = picture_layer(conv, "conv", [2])
    assert [set(picture.order[:2]), set(picture.order[2:])] in ([{0, 2}, {1, 3}], [{1, 3}, {0, 2}])
    heights = [joint[4] for joint in picture.tree]
    assert heights == sorted(heights)
    assert heights[0] == pytest.approx(0, abs=1e-3)
    heat = np.frombuffer(base64.b64decode(picture.similarity), np.int8).reshape(4, 4) / 127
    rows = conv.weight.data.flatten(1)[list(picture.order)]
    expected = nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    np.testing.assert_allclose(heat, expected.numpy(), atol=1 / 127)


def test_two_thousand_filters_are_as_small_as_two_hundred() -> None:
    torch.manual_seed(0)
    picture = picture_layer(nn.Conv2d(16, 2048, 3), "conv", range(0, 2048, 2))
    assert (picture.cells, len(picture.pairs), len(picture.tree)) == (CELLS, MOST_PAIRS, 127)
    assert len(picture.explained) == 1024
    assert sorted(picture.order) == list(range(2048))
    wide = picture_layer(nn.Linear(4, MOST_FILTERS + 100), "linear", [1])
    assert len(wide.order) == MOST_FILTERS


def test_cells_are_means() -> None:
    assert in_cells(np.arange(6.0), 3).tolist() == [0.5, 2.5, 4.5]
    matrix = np.arange(16.0).reshape(4, 4)
    assert in_cells(matrix, 2).tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert in_cells(matrix, 4) is matrix


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(3, 4, 5), (1, 5)),
        (nn.Conv2d(40, 4, 1), (2, 16)),
        (nn.Linear(7, 4), (1, 7)),
        (nn.Conv2d(2, 1, 3), None),
    ],
)
def test_every_kernel_has_a_picture(module: nn.Module, shape: tuple[int, int] | None) -> None:
    picture = picture_layer(module, "x", [] if shape is None else [0])
    assert [pair.shape for pair in picture.pairs] == ([] if shape is None else [shape])


def test_a_dead_filter_is_explained_by_nothing() -> None:
    conv = layer([[1.0, 0.0], [0.0, 0.0]])
    assert picture_layer(conv, "x", [1]).explained == (0.0,)


def test_coupled_layers_are_in_one_group() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(x) + self.b(x))

    a, b, c = widths_before(Sum(), torch.zeros(1, 1, 9, 9))
    assert a.group == b.group is not None
    assert c.group is None
    assert {width.group for width in widths_before(Sum())} == {None}
