import pytest
import torch
from torch import Tensor, nn
from weights import normal

from lightning_cosprune.network.rows import input_rows, num_positions, output_rows, set_weight_rows, weight_rows

# Layer, input, and how many samples and places a sample its output has.
LAYERS = {
    "1-D": (nn.Conv1d(3, 4, 3), (2, 3, 9), (2, 7)),
    "1-D, stride and padding": (nn.Conv1d(3, 4, 5, stride=3, padding=2), (2, 3, 10), (2, 4)),
    "1-D, causal": (nn.Conv1d(3, 4, 3, padding=4, dilation=2), (2, 3, 9), (2, 13)),
    "1-D, unbatched": (nn.Conv1d(3, 4, 3, padding=1), (3, 9), (1, 9)),
    "2-D": (nn.Conv2d(3, 4, (3, 2)), (2, 3, 6, 7), (2, 24)),
    "2-D, unequal everything": (
        nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 3)),
        (2, 3, 7, 8),
        (2, 36),
    ),
    "2-D, same": (nn.Conv2d(3, 4, (3, 5), padding="same"), (2, 3, 6, 7), (2, 42)),
    "2-D, same with even kernels": (nn.Conv2d(3, 4, (2, 4), padding="same", dilation=(1, 2)), (2, 3, 6, 7), (2, 42)),
    "2-D, valid": (nn.Conv2d(3, 4, 3, padding="valid"), (2, 3, 6, 7), (2, 20)),
    "2-D, reflect": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="reflect"), (2, 3, 6, 7), (2, 56)),
    "2-D, replicate": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="replicate"), (2, 3, 6, 7), (2, 56)),
    "2-D, circular": (nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="circular"), (2, 3, 6, 7), (2, 56)),
    "2-D, same and reflect": (nn.Conv2d(3, 4, (4, 3), padding="same", padding_mode="reflect"), (2, 3, 6, 7), (2, 42)),
    "2-D, groups": (nn.Conv2d(6, 4, 3, groups=2, stride=2), (2, 6, 7, 7), (2, 9)),
    "2-D, depthwise": (nn.Conv2d(4, 4, 3, groups=4, padding=1), (2, 4, 5, 5), (2, 25)),
    "2-D, depthwise with multiplier": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 5, 5), (2, 25)),
    "2-D, without bias": (nn.Conv2d(3, 4, 1, bias=False), (2, 3, 4, 4), (2, 16)),
    "2-D, unbatched": (nn.Conv2d(3, 4, 3), (3, 6, 7), (1, 20)),
    "3-D": (nn.Conv3d(2, 4, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 1)), (2, 2, 4, 5, 3), (2, 45)),
    "3-D, replicate and dilation": (
        nn.Conv3d(2, 4, 2, padding=1, padding_mode="replicate", dilation=2),
        (2, 2, 4, 5, 3),
        (2, 60),
    ),
    "3-D, groups": (nn.Conv3d(4, 6, 2, groups=2), (2, 4, 3, 3, 3), (2, 8)),
    "3-D, unbatched": (nn.Conv3d(2, 4, 2), (2, 3, 3, 3), (1, 8)),
    "transposed 1-D": (nn.ConvTranspose1d(3, 4, 3), (2, 3, 5), (2, 7)),
    "transposed 1-D, everything": (
        nn.ConvTranspose1d(4, 6, 4, stride=3, padding=1, output_padding=2, dilation=2, groups=2),
        (2, 4, 5),
        (2, 19),
    ),
    "transposed 2-D": (nn.ConvTranspose2d(3, 4, (3, 2), stride=2), (2, 3, 4, 5), (2, 90)),
    "transposed 2-D, everything": (
        nn.ConvTranspose2d(
            4, 6, (3, 2), stride=(2, 3), padding=(2, 1), output_padding=(1, 2), dilation=(2, 1), groups=2
        ),
        (2, 4, 4, 5),
        (2, 112),
    ),
    "transposed 2-D, padded away": (nn.ConvTranspose2d(3, 4, 3, padding=3), (2, 3, 6, 6), (2, 4)),
    "transposed 2-D, depthwise": (nn.ConvTranspose2d(4, 4, 4, stride=2, groups=4), (2, 4, 3, 3), (2, 64)),
    "transposed 2-D, unbatched": (nn.ConvTranspose2d(3, 4, 3, stride=2), (3, 4, 4), (1, 81)),
    "transposed 3-D": (
        nn.ConvTranspose3d(4, 6, 2, stride=(1, 2, 1), padding=(1, 0, 1), groups=2, bias=False),
        (2, 4, 3, 3, 3),
        (2, 24),
    ),
    "linear, one sample": (nn.Linear(5, 4), (5,), (1, 1)),
    "linear": (nn.Linear(5, 4), (3, 5), (3, 1)),
    "linear over frames": (nn.Linear(5, 4, bias=False), (3, 6, 5), (3, 6)),
    "linear over a map": (nn.Linear(5, 4), (3, 2, 6, 5), (3, 12)),
}


