"""What fails or is interrupted between the cut and the next training step is undone."""

import copy

import pytest
import torch
from asserts import assert_same
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import apply_plan, plan_pruning
from lightning_cosprune.training.undo import as_before_on_failure


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_network_and_optimizer_are_as_before_and_train_on(error):
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step():
        optimizer.zero_grad()
        model(SPECTROGRAM).square().mean().backward()
        optimizer.step()

    def cut_and_fail():
        with as_before_on_failure(model, [optimizer]):
            plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
            assert apply_plan(model, plan, SPECTROGRAM, optimizers=[optimizer]).layers
            raise error

    step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(error):
        cut_and_fail()
    assert_same((model.state_dict(), optimizer.state_dict()), before)
    assert [id(one) for one in optimizer.param_groups[0]["params"]] == [id(one) for one in model.parameters()]
    step()
    assert not torch.equal(model[0][0].weight, before[0]["0.0.weight"])
