import pytest
import torch
from torch import nn

from lightning_cosprune import measure_complexity


def test_convolution_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
    complexity = measure_complexity(model, torch.zeros(1, 3, 10, 10))
    assert complexity.trainable_params == 8 * 27 + 8 + 16 + 8 * 9 + 8
    assert complexity.params == complexity.trainable_params + 16
    assert complexity.macs == 100 * 8 * 27 + 64 * 8 * 9
    assert complexity.bytes == 4 * complexity.params
    assert complexity.input_shape == ((1, 3, 10, 10),)


@pytest.mark.parametrize(("layer", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_are_counted(layer: type[nn.RNNBase], gates: int) -> None:
    macs = measure_complexity(layer(8, 16), torch.zeros(5, 2, 8)).macs
    assert macs == 5 * 2 * gates * (8 * 16 + 16 * 16)


def test_attention_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, feed_forward, scores = 10 * (3 * 16 * 16 + 16 * 16), 10 * 2 * 16 * 32, 2 * 2 * 2 * 5 * 5 * 8
    assert measure_complexity(layer, torch.zeros(2, 5, 16)).macs == projections + feed_forward + scores


def test_half_precision_takes_half_the_bytes() -> None:
    model = nn.Linear(4, 4)
    full = measure_complexity(model, torch.zeros(1, 4))
    half = measure_complexity(model.bfloat16(), torch.zeros(1, 4).bfloat16())
    assert half.bytes * 2 == full.bytes
    assert half.params == full.params


def test_shared_parameters_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert measure_complexity(model, torch.zeros(1, 4)).params == 16 + 4 + 4


def test_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    measure_complexity(model, torch.randn(2, 1, 8, 8))
    assert [module.training for module in model] == [True, False, True]
    assert model[1].num_batches_tracked == 0


def test_in_words() -> None:
    text = str(measure_complexity(nn.Conv2d(1, 4, 3, padding=1), torch.zeros(1, 1, 8, 8)))
    assert text == "40 parameters (40 of them weights), 0.00 M MACs at 1x1x8x8, 0.2 kB"
