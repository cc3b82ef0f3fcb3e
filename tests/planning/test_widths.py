"""The search for widths: laws that hold for any curves and costs."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cosprune.planning import widths as module
from lightning_cosprune.planning.widths import choose_widths


class Chain:
    """Layers that read each other: a layer's cost is what it reads times its own filters."""

    def __init__(self, sizes, weights):
        self.sizes, self.weights = sizes, weights

    def __call__(self, widths):
        widths = np.atleast_2d(widths).astype(float)
        with_ends = np.concatenate([np.ones((len(widths), 1)), widths, np.ones((len(widths), 1))], axis=1)
        links = with_ends[:, 1:] * with_ends[:, :-1]
        return {"params": links.sum(axis=1), "macs": links @ self.weights}


@st.composite
def problems(draw, most=12):
    groups = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**16))
    generator = np.random.default_rng(seed)
    sizes = generator.integers(2, most, groups)
    options = [np.arange(1, size + 1) for size in sizes]
    errors = [np.append(np.sort(generator.random(size - 1))[::-1], 0.0) for size in sizes]
    return options, errors, Chain(sizes, generator.random(groups + 1) + 0.1)


def solve(problem, evenness=0.0, **limits):
    options, errors, costs = problem
    return choose_widths(options, errors, costs, limits, evenness=evenness)


def error_of(problem, widths):
    options, errors, _ = problem
    return sum(errors[group][list(options[group]).index(width)] for group, width in enumerate(widths))


def score_of(problem, widths, evenness):
    shares = np.log([width / of_group[-1] for width, of_group in zip(widths, problem[0], strict=True)])
    return error_of(problem, widths) * (1 + evenness * shares.var())


EVENNESS = st.sampled_from([0.0, 1.0, 30.0])


@given(problems(), st.floats(0.05, 1.1), st.booleans(), EVENNESS)
@settings(max_examples=80, deadline=None)
def test_limits_are_kept_or_cannot_be(problem, share, exact, evenness):
    options, _, costs = problem
    dense = costs(np.array([widths[-1] for widths in options]))
    least = costs(np.array([widths[0] for widths in options]))
    limits = {name: share * values[0] for name, values in dense.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EXACT", 10**6 if exact else 0)
        found = solve(problem, evenness, **limits)
    if any(least[name][0] > limits[name] for name in limits):
        assert found is None
    else:
        assert all(costs(found)[name][0] <= limits[name] for name in limits)
        assert all(width in of_group for width, of_group in zip(found, options, strict=True))


@given(problems(), st.floats(0.1, 1), st.floats(0.1, 1), st.booleans(), st.sampled_from(["params", "macs"]), EVENNESS)
@settings(max_examples=80, deadline=None)
def test_a_tighter_limit_never_gives_a_network_that_costs_more(problem, one, other, exact, cost, evenness):
    dense = problem[2](np.array([widths[-1] for widths in problem[0]]))[cost][0]
    tight, loose = sorted((one, other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_EXACT", 10**6 if exact else 0)
        small, large = (solve(problem, evenness, **{cost: share * dense}) for share in (tight, loose))
    if small is not None:
        assert problem[2](small)[cost][0] <= problem[2](large)[cost][0]
        assert score_of(problem, small, evenness) >= score_of(problem, large, evenness)


@given(problems(most=7), st.floats(0.1, 1), EVENNESS)
@settings(max_examples=50, deadline=None)
def test_where_there_are_few_combinations_the_best_is_found(problem, share, evenness):
    options, _, costs = problem
    limit = share * costs(np.array([widths[-1] for widths in options]))["params"][0]
    feasible = [widths for widths in itertools.product(*options) if costs(np.array(widths))["params"][0] <= limit]
    found = solve(problem, evenness, params=limit)
    if feasible:
        best = min(score_of(problem, widths, evenness) for widths in feasible)
        assert score_of(problem, found, evenness) == pytest.approx(best)
    else:
        assert found is None


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_the_search_is_near_the_best_and_not_behind_its_rivals(share, monkeypatch):
    """Twelve problems of four groups whose best is known; uniform widths and one common error beside it."""
    behind = []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        sizes = generator.integers(8, 20, 4)
        options = [np.arange(1, size + 1) for size in sizes]
        errors = [
            np.append(generator.random() * np.exp(-generator.uniform(2, 6) * np.arange(1, size) / size), 0.0)
            for size in sizes
        ]
        problem = options, errors, Chain(sizes, generator.random(5) + 0.1)
        limit = share * problem[2](sizes)["macs"][0]
        best = error_of(problem, solve(problem, macs=limit))
        monkeypatch.setattr(module, "_EXACT", 0)
        found = error_of(problem, solve(problem, macs=limit))
        monkeypatch.undo()
        behind.append(found / max(best, 1e-9) - 1)
        uniform = [
            np.maximum(1, np.floor(sizes * part)).astype(int)
            for part in np.linspace(0, 1, 200)
            if problem[2](np.maximum(1, np.floor(sizes * part)).astype(int))["macs"][0] <= limit
        ]
        assert found <= min(error_of(problem, widths) for widths in uniform) + 1e-9
    assert np.mean(behind) < 0.05
    assert max(behind) < 0.25


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_of_widths_that_lose_about_as_much_those_are_taken_that_are_more_even(share, monkeypatch):
    """The first group loses a little less, and a path goes there whole; half way back costs nearly nothing."""
    monkeypatch.setattr(module, "_EXACT", 0)
    options = [np.arange(1, 65)] * 3
    lost = -np.log(np.arange(1, 65) / 64)
    problem = options, [0.9 * lost, lost, lost], lambda widths: {"params": np.atleast_2d(widths).prod(axis=1)}
    limit = share * 64**3
    least, even = solve(problem, params=limit), solve(problem, 1.0, params=limit)
    spread = [np.log(widths / 64).var() for widths in (least, even)]
    assert spread[1] < 0.6 * spread[0]
    assert error_of(problem, least) <= error_of(problem, even) < 1.1 * error_of(problem, least)
    clear = options, [0.1 * lost, 10 * lost, 10 * lost], problem[2]
    assert solve(clear, 1.0, params=limit).tolist() == solve(clear, params=limit).tolist()


def test_an_error_that_falls_in_a_step_is_jumped_over():
    """Ten filters fewer of the first layer cost no more than one: the next step alone would look dear."""
    options = [np.arange(1, 33), np.arange(1, 33)]
    cliff = np.where(np.arange(1, 33) >= 22, 0.3, 0.9)
    cliff[-1] = 0
    errors = [cliff, np.append(0.02 * np.arange(31, 0, -1), 0.0)]
    limit = 0.7 * (32 + 32 * 32 + 32)
    found = choose_widths(options, errors, Chain(None, np.ones(3)), {"params": limit})
    assert found[0] in (22, 32)


def test_several_limits_at_once():
    generator = np.random.default_rng(1)
    options = [np.arange(1, 41)] * 5
    errors = [np.append(np.sort(generator.random(39))[::-1], 0.0) for _ in range(5)]
    costs = Chain(None, np.array([5.0, 4, 3, 2, 1, 1]))
    dense = costs(np.full(5, 40))
    limits = {"params": 0.5 * dense["params"][0], "macs": 0.4 * dense["macs"][0]}
    found = choose_widths(options, errors, costs, limits)
    used = {name: costs(found)[name][0] / limit for name, limit in limits.items()}
    assert 0.85 < max(used.values()) <= 1
