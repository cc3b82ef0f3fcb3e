import copy

import pytest
import torch
from asserts import assert_same_network, outputs_of
from torch import nn
from torch.nn import functional as F
from zoo import CASES

from lightning_cosprune import filter_vectors, fold_batch_norms
from lightning_cosprune.network.forward import call


def trained(norm):
    """A batch norm with statistics, weights of both signs and biases of its own."""
    generator = torch.Generator().manual_seed(0)
    size = norm.num_features
    norm.running_mean.copy_(torch.randn(size, generator=generator))
    norm.running_var.copy_(torch.rand(size, generator=generator) + 0.1)
    if norm.weight is not None:
        norm.weight.data.copy_(torch.randn(size, generator=generator))
        norm.bias.data.copy_(torch.randn(size, generator=generator))
    return norm


def with_statistics(model):
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            trained(module)
    return model


class Steps(nn.Module):
    """A convolution and a batch norm, and whatever `between` does to what the norm reads."""

    def __init__(self, between):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), trained(nn.BatchNorm2d(4))
        self.between = between

    def forward(self, x):
        return self.between(self.norm, self.conv(x))


LAYERS = {
    "Conv1d": (nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), (2, 3, 9)),
    "Conv2d": (nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), (2, 3, 9, 9)),
    "Conv2d without bias": (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False), (2, 3, 9, 9)),
    "Conv3d": (nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6), (2, 3, 5, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 9, 9)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), (2, 4, 9, 9)),
    "transposed": (nn.ConvTranspose2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), (2, 3, 5, 5)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "Linear": (nn.Linear(5, 6), nn.BatchNorm1d(6), (3, 5)),
}


def as_stored(folded_weight, layer):
    """From filters first back to the layout in which the layer stores its weight."""
    if not getattr(layer, "transposed", False):
        return folded_weight
    return folded_weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("case", LAYERS)
def test_the_folded_layer_computes_what_layer_and_norm_do(case):
    layer, norm, shape = LAYERS[case]
    model = nn.Sequential(layer, trained(norm), nn.ReLU()).double()
    x = torch.randn(shape, dtype=torch.float64)
    folded = fold_batch_norms(model, x)["0"]
    assert (folded.batch_norm, folded.reason) == ("1", None)
    alone = copy.deepcopy(layer)
    alone.weight = nn.Parameter(as_stored(folded.weight, layer))
    alone.bias = nn.Parameter(folded.bias)
    torch.testing.assert_close(F.relu(alone(x)), model.eval()(x))
    assert not folded.weight.requires_grad


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda norm, y: norm(F.relu(y)), "norm reads it after relu"),
        (lambda norm, y: norm(F.relu(y, inplace=True)), "norm reads it after relu"),
        (lambda norm, y: norm(F.max_pool2d(F.relu(y), 2)), "norm reads it after relu, max pool2d with indices"),
        (lambda norm, y: norm(y.mul_(2)), "norm reads it after mul"),
        (lambda norm, y: norm(y) + y, "norm is not all that reads it, or reads others too"),
        (lambda norm, y: norm(norm(y)), "norm is not all that reads it, or reads others too"),
        (lambda norm, y: F.relu(y), "no batch norm reads it"),
        (lambda norm, y: norm(F.conv2d(y, torch.ones(4, 4, 1, 1))), "norm reads it after convolution"),
        (lambda norm, y: (y.detach(), norm(torch.ones_like(y)))[1], "no output of the network depends on it"),
    ],
)
def test_what_lies_between_is_named(between, reason):
    folded = fold_batch_norms(Steps(between), torch.randn(1, 2, 8, 8))["conv"]
    assert folded.batch_norm is None
    assert folded.reason == reason


def test_layers_and_norms_that_cannot_be_folded():
    model = nn.Module()
    model.twice, model.never, model.plain = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(5, 4)
    model.stateless, model.steps = nn.BatchNorm2d(2, track_running_stats=False), nn.BatchNorm1d(4)
    model.conv = nn.Conv2d(2, 2, 1)

    def forward(x):
        x = model.stateless(model.conv(model.twice(model.twice(x))))
        return model.steps(model.plain(x.mean(dim=3).expand(-1, 2, -1).repeat(1, 2, 1)))

    model.forward = forward
    reasons = {name: folded.reason for name, folded in fold_batch_norms(model, torch.randn(1, 2, 5, 5)).items()}
    assert reasons == {
        "twice": "called 2 times",
        "never": "not reached by the example input's forward pass",
        "plain": "steps normalises another axis than the filters'",
        "conv": "stateless has no running statistics",
    }


def test_the_next_layers_norm_is_not_this_layers():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    found = fold_batch_norms(model, torch.zeros(1, 1, 8, 8))
    assert found["0"].reason == "no batch norm reads it"
    assert found["2"].batch_norm == "3"


def test_frozen_layers_are_followed_and_the_network_is_left_as_it_was():
    model = with_statistics(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)))
    model.requires_grad_(False).train()
    model[1].eval()
    x = torch.randn(2, 1, 8, 8)
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, x)
    with torch.no_grad():
        assert fold_batch_norms(model, x)["0"].batch_norm == "1"
    assert_same_network(model, before, x, outputs)
    assert [module.training for module in model] == [True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_negative_batch_norm_weight_turns_the_filter_round():
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    model[1].weight.data = torch.tensor([2.0, -0.5])
    vectors = filter_vectors(fold_batch_norms(model, torch.zeros(1, 2, 8, 8))["0"].weight)
    raw = filter_vectors(model[0].weight)
    torch.testing.assert_close(vectors, raw * torch.tensor([[1.0], [-1.0]]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_in_every_network_what_is_folded_is_what_the_norm_gives(case):
    torch.manual_seed(0)
    model, inputs = with_statistics(case.build()), case.inputs
    found = fold_batch_norms(model, inputs)
    modules = dict(model.named_modules())
    seen = {}
    for name, folded in found.items():
        assert (folded.batch_norm is None) != (folded.reason is None)
        if folded.batch_norm is not None:
            modules[name].register_forward_hook(lambda layer, args, out, name=name: seen.update({name: (args[0], out)}))
            modules[folded.batch_norm].register_forward_hook(
                lambda norm, args, out, name=folded.batch_norm: seen.update({name: out})
            )
    with torch.no_grad():
        call(model.eval(), inputs)
    narrow = next(model.parameters()).dtype == torch.bfloat16
    tolerance = {"rtol": 3e-2, "atol": 6e-2} if narrow else {"rtol": 1e-4, "atol": 1e-4}
    for name, folded in found.items():
        if folded.batch_norm is not None:
            layer = copy.deepcopy(modules[name])
            layer._forward_hooks.clear()
            layer.weight = nn.Parameter(as_stored(folded.weight, layer))
            layer.bias = nn.Parameter(folded.bias)
            torch.testing.assert_close(layer(seen[name][0]), seen[folded.batch_norm], **tolerance)
