from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from asserts import assert_equals_masked_dense
from fits import trainer_for
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import CosineFilterPruning, apply_plan, load_pruned, measure_complexity, plan_pruning
from lightning_cosprune.models import CPMobile, SceneClassifier

SECOND = torch.zeros(1, 1, 256, 65)


def lively(**options) -> CPMobile:
    """With batch norms that are not all alike, as after training."""
    torch.manual_seed(0)
    network = CPMobile(**options).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.1)
            nn.init.normal_(layer.running_mean, 0, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network


def test_counts_as_published() -> None:
    network = CPMobile()
    found = measure_complexity(network, SECOND)
    assert found.trainable_params == 61_148
    assert sum(parameter.numel() * 2 for parameter in network.half().parameters()) == 122_296
    norms = sum(layer.weight.numel() + layer.bias.numel() for layer in network.modules() if hasattr(layer, "eps"))
    assert found.macs + norms == 29_419_156  # the challenge's counter counts batch norms too, once each


@pytest.mark.parametrize(
    ("base", "widths", "stem"), [(32, (32, 56, 104), 8), (64, (64, 112, 208), 16), (8, (8, 16, 24), 2)]
)
def test_widths_are_rounded_to_multiples_of_eight(base: int, widths: tuple[int, ...], stem: int) -> None:
    network = CPMobile(base_channels=base)
    assert network.stage_widths == widths
    assert network.in_c[0][0].out_channels == stem
    assert [network.stages[stage][0].block[2][0].out_channels for stage in range(3)] == list(widths)


def test_names_are_those_of_the_challenges_network() -> None:
    names = list(CPMobile().state_dict())
    for name in (
        "in_c.0.0.weight",
        "in_c.1.1.running_var",
        "stages.s1.b1.block.0.0.weight",
        "stages.s2.b4.block.1.0.weight",
        "stages.s3.b6.block.2.1.bias",
        "feed_forward.0.weight",
        "feed_forward.1.num_batches_tracked",
    ):
        assert name in names
    assert len(names) == 6 * (2 + 3 * 6 + 1)


def test_expanded_depthwise_and_coupled_channels_go_and_none_is_refused(tmp_path: Path) -> None:
    dense, example = lively(num_classes=4, base_channels=16), torch.randn(2, 1, 64, 33)
    pruned = copy.deepcopy(dense)
    plan = plan_pruning(pruned, example[:1], pruning_ratio=0.5)
    report = apply_plan(pruned, plan, example[:1])
    assert list(report.skipped) == ["feed_forward.0"]  # the classes
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    expansions = [f"stages.s{stage}.b{block}.block.0.0" for stage, block in ((1, 1), (1, 2), (1, 3), (2, 4), (2, 5))]
    assert {"in_c.0.0", "in_c.1.0", *expansions} <= set(removed)
    # What is added up loses the same channels.
    coupled = ["in_c.1.0", *(f"stages.s1.b{block}.block.2.0" for block in (1, 2, 3))]
    assert len({tuple(removed[name]) for name in coupled}) == 1
    block = pruned.stages.s1.b1.block
    assert block[0][0].out_channels == block[1][0].groups == block[2][0].in_channels == 16
    assert_equals_masked_dense(dense, pruned, removed, example)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    again = load_pruned(CPMobile, tmp_path / "pruned.pt", num_classes=4, base_channels=16).eval()
    assert torch.equal(again(example), pruned(example))


def test_the_callback_prunes_and_repairs_it(tmp_path: Path) -> None:
    features = torch.randn(16, 1, 64, 33, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(features, torch.arange(16) % 4), batch_size=8)
    network = lively(num_classes=4, base_channels=16)
    pruning = CosineFilterPruning(0.5, at_epoch=1, repair="least_squares", calibration=16)
    trainer = trainer_for(tmp_path, pruning, max_epochs=2, enable_checkpointing=False)
    trainer.fit(SceneClassifier(network.train(), 4), loader, loader)
    assert network.stages.s1.b3.block[1][0].groups == 16
    assert pruning.repairs[0].layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_channels": 0}, r"`CPMobile\(base_channels=0\)`: expected a whole number from 1"),
        ({"num_blocks": (3, 0, 1)}, r"`CPMobile\(num_blocks=\(3, 0, 1\)\)`"),
        ({"strides": {"b9": (2, 2)}}, r"expected names of blocks, b1, b2, b3, b4, b5, b6, found 'b9'"),
        ({"num_classes": 0}, r"num_classes=0"),
    ],
)
def test_wrong_sizes_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CPMobile(**options)
