import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from weights import CASES, checkpoint_layers, laws, normal

from lightning_cosprune.ranking import criteria
from lightning_cosprune.ranking.criteria import SCORES
from lightning_cosprune.ranking.redundancy import rank_filters

DETERMINISTIC = [name for name in SCORES if name != "random"]
# (1e200)**2 has no place in a float: what the formula asks for is infinite.
SQUARED = {"geometric_mean", "operator_norm"}


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("tiny as a whole", "huge as a whole")])
def test_scores_equal_the_reference(name, case):
    weight = CASES[case]()
    expected = np.array(getattr(reference, name)(weight.numpy()))
    scale = expected.max() or 1
    np.testing.assert_allclose(SCORES[name](weight).numpy() / scale, expected / scale, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", sorted(set(DETERMINISTIC) - SQUARED))
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_scores_survive_squares_that_do_not(name, size):
    weight = normal(10, 3, 3, 3)
    torch.testing.assert_close(SCORES[name](weight * size).double() / size, SCORES[name](weight).double())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_blocks_change_nothing(name, monkeypatch):
    weight = normal(12, 5, 3, 3)
    expected = SCORES[name](weight)
    monkeypatch.setattr(criteria, "BLOCK", 1)
    torch.testing.assert_close(SCORES[name](weight), expected)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_coupled_layers_are_one_layer_of_concatenated_filters(name):
    layers = [normal(8, 3, 3, 3), normal(8, 4, 3, 3, seed=1)]
    torch.testing.assert_close(SCORES[name](layers), SCORES[name](torch.cat(layers, dim=1)))


@pytest.mark.parametrize("name", sorted(set(DETERMINISTIC) - {"operator_norm"}))
@laws
@given(seed=st.integers(0, 10**6))
def test_permuted_filters_have_permuted_scores(name, seed):
    weight = normal(8, 3, 2, 2, seed=seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(SCORES[name](weight[order]), SCORES[name](weight)[order])


@laws
@given(seed=st.integers(0, 10**6))
def test_operator_norm_follows_permutations_that_leave_filter_0(seed):
    weight = normal(8, 3, 2, 2, seed=seed)
    order = torch.cat(
        [torch.zeros(1, dtype=torch.long), torch.randperm(7, generator=torch.Generator().manual_seed(seed)) + 1]
    )
    torch.testing.assert_close(SCORES["operator_norm"](weight[order]), SCORES["operator_norm"](weight)[order])


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("factor", [2.0**-9, -1.0, 3.0])
def test_a_factor_on_the_whole_layer_keeps_the_order(name, factor):
    weight = normal(12, 5, 3, 3)
    assert SCORES[name](weight * factor).argsort().tolist() == SCORES[name](weight).argsort().tolist()


def test_geometric_median_of_copies_is_exact_in_float32():
    weight = normal(1, 6, 3, 3).float().repeat(5, 1, 1, 1)
    assert SCORES["geometric_median"](weight).tolist() == [0] * 5
    weight[0] += 1e-4
    expected = reference.geometric_median(weight.double().numpy())
    np.testing.assert_allclose(SCORES["geometric_median"](weight).numpy(), expected, rtol=1e-2)


def test_random_repeats_with_its_seed_and_leaves_the_callers_generator():
    weight = normal(30, 2)
    before = torch.get_rng_state()
    draws = [SCORES["random"](weight, seed=seed).tolist() for seed in (0, 0, 1, 2**32, 2**32 + 1, 2**40)]
    assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1]
    assert len(set(map(tuple, draws))) == 5  # every seed has an order of its own, whatever bits it differs in
    assert sorted(draws[0]) == list(range(30))


def test_of_seeds_that_are_negative_all_64_bits_are_served_and_no_more():
    weight = normal(30, 2)
    assert SCORES["random"](weight, seed=-(2**63)).tolist() != SCORES["random"](weight, seed=0).tolist()
    with pytest.raises(ValueError, match=r"`random\(seed=-9223372036854775809\)`: expected a whole number of at least"):
        SCORES["random"](weight, seed=-(2**63) - 1)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_computed_in_at_least_float32(name, dtype):
    weight = normal(8, 3, 3, 3).to(dtype)
    found = SCORES[name](weight)
    assert found.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(found.double(), SCORES[name](weight.double()).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_filters_that_are_not_finite_are_named(name):
    weight = normal(6, 4, 3, 3)
    weight[2, 1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 6 filters: 2\."):
        SCORES[name](weight)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_trained_weights_equal_the_reference(name):
    for tensor in checkpoint_layers().values():
        weight = tensor[:, :6].double()  # a few channels: the reference is slow
        expected = np.array(getattr(reference, name)(weight.numpy()))
        np.testing.assert_allclose(SCORES[name](weight).numpy(), expected, rtol=1e-9, atol=1e-10 * expected.max())


@pytest.mark.parametrize("tiny", [0.0, 1e-30])
def test_dead_filters_go_first_or_stay_as_the_docs_say(tiny):
    """Filters that are alike, and one that is dead."""
    weight = 1 + 0.1 * normal(8, 3, 3, 3)
    weight[4] = tiny
    place = {name: rank_filters(weight, name).tolist().index(4) for name in ("cosine", "l1", "l2", "operator_norm")}
    assert place == {"cosine": 0, "l1": 0, "l2": 0, "operator_norm": 7}
    many = 1 + 0.1 * normal(32, 3, 3, 3)
    many[4] = 1e-3  # with a weight of 0 the mean of the layer is 0
    assert rank_filters(many, "geometric_mean").tolist()[-1] == 4
