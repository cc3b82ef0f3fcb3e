from __future__ import annotations

import pytest

from lightning_cosprune.data.shuffle import SeededShuffle


def test_the_epoch_and_the_seed_decide_the_order() -> None:
    rows = range(50)
    first, second = SeededShuffle(rows, seed=3), SeededShuffle(rows, seed=3)
    epochs = [list(first) for _ in range(3)]
    assert [list(second) for _ in range(3)] == epochs
    assert all(sorted(epoch) == list(rows) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(SeededShuffle(rows, seed=4)) != epochs[0]


def test_a_resumed_run_goes_on_with_the_order_of_its_epoch() -> None:
    sampler = SeededShuffle(range(50))
    epochs = [list(sampler) for _ in range(4)]
    resumed = SeededShuffle(range(50))
    resumed.set_epoch(2)
    assert [list(resumed), list(resumed)] == epochs[2:]


def test_every_seed_and_epoch_has_an_order_of_its_own() -> None:
    seeds = [0, 1, 2, 255, 256, 257, 512, 2**16, 2**24, 2**32, 2**40, 10**15, -1]
    samplers = [SeededShuffle(range(50), seed=seed) for seed in seeds]
    assert len({tuple(sampler) for _ in range(3) for sampler in samplers}) == 3 * len(seeds)


@pytest.mark.parametrize("rows", [[7, 3, 9], []])
def test_unshuffled_rows_keep_their_order(rows: list[int]) -> None:
    sampler = SeededShuffle(rows, shuffle=False)
    assert list(sampler) == rows
    assert len(sampler) == len(rows)
