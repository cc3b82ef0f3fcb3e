import math

import pytest
import torch
from asserts import outputs_of
from repair.copies import cut, residual, with_statistics
from torch import nn
from zoo.case import SPECTROGRAM, Net, conv

from lightning_cosprune import compensate_constants
from lightning_cosprune.repair.told import told_by_norms

REMOVED = [4, 5, 6, 7]


def constant(model, layer="0", norm=None):
    """Filters that answer everything with one number."""
    model = with_statistics(model)
    with torch.no_grad():
        (model.get_submodule(layer) if norm is None else model.get_submodule(norm)).weight[REMOVED] = 0
    return model


def plain(*between, padding=0, bias=True):
    reader = nn.Conv2d(8, 6, 3, padding=padding, bias=bias)
    return nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), *between, reader, nn.BatchNorm2d(6))


@pytest.mark.parametrize(
    ("between", "bias"),
    [
        ((nn.ReLU(),), True),
        ((nn.ReLU(),), False),
        ((nn.ReLU6(), nn.MaxPool2d(2)), True),
        ((nn.Tanh(), nn.AvgPool2d(2)), False),
        ((nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU()), True),
    ],
    ids=["relu", "into the running mean", "max pooling", "tanh", "depthwise"],
)
def test_filters_that_are_constant_lose_nothing(between, bias):
    model = constant(plain(*between, bias=bias), norm="1")
    model, dense, report = cut(model, {"0": REMOVED}, SPECTROGRAM)
    before = outputs_of(model, SPECTROGRAM)[0]
    wanted = outputs_of(dense, SPECTROGRAM)[0]
    weights = [module.weight.clone() for module in model if hasattr(module, "weight")]
    repair = compensate_constants(model, dense, report, example_inputs=SPECTROGRAM)
    assert repair.method == "constant"
    assert [layer.name for layer in repair.layers] == [str(len(model) - 2)]
    assert not repair.skipped
    assert (before - wanted).abs().max() > 1e-2
    torch.testing.assert_close(outputs_of(model, SPECTROGRAM)[0], wanted, rtol=1e-5, atol=1e-5)
    after = [module.weight for module in model if hasattr(module, "weight")]
    assert all(torch.equal(one, other) for one, other in zip(weights, after, strict=True))


def test_with_zero_padding_the_mean_over_all_places_comes_back():
    model = constant(plain(nn.ReLU(), padding=1), norm="1")
    model, dense, report = cut(model, {"0": REMOVED}, SPECTROGRAM)
    compensate_constants(model, dense, report, example_inputs=SPECTROGRAM)
    error = outputs_of(model, SPECTROGRAM)[0] - outputs_of(dense, SPECTROGRAM)[0]
    assert error.abs().max() > 1e-2
    torch.testing.assert_close(error.mean(dim=(0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-5)
    inside = error[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[:, :, :1, :1].expand_as(inside), rtol=0, atol=1e-5)


def test_flatten_and_residual_sum():
    behind = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 5))
    summed = constant(residual(), norm="norm1")
    with torch.no_grad():
        summed.norm2.weight[REMOVED] = 0
    for model, layers, reader in (
        (constant(behind, norm="1"), ["0"], "5"),
        (summed, ["first", "second"], "head"),
    ):
        model, dense, report = cut(model, dict.fromkeys(layers, REMOVED), SPECTROGRAM)
        repair = compensate_constants(model, dense, report, example_inputs=SPECTROGRAM)
        assert [layer.name for layer in repair.layers] == [reader]
        torch.testing.assert_close(outputs_of(model, SPECTROGRAM), outputs_of(dense, SPECTROGRAM), rtol=0, atol=1e-5)


def test_means_behind_activations_are_those_of_a_normal_variable():
    shift, scale = torch.linspace(-2, 2, 9), torch.tensor([1.0, -0.5, 3.0]).repeat(3)
    t = (shift / scale.abs()).double()

    def density(t):
        return (-t.square() / 2).exp() / math.sqrt(2 * math.pi)

    relu = scale.abs() * density(t) + shift * torch.special.ndtr(t)
    u = ((shift - 6) / scale.abs()).double()
    relu6 = relu - scale.abs() * density(u) - (shift - 6) * torch.special.ndtr(u)
    for activation, wanted in ((nn.ReLU(), relu), (nn.ReLU6(), relu6), (nn.Identity(), shift.double())):
        model = nn.Sequential(nn.Conv2d(1, 9, 3), nn.BatchNorm2d(9), activation, nn.Conv2d(9, 4, 1))
        with torch.no_grad():
            model[1].weight.copy_(scale)
            model[1].bias.copy_(shift)
        told = told_by_norms(model, SPECTROGRAM, {"3": model[3]})["3"]
        assert told.known.all()
        torch.testing.assert_close(told.means[0, :, 0, 0], wanted, rtol=0, atol=1.5e-2)
    assert model.training


def test_without_batch_norms_means_are_measured_or_the_reader_is_named():
    model = constant(nn.Sequential(conv(1, 8), nn.ReLU(), nn.Conv2d(8, 6, 3)))
    with torch.no_grad():
        model[0].bias[REMOVED] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    model, dense, report = cut(model, {"0": REMOVED}, SPECTROGRAM)
    before = outputs_of(model, SPECTROGRAM)[0]
    repair = compensate_constants(model, dense, report, example_inputs=SPECTROGRAM)
    assert not repair.layers
    assert "no batch norm tells" in repair.skipped["2"]
    assert torch.equal(outputs_of(model, SPECTROGRAM)[0], before)
    repair = compensate_constants(model, dense, report, calibration=[SPECTROGRAM])
    assert repair.samples == len(SPECTROGRAM)
    torch.testing.assert_close(outputs_of(model, SPECTROGRAM), outputs_of(dense, SPECTROGRAM), rtol=0, atol=1e-5)


def test_readers_that_have_no_place_for_a_bias_are_named():
    model = nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, bias=False), nn.ReLU(), conv(6, 2))
    model, dense, report = cut(with_statistics(model), {"0": REMOVED}, SPECTROGRAM)
    repair = compensate_constants(model, dense, report, example_inputs=SPECTROGRAM)
    assert not repair.layers
    assert "no bias, nor a batch norm" in repair.skipped["3"]


def test_a_recurrent_reader_is_named():
    net = Net(
        lambda net, x: net.gru(net.body(x).mean(dim=2).transpose(1, 2))[0],
        body=nn.Sequential(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU()),
        gru=nn.GRU(8, 3),
    )
    net, dense, report = cut(net.eval(), {"body.0": REMOVED}, SPECTROGRAM)
    repair = compensate_constants(net, dense, report, example_inputs=SPECTROGRAM)
    assert not repair.layers
    assert "gates" in repair.skipped["gru"]


def test_wrong_input_is_told():
    model = with_statistics(plain(nn.ReLU()))
    model, dense, report = cut(model, {"0": REMOVED}, SPECTROGRAM)
    with pytest.raises(ValueError, match="Pass `example_inputs`"):
        compensate_constants(model, dense, report)
    with pytest.raises(ValueError, match="expected an iterable of inputs"):
        compensate_constants(model, dense, report, calibration=SPECTROGRAM)
    with pytest.raises(
        ValueError, match=r"`compensate_constants\(calibration=...\)`: .* shape \(1, 3, 4, 4\) in place 1"
    ):
        compensate_constants(model, dense, report, calibration=[SPECTROGRAM, torch.zeros(1, 3, 4, 4)])
    with pytest.raises(ValueError, match="expected a layer that reads fewer channels"):
        compensate_constants(dense, dense, example_inputs=SPECTROGRAM)
