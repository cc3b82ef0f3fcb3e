import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from lightning_cosprune.ranking.subset import Reading, rank_by_response
from recipes.cells import read
from recipes.repair import subsets


def reading(filters: int, width: int, seed: int) -> Reading:
    """A reader of correlated inputs, each filter in so many columns."""
    generator = torch.Generator().manual_seed(seed)
    columns = filters * width
    inputs = torch.randn(400, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    weight = torch.randn(columns, 5, generator=generator)
    places = torch.arange(columns).view(filters, width)
    return Reading(inputs.T @ inputs / len(inputs), weight, torch.arange(filters), places)


@pytest.mark.parametrize("width", [1, 3])
def test_losses_gains_and_costs_agree_with_each_other_and_with_the_ranking(width):
    readings = [reading(7, width, seed) for seed in (0, 1)]
    losses = subsets.Losses(readings, 7)
    order, lost = rank_by_response(readings, 7, 3)
    kept = torch.ones(7, dtype=torch.bool).index_fill(0, order, False)
    assert losses.of(kept) == pytest.approx(float(lost[-1]), rel=1e-2)  # a part of the variance, with a ridge or not
    for back in order.tolist():
        more = kept.clone()
        more[back] = True
        assert losses.of(kept) - losses.of(more) == pytest.approx(float(losses.gains(kept)[back]), rel=1e-4)
        assert losses.of(kept) - losses.of(more) == pytest.approx(float(losses.costs(more)[back]), rel=1e-4)
    assert losses.gains(kept)[kept].isinf().all()
    assert losses.costs(kept)[~kept].isinf().all()


def test_an_exchange_never_costs_more_and_comes_to_the_best_of_all():
    found = []
    for seed in range(5):
        readings = [reading(8, 1, seed)]
        losses = subsets.Losses(readings, 8)
        start = torch.zeros(8, dtype=torch.bool).index_fill(0, torch.arange(4), True)
        kept, count = subsets.exchange(losses, start)
        best = min(
            losses.of(torch.zeros(8, dtype=torch.bool).index_fill(0, torch.tensor(some), True))
            for some in itertools.combinations(range(8), 4)
        )
        assert kept.sum() == 4
        assert losses.of(kept) <= losses.of(start)
        assert (count > 0) == (losses.of(kept) < losses.of(start))
        found.append(losses.of(kept) <= best * (1 + 1e-9))
    assert sum(found) >= 3


def test_pivots_are_those_of_a_decomposition_with_pivoting():
    one = reading(9, 1, 3)
    root = torch.linalg.cholesky(one.gram.double()).T.numpy()
    _, pivots = scipy.linalg.qr(root, mode="r", pivoting=True)
    assert subsets.pivoted([one], 9, 4).nonzero().flatten().tolist() == np.sort(pivots[:4]).tolist()


def test_a_row_for_each_layer_part_and_search(tmp_path, monkeypatch):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    monkeypatch.setattr(subsets, "EXAMPLE", (1, 1, 12, 12))
    rows = subsets.study(network, [torch.randn(16, 1, 12, 12)], 1, (0.25, 0.5))
    subsets.write(tmp_path / "rows.csv", subsets.Row, rows)
    found = {(row.removed, row.search): row.loss for row in read(tmp_path / "rows.csv", subsets.Row)}
    assert len(found) == 8
    for removed in (2, 4):
        assert found[removed, "exchange"] <= found[removed, "one by one"] <= found[removed, "random"]
