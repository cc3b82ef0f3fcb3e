"""How near two networks' scores are."""

import numpy as np
import pytest
import torch

from recipes.statistics import agreement, correlation


def test_agreement_and_correlation_are_with_the_dense_network():
    dense = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    assert agreement(2 * dense, dense) == 1
    assert correlation(2 * dense + 1, dense) == pytest.approx(1)
    other = dense.clone()
    other[:3] *= -1
    assert agreement(other, dense) == (other.argmax(dim=1) == dense.argmax(dim=1)).double().mean() < 1
    assert correlation(other, dense) == pytest.approx(np.corrcoef(other.flatten(), dense.flatten())[0, 1])
