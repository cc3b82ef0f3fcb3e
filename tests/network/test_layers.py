import pytest
import torch
from torch import nn

from lightning_cosprune import (
    PruningPlan,
    apply_plan,
    fold_batch_norms,
    measure_complexity,
    measure_latency,
    plan_pruning,
    response_vectors,
    sensitivity,
)
from lightning_cosprune.network.layers import layer_weight

LAYERS = {
    "linear": (nn.Linear(5, 6), (5,)),
    "1-D": (nn.Conv1d(4, 6, 3), (4, 9)),
    "2-D": (nn.Conv2d(4, 6, (3, 2)), (4, 9, 9)),
    "3-D": (nn.Conv3d(4, 6, 2), (4, 5, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 9)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 9, 9)),
    "transposed 1-D": (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 9)),
    "transposed 2-D": (nn.ConvTranspose2d(4, 6, (3, 2)), (4, 5, 5)),
    "transposed 3-D": (nn.ConvTranspose3d(4, 6, 2), (4, 3, 3, 3)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5)),
    "transposed, depthwise": (nn.ConvTranspose2d(4, 4, 3, groups=4), (4, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_filter_i_is_all_that_output_channel_i_depends_on(name):
    layer, shape = LAYERS[name]
    output = layer(torch.rand(2, *shape) + 0.1)
    kernel = getattr(layer, "kernel_size", ())
    channels = shape[0] // getattr(layer, "groups", 1)
    assert layer_weight(layer).shape == (output.shape[1], channels, *kernel)
    for channel in range(output.shape[1]):
        (gradient,) = torch.autograd.grad(output[:, channel].sum(), layer.weight, retain_graph=True)
        gradient_layer = type(layer).__new__(type(layer))
        gradient_layer.__dict__.update(layer.__dict__, _parameters={"weight": nn.Parameter(gradient)})
        reached = layer_weight(gradient_layer).flatten(1) != 0
        assert reached[channel].all()
        assert reached.sum() == reached.shape[1]


def test_other_modules_have_no_filters():
    with pytest.raises(TypeError, match=r"expected a convolution.*found LSTM"):
        layer_weight(nn.LSTM(2, 3))


MAP = torch.zeros(1, 1, 12, 12)
CALLS = {
    "plan_pruning": lambda model: plan_pruning(model, MAP, pruning_ratio=0.5),
    "apply_plan": lambda model: apply_plan(model, PruningPlan({"0": [1]}, {"0": 8}), MAP),
    "sensitivity": lambda model: sensitivity(model, MAP, criterion="l1"),
    "measure_complexity": lambda model: measure_complexity(model, MAP),
    "measure_latency": lambda model: measure_latency(model, MAP, seconds=0.001),
    "response_vectors": lambda model: response_vectors(model, [MAP]),
    "fold_batch_norms": lambda model: fold_batch_norms(model, MAP),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "lazy", [lambda: nn.LazyConv2d(8, 3), lambda: nn.LazyBatchNorm2d(affine=False), nn.LazyInstanceNorm2d]
)
def test_a_network_that_has_seen_no_data_is_refused_untouched(name, lazy):
    """A forward pass on the way would have made half of it, and it could not be run any more."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), lazy(), nn.ReLU(), nn.Conv2d(8, 4, 3))
    kind = type(model[1]).__name__
    with pytest.raises(
        ValueError, match=rf"`{name}\(model=...\)`: expected a network that has seen data, found the lazy layer '1'"
    ):
        CALLS[name](model)
    assert type(model[1]).__name__ == kind
    model(MAP)
    plan = plan_pruning(model, MAP, pruning_ratio=0.5)
    assert apply_plan(model, plan, MAP).layers
