import itertools

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from weights import CASES, checkpoint_layers, laws, normal

from lightning_cosprune.ranking.criteria import SCORES
from lightning_cosprune.ranking.filters import filter_rows, filter_vectors
from lightning_cosprune.ranking.introsort import numpy1_argsort
from lightning_cosprune.ranking.redundancy import CRITERIA, check_criterion, rank_filters, redundant_filters
from lightning_cosprune.ranking.similarity import cosine_similarity, nystrom_similarity

SEEDS = st.integers(0, 10**6)


def shuffled(filters, seed):
    return torch.randperm(filters, generator=torch.Generator().manual_seed(seed))


# The published selections


@pytest.mark.parametrize("vectors", ["prototype", "flat"])
@pytest.mark.parametrize("case", CASES)
def test_selection_equals_the_reference(case, vectors):
    weight = CASES[case]()
    found = redundant_filters(weight, vectors=vectors)
    assert found.kept_idxs == reference.kept(weight.numpy(), vectors)
    assert found.pruned_idxs == sorted(set(range(len(weight))) - set(found.kept_idxs))


@pytest.mark.parametrize("decimals", [None, 5])
@pytest.mark.parametrize("columns", [1, 2, 6])
@pytest.mark.parametrize(
    "case", ["3x3", "7x7, as DCASE 2021", "more taps than channels", "1-D", "clusters", "dead filters"]
)
def test_nystrom_selection_equals_the_reference(case, columns, decimals):
    weight = CASES[case]()
    found = redundant_filters(weight, nystrom_columns=columns, decimals=decimals)
    assert found.kept_idxs == reference.kept(weight.numpy(), columns=columns, decimals=decimals)


@laws
@given(seed=SEEDS, filters=st.integers(1, 16), channels=st.integers(1, 4), taps=st.integers(1, 5))
def test_selection_of_random_weights_equals_the_reference(seed, filters, channels, taps):
    weight = normal(filters, channels, taps, seed=seed)
    assert redundant_filters(weight).kept_idxs == reference.kept(weight.numpy())
    assert redundant_filters(weight, ties="numpy1").kept_idxs == reference.kept(
        weight.numpy()
    )  # stable up to 16 filters


@pytest.mark.parametrize("filters", [2, 9, 16, 17, 64, 200])
@pytest.mark.parametrize("decimals", [None, 5, 1])
def test_numpy1_order_of_ties_is_the_recorded_argsort(filters, decimals):
    weight = normal(filters, 6, 3, 3)
    found = redundant_filters(weight, ties="numpy1", decimals=decimals)
    partner, distance = found.partner.tolist(), (1 - found.similarity).tolist()
    kept, redundant = [], set()
    for i in numpy1_argsort(distance):
        if i not in redundant:
            kept.append(i)
            redundant.add(partner[i])
    assert found.kept_idxs == sorted(kept)
    if filters == 200:
        assert found.kept_idxs != redundant_filters(weight, decimals=decimals).kept_idxs


@pytest.mark.parametrize("columns", [None, 6, 21])
@pytest.mark.parametrize("decimals", [5, 2, 1])
@pytest.mark.parametrize("filters", [12, 40, 200])
def test_the_2023_scripts_read_literally_select_the_same(filters, decimals, columns):
    """`n(i) = argsort(D[i])[1]`, then the walk; `decimals` below 5 so that there are ties in the rows as well."""
    weight = normal(filters, 6, 7, 7)
    rows = reference.vectors(weight.numpy())
    distance = (
        reference.cosine_distances(rows)
        if columns is None
        else reference.nystrom_distances(rows, min(columns, filters))
    )
    distance = np.round(distance, decimals)
    ranges = [numpy1_argsort(row.tolist()) for row in distance]
    nearest = [order[1] if order[0] == i else order[0] for i, order in enumerate(ranges)]
    kept, redundant = [], set()
    for i in numpy1_argsort([float(distance[i, nearest[i]]) for i in range(filters)]):
        if i not in redundant:
            kept.append(i)
            redundant.add(nearest[i])
    found = redundant_filters(weight, nystrom_columns=columns, decimals=decimals, ties="numpy1")
    assert found.partner.tolist() == nearest
    assert found.kept_idxs == sorted(kept)
    if filters > 16 and decimals < 5:
        assert found.partner.tolist() != redundant_filters(weight, nystrom_columns=columns, decimals=1).partner.tolist()


