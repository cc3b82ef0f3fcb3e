"""Error curves: how much a group's error weighs where later ones are re-solved, too."""

import numpy as np
import pytest
import torch
from torch import nn
from zoo import conv_bn

from lightning_cosprune.network.channels import channel_groups
from lightning_cosprune.planning.curves import allowed_widths, response_curves


class Backwards(nn.Module):
    """Three layers that are registered in the other order than they run in."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.third, self.second, self.first = conv_bn(10, 12), conv_bn(8, 10), conv_bn(1, 8)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x))).mean(dim=(2, 3)))


def test_later_groups_relieve_an_error_in_the_order_in_which_they_run():
    torch.manual_seed(0)
    model, inputs = Backwards().eval(), torch.randn(24, 1, 12, 12)
    groups = [group for group in channel_groups(model, inputs[:1]) if group.layers != ("head",)]
    widths = {group: allowed_widths(group, 1, 1) for group in groups}
    alone, together = (response_curves(model, inputs[:1], widths, [inputs], relief=relief) for relief in (0.0, 0.5))
    behind = {"first": 2, "second": 1, "third": 0}
    assert {group.layers[0].split(".")[0] for group in groups} == set(behind)
    for group in groups:
        factor = 1 + 0.5 * behind[group.layers[0].split(".")[0]]
        assert alone[group].errors[0] > 0
        np.testing.assert_allclose(together[group].errors * factor, alone[group].errors)


class Drowned(nn.Module):
    """What is read of the filters is a small part of the outputs."""

    def __init__(self, filters):
        super().__init__()
        self.features, self.head, self.past = nn.Conv2d(1, filters, 3), nn.Linear(filters, 3), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.features(x).relu().mean(dim=(2, 3))) + self.past(x.flatten(1))


@pytest.mark.parametrize("filters", [2, 8])
def test_the_errors_of_a_layer_are_scaled_to_those_of_the_outputs(filters):
    torch.manual_seed(0)
    model, inputs = Drowned(filters).eval(), torch.randn(400, 1, 4, 4)
    (group,) = [group for group in channel_groups(model, inputs[:1]) if group.layers == ("features",)]
    widths = {group: allowed_widths(group, 1, 1)}
    outputs = response_curves(model, inputs[:1], widths, [inputs])[group].errors
    layers = response_curves(model, inputs[:1], widths, [inputs], by_output=False)[group].errors
    with torch.no_grad():
        read = model.head(model.features(inputs).relu().mean(dim=(2, 3)))
        share = float(read.var(dim=0).sum() / model(inputs).var(dim=0).sum())
    assert share < 0.1
    assert layers[0] > 0.02
    np.testing.assert_allclose(outputs[:-1], share * layers[:-1], rtol=0.3)
