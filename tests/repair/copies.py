"""Networks in which the last filters of a layer are multiples of the first, and the cut that removes them."""

import copy

import torch
from torch import nn
from zoo.case import Net, conv, pooled

from lightning_cosprune import PruningPlan, apply_plan
from lightning_cosprune.network.layers import num_filters

FACTORS = (0.5, 2.0, 1.5, 3.0)


def with_statistics(model, seed=0):
    """Weights, and statistics and affine weights of batch norms, as training might leave them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data.copy_(
                    torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 1) ** 0.5
                )
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) / 2)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model.eval()


@torch.no_grad()
def copied(layer, norm=None, pairs=(), factors=FACTORS):
    """Make filter ``j`` of each pair ``(i, j)`` a multiple of ``i``: in its weights, or in a norm's."""
    weight = layer.weight.transpose(0, 1) if getattr(layer, "transposed", False) else layer.weight
    for (i, j), factor in zip(pairs, factors, strict=False):
        inner = 1.0 if norm is not None else factor
        weight[j] = inner * weight[i]
        if layer.bias is not None:
            layer.bias[j] = inner * layer.bias[i]
        if norm is not None:
            for tensor in (norm.running_mean, norm.running_var):
                tensor[j] = tensor[i]
            norm.weight[j], norm.bias[j] = factor * norm.weight[i], factor * norm.bias[i]


def cut(model, removed, inputs):
    """The network without the filters that are named, the network before, and what was cut."""
    dense = copy.deepcopy(model)
    filters = {name: num_filters(model.get_submodule(name)) for name in removed}
    report = apply_plan(model, PruningPlan(pruned=removed, filters=filters, skipped={}), inputs)
    assert {layer.name: list(layer.pruned_idxs) for layer in report.layers}.items() >= removed.items()
    return model, dense, report


def residual():
    return Net(
        lambda net, x: net.head(pooled((net.norm1(net.first(x)) + net.norm2(net.second(net.inner(x).relu()))).relu())),
        first=conv(1, 8, bias=False),
        norm1=nn.BatchNorm2d(8),
        inner=conv(1, 4),
        second=conv(4, 8),
        norm2=nn.BatchNorm2d(8),
        head=nn.Linear(8, 5),
    )
