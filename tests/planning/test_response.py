"""Criterion "response", from calibration data to a plan."""

import copy

import pytest
import torch
from torch import nn
from zoo import SPECTROGRAM, Residual, conv_bn

from lightning_cosprune import apply_plan, plan_pruning, refit_least_squares
from lightning_cosprune.calibration.readings import input_covariances, readings_of
from lightning_cosprune.network.channels import ChannelGraph
from lightning_cosprune.network.rows import weight_rows


def data(samples: int = 12) -> list[torch.Tensor]:
    return [torch.randn(samples, *SPECTROGRAM.shape[1:], generator=torch.Generator().manual_seed(0))]


def chain(between: nn.Module, reader: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(SPECTROGRAM.shape[1], 8, 3, padding=1), between, reader)


READERS = {
    "convolution": chain(nn.ReLU(), nn.Conv2d(8, 4, 3)),
    "batch norm and pooling between": chain(
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)), nn.Conv2d(8, 4, 1)
    ),
    "depthwise between": chain(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()), nn.Conv2d(8, 4, 1)),
    "grouped": chain(nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2)),
    "transposed": chain(nn.ReLU(), nn.ConvTranspose2d(8, 4, 3, stride=2)),
    "linear behind mean": chain(nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Flatten(), nn.Linear(8, 4))),
    "linear behind flatten": chain(nn.MaxPool2d(4), nn.Sequential(nn.Flatten(), nn.Linear(32, 4))),
}


@pytest.mark.parametrize("name", READERS)
def test_a_filter_that_is_the_sum_of_others_where_it_is_read_goes_first(name):
    model = copy.deepcopy(READERS[name]).eval()
    with torch.no_grad():
        # Twice the same filter: all that comes between leaves the copies alike.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(0.7)
        model[0].weight[6], model[0].bias[6] = model[0].weight[1], model[0].bias[1]
        for module in model[1].modules():
            if isinstance(module, nn.Conv2d):
                module.weight[6], module.bias[6] = module.weight[1], module.bias[1]
    grouped = name == "grouped"
    plan = plan_pruning(
        model, SPECTROGRAM, criterion="response", pruning_ratio={"0": 0.25 if grouped else 0.125}, calibration=data()
    )
    if grouped:  # the copies are in different groups, so that none can speak for the other
        assert len(plan.pruned["0"]) == 2
        assert [idx // 4 for idx in plan.pruned["0"]] == [0, 1]
    else:
        assert plan.pruned["0"] in ([1], [6])


def test_every_group_is_planned_and_coupled_layers_lose_the_same():
    torch.manual_seed(0)
    model = Residual()
    before = copy.deepcopy(model.state_dict())
    plan = plan_pruning(model, SPECTROGRAM, criterion="response", pruning_ratio=0.5, calibration=data())
    assert plan.pruned["stem"] == plan.pruned["block1.1.0"]
    other = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    assert {name: len(idxs) for name, idxs in plan.pruned.items()} == {
        name: len(idxs) for name, idxs in other.pruned.items()
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_after_repair_it_leaves_less_unsaid_than_chance():
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(SPECTROGRAM.shape[1], 12), conv_bn(12, 12), nn.Flatten(), nn.LazyLinear(3)).eval()
    model(SPECTROGRAM)
    with torch.no_grad():  # an even spread of filters that hang together
        weight = model[1][0].weight
        weight.copy_((torch.randn(12, 4) @ torch.randn(4, weight[0].numel())).reshape(weight.shape) + 0.1 * weight)
    errors = {}
    for criterion in ("response", "random"):
        pruned = copy.deepcopy(model)
        calibration = data(24)
        plan = plan_pruning(
            pruned,
            SPECTROGRAM,
            criterion=criterion,
            pruning_ratio=0.5,
            calibration=calibration if criterion == "response" else None,
        )
        report = apply_plan(pruned, plan, SPECTROGRAM)
        errors[criterion] = refit_least_squares(pruned, model, calibration, report=report).error_after
    assert errors["response"] < errors["random"]


def test_published_count_is_kept_with_redundant():
    model = chain(nn.ReLU(), nn.Conv2d(8, 4, 3))
    plan = plan_pruning(model, SPECTROGRAM, criterion="response", calibration=data())
    other = plan_pruning(model, SPECTROGRAM)
    assert {name: len(idxs) for name, idxs in plan.pruned.items()} == {
        name: len(idxs) for name, idxs in other.pruned.items()
    }


def test_covariances_are_those_of_the_patches():
    model = chain(nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    found = input_covariances(model, data(), ["2"])["2"][0]
    with torch.no_grad():
        patches = nn.functional.unfold(model[1](model[0](data()[0])), 3, padding=1).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, torch.cov(patches.double().T, correction=0), rtol=1e-5, atol=1e-7)


def test_taps_of_a_large_reader_count_as_positions(monkeypatch):
    model = chain(nn.ReLU(), nn.Conv2d(8, 4, 3))
    monkeypatch.setattr("lightning_cosprune.calibration.readings._LARGEST", 10)
    covariances = input_covariances(model, data(), ["2"])
    assert covariances["2"][0].shape == (8, 8)
    graph = ChannelGraph(model, SPECTROGRAM)
    (reading,) = readings_of(model, graph.readers(*graph.groups_of("0")), covariances)
    assert reading.weight.shape == (8, 4 * 9)
    assert torch.equal(reading.weight.sum(), weight_rows(model[2]).sum()) or torch.allclose(
        reading.weight.sum(), weight_rows(model[2]).sum(), atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"criterion": "response"},
            r"expected calibration data for criterion=\"response\" and for no other, found none",
        ),
        ({"criterion": "l1", "calibration": []}, "and for no other, found some"),
        ({"criterion": "response", "calibration": []}, "expected at least one input, found none"),
        ({"criterion": "response", "calibration": torch.zeros(2, 1, 8, 8)}, r"found a Tensor. Write `\[inputs\]`"),
        ({"criterion": "response", "calibration": [1], "vectors": {}}, "expected no vectors"),
        ({"criterion": "responses"}, "Did you mean 'response'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        plan_pruning(chain(nn.ReLU(), nn.Conv2d(8, 4, 3)), SPECTROGRAM, **options)


def test_a_layer_without_a_reader_that_can_be_measured_says_so():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 3)
            self.lstm = nn.LSTM(8, 5, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.lstm(self.conv(x).transpose(1, 2))[0])

    example = torch.randn(2, 4, 9)
    plan = plan_pruning(Recurrent(), example, criterion="response", pruning_ratio=0.5, calibration=[example])
    assert plan.skipped["conv"].startswith("no convolution or linear layer that the calibration data reach")
