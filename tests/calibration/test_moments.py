from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from weights import laws, normal

from lightning_cosprune.calibration.moments import Moments, pooled


def pairs(rows: int = 40, columns: int = 5, targets: int = 3, seed: int = 0, offset: float = 2.0) -> tuple[Tensor, ...]:
    x = normal(rows, columns, seed=seed) + offset
    return x, x @ normal(columns, targets, seed=1) + 0.3 * normal(rows, targets, seed=seed + 2)


def moments_of(x: Tensor, t: Tensor, sizes: list[int] | None = None) -> Moments:
    moments = Moments(x.shape[1], t.shape[1])
    for part in zip(x.split(sizes or len(x)), t.split(sizes or len(t)), strict=True):
        moments.add(*part)
    return moments


def assert_equal_moments(found: Moments, expected: Moments, tolerance: float = 1e-9) -> None:
    assert found.count == expected.count
    for name in ("mean_x", "mean_t", "xx", "xt", "tt"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=name)


def test_they_are_numpys() -> None:
    x, t = pairs()
    moments = moments_of(x, t, [7, 1, 32])
    both = np.cov(np.concatenate([x, t], axis=1), rowvar=False, bias=True) * len(x)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean_x, x.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.mean_t, t.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.xx, both[:5, :5], atol=1e-10)
    np.testing.assert_allclose(moments.xt, both[:5, 5:], atol=1e-10)
    np.testing.assert_allclose(moments.tt, both.diagonal()[5:], atol=1e-10)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x, t = pairs(offset=0.0)
    near, far = moments_of(x, t), moments_of(x + 1e6, t - 1e6, [13, 27])
    for name in ("xx", "xt", "tt"):
        torch.testing.assert_close(getattr(far, name), getattr(near, name), rtol=1e-7, atol=1e-7)


@laws
@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6))
def test_it_does_not_matter_how_the_rows_are_cut_into_parts(seed: int, sizes: list[int]) -> None:
    x, t = pairs(sum(sizes), seed=seed)
    whole = moments_of(x, t)
    assert_equal_moments(moments_of(x, t, sizes), whole)
    parts = [moments_of(*part) for part in zip(x.split(sizes), t.split(sizes), strict=True)]
    assert_equal_moments(pooled(parts), whole)
    assert_equal_moments(pooled(parts[::-1]), whole)


def test_pooling_leaves_the_parts_as_they_were() -> None:
    x, t = pairs()
    parts = [moments_of(x[:10], t[:10]), moments_of(x[10:], t[10:])]
    assert pooled(parts).count == 40
    assert_equal_moments(parts[0], moments_of(x[:10], t[:10]), 0)
    assert_equal_moments(parts[1], moments_of(x[10:], t[10:]), 0)


def processes(parts: list[Moments]) -> list[Moments]:
    """What each of several processes ends with, whose pool sums what all of them give at the same call."""
    given: list[list[list[Tensor]]] = [[] for _ in parts]

    def pool_of(rank: int, sums: list[list[Tensor]]) -> Callable[[list[Tensor]], list[Tensor]]:
        calls = iter(sums)

        def pool(tensors: list[Tensor]) -> list[Tensor]:
            given[rank].append(tensors)
            return next(calls, tensors)

        return pool

    sums: list[list[Tensor]] = []
    for call in range(2):  # the second sum is about the mean that the first one gave
        for rank, part in enumerate(parts):
            given[rank].clear()
            part.pooled_by(pool_of(rank, sums))
        sums.append([sum(one) for one in zip(*(tensors[call] for tensors in given), strict=True)])
    return [part.pooled_by(pool_of(rank, sums)) for rank, part in enumerate(parts)]


@pytest.mark.parametrize("first", [0, 1, 13, 39])
def test_processes_that_pool_end_with_the_moments_of_all(first: int) -> None:
    x, t = pairs()
    parts = [moments_of(x[:first], t[:first]), moments_of(x[first:], t[first:])]
    one, other = processes(parts)
    assert_equal_moments(one, moments_of(x, t))
    assert_equal_moments(other, one, 0)  # to the last bit


def test_about_zero_they_are_the_raw_ones() -> None:
    x, t = pairs()
    raw = moments_of(x, t).about_zero()
    assert raw.count == 40
    assert not raw.mean_x.any()
    assert not raw.mean_t.any()
    torch.testing.assert_close(raw.xx, x.T @ x)
    torch.testing.assert_close(raw.xt, x.T @ t)
    torch.testing.assert_close(raw.tt, t.square().sum(dim=0))
    parts = [moments_of(x[:9], t[:9]).about_zero(), moments_of(x[9:], t[9:]).about_zero()]
    assert_equal_moments(pooled(parts), raw)


@pytest.mark.parametrize("about_zero", [False, True])
def test_the_error_is_the_sum_of_squares_that_is_left(about_zero: bool) -> None:
    x, t = pairs()
    moments = moments_of(x, t)
    moments = moments.about_zero() if about_zero else moments
    for seed in range(3):
        weight, bias = normal(5, 3, seed=seed), normal(3, seed=seed) * (not about_zero)
        expected = float((t - x @ weight - bias).square().sum())
        assert moments.error(weight, bias) == pytest.approx(expected, rel=1e-10)


def test_the_error_of_what_explains_all_is_zero_and_not_less() -> None:
    x = normal(40, 5)
    weight, bias = normal(5, 3, seed=1), normal(3, seed=2)
    assert 0 <= moments_of(x, x @ weight + bias).error(weight, bias) < 1e-20


def test_sums_of_half_precision_are_kept_in_float64() -> None:
    x, t = (rows.bfloat16() for rows in pairs(300))
    assert_equal_moments(moments_of(x, t, [150, 150]), moments_of(x.double(), t.double()))


def test_no_rows_are_no_rows() -> None:
    empty = moments_of(*pairs(0))
    assert empty.count == 0
    assert empty.error(normal(5, 3), normal(3)) == 0
    assert pooled([empty, empty]).count == 0
    assert empty.about_zero().count == 0
