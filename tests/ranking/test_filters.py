import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from weights import CASES, checkpoint_layers, laws, normal

from lightning_cosprune.ranking import filters
from lightning_cosprune.ranking.filters import filter_rows, filter_vectors


@pytest.mark.parametrize("kind", ["prototype", "flat"])
@pytest.mark.parametrize("case", CASES)
def test_vectors_equal_the_reference(case, kind):
    weight = CASES[case]()
    expected = reference.vectors(weight.numpy(), kind)
    found = filter_vectors(weight, kind)
    scale = np.abs(expected).max() or 1
    np.testing.assert_allclose(found.numpy() / scale, expected / scale, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_blocks_change_nothing(case, monkeypatch):
    weight = CASES[case]()
    expected = filter_vectors(weight)
    monkeypatch.setattr(filters, "BLOCK", 1)
    torch.testing.assert_close(filter_vectors(weight), expected, rtol=0, atol=1e-12)


def test_trained_weights_equal_the_reference():
    for tensor in checkpoint_layers().values():
        expected = reference.vectors(tensor.double().numpy())
        np.testing.assert_allclose(filter_vectors(tensor.double()).numpy(), expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(filter_vectors(tensor).numpy(), expected, rtol=0, atol=1e-4)


@laws
@given(seed=st.integers(0, 10**6), channels=st.integers(1, 6), taps=st.integers(1, 6), exponent=st.integers(-40, 40))
def test_a_positive_factor_changes_no_prototype_and_a_negative_one_turns_it_round(seed, channels, taps, exponent):
    weight = normal(7, channels, taps, seed=seed)
    expected = filter_vectors(weight)
    torch.testing.assert_close(filter_vectors(weight * 1.7**exponent), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(filter_vectors(weight * -(1.7**exponent)), -expected, rtol=0, atol=1e-9)


@laws
@given(seed=st.integers(0, 10**6))
def test_permuted_filters_have_permuted_vectors(seed):
    weight = normal(9, 3, 2, 2, seed=seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(filter_vectors(weight[order]), filter_vectors(weight)[order], rtol=0, atol=1e-12)


def test_one_input_channel_gives_the_filter_itself_scaled():
    weight = normal(6, 1, 5, 5)
    rows = weight.flatten(1)
    torch.testing.assert_close(filter_vectors(weight), rows / rows.norm(dim=1, keepdim=True))


def test_the_next_channel_gives_the_sign_where_the_first_is_zero():
    pattern = normal(3, 3).abs()
    channels = torch.tensor([[1.0, -2.0, 3.0], [0.0, -2.0, 3.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    found = filter_vectors(channels[:, :, None, None] * pattern)
    assert found.sign()[:, 0].tolist() == [1, -1, 1]


@pytest.mark.parametrize("kind", ["prototype", "flat"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dead_filters_have_no_direction(kind, dtype):
    weight = normal(6, 4, 3, 3)
    weight[1] = 0
    weight[4] *= 1e-30
    weight[5] *= 1e-6
    assert filter_vectors(weight.to(dtype), kind).any(dim=1).tolist() == [True, False, True, True, False, True]


def test_a_layer_that_is_small_as_a_whole_is_not_dead():
    weight = normal(6, 4, 3, 3).float()
    assert weight.mul(1e-30).square().sum() == 0
    torch.testing.assert_close(filter_vectors(weight * 1e-30), filter_vectors(weight), rtol=0, atol=1e-5)
    torch.testing.assert_close(filter_vectors(weight * 1e30), filter_vectors(weight), rtol=0, atol=1e-5)


def test_coupled_prototypes_have_the_mean_of_the_layers_cosines():
    layers = [normal(7, 3, 3, 3), normal(7, 5, 1, 1, seed=1), normal(7, 2, 4, seed=2)]
    each = [filter_vectors(layer) for layer in layers]
    joined = filter_vectors(layers)
    torch.testing.assert_close(joined @ joined.T, sum(rows @ rows.T for rows in each) / 3)
    torch.testing.assert_close(filter_vectors(layers[:1]), each[0])


def test_a_filter_that_is_dead_in_one_coupled_layer_keeps_the_other():
    layers = [normal(4, 3, 3, 3), normal(4, 3, 3, 3, seed=1)]
    layers[0][2] = 0
    layers[0][3] = layers[1][3] = 0
    torch.testing.assert_close(
        filter_vectors(layers).norm(dim=1), torch.tensor([1, 1, 1, 0], dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_coupled_flat_vectors_stand_side_by_side():
    layers = [normal(4, 3, 3), normal(4, 2, 5)]
    torch.testing.assert_close(filter_vectors(layers, "flat"), torch.cat([layer.flatten(1) for layer in layers], dim=1))
    torch.testing.assert_close(filter_rows(layers), filter_vectors(layers, "flat"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_computed_in_at_least_float32_without_gradient(dtype):
    weight = normal(6, 4, 3, 3).to(dtype).requires_grad_()
    found = filter_vectors(weight)
    assert not found.requires_grad
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    atol = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), filter_vectors(weight.detach().double()), rtol=0, atol=atol)


def test_autocast_and_coarse_products_do_not_reach_the_ranking():
    weight = normal(6, 4, 3, 3).float()
    expected = filter_vectors(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(filter_vectors(weight), expected, rtol=0, atol=1e-6)
    torch.set_float32_matmul_precision("medium")
    try:
        torch.testing.assert_close(filter_vectors(weight).float(), expected, rtol=0, atol=1e-6)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kind", ["prototype", "flat"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_numbers_of_filters_that_are_not_finite_are_named(kind, value, monkeypatch):
    weight = normal(6, 4, 3, 3)
    weight[2, 1, 0, 0] = weight[5, 0, 2, 2] = value
    monkeypatch.setattr(filters, "BLOCK", 1)
    with pytest.raises(ValueError, match=r"NaN or infinity in 2 of 6 filters: 2, 5\."):
        filter_vectors(weight, kind)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(0, 3, 3), "at least one filter"),
        (torch.zeros(4), "at least one filter"),
        (torch.zeros(4, 3, dtype=torch.int64), "floating-point"),
        ([torch.zeros(4, 3), torch.zeros(5, 3)], r"same number of filters, found \[4, 5\]"),
        ([], "empty"),
        (None, "found NoneType"),
    ],
)
def test_what_is_no_weight_is_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        filter_vectors(weight)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match='expected "prototype" or "flat"'):
        filter_vectors(normal(2, 2), "prototpye")
