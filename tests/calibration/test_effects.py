"""What an error in one place does to the outputs, and the parts of the data that errors are measured on."""

import copy

import pytest
import torch
from torch import nn

from lightning_cosprune.calibration.effects import OutputEffects, some_samples
from lightning_cosprune.calibration.moments import pooled
from lightning_cosprune.calibration.readings import input_covariances, input_moments


def network(reader: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), reader, nn.Flatten()).eval()


def data(samples: int = 20) -> torch.Tensor:
    return torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(1))


CHANNELS = {"2": torch.arange(6)[:, None]}


@pytest.mark.parametrize(
    "reader", [nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3, groups=2), nn.ConvTranspose2d(6, 4, 2)]
)
def test_copies_are_guessed_and_the_network_is_left_as_it_was(reader):
    model = network(reader)
    grouped = getattr(reader, "groups", 1) > 1
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
    before = copy.deepcopy(model.state_dict())
    moments = {"2": input_moments(model, [data()], ["2"])["2"][0]}
    effects = OutputEffects(model, [data(8)])
    copies, others = torch.zeros(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    copies[1] = others[[2, 5] if grouped else [2]] = True
    assert effects.error(CHANNELS, moments, copies) < 1e-3
    assert effects.error(CHANNELS, moments, others) > 10 * effects.error(CHANNELS, moments, copies)
    assert effects.error(CHANNELS, moments, torch.zeros(6, dtype=torch.bool)) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model[2]._forward_pre_hooks


def test_the_error_is_that_of_the_best_linear_guess():
    model = network(nn.Conv2d(6, 4, 1))
    inputs = data(200)
    moments = {"2": input_moments(model, [inputs], ["2"])["2"][0]}
    gone = torch.tensor([False, False, True, False, False, False])
    with torch.no_grad():
        read = model[1](model[0](inputs)).movedim(1, -1).flatten(0, -2).double()
        wanted = model(inputs).double()
    design = torch.cat([read[:, ~gone], torch.ones(len(read), 1)], dim=1)
    guess = design @ torch.linalg.lstsq(design, read[:, gone]).solution
    missed = (read[:, gone] - guess) @ model[2].weight.detach().double().flatten(1).T[gone]
    expected = float(missed.square().sum() / (wanted - wanted.mean(dim=0)).square().sum())
    assert OutputEffects(model, [inputs]).error(CHANNELS, moments, gone) == pytest.approx(expected, rel=0.05)


def test_outputs_without_variance_are_no_measure():
    model = network(nn.Conv2d(6, 4, 1))
    moments = {"2": input_moments(model, [data()], ["2"])["2"][0]}
    gone = torch.arange(6) == 2
    assert OutputEffects(model, [data(1)]).error(CHANNELS, moments, gone) is None


def test_parts_of_the_data_are_neighbours_and_make_up_the_whole():
    model = network(nn.Conv2d(6, 4, 1))
    batches = list(data(20).split(3))
    parts = input_moments(model, batches, ["2"], 4)["2"]
    assert [part[0].count for part in parts] == [5 * 36] * 4
    whole = pooled(part[0] for part in parts)
    torch.testing.assert_close(whole.xx / whole.count, input_covariances(model, batches, ["2"])["2"][0])
    alone = input_moments(model, [data(20)[5:10]], ["2"])["2"][0][0]
    torch.testing.assert_close(parts[1][0].xx, alone.xx)


def test_some_samples_are_spread_over_the_first_share():
    batches = [torch.arange(10)[:, None], (torch.arange(10, 20)[:, None], "as it is")]
    found = some_samples(batches, 0.6, 4)
    assert found[0].flatten().tolist() == [0, 3, 6, 9]
    found = some_samples(batches, 0.6, 6)
    assert found[0].flatten().tolist() == [0, 2, 4, 6, 8]
    assert found[1][0].flatten().tolist() == [10]
    assert found[1][1] == "as it is"
