import copy
import math
from collections import OrderedDict

import pytest
import torch
from asserts import outputs_of
from torch import nn
from zoo import SPECTROGRAM, Residual, conv_bn
from zoo.vision import ResponseNorm

from lightning_cosprune import sensitivity
from lightning_cosprune.reports.sensitivity import plot_sensitivity


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        conv_bn(1, 16), conv_bn(16, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
    ).eval()


def data(samples=16):
    return [torch.randn(samples, *SPECTROGRAM.shape[1:], generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("criterion", "calibration"), [("response", True), ("l1", True), ("cosine", False)])
def test_errors_rise_as_filters_go(criterion, calibration):
    model = network()
    before = copy.deepcopy(model.state_dict())
    found = sensitivity(model, SPECTROGRAM, criterion=criterion, calibration=data() if calibration else None)
    assert found.measure == ("response" if calibration else "similarity")
    assert {name: list(curve) for name, curve in found.curves.items()} == {"0.0": [12, 8, 4, 2], "1.0": [9, 6, 3, 2]}
    for curve in found.curves.values():
        assert list(curve.values()) == sorted(curve.values())
        assert curve[min(curve)] > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_layer_whose_filters_are_copies_suffers_least():
    model = network()
    with torch.no_grad():
        model[0][0].weight[8:], model[0][0].bias[8:] = model[0][0].weight[:8], model[0][0].bias[:8]
    found = sensitivity(model, SPECTROGRAM, calibration=data(), fractions=[0.5])
    assert found.curves["0.0"][8] < 0.05 * found.curves["1.0"][6]


def test_scores_of_cut_and_repaired_copies():
    model, seen = network(), []
    (wanted,) = outputs_of(model, data()[0])

    def score(one):
        seen.append(one)
        (out,) = outputs_of(one, data()[0])
        return -float((out - wanted).square().sum())

    found = sensitivity(model, SPECTROGRAM, calibration=data(), score=score, fractions=[0.5])
    cut = sensitivity(model, SPECTROGRAM, criterion="cosine", score=score, fractions=[0.5])
    assert found.measure == "score"
    assert found.dense == 0
    assert found.curves["0.0"][8] > cut.curves["0.0"][8]
    assert seen[0] is model
    assert seen[1][0][0].out_channels == 8
    assert model[0][0].out_channels == 16


def test_a_run_that_was_stopped_goes_on(tmp_path):
    model, file, calls = network(), tmp_path / "scores" / "sheet.csv", []

    def score(one, stop=None):
        calls.append(one)
        if stop is not None and len(calls) > stop:
            raise KeyboardInterrupt
        return float(sum(parameter.numel() for parameter in one.parameters()))

    options = {"criterion": "l1", "fractions": [0.25, 0.5], "kept_in": file}
    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, SPECTROGRAM, score=lambda one: score(one, 3), **options)
    assert len(calls) == 4
    calls.clear()
    found = sensitivity(model, SPECTROGRAM, score=score, **options)
    assert len(calls) == 2
    assert found == sensitivity(model, SPECTROGRAM, score=score, **options)
    assert len(calls) == 2
    assert not list(file.parent.glob("*.part"))
    with pytest.raises(ValueError, match=r"kept_in=.*expected scores of 'l2 0 cut', found"):
        sensitivity(model, SPECTROGRAM, score=score, **{**options, "criterion": "l2"})


def test_the_score_of_the_whole_network_is_not_taken_for_a_layers():
    """Though the layer has the name it is kept under."""
    model = nn.Sequential(OrderedDict(dense=nn.Conv2d(1, 2, 3), flat=nn.Flatten(), head=nn.LazyLinear(3)))
    model(SPECTROGRAM)

    def score(one):
        return float(one.dense.out_channels)

    found = sensitivity(model, SPECTROGRAM, criterion="l1", score=score, fractions=[0.5])
    assert found.dense == 2
    assert found.curves == {"dense": {1: 1.0}}


def test_coupled_layers_have_one_curve_and_what_cannot_be_cut_has_none():
    found = sensitivity(Residual(), SPECTROGRAM, calibration=data(), ignored_layers=["block1.0"])
    assert "stem + block1.1.0" in found.curves
    assert "block1.0.0" not in found.curves
    assert not any("head" in name for name in found.curves)


def test_the_figure_has_a_line_for_each_group():
    found = sensitivity(network(), SPECTROGRAM, calibration=data())
    figure = plot_sensitivity(found)
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["0.0", "1.0", "all filters"]
    assert list(axes.lines[0].get_xdata()) == list(found.curves["0.0"])
    assert all(math.isfinite(value) for value in axes.lines[0].get_ydata())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected calibration data"),
        ({"criterion": "l1", "fractions": [1.5]}, r"fractions=\[1.5\]\)`: expected fractions"),
        ({"criterion": "l3"}, "l3"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        sensitivity(network(), SPECTROGRAM, **options)


def test_norms_of_ones_own_are_named():
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(1, 8), ResponseNorm(), conv_bn(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(model[1].gamma)
    seen = []
    found = sensitivity(
        model.append(nn.Linear(6, 5)).eval(),
        SPECTROGRAM,
        criterion="cosine",
        score=lambda one: seen.append(one[0][0].out_channels) or 0.0,
        fractions=[0.5],
        normalising=[ResponseNorm],
    )
    assert set(found.curves) == {"0.0", "2.0"}
    assert 4 in seen
    with pytest.raises(ValueError, match=r"`sensitivity\(normalising=\['grn'\]\)`|`plan_pruning\(normalising="):
        sensitivity(model, SPECTROGRAM, criterion="cosine", normalising=["grn"])
