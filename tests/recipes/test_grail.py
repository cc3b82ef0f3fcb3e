import pytest
import torch
from asserts import outputs_of
from repair.copies import cut, with_statistics
from torch import nn
from zoo.case import conv

from recipes.repair.grail import grail_map, map_from_kept

REMOVED = [1, 3, 4, 6]
KEPT = [0, 2, 5, 7]


def mixed(model, groups=1):
    """Let the removed filters of the first layer be sums of the kept ones of their half."""
    model = with_statistics(model)
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(4, 4, generator=generator)
    if groups == 2:
        mix[:2, 2:] = mix[2:, :2] = 0
    with torch.no_grad():
        for tensor in model[0].parameters():
            tensor[REMOVED] = torch.einsum("rk,k...->r...", mix, tensor[KEPT])
    return model


READERS = {
    "convolution": (lambda: nn.Sequential(conv(1, 8), nn.AvgPool2d(2), conv(8, 6)), 1),
    "transposed": (lambda: nn.Sequential(conv(1, 8), nn.ConvTranspose2d(8, 6, 3, stride=2)), 1),
    "flatten": (lambda: nn.Sequential(conv(1, 8), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(72, 6)), 1),
    "mean": (lambda: nn.Sequential(conv(1, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)), 1),
    "grouped": (lambda: nn.Sequential(conv(1, 8), conv(8, 6, groups=2)), 2),
}


@pytest.mark.parametrize("name", READERS)
def test_linear_combinations_of_kept_channels_come_back(name):
    build, groups = READERS[name]
    inputs = torch.randn(20, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    model, dense, report = cut(mixed(build(), groups), {"0": REMOVED}, inputs)
    before, wanted = outputs_of(model, inputs)[0], outputs_of(dense, inputs)[0]
    repair = grail_map(model, dense, report, [inputs])
    assert [layer.name for layer in repair.layers] == [str(len(dense) - 1)]
    assert not repair.skipped
    assert repair.samples == 20
    spread = (before - wanted).square().mean()
    # Not to the last digit: the ridge is part of the map.
    assert (outputs_of(model, inputs)[0] - wanted).square().mean() < 1e-3 * spread
    assert torch.equal(dense[-1].bias, model[-1].bias)


def test_the_map_is_the_published_formula():
    x = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram, kept = x.T @ x, [0, 2, 3]
    among = gram[kept][:, kept]
    wanted = gram[:, kept] @ torch.linalg.inv(among + 1e-3 * among.diagonal().mean() * torch.eye(3))
    torch.testing.assert_close(map_from_kept(gram, kept), wanted)


def test_wrong_input_is_told():
    inputs = torch.randn(2, 1, 12, 12)
    model, dense, report = cut(mixed(nn.Sequential(conv(1, 8), conv(8, 6))), {"0": REMOVED}, inputs)
    with pytest.raises(ValueError, match="at least one input"):
        grail_map(model, dense, report, [])
    with pytest.raises(ValueError, match="expected a layer that reads fewer channels"):
        grail_map(dense, dense, None, [inputs])
