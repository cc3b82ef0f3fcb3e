"""Records as they come of small and of large networks."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import Outcome, RunRecord, apply_plan, plan_pruning, refit_least_squares
from lightning_cosprune.reports.layers import with_pictures
from lightning_cosprune.reports.record import Event, Phase


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 8), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(384, 5))


def chain(*widths: int) -> nn.Sequential:
    """3x3 convolutions of these widths, each of which has some filters that are like others."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, filters in zip((1, *widths), widths, strict=False):
        layer = nn.Conv2d(inputs, filters, 3, padding=1)
        third = filters // 3
        with torch.no_grad():
            layer.weight[third : 2 * third] = 1.5 * layer.weight[:third] + 0.01 * torch.randn_like(layer.weight[:third])
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4))


def record_of(model: nn.Module, inputs: Tensor = SPECTROGRAM, *, repair: bool = True) -> RunRecord:
    """Of half of the filters removed, with invented accuracies of three seeds."""
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
    clips = torch.randn(16, *inputs.shape[1:], generator=torch.Generator().manual_seed(0))
    repairs = [refit_least_squares(model, dense, [clips], report=report)] if repair else []
    before, after = report.before, report.after
    scenes = {"airport": 0.5, "street_traffic": 0.9}

    def outcome(label: str, role: str, accuracy: float, series: str, fraction: float | None = None) -> Outcome:
        cost = before if role == "dense" else after
        return Outcome(
            label,
            role,
            (accuracy, accuracy + 0.02, accuracy - 0.01),
            (1.0, 1.1, 0.9),
            (float(cost.macs),),
            (float(cost.params),),
            (float(cost.bytes),),
            (10.0, 11.0, 12.0),
            (0.004 if role == "dense" else 0.003,),
            fraction,
            series,
            {name: share * accuracy for name, share in scenes.items()},
            {"a": accuracy, "s1": accuracy / 2},
        )

    outcomes = [
        outcome("dense", "dense", 0.8, ""),
        outcome("cosine, as cut", "cut", 0.3, "cosine"),
        outcome("cosine, repaired", "repaired", 0.75, "cosine"),
        outcome("cosine, fine-tuned", "tuned", 0.79, "cosine", 0.5),
        outcome("cosine, fine-tuned on all", "tuned", 0.8, "cosine", 1.0),
        outcome("random, fine-tuned", "tuned", 0.77, "random", 1.0),
        outcome("from scratch", "rival", 0.78, ""),
    ]
    record = RunRecord.of(
        [report],
        repairs,
        outcomes,
        title="Pruning <a network>",
        setting={"network": "a & b", "criterion": "cosine"},
        curves={
            "train/loss": ((1.0, 2.0), (2.0, 1.5), (3.0, 1.4)),
            "val/accuracy": ((1.0, 0.5), (2.0, 0.6), (3.0, 0.7)),
        },
        events=(Event(2.0, "pruned and repaired"),),
        phases=(Phase("dense training", 10.0, 0.002, 0.001), Phase("repair", 1.0, 0.0002, 0.0001)),
        energy_source="CPU estimated",
        tables={"More": (("", "x"), ("a row", "1"))},
        notes=("1 < 2",),
    )
    return with_pictures(record, dense, inputs)
