from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from asserts import assert_equals_masked_dense
from fits import trainer_for
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import (
    CosineFilterPruning,
    PruningPlan,
    apply_plan,
    load_pruned,
    measure_complexity,
    plan_pruning,
)
from lightning_cosprune.models import SceneClassifier, VGGishASC

PATCH = torch.zeros(1, 1, 96, 64)
KEPT = (51, 101, 215, 204, 404, 402)
NARROW = {"widths": (8, 6, 8, 10, 8, 6), "hidden": (16, 8)}


def test_counts_as_published() -> None:
    complexity = measure_complexity(VGGishASC(), PATCH)
    assert complexity.params == complexity.trainable_params == 55_361_162
    assert complexity.macs / 1e6 == pytest.approx(847.1, abs=0.05)


def test_the_published_kept_counts_give_the_published_costs() -> None:
    """Singh and Plumbley (ICASSP 2023): 42.890 M parameters and 552.2 M MACs."""
    small = measure_complexity(VGGishASC(widths=KEPT), PATCH)
    assert small.params == 42_889_796
    assert small.macs / 1e6 == pytest.approx(552.2, abs=0.05)


@pytest.mark.slow
def test_the_whole_network_is_cut_to_the_published_counts() -> None:
    network = VGGishASC()
    full = {f"conv{number}": width for number, width in enumerate((64, 128, 256, 256, 512, 512), start=1)}
    pruned = {name: list(range(kept, full[name])) for name, kept in zip(full, KEPT, strict=True)}
    report = apply_plan(network, PruningPlan(pruned, full), PATCH)
    assert report.after == measure_complexity(VGGishASC(widths=KEPT), PATCH)


def test_every_convolution_is_pruned_and_none_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense, example = VGGishASC(4, **NARROW).eval(), torch.randn(2, 1, 96, 64)
    pruned = copy.deepcopy(dense)
    report = apply_plan(pruned, plan_pruning(pruned, PATCH, pruning_ratio=0.5), PATCH)
    assert sorted(report.skipped) == ["fc1", "fc2", "fc3"]
    widths = [layer.filters_after for layer in sorted(report.layers, key=lambda layer: layer.name)]
    assert widths == [4, 3, 4, 5, 4, 3]
    assert_equals_masked_dense(dense, pruned, {layer.name: list(layer.pruned_idxs) for layer in report.layers}, example)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    again = load_pruned(VGGishASC, tmp_path / "pruned.pt", num_classes=4, **NARROW).eval()
    assert torch.equal(again(example), pruned(example))
    fresh = VGGishASC(4, widths, (16, 8))
    fresh.load_state_dict(pruned.state_dict())


def test_the_callback_prunes_it(tmp_path: Path) -> None:
    patches = torch.randn(8, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(patches, torch.arange(8) % 4), batch_size=4)
    network = VGGishASC(4, **NARROW)
    pruning = CosineFilterPruning(0.5, at_epoch=1)
    trainer = trainer_for(tmp_path, pruning, max_epochs=2, enable_checkpointing=False)
    trainer.fit(SceneClassifier(network.train(), 4), loader, loader)
    assert network.conv6.out_channels == 3
    assert network.fc1.in_features == 3 * 6 * 4


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`VGGishASC\(widths=\(1, 2\)\)`: expected 6 positive whole numbers"):
        VGGishASC(widths=(1, 2))
    with pytest.raises(ValueError, match=r"`VGGishASC\(hidden=\(8,\)\)`: expected two positive"):
        VGGishASC(hidden=(8,))
    with pytest.raises(ValueError, match=r"num_frames=15, num_bands=64.*at least 16"):
        VGGishASC(num_frames=15)
