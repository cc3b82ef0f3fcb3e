import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from weights import laws

from lightning_cosprune.ranking.subset import Reading, rank_by_response


def drawn(seed: int, filters: int, width: int, outputs: int = 5, read: int | None = None) -> Reading:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(filters, generator=generator)[: read or filters].sort().values
    columns = torch.randperm(len(numbers) * width, generator=generator).reshape(-1, width)
    # Inputs that hang together, as neighbouring taps and alike filters do.
    mixed = torch.randn(40, columns.numel(), generator=generator) @ torch.randn(
        columns.numel(), columns.numel(), generator=generator
    )
    weight = torch.randn(columns.numel(), outputs, generator=generator)
    return Reading(mixed.T @ mixed / 40, weight, numbers, columns)


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_literal_reference(seed: int, width: int) -> None:
    readings = [drawn(seed, 7, width), drawn(seed + 10, 7, 2, outputs=3), drawn(seed + 20, 7, 1, read=4)]
    order, cost = rank_by_response(readings, 7)
    wanted_order, wanted_cost = reference.eliminate(
        [
            (one.gram.double().numpy(), one.weight.double().numpy(), one.filters.tolist(), one.columns.tolist())
            for one in readings
        ],
        7,
    )
    assert order.tolist() == wanted_order
    torch.testing.assert_close(cost, torch.tensor(wanted_cost, dtype=torch.float64), rtol=1e-6, atol=1e-9)


@laws
@given(seed=st.integers(0, 2**16))
def test_cost_never_falls_and_ends_at_all_that_is_computed(seed: int) -> None:
    order, cost = rank_by_response([drawn(seed, 6, 2)], 6)
    assert sorted(order.tolist()) == list(range(6))
    assert bool((cost.diff() >= -1e-9).all())
    # All of the variance, and what the ridge adds to it.
    assert 1 - 1e-9 <= float(cost[-1]) < 1.05


@laws
@given(seed=st.integers(0, 2**16))
def test_permuted_filters_have_a_permuted_order(seed: int) -> None:
    reading = drawn(seed, 6, 2)
    permuted = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    place = torch.empty(6, dtype=torch.long)
    place[permuted] = torch.arange(6)
    order, cost = rank_by_response([reading], 6)
    again, same = rank_by_response([Reading(reading.gram, reading.weight, place[reading.filters], reading.columns)], 6)
    assert again.tolist() == place[order].tolist()
    torch.testing.assert_close(cost, same)


def test_a_filter_that_others_add_up_to_goes_first_though_it_is_like_none_of_them() -> None:
    values = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    values = torch.cat([values, values.sum(dim=1, keepdim=True) / 3], dim=1)
    gram = torch.cov(values.T)
    order, cost = rank_by_response([Reading(gram, torch.ones(4, 2), torch.arange(4), torch.arange(4)[:, None])], 4)
    assert float(cost[0]) < 2e-3
    assert float(cost[1]) > 0.05
    assert order[0] in range(4)


def test_a_filter_that_nobody_reads_or_that_is_silent_costs_nothing() -> None:
    gram = torch.eye(3)
    gram[1] = gram[:, 1] = 0
    reading = Reading(gram, torch.ones(3, 1), torch.tensor([0, 1, 2]), torch.arange(3)[:, None])
    order, cost = rank_by_response([reading], 4, removals=2)
    assert set(order.tolist()) == {1, 3}
    assert float(cost[1]) < 1e-3


def test_fewer_removals_are_the_first_of_all() -> None:
    reading = drawn(3, 9, 2)
    order, cost = rank_by_response([reading], 9)
    first, start = rank_by_response([reading], 9, removals=4)
    assert first.tolist() == order[:4].tolist()
    torch.testing.assert_close(start, cost[:4])


def test_autocast_does_not_reach_the_ranking() -> None:
    reading = drawn(1, 6, 1)
    order, _ = rank_by_response([reading], 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, _ = rank_by_response([reading], 6)
    assert again.tolist() == order.tolist()
