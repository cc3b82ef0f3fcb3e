"""Weights of single layers that every function of the ranking is held against the reference on: one list, all
functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import Tensor

CHECKPOINT = Path(__file__).parents[2] / "shared" / "weights" / "sbcnn_tau2019.pt"


# What a law is tried on: enough cases to find what breaks it, and no deadline, for test machines are shared.
laws = settings(deadline=None, max_examples=25)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rank_one() -> Tensor:
    return normal(12, 6, 1, 1) * normal(12, 1, 3, 3, seed=1)


def _clusters() -> Tensor:
    return normal(4, 8, 3, 3).repeat(6, 1, 1, 1) + 0.05 * normal(24, 8, 3, 3, seed=1)


def _channel_0_zero() -> Tensor:
    weight = normal(10, 4, 3, 3)
    weight[:, 0] = 0
    weight[5:, 1] = 0
    return weight


def _dead() -> Tensor:
    weight = normal(12, 3, 3, 3)
    weight[2] = 0
    weight[7] *= 1e-30
    weight[9] *= 1e-160  # its square is zero even in float64
    return weight


def _copies() -> Tensor:
    weight = normal(12, 3, 3, 3)
    weight[5] = weight[1]
    weight[8] = weight[11] = weight[3]
    weight[10] = -weight[0]
    return weight


def _opposites() -> Tensor:
    half = normal(8, 3, 3, 3)
    return torch.cat([half, -half])


def _sizes_apart() -> Tensor:
    return normal(14, 5, 3, 3) * torch.logspace(-3, 3, 14, dtype=torch.float64)[:, None, None, None]


def _equal_singular_values() -> Tensor:
    """Orthogonal slices of equal norm, so that every direction that they span leads."""
    basis = torch.linalg.qr(normal(10, 9, 9)).Q
    return basis[:, :4].reshape(10, 4, 3, 3) * torch.arange(1, 11, dtype=torch.float64)[:, None, None, None]


CASES: dict[str, Callable[[], Tensor]] = {
    "3x3": lambda: normal(16, 8, 3, 3),
    "7x7, as DCASE 2021": lambda: normal(32, 16, 7, 7),
    "one input channel": lambda: normal(16, 1, 7, 7),
    "more taps than channels": lambda: normal(20, 5, 7, 7),
    "one filter": lambda: normal(1, 4, 3, 3),
    "two filters": lambda: normal(2, 4, 3, 3),
    "1-D": lambda: normal(24, 10, 5),
    "1-D, two taps": lambda: normal(24, 10, 2),
    "3-D": lambda: normal(12, 4, 2, 3, 2),
    "1x1": lambda: normal(20, 7, 1, 1),
    "linear": lambda: normal(20, 30),
    "rank one": _rank_one,
    "clusters": _clusters,
    "input channel 0 zero": _channel_0_zero,
    "dead filters": _dead,
    "copies, triples, an opposite": _copies,
    "opposites": _opposites,
    "sizes far apart": _sizes_apart,
    "equal singular values": _equal_singular_values,
    "tiny as a whole": lambda: normal(10, 3, 3, 3) * 1e-200,
    "huge as a whole": lambda: normal(10, 3, 3, 3) * 1e200,
    "all zero": lambda: torch.zeros(5, 3, 3, 3, dtype=torch.float64),
}


def checkpoint_layers() -> dict[str, Tensor]:
    """The convolutions of a network trained on TAU 2019, in float32."""
    if not CHECKPOINT.exists():
        pytest.skip(f"the weights of a trained network, {CHECKPOINT.name}, are not beside the repository")
    state = torch.load(CHECKPOINT, weights_only=True)
    return {name: tensor for name, tensor in state.items() if tensor.ndim == 4}