def test_copies_are_found_beside_filters_that_are_rounded_to_the_same():
    weight = torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1, 2, 0]]
    weight[0, 3] = 1e-4  # to two decimals a copy of filters 1, 2 and 5, which are exact copies of each other
    for ties in ("stable", "numpy1"):
        kept = redundant_filters(weight, decimals=2, ties=ties).kept_idxs
        assert len({1, 2, 5} & set(kept)) <= 1


@pytest.mark.parametrize("filters", [9, 16, 64, 256])
def test_nine_columns_select_as_exact_on_3x3_kernels(filters):
    for seed in range(5):
        weight = normal(filters, 8, 3, 3, seed=seed)
        assert redundant_filters(weight, nystrom_columns=9).kept_idxs == redundant_filters(weight).kept_idxs
        assert rank_filters(weight, "cosine_nystrom", nystrom_columns=9).tolist() == rank_filters(weight).tolist()


@pytest.mark.parametrize(
    ("shape", "columns"), [((16, 1, 7, 7), 12), ((16, 16, 7, 7), 6), ((32, 16, 7, 7), 21), ((64, 1, 3, 3), 9)]
)
def test_the_published_numbers_of_columns_are_accepted(shape, columns):
    found = redundant_filters(normal(*shape), nystrom_columns=columns, decimals=5, ties="numpy1")
    assert 0 < len(found.pruned_idxs) <= shape[0] // 2


@pytest.mark.parametrize("columns", [[3, 0, 11], torch.tensor([3, 0, 11]), 100, "auto"])
def test_columns_may_be_numbers_too_many_or_automatic(columns):
    weight = normal(12, 8, 3, 3)
    found = redundant_filters(weight, nystrom_columns=columns)
    if isinstance(columns, (list, torch.Tensor)):
        similarity = nystrom_similarity(filter_vectors(weight), columns).fill_diagonal_(-torch.inf)
        assert found.partner.tolist() == similarity.argmax(dim=1).tolist()
    else:
        assert found.kept_idxs == redundant_filters(weight).kept_idxs


@pytest.mark.parametrize("columns", [0, "all", [12], 2.5])
def test_columns_that_make_no_sense_are_refused(columns):
    with pytest.raises(ValueError, match="columns="):
        redundant_filters(normal(12, 8, 3, 3), nystrom_columns=columns)


def test_partner_and_similarity_are_those_of_the_matrix():
    weight = normal(20, 8, 3, 3)
    similarity = cosine_similarity(filter_vectors(weight)).fill_diagonal_(-torch.inf)
    found = redundant_filters(weight)
    torch.testing.assert_close(found.similarity, similarity.amax(dim=1))
    assert found.partner.tolist() == similarity.argmax(dim=1).tolist()


def test_trained_weights_are_selected_as_by_the_reference():
    for tensor in checkpoint_layers().values():
        expected = reference.kept(tensor.double().numpy())
        assert redundant_filters(tensor.double()).kept_idxs == expected
        assert redundant_filters(tensor).kept_idxs == expected  # float32 is enough for a real network
        assert redundant_filters(tensor, nystrom_columns=25).kept_idxs == expected
        assert 0 < len(expected) < len(tensor)


# Laws


@laws
@given(seed=SEEDS, filters=st.integers(2, 40))
def test_one_of_every_mutual_pair_goes_and_no_other(seed, filters):
    found = redundant_filters(normal(filters, 5, 3, 3, seed=seed))
    partner = found.partner.tolist()
    assert found.pruned_idxs == [i for i in range(filters) if partner[partner[i]] == i and partner[i] < i]


