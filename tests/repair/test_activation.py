import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from weights import normal

from lightning_cosprune.network.rectifiers import Sequel
from lightning_cosprune.repair.activation import Activation, as_pruned
from lightning_cosprune.repair.targets import Seen

BOUNDS = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0), "none": (-math.inf, math.inf)}


def network(affine: bool = True) -> nn.Module:
    norm = nn.BatchNorm2d(5, affine=affine).double()
    norm.running_mean.copy_(normal(5))
    norm.running_var.copy_(normal(5).square() + 0.5)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -0.7, 2.0, 0.0, 0.3]))  # one turns over, one is switched off
            norm.bias.copy_(normal(5, seed=1))
    return nn.Sequential(norm).eval()


def behind(model: nn.Module, sequel: Sequel, rows: torch.Tensor) -> torch.Tensor:
    """What the network makes of a layer's outputs."""
    with torch.no_grad():
        rows = rows if sequel.batch_norm is None else model(rows[:, :, None, None])[:, :, 0, 0]
    return rows.clamp(sequel.low, sequel.high)


@pytest.mark.parametrize("norm", [None, "affine", "plain"])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_targets_are_moved_only_where_it_makes_no_difference(norm: str | None, bounds: str) -> None:
    model = network(norm != "plain")
    sequel = Sequel("0" if norm else None, *BOUNDS[bounds])
    wanted, computed = 3 * normal(200, 5, seed=3), 3 * normal(200, 5, seed=4)
    moved = Activation(model, sequel, 5, torch.device("cpu")).moved(wanted, computed)
    torch.testing.assert_close(behind(model, sequel, moved), behind(model, sequel, wanted), rtol=0, atol=1e-12)
    assert ((moved - computed).abs() <= (wanted - computed).abs() + 1e-12).all()
    if bounds == "none":
        torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-12)
    # What is cut off in both networks is no error any more.
    exact, now = behind(model, sequel, wanted), behind(model, sequel, computed)
    outside = (exact == now) & ((exact == sequel.low) | (exact == sequel.high))
    if norm == "affine":
        outside[:, 3] = False  # switched off: nothing tells its outputs apart, and they stay
        assert torch.equal(moved[:, 3], wanted[:, 3])
    torch.testing.assert_close(moved[outside], computed[outside], rtol=0, atol=1e-12)
    assert outside.any() == (bounds != "none")


def test_targets_are_what_the_batch_norm_of_the_pruned_network_asks_for() -> None:
    """It has other statistics than the dense one, and a filter that both have switched off keeps its targets."""
    dense, kept = network(), [0, 1, 3, 4]
    pruned = nn.Sequential(nn.BatchNorm2d(4).double()).eval()
    pruned[0].running_mean.copy_(normal(4, seed=5))
    pruned[0].running_var.copy_(normal(4, seed=6).square() + 0.5)
    with torch.no_grad():
        pruned[0].weight.copy_(torch.tensor([2.0, 0.5, 0.0, -1.0]))
        pruned[0].bias.copy_(normal(4, seed=7))
    sequel, rows = Sequel("0", -math.inf, math.inf), normal(6, 2, 4, seed=8)
    before = torch.zeros(12, 5, dtype=torch.float64)
    before[:, kept] = rows.flatten(0, 1)
    seen = Seen(torch.arange(2), rows, torch.Size((6, 5, 1, 2)))
    as_pruned(SimpleNamespace(sequels={"layer": sequel}, seen=[{"layer": [seen]}]), pruned, dense, {"layer": kept})
    found, wanted = (
        behind(model, sequel, of_all) for model, of_all in ((pruned, seen.rows.flatten(0, 1)), (dense, before))
    )
    torch.testing.assert_close(found[:, [0, 1, 3]], wanted[:, kept][:, [0, 1, 3]])
    assert torch.equal(seen.rows[..., 2], rows[..., 2])
