import subprocess
import sys

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from weights import checkpoint_layers, laws, normal

from lightning_cosprune.ranking import similarity
from lightning_cosprune.ranking.filters import filter_vectors
from lightning_cosprune.ranking.similarity import (
    cosine_similarity,
    nearest_neighbours,
    nystrom_columns,
    nystrom_factor,
    nystrom_similarity,
    unit_rows,
)

ROWS = {
    "random": lambda: normal(20, 6),
    "more dimensions than filters": lambda: normal(8, 30),
    "copies": lambda: normal(4, 9).repeat(5, 1),
    "axes": lambda: torch.eye(6, dtype=torch.float64).repeat(2, 1),
    "tiny": lambda: normal(9, 5) * 1e-200,
    "sizes far apart": lambda: normal(9, 5) * torch.logspace(-30, 30, 9, dtype=torch.float64)[:, None],
    "prototypes": lambda: filter_vectors(normal(30, 8, 3, 3)),
}


@pytest.fixture(params=ROWS)
def rows(request):
    return ROWS[request.param]()


def test_cosines_equal_the_reference(rows):
    expected = 1 - reference.cosine_distances(rows.numpy())
    np.testing.assert_allclose(cosine_similarity(rows).numpy(), expected, rtol=0, atol=1e-10)


def test_a_zero_row_is_similar_to_nothing():
    found = cosine_similarity(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
    assert found[0].tolist() == found[:, 0].tolist() == [0, 0]
    assert found[1, 1] == pytest.approx(1)


def test_opposite_rows_are_far_apart():
    assert cosine_similarity(torch.tensor([[1.0, 2.0], [-2.0, -4.0]]))[0, 1] == pytest.approx(-1)


def test_rows_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 filters: 1"):
        cosine_similarity(torch.tensor([[1.0], [torch.nan]]))


@pytest.mark.parametrize("columns", [1, 2, 5, 8, [7, 0, 3], [4]])
def test_nystrom_equals_the_pseudo_inverse(rows, columns):
    expected = 1 - reference.nystrom_distances(unit_rows(rows).numpy(), columns)
    np.testing.assert_allclose(nystrom_similarity(rows, columns).numpy(), expected, rtol=0, atol=1e-10)
    if isinstance(columns, list):
        torch.testing.assert_close(nystrom_similarity(rows, torch.tensor(columns)), nystrom_similarity(rows, columns))


@pytest.mark.parametrize(("filters", "columns"), [(16, 12), (16, 6), (32, 21), (64, 9)])
def test_the_published_numbers_of_columns_are_accepted(filters, columns):
    rows = filter_vectors(normal(filters, 16, 7, 7))
    expected = 1 - reference.nystrom_distances(rows.numpy(), columns)
    np.testing.assert_allclose(nystrom_similarity(rows, columns).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("filters", [9, 10, 64, 300])
def test_nine_columns_are_exact_for_3x3_kernels(filters):
    rows = filter_vectors(normal(filters, 16, 3, 3))
    torch.testing.assert_close(nystrom_similarity(rows, 9), cosine_similarity(rows), rtol=0, atol=1e-9)


def test_nystrom_underestimates_the_diagonal(rows):
    diagonal = nystrom_similarity(rows, 3).diagonal()
    assert (diagonal <= 1 + 1e-12).all()
    assert (diagonal[:3] >= 1 - 1e-12).all()


@pytest.mark.parametrize("columns", [0, -1, 21, [20], [-1], []])
def test_columns_outside_the_matrix_are_refused(columns):
    with pytest.raises(ValueError, match=r"columns=.*expected a number from 1 to 20"):
        nystrom_similarity(normal(20, 6), columns)


@pytest.mark.parametrize("choose", ["first", "random", "leverage"])
@pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.01, 1e-6])
def test_auto_takes_the_fewest_columns_within_the_tolerance(rows, choose, tolerance):
    order = nystrom_columns(rows, len(rows), choose=choose)
    found = nystrom_columns(rows, choose=choose, tolerance=tolerance)

    def residual(count):
        return reference.nystrom_distances(unit_rows(rows).numpy(), order[:count].tolist()).diagonal().mean()

    assert found.tolist() == order[: len(found)].tolist()
    assert residual(len(found)) <= tolerance
    assert len(found) == 1 or residual(len(found) - 1) > tolerance


@pytest.mark.parametrize("choose", ["random", "leverage"])
def test_drawn_columns_are_distinct_and_repeatable(choose):
    rows = normal(20, 6)
    before = torch.get_rng_state()
    drawn = [nystrom_columns(rows, 20, choose=choose, seed=seed).tolist() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[2]) == list(range(20))


def test_leverage_finds_the_filter_that_stands_alone():
    rows = torch.zeros(51, 2)
    rows[:, 0] = 1
    rows[37] = torch.tensor([0.0, 1.0])
    chosen = [37 in nystrom_columns(rows, 2, choose="leverage", seed=seed) for seed in range(200)]
    assert (
        sum(chosen) > 120
    )  # drawing in proportion to leverage, 37 comes among two with a chance of 3 in 4, not 1 in 25


def test_leverage_scores_equal_their_definition(rows):
    unit = unit_rows(rows).numpy()
    expected = np.diag(unit @ np.linalg.pinv(unit.T @ unit, rcond=1e-12) @ unit.T)
    np.testing.assert_allclose(similarity._leverage(unit_rows(rows)).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"count": 0}, {"count": 21}, {"count": "all"}, {"choose": "last"}])