@laws
@given(seed=SEEDS)
def test_permuting_filters_permutes_the_pairs_of_which_one_goes(seed):
    weight = normal(20, 5, 3, 3, seed=seed)
    order = shuffled(20, seed)
    found, permuted = redundant_filters(weight), redundant_filters(weight[order])

    def pairs(redundancy, names):
        return {frozenset((names[i], names[int(redundancy.partner[i])])) for i in redundancy.pruned_idxs}

    assert pairs(permuted, order.tolist()) == pairs(found, list(range(20)))


@laws
@given(seed=SEEDS)
def test_positive_factors_on_filters_change_nothing(seed):
    weight = normal(20, 5, 3, 3, seed=seed)
    factors = torch.logspace(-3, 3, 20, dtype=torch.float64)[shuffled(20, seed)]
    scaled = weight * factors[:, None, None, None]
    assert redundant_filters(scaled).kept_idxs == redundant_filters(weight).kept_idxs
    assert rank_filters(scaled).tolist() == rank_filters(weight).tolist()


@laws
@given(seed=SEEDS, copies=st.integers(1, 6))
def test_of_copies_one_stays(seed, copies):
    weight = normal(12, 5, 3, 3, seed=seed)
    place = shuffled(12 + copies, seed)
    factors = torch.cat([torch.ones(12), torch.arange(2.0, 2 + copies)]).double()[:, None, None, None]
    crowded = (torch.cat([weight, weight[:1].expand(copies, -1, -1, -1)]) * factors)[place]
    same = [i for i, original in enumerate(place.tolist()) if original == 0 or original >= 12]
    for ties in ("stable", "numpy1"):
        kept = redundant_filters(crowded, ties=ties).kept_idxs
        assert len(set(kept) & set(same)) == 1
    assert set(rank_filters(crowded)[:copies].tolist()) < set(same)  # copies go before all others


@laws
@given(seed=SEEDS)
def test_turning_every_filter_round_changes_nothing(seed):
    weight = normal(20, 5, 3, 3, seed=seed)
    assert redundant_filters(-weight).kept_idxs == redundant_filters(weight).kept_idxs


@laws
@given(
    seed=SEEDS,
    filters=st.integers(1, 30),
    ties=st.sampled_from(["stable", "numpy1"]),
    vectors=st.sampled_from(["prototype", "flat"]),
)
def test_the_ranking_starts_with_the_redundant_filters(seed, filters, ties, vectors):
    weight = normal(filters, 3, 3, seed=seed)
    weight[seed % filters] *= seed % 2
    order = rank_filters(weight, "cosine", ties=ties, vectors=vectors)
    redundant = redundant_filters(weight, ties=ties, vectors=vectors).pruned_idxs
    assert sorted(order.tolist()) == list(range(filters))
    assert sorted(order[: len(redundant)].tolist()) == redundant


@pytest.mark.parametrize("case", CASES)
def test_the_ranking_repeats_the_rule_among_those_that_stay(case):
    weight = CASES[case]()
    order = rank_filters(weight).tolist()
    for removed in reference.ranking(weight.numpy()):
        assert set(order[: len(removed)]) == removed
        order = order[len(removed) :]
    assert order == []


