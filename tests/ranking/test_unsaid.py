"""The held-out error, against a literal fit, and what it is for."""

import pytest
import torch

from lightning_cosprune.ranking import unsaid as module
from lightning_cosprune.ranking.subset import Reading
from lightning_cosprune.ranking.unsaid import unsaid


def reading(rows, weight, width=1):
    columns = torch.arange(len(weight)).reshape(-1, width)
    centred = rows - rows.mean(dim=0)
    return Reading(centred.T @ centred / len(rows), weight, torch.arange(len(columns)), columns)


@pytest.mark.parametrize(("width", "outputs"), [(1, 3), (2, 3), (1, 40)])
def test_it_is_the_error_of_a_ridge_fit_on_other_data(width, outputs, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(module, "RIDGES", (1e-2,))
    mixing = torch.randn(8, 8).double()
    fit, test = (torch.randn(50, 8).double() @ mixing for _ in range(2))
    fit, test = fit - fit.mean(dim=0), test - test.mean(dim=0)
    weight = torch.randn(8, outputs).double()
    kept = torch.ones(8 // width, dtype=torch.bool)
    kept[[1, 3]] = False
    held = kept.repeat_interleave(width)
    ridge = 1e-2 * (fit.T @ fit / 50).diagonal().mean() * 50
    # Ridge towards the old weights: the change of the kept ones that best says what the removed ones said.
    inner = fit[:, held].T @ fit[:, held] + ridge * torch.eye(int(held.sum())).double()
    change = torch.linalg.solve(inner, fit[:, held].T @ (fit[:, ~held] @ weight[~held]))
    missed = test[:, ~held] @ weight[~held] - test[:, held] @ change
    expected = float(missed.square().sum() / (test @ weight).square().sum())
    (found,) = unsaid([([reading(fit, weight, width)], [reading(test, weight, width)])], kept[None])
    assert float(found) == pytest.approx(expected, rel=1e-8)


def test_few_samples_and_a_wide_layer_look_good_only_where_they_were_fitted():
    torch.manual_seed(0)
    rows, weight = torch.randn(60, 48).double(), torch.randn(48, 4).double()
    kept = torch.arange(48) < 40
    halves = [reading(half, weight) for half in rows.split(30)]
    (inside,) = unsaid([([halves[0]], [halves[0]])], kept[None])
    (outside,) = unsaid([([halves[0]], [halves[1]]), ([halves[1]], [halves[0]])], kept[None])
    true = 8 / 48  # independent inputs: nobody can speak for the removed ones
    assert float(inside) < 0.5 * true
    assert float(outside) > 0.8 * true


def test_nothing_is_lost_with_no_filter_and_all_with_all():
    torch.manual_seed(0)
    one = reading(torch.randn(30, 6).double(), torch.randn(6, 2).double())
    sets = torch.stack([torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)])
    found = unsaid([([one, one], [one, one])], sets)
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0], dtype=torch.float64))  # of each of two readers


def test_what_a_copy_says_is_hardly_lost():
    """The weakest pull that is tried lets it take over nearly all of what the other said."""
    torch.manual_seed(0)
    rows = torch.randn(200, 4).double().repeat(1, 2)
    one = reading(rows, torch.randn(8, 2).double())
    (lost,) = unsaid([([one], [one])], (torch.arange(8) < 4)[None])
    assert 0 < float(lost) < 1e-5
