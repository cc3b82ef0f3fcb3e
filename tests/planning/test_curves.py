"""Error curves: how much a group's error weighs where later ones are re-solved, too."""

import numpy as np
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