@pytest.mark.parametrize("filters", [12, 700])
@pytest.mark.parametrize(
    ("criterion", "options"), [("cosine", {}), ("cosine", {"ties": "numpy1"}), ("cosine_nystrom", {}), ("l1", {})]
)
def test_the_first_filters_are_those_of_all(criterion, options, filters):
    """Copies and a dead filter among them; more than are ranked in one matrix, too."""
    weight = normal(filters, 4, 3, 3)
    weight[5] = 2 * weight[3]
    weight[7] = 0
    order = rank_filters(weight, criterion, **options).tolist()
    assert sorted(order) == list(range(filters))
    for removals in (0, 1, 2, filters // 3, filters // 2, filters - 1, filters):
        assert rank_filters(weight, criterion, removals=removals, **options).tolist() == order[:removals]


def test_the_most_similar_pair_goes_first():
    weight = normal(20, 8, 3, 3)
    found = redundant_filters(weight)
    first = int(rank_filters(weight)[0])
    assert found.similarity[first] == found.similarity.max()


# Edge rules


def test_dead_filters_are_the_first_to_go():
    weight = normal(8, 4, 3, 3).float()
    weight[[2, 5]] = 0
    weight[6] = 1e-30
    found = redundant_filters(weight)
    assert {2, 5, 6} <= set(found.pruned_idxs)
    assert found.partner[[2, 5, 6]].tolist() == [-1] * 3
    assert found.similarity[[2, 5, 6]].tolist() == [1] * 3
    assert rank_filters(weight)[:3].tolist() == [2, 5, 6]
    assert rank_filters(weight, "cosine_nystrom")[:3].tolist() == [2, 5, 6]
    others = [0, 1, 3, 4, 7]
    assert [others[i] for i in redundant_filters(weight[others]).kept_idxs] == found.kept_idxs


def test_of_a_dead_layer_one_filter_stays():
    found = redundant_filters(torch.zeros(4, 3, 3, 3))
    assert found.kept_idxs == [0]
    assert rank_filters(torch.zeros(4, 3, 3, 3)).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("shape", [(1, 4, 3, 3), (1, 4)])
def test_the_only_filter_is_not_redundant(shape):
    found = redundant_filters(normal(*shape))
    assert (found.kept_idxs, found.pruned_idxs, found.partner.tolist()) == ([0], [], [-1])
    assert found.similarity.tolist() == [0]
    for criterion in CRITERIA:
        assert rank_filters(normal(*shape), criterion).tolist() == [0]


def test_the_only_filter_alive_stays():
    weight = torch.zeros(3, 2, 2)
    weight[1] = 1
    assert redundant_filters(weight).kept_idxs == [1]
    assert rank_filters(weight).tolist() == [0, 2, 1]


def test_opposite_filters_are_not_redundant_to_each_other():
    weight = normal(1, 4, 3, 3).repeat(3, 1, 1, 1)
    weight[1] *= -1
    weight[2] = normal(4, 3, 3, seed=1)
    found = redundant_filters(weight)
    assert found.partner[0] != 1
    assert found.partner[1] != 0
    only_two = redundant_filters(weight[:2])
    assert only_two.similarity.tolist() == pytest.approx([-1, -1])
    assert only_two.pruned_idxs == [1]  # each is the other's nearest, however far: the rule knows no threshold


def test_equally_near_filters():
    weight = torch.eye(5)[:, None]  # every two are at right angles
    found = redundant_filters(weight, vectors="flat")
    assert found.partner.tolist() == [1, 0, 0, 0, 0]
    assert found.kept_idxs == [0, 2, 3, 4]
    assert rank_filters(weight, vectors="flat").tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "random"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_filters_that_are_not_finite_are_named(criterion, value):
    weight = normal(6, 4, 3, 3)
    weight[3, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 6 filters: 3\."):
        rank_filters(weight, criterion)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_selects_as_the_same_numbers_in_float64(dtype):
    weight = normal(40, 16, 3, 3).to(dtype).requires_grad_()
    found = redundant_filters(weight)
    assert found.kept_idxs == redundant_filters(weight.detach().double()).kept_idxs
    assert found.similarity.dtype == torch.float32
    assert not found.similarity.requires_grad


def test_a_redundancy_cannot_be_changed():
    with pytest.raises(AttributeError):
        redundant_filters(normal(4, 3)).kept_idxs = []


@pytest.mark.parametrize("option", [{"vectors": "prototypes"}, {"ties": "numpy"}])
def test_options_out_of_range_are_refused(option):
    name, value = next(iter(option.items()))
    for call in (redundant_filters, rank_filters):
        with pytest.raises(ValueError, match=f"{value}"):
            call(normal(4, 3, 3), **option)
    assert name


# Criteria


@pytest.mark.parametrize("name", SCORES)
def test_a_named_criterion_ranks_by_its_scores(name):
    weight = normal(20, 4, 3, 3)
    assert rank_filters(weight, name).tolist() == SCORES[name](weight).argsort(stable=True).tolist()


def test_equal_scores_go_in_the_order_of_the_filters():
    assert rank_filters(torch.ones(40, 2, 2), "l1").tolist() == list(range(40))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_ranks_coupled_layers_as_one(criterion):
    layers = [normal(14, 4, 3, 3), normal(14, 6, 3, 3, seed=1)]
    order = rank_filters(layers, criterion)
    assert sorted(order.tolist()) == list(range(14))
    if criterion in SCORES:
        assert order.tolist() == rank_filters(torch.cat(layers, dim=1), criterion).tolist()
    else:
        redundant = redundant_filters(layers).pruned_idxs
        assert sorted(order[: len(redundant)].tolist()) == redundant


def test_a_callable_gives_the_scores():
    weight = normal(9, 4, 3, 3)

    def peak(weight, sign=1):
        return sign * weight.flatten(1).abs().amax(dim=1)

    expected = peak(weight).argsort()
    assert rank_filters(weight, peak).tolist() == expected.tolist()
    assert rank_filters(weight, peak, sign=-1).tolist() == expected.flip(0).tolist()
    assert rank_filters([weight, weight], peak).tolist() == rank_filters(filter_rows([weight, weight]), peak).tolist()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(3, 2), r"shape \(3, 2\)"),
        (torch.zeros(2), r"shape \(2,\)"),
        (torch.tensor([0, 1, torch.nan]), "found NaN or infinity"),
    ],
)
def test_scores_that_are_not_one_finite_number_a_filter_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        rank_filters(normal(3, 4), lambda weight: scores)


