import math

import numpy as np
import pytest
import torch
from torch import Tensor
from weights import normal

from lightning_cosprune.calibration.moments import Moments
from lightning_cosprune.repair.ridge import RIDGES, Affine, choose_ridge, factor, solve

COLUMNS, TARGETS = 6, 3


def pairs(rows: int, noise: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = normal(rows, COLUMNS, seed=seed) * torch.linspace(0.2, 2, COLUMNS, dtype=torch.float64) + 1
    return x, x @ normal(COLUMNS, TARGETS, seed=100) + 2 + noise * normal(rows, TARGETS, seed=seed + 1)


def moments_of(x: Tensor, t: Tensor) -> Moments:
    moments = Moments(x.shape[1], t.shape[1])
    moments.add(x, t)
    return moments


def parts_of(x: Tensor, t: Tensor, parts: int = 4, about_zero: bool = False) -> list[list[Moments]]:
    found = [[moments_of(x[part::parts], t[part::parts])] for part in range(parts)]
    return [[moments.about_zero() for moments in part] for part in found] if about_zero else found


def old(scale: float = 1.0, seed: int = 7) -> Affine:
    return Affine(scale * normal(COLUMNS, TARGETS, seed=seed), scale * normal(TARGETS, seed=seed))


@pytest.mark.parametrize("ridge", [1e-8, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_it_minimises_errors_and_the_distance_from_the_old_weights(ridge: float, with_bias: bool) -> None:
    """Against NumPy's least squares with a row for each weight's distance from its old value."""
    x, t = pairs(50)
    moments, before = moments_of(x, t), old()
    if not with_bias:
        moments, before = moments.about_zero(), Affine(before.weight, torch.zeros(TARGETS, dtype=torch.float64))
    found = solve(moments, ridge, before, with_bias)
    assert found is not None
    shown, wanted = x.numpy(), t.numpy()
    if with_bias:
        shown, wanted = shown - shown.mean(axis=0), wanted - wanted.mean(axis=0)
    strength = ridge * np.square(shown).sum() / COLUMNS
    shown = np.concatenate([shown, math.sqrt(strength) * np.eye(COLUMNS)])
    wanted = np.concatenate([wanted, math.sqrt(strength) * before.weight.numpy()])
    expected = np.linalg.lstsq(shown, wanted, rcond=None)[0]
    np.testing.assert_allclose(found.weight, expected, atol=1e-9)
    bias = (t.mean(dim=0) - x.mean(dim=0) @ found.weight) if with_bias else before.bias
    torch.testing.assert_close(found.bias, bias)


def test_between_the_best_weights_and_the_old_ones() -> None:
    x, t = pairs(50)
    before = old()
    near, far = solve(moments_of(x, t), 1e-12, before, True), solve(moments_of(x, t), 1e9, before, True)
    assert near is not None
    assert far is not None
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(50, 1).double()], 1), t).solution
    torch.testing.assert_close(near.weight, best[:-1], rtol=0, atol=1e-8)
    torch.testing.assert_close(near.bias, best[-1], rtol=0, atol=1e-8)
    torch.testing.assert_close(far.weight, before.weight, rtol=0, atol=1e-6)


def test_an_infinite_ridge_fits_the_bias_alone() -> None:
    x, t = pairs(50)
    before = old()
    found = solve(moments_of(x, t), math.inf, before, True)
    assert found is not None
    assert torch.equal(found.weight, before.weight)
    torch.testing.assert_close(found.bias, (t - x @ before.weight).mean(dim=0))


def test_the_strength_is_relative_to_the_inputs_scale() -> None:
    x, t = pairs(50)
    one = solve(moments_of(x, t), 0.1, old(), True)
    other = solve(moments_of(1e6 * x, t), 0.1, Affine(old().weight / 1e6, old().bias), True)
    assert one is not None
    assert other is not None
    torch.testing.assert_close(1e6 * other.weight, one.weight)