def test_column_choices_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}={next(iter(options.values()))!r}"):
        nystrom_columns(normal(20, 6), **options)


def masked(matrix):
    return matrix.clone().fill_diagonal_(-torch.inf)


@pytest.mark.parametrize("block", [1, 50, 2**22])
def test_nearest_neighbours_are_those_of_the_whole_matrix(rows, block, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK", block)
    partner, found = nearest_neighbours(unit_rows(rows))
    expected = masked(1 - torch.from_numpy(reference.cosine_distances(rows.numpy())))
    torch.testing.assert_close(found, expected.amax(dim=1), rtol=0, atol=1e-10)
    best = expected >= expected.amax(dim=1, keepdim=True) - 1e-14
    assert partner.tolist() == best.to(torch.uint8).argmax(dim=1).tolist()


@pytest.mark.parametrize("columns", [2, 5])
def test_nearest_neighbours_of_a_nystrom_factor(columns):
    rows = normal(20, 6)
    partner, found = nearest_neighbours(nystrom_factor(rows, columns))
    expected = masked(nystrom_similarity(rows, columns))
    torch.testing.assert_close(found, expected.amax(dim=1), rtol=0, atol=1e-12)
    assert partner.tolist() == expected.argmax(dim=1).tolist()


def test_neighbours_of_some_filters_only():
    rows = unit_rows(normal(20, 6))
    partner, found = nearest_neighbours(rows)
    queries = torch.tensor([13, 2, 19])
    some_partner, some_found = nearest_neighbours(rows, queries)
    assert some_partner.tolist() == partner[queries].tolist()
    assert torch.equal(some_found, found[queries])


def test_a_filter_alone_has_no_neighbour():
    partner, found = nearest_neighbours(torch.ones(1, 3))
    assert partner.tolist() == [-1]
    assert found.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mutual_neighbours_have_the_same_similarity_to_the_last_bit(dtype):
    rows = unit_rows(normal(700, 49).to(dtype))
    partner, found = nearest_neighbours(rows)
    mutual = partner[partner] == torch.arange(700)
    assert mutual.sum() > 100
    assert torch.equal(found[mutual], found[partner][mutual])


def test_rounded_distances_tie_and_the_first_wins():
    rows = unit_rows(torch.tensor([[1.0, 0.0], [1.0, 0.1001], [1.0, 0.1]], dtype=torch.float64))
    assert nearest_neighbours(rows)[0].tolist() == [2, 2, 1]
    partner, found = nearest_neighbours(rows, decimals=2)
    assert partner.tolist() == [1, 0, 0]
    assert (1 - found).tolist() == pytest.approx([0, 0, 0])


@laws
@given(seed=st.integers(0, 10**6), filters=st.integers(2, 40), dim=st.integers(2, 12))
def test_permuted_filters_have_permuted_neighbours(seed, filters, dim):
    rows = unit_rows(normal(filters, dim, seed=seed))
    order = torch.randperm(filters, generator=torch.Generator().manual_seed(seed))
    partner, found = nearest_neighbours(rows)
    permuted_partner, permuted_found = nearest_neighbours(rows[order])
    assert order[permuted_partner].tolist() == partner[order].tolist()
    torch.testing.assert_close(permuted_found, found[order])


class LargestTensor(TorchDispatchMode):
    """The most numbers that any operation under it made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("columns", [None, "auto"])
def test_the_whole_matrix_is_never_formed(columns, monkeypatch):
    rows = filter_vectors(normal(600, 4, 3, 3))
    monkeypatch.setattr(similarity, "BLOCK", 600 * 16)
    with LargestTensor() as largest:
        factor = unit_rows(rows) if columns is None else nystrom_factor(rows, nystrom_columns(rows, columns))
        nearest_neighbours(factor)
    assert largest.numel <= 640 * 16  # a block of rows, filled up to a multiple of 64 columns


def test_trained_weights_have_the_references_neighbours():
    for tensor in checkpoint_layers().values():
        rows = filter_vectors(tensor.double())
        distance = reference.cosine_distances(rows.numpy())
        np.fill_diagonal(distance, np.inf)
        assert nearest_neighbours(rows)[0].tolist() == distance.argmin(axis=1).tolist()


def test_half_precision_rows_are_compared_in_float32():
    assert cosine_similarity(normal(5, 3).half()).dtype == torch.float32


def test_products_that_the_user_lets_pytorch_round_are_computed_in_float64():
    program = (
        "import torch; from lightning_cosprune import cosine_similarity\n"
        "def dtype(): return cosine_similarity(torch.eye(3)).dtype\n"
        "assert dtype() == torch.float32\n"
    )
    programs = ["torch.set_float32_matmul_precision('high')\nassert dtype() == torch.float64"]
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        # From PyTorch 2.9 on there is a switch a device, and PyTorch raises where the old question is asked then.
        programs.append(
            "for device, rounded in (torch.backends.mkldnn, 'bf16'), (torch.backends.cuda.matmul, 'tf32'):\n"
            "    held, device.fp32_precision = device.fp32_precision, rounded\n"
            "    assert dtype() == torch.float64, device\n"
            "    device.fp32_precision = held\n"
            "    assert dtype() == torch.float32, device\n"
        )
    for then in programs:
        command = [sys.executable, "-c", program + then]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, (then, result.stderr)


def test_autocast_rounds_nothing():
    rows = normal(40, 30).float()
    calls = [
        lambda: cosine_similarity(rows),
        lambda: nystrom_similarity(rows, 12),
        lambda: nystrom_columns(rows, choose="leverage", seed=1),
    ]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(), expected)