def test_random_ranks_by_seed():
    weight = normal(30, 4)
    orders = [tuple(rank_filters(weight, "random", seed=seed).tolist()) for seed in range(5)]
    assert len(set(orders)) == 5
    assert rank_filters(weight, "random", seed=3).tolist() == list(orders[3])


@pytest.mark.parametrize(
    ("criterion", "option"), [("cosine", "seed"), ("l1", "p"), ("random", "ties"), ("cosine", "nystrom_columns")]
)
def test_options_that_a_criterion_does_not_have_are_refused(criterion, option):
    with pytest.raises(TypeError, match=f"criterion='{criterion}', {option}="):
        rank_filters(normal(4, 3), criterion, **{option: 1})


def test_a_criterion_that_does_not_exist_is_refused_with_the_nearest():
    for name in CRITERIA:
        check_criterion(name)
    check_criterion(len)
    with pytest.raises(
        ValueError, match=r"`criterion='geometric-median'`: expected one of cosine, .*Did you mean 'geometric_median'\?"
    ):
        check_criterion("geometric-median")
    for wrong in (None, 3, "zzz"):
        with pytest.raises(ValueError, match="expected one of"):
            check_criterion(wrong)


# Devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("criterion", CRITERIA)
def test_on_a_gpu_the_ranking_is_the_same(criterion):
    for case, dtype in itertools.product(
        ["3x3", "7x7, as DCASE 2021", "dead filters", "1x1"], [torch.float32, torch.float64]
    ):
        weight = CASES[case]().to(dtype)
        order = rank_filters(weight.cuda(), criterion)
        assert order.is_cuda
        assert order.tolist() == rank_filters(weight, criterion).tolist(), (case, dtype)


@pytest.mark.parametrize(("filters", "ties"), [(12, "stable"), (60, "stable"), (14, "numpy1"), (400, "stable")])
@pytest.mark.parametrize("decimals", [2, 1])
def test_every_round_of_a_ranking_rounds_alike(filters, ties, decimals):
    weight = normal(filters, 6, 3, 3)
    distance = reference.cosine_distances(reference.vectors(weight.numpy()))
    order = rank_filters(weight, decimals=decimals, ties=ties).tolist()
    names = np.arange(filters)
    while len(names) > 1:
        kept = names[sorted(reference.greedy(distance[np.ix_(names, names)], decimals, ties))]
        gone = len(names) - len(kept)
        assert set(order[:gone]) == set(names) - set(kept)
        order, names = order[gone:], kept
    assert order == names.tolist()