@pytest.mark.parametrize("ridge", [1e-8, 1.0])
def test_inputs_that_never_vary_cannot_be_solved_for(ridge: float) -> None:
    moments = moments_of(torch.ones(50, COLUMNS), normal(50, TARGETS))
    assert factor(moments, ridge) is None
    assert solve(moments, ridge, old(), True) is None
    assert solve(moments, math.inf, old(), True) is not None


def test_more_columns_than_rows_can_be_solved_for() -> None:
    x, t = pairs(3)
    found = solve(moments_of(x, t), 1e-2, old(), True)
    assert found is not None
    assert found.weight.isfinite().all()


def test_where_there_are_many_rows_and_no_noise_the_least_ridge_is_best() -> None:
    x, t = pairs(400, noise=0.0)
    found = choose_ridge(parts_of(x, t), [old()], True)
    assert found.ridge == min(RIDGES)
    assert found.best < 1e-12 * found.total < found.old


def test_where_there_are_few_rows_and_much_noise_the_ridge_is_strong() -> None:
    x, t = pairs(12, noise=3.0)
    true = Affine(normal(COLUMNS, TARGETS, seed=100), torch.full((TARGETS,), 1.8, dtype=torch.float64))
    found = choose_ridge(parts_of(x, t), [true], True)
    assert found.ridge is None or found.ridge >= 0.1


def test_what_was_right_stays() -> None:
    x, _ = pairs(40)
    true = Affine(normal(COLUMNS, TARGETS, seed=100), torch.full((TARGETS,), 2.0, dtype=torch.float64))
    found = choose_ridge(parts_of(x, x @ true.weight + true.bias), [true], True)
    assert found.ridge is None
    assert found.best == found.old < 1e-12 * found.total


def test_only_the_bias_was_wrong() -> None:
    x, t = pairs(12, noise=1.0)
    before = Affine(normal(COLUMNS, TARGETS, seed=100), torch.full((TARGETS,), -50.0, dtype=torch.float64))
    strong = choose_ridge(parts_of(x, t), [before], True)
    assert strong.ridge is not None
    assert strong.best < 0.01 * strong.old


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_errors_are_those_of_rows_held_out(with_bias: bool) -> None:
    x, t = pairs(40)
    before = old() if with_bias else Affine(old().weight, torch.zeros(TARGETS, dtype=torch.float64))
    found = choose_ridge(parts_of(x, t, about_zero=not with_bias), [before], with_bias)
    assert found.ridge in RIDGES
    best = total = unchanged = 0.0
    for part in range(4):
        test = torch.arange(40) % 4 == part
        train = moments_of(x[~test], t[~test])
        fit = solve(train if with_bias else train.about_zero(), found.ridge, before, with_bias)
        assert fit is not None
        best += float((t[test] - x[test] @ fit.weight - fit.bias).square().sum())
        unchanged += float((t[test] - x[test] @ before.weight - before.bias).square().sum())
        total += float((t[test] - (t[test].mean(dim=0) if with_bias else 0)).square().sum())
    assert found.best == pytest.approx(best)
    assert found.old == pytest.approx(unchanged)
    assert found.total == pytest.approx(total)
    assert found.best < found.old


def test_all_groups_share_one_ridge() -> None:
    x, t = pairs(400, noise=0.0)
    noisy = pairs(12, noise=3.0)
    parts = [[one, other] for (one,), (other,) in zip(parts_of(x, t), parts_of(*noisy), strict=True)]
    found = choose_ridge(parts, [old(), old(seed=8)], True)
    alone = [choose_ridge(parts_of(x, t), [old()], True), choose_ridge(parts_of(*noisy), [old(seed=8)], True)]
    assert found.total == pytest.approx(sum(one.total for one in alone))
    assert found.old == pytest.approx(sum(one.old for one in alone))
    assert found.best >= sum(one.best for one in alone) * (1 - 1e-9)


def test_one_part_is_no_data_to_hold_out() -> None:
    x, t = pairs(12)
    empty = Moments(COLUMNS, TARGETS)
    found = choose_ridge([[moments_of(x, t)], [empty], [empty], [empty]], [old()], True)
    assert found.ridge is None
    assert found.best == found.old
