import copy

import pytest
import torch
from torch import nn

from lightning_cosprune.calibration.statistics import reestimate_batch_norms


def test_statistics_are_those_of_the_data_front_to_back_and_nothing_else_changes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
    )
    model.train()
    model[5].eval()
    before, data = copy.deepcopy(model.state_dict()), torch.randn(20, 1, 12, 12) + 1
    state = torch.get_rng_state()
    reestimate_batch_norms(model, [data])
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        first = model[0](data)
        normed = nn.functional.batch_norm(first, None, None, model[1].weight, model[1].bias, training=True)
        second = model[4](normed.relu())
    torch.testing.assert_close(model[1].running_mean, first.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, first.transpose(0, 1).flatten(1).var(dim=1))
    torch.testing.assert_close(model[5].running_mean, second.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert (model.training, model[1].training, model[5].training, model[1].momentum) == (True, True, False, 0.1)
    for name, tensor in model.state_dict().items():
        assert ("running" in name or "num_batches" in name) or torch.equal(tensor, before[name]), name


def test_the_mean_over_batches_is_kept():
    norm = nn.BatchNorm1d(2)
    batches = [torch.randn(8, 2) + shift for shift in (0, 1, 5)]
    reestimate_batch_norms(norm, batches)
    torch.testing.assert_close(norm.running_mean, torch.stack([batch.mean(dim=0) for batch in batches]).mean(dim=0))


def test_no_data_is_an_error():
    with pytest.raises(ValueError, match=r"`reestimate_batch_norms\(calibration=...\)`: expected at least one"):
        reestimate_batch_norms(nn.BatchNorm1d(2), [])
