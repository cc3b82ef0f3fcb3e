import torch
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import apply_plan, plan_pruning
from lightning_cosprune.surgery.report import format_table


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(384, 5))


def test_a_report_says_what_was_removed_and_what_was_not() -> None:
    model = network()
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, ignored_layers=["1"])
    report = apply_plan(model, plan, SPECTROGRAM)
    text = str(report)
    assert "filters of 0.0        8       4    50.0%" in text
    assert f"{report.before.params:,}" in text
    assert f"{report.after.macs:,}" in text
    assert "MACs at 2x1x8x8" in text
    assert "Layers that kept all their filters:\n  1: ignored\n  3: a linear layer" in text
    metrics = report.metrics()
    assert metrics["pruning/filters/0.0_before"] == 8
    assert metrics["pruning/filters/0.0_after"] == 4
    assert (
        metrics["pruning/params_after"]
        == report.after.params
        == sum(tensor.numel() for name, tensor in model.state_dict().items() if "num_batches" not in name)
    )


def test_columns_are_aligned() -> None:
    assert format_table(["", "wide"], [["a", "1"], ["longer", "22,222"]]) == (
        "          wide\n------  ------\na            1\nlonger  22,222"
    )