def computed_from_rows(layer: nn.Module, inputs: Tensor, positions: Tensor) -> Tensor:
    rows = torch.einsum("spgc,gfc->spgf", input_rows(layer, inputs, positions), weight_rows(layer)).flatten(2)
    return rows if layer.bias is None else rows + layer.bias


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
class TestEveryLayer:
    def test_rows_of_inputs_times_rows_of_weights_are_the_output(self, name: str) -> None:
        layer, shape, (samples, positions) = LAYERS[name]
        layer, inputs = layer.double(), normal(*shape)
        with torch.no_grad():
            output = layer(inputs)
        assert num_positions(layer, output) == positions
        everywhere = torch.arange(positions)
        wanted = output_rows(layer, output, everywhere)
        filters = output.shape[-1] if isinstance(layer, nn.Linear) else layer.out_channels
        assert wanted.shape == (samples, positions, filters)
        found = computed_from_rows(layer, inputs, everywhere).detach()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)

    def test_only_the_asked_places_are_looked_at(self, name: str) -> None:
        layer, shape, (_, positions) = LAYERS[name]
        layer, inputs = layer.double(), normal(*shape)
        some = torch.arange(positions)[::3]
        with torch.no_grad():
            output = layer(inputs)
        assert torch.equal(
            output_rows(layer, output, some), output_rows(layer, output, torch.arange(positions))[:, some]
        )
        torch.testing.assert_close(
            computed_from_rows(layer, inputs, some).detach(), output_rows(layer, output, some), rtol=0, atol=1e-10
        )

    def test_rows_of_outputs_lie_where_the_filters_lie(self, name: str) -> None:
        layer, shape, (samples, positions) = LAYERS[name]
        with torch.no_grad():
            output = layer.double()(normal(*shape))
        if isinstance(layer, nn.Linear):
            expected = output.reshape(samples, positions, -1)
        else:
            expected = output.reshape(samples, layer.out_channels, positions).transpose(1, 2)
        assert torch.equal(output_rows(layer, output, torch.arange(positions)), expected)

    def test_weights_that_are_read_and_written_are_the_same_weights(self, name: str) -> None:
        layer = LAYERS[name][0].double()
        weight, before = layer.weight, layer.weight.detach().clone()
        rows = weight_rows(layer).clone()
        groups = getattr(layer, "groups", 1)
        assert rows.shape[0] == groups
        assert rows.numel() == weight.numel()
        with torch.no_grad():
            weight.zero_()
        set_weight_rows(layer, rows)
        assert layer.weight is weight
        assert torch.equal(weight, before)
        drawn = torch.randn_like(rows)
        set_weight_rows(layer, drawn)
        assert torch.equal(weight_rows(layer), drawn)
        set_weight_rows(layer, rows)


def test_a_padding_that_was_changed_later_counts() -> None:
    """As segmentation networks do with those of a classifier."""
    layer = nn.Conv2d(3, 4, 3, padding=1).double()
    layer.padding = layer.dilation = (2, 2)
    inputs = normal(2, 3, 7, 7)
    with torch.no_grad():
        output = layer(inputs)
    positions = torch.arange(num_positions(layer, output))
    found = computed_from_rows(layer, inputs, positions).detach()
    torch.testing.assert_close(found, output_rows(layer, output, positions), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [(7, 9), (8, 9), (7, 10), (8, 10)])
def test_a_transposed_convolution_may_be_told_its_output_size(size: tuple[int, int]) -> None:
    """As U-Nets do, whose maps do not always halve evenly."""
    layer, inputs = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2).double(), normal(2, 4, 4, 5)
    with torch.no_grad():
        output = layer(inputs, output_size=size)
    assert output.shape[2:] == size
    positions = torch.arange(num_positions(layer, output))
    rows = input_rows(layer, inputs, positions, output.shape)
    found = torch.einsum("spgc,gfc->spgf", rows, weight_rows(layer)).flatten(2) + layer.bias.detach()
    torch.testing.assert_close(found, output_rows(layer, output, positions), rtol=0, atol=1e-10)


def test_weights_keep_their_kind_where_they_are_written() -> None:
    layer = nn.Conv2d(4, 6, 3).to(torch.bfloat16).to(memory_format=torch.channels_last)
    layer.weight.requires_grad_(False)
    set_weight_rows(layer, torch.full((1, 6, 36), 0.5, dtype=torch.float64))
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not layer.weight.requires_grad
    assert layer.weight.eq(0.5).all()
