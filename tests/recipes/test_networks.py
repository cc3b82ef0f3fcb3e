"""The benchmark of foreign networks, on plain ones that need neither torchvision nor timm."""

import copy

import pytest
import torch
from torch import nn

from lightning_cosprune import apply_plan, plan_pruning
from recipes.benchmarks import networks
from recipes.cells import read, write


@pytest.mark.parametrize("by", networks.CONTENDERS)
@pytest.mark.parametrize("name", ["chain:chain 3", "chain:residual 3"])
def test_a_network_is_cut_by_all_alike_and_rightly(name, by):
    found = networks.measure(name, by)
    assert not found.problem
    assert 0.35 < found.macs_removed < 0.55
    assert 0.25 < found.filters_removed < 0.3
    assert 0 <= found.error < 1e-12
    assert found.seconds > 0


def test_a_wrong_cut_and_a_failure_are_told(monkeypatch):
    dense, inputs = networks.make("chain:residual 2")
    pruned = copy.deepcopy(dense)
    apply_plan(pruned, plan_pruning(pruned, inputs, pruning_ratio=0.3), inputs)
    convolutions = [module for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        convolutions[2].weight.copy_(convolutions[2].weight.roll(1, dims=1))  # the right columns in a wrong order
    assert networks.difference(dense, pruned, inputs) > 1e-3

    def fails(network, _):
        if any(isinstance(module, networks.Residual) for module in network.modules()):
            raise IndexError("list index\nout of range")

    monkeypatch.setitem(networks.CONTENDERS, "torch-pruning", fails)
    found = networks.measure("chain:residual 2", "torch-pruning")
    assert found.problem == "IndexError: list index"
    assert found.macs_removed == 0


def test_columns_are_found_by_their_values_and_norms_are_left_out():
    wide = torch.randn(6, 5, 3, 3)
    narrow = wide[[0, 2, 3, 5]][:, [1, 4]]
    masked = networks._columns_left(wide, narrow, 1)
    assert torch.equal(masked[:, [1, 4]], wide[:, [1, 4]])
    assert not masked[:, [0, 2, 3]].any()
    assert networks._columns_left(wide, wide, 1) is None
    normed = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
    assert networks.difference(normed, normed, torch.zeros(1, 3, 4, 4)) == -1


def test_rows_are_kept_and_make_a_table(tmp_path, monkeypatch):
    def row(by, removed, seconds, error, problem=""):
        kept = "conv9: its filters are outputs of the network"
        return networks.Row("chain:chain 75", by, 1_000_000, 10, removed, 0.5, 0.3, seconds, 12.0, error, problem, kept)

    runs = tmp_path / "runs"
    ours = row("lightning_cosprune", 0.43, 122.0, 1e-15)
    write(runs / "chain_chain_75_lightning_cosprune.csv", networks.Row, [ours])
    alike = row("lightning_cosprune by L1", 0.43, 30.5, 1e-15)
    write(runs / "chain_chain_75_lightning_cosprune_by_L1.csv", networks.Row, [alike])
    write(runs / "chain_chain_75_torch-pruning.csv", networks.Row, [row("torch-pruning", 0.5, 61.0, 0.1)])
    monkeypatch.setattr(networks, "measure", lambda *_: pytest.fail("measured again"))
    networks.main(["--networks", "chain:chain 75", "--runs", str(runs), "--out", str(tmp_path / "networks.csv")])
    assert len(read(tmp_path / "networks.csv", networks.Row)) == 3
    told = (tmp_path / "networks.md").read_text()
    assert "cut wrongly: 0 by lightning_cosprune, 0 by lightning_cosprune by L1, 1 by torch-pruning" in told
    assert "median 0.860, least 0.86" in told
    assert "Time of lightning_cosprune as a multiple of theirs: median 2.0, greatest 2.0." in told
    assert "Over 60 s or 1536 MB: 1 by lightning_cosprune, 0 by lightning_cosprune by L1, 1 by torch-pruning." in told
    assert (
        "| chain:chain 75 | 1 M | 43.0% | 50.0% | 0.86 | 30.0% | 30.0% | 122.00 | 30.50 | 61.00 | 2.0 | 0.5 |" in told
    )
    assert "torch-pruning 50.0% and 30.0%. conv9: its filters are outputs of the network" in told
