import numpy as np
import pytest
import torch
from weights import normal

from lightning_cosprune.ranking.partners import find_partners


@pytest.mark.parametrize("dim", [3, 9, 40])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_single_and_the_best_joint_fit(dim: int, seed: int) -> None:
    """Against NumPy's least squares, filter by filter."""
    vectors = normal(12, dim, seed=seed)
    removed = [1, 4, 5, 11]
    found = find_partners(vectors, removed)
    rows = vectors.numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    kept = [idx for idx in range(12) if idx not in removed]
    for place, idx in enumerate(removed):
        cosines = rows[kept] @ rows[idx]
        assert found.idxs[place] == kept[int(cosines.argmax())]
        assert found.cosine[place] == pytest.approx(cosines.max())
        assert found.explained[place] == pytest.approx(max(cosines.max(), 0) ** 2)
        fit = np.linalg.lstsq(rows[kept].T, rows[idx], rcond=None)[0]
        unexplained = np.square(rows[idx] - rows[kept].T @ fit).sum()
        assert found.together[place] == pytest.approx(1 - unexplained, abs=1e-6)


def test_copies_are_explained_whole_and_what_points_apart_is_not() -> None:
    vectors = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0], [0, 3.0, 0], [0, 0, 0]])
    found = find_partners(vectors, [1, 2, 3, 4])
    assert found.idxs.tolist() == [0, 0, 0, 0]
    assert found.cosine.tolist() == [1, -1, 0, 0]
    assert found.explained.tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(found.together, torch.tensor([1.0, 1, 0, 0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_kept_copies_of_each_other_do_no_harm() -> None:
    vectors = normal(1, 9).repeat(6, 1)
    found = find_partners(vectors, [5])
    assert found.together.item() == pytest.approx(1, abs=1e-6)


def test_nothing_removed_gives_nothing() -> None:
    assert find_partners(normal(4, 9), []).idxs.tolist() == []


@pytest.mark.parametrize(
    ("removed", "message"), [([4], "numbers from 0 to 3"), ([-1], "numbers"), ([0, 1, 2, 3], "all 4")]
)
def test_wrong_numbers_are_refused(removed: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_partners(normal(4, 9), removed)
