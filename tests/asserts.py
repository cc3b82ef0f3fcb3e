"""Laws that many tests hold a network to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from lightning_cosprune.complexity import call


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What the network computes in evaluation mode."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        outputs = [leaf for leaf in tree_leaves(call(model, inputs)) if isinstance(leaf, Tensor)]
    for module, mode in training.items():
        module.training = mode
    return outputs


def assert_same_network(model: nn.Module, before: dict[str, Tensor], inputs: Any, outputs: list[Tensor]) -> None:
    """Nothing was changed: the same tensors under the same names, and the same outputs, to the last bit."""
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    for found, expected in zip(outputs_of(model, inputs), outputs, strict=True):
        assert torch.equal(found, expected)


def assert_trains(model: nn.Module, inputs: Any) -> None:
    """A forward and backward pass in training mode gives every parameter that requires it a finite gradient."""
    model.train()
    model.zero_grad()
    leaves = [leaf for leaf in tree_leaves(call(model, inputs)) if isinstance(leaf, Tensor)]
    sum(leaf.square().sum() for leaf in leaves).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.shape == parameter.shape, name
            assert parameter.grad.isfinite().all(), name


def assert_optimizers_hold(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """The optimizers hold every parameter of the network, once, and nothing else; their states have its shape."""
    held = [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len({id(parameter) for parameter in held})
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            assert any(parameter is one for one in held)
            for key, value in state.items():
                if isinstance(value, Tensor) and value.ndim == parameter.ndim:
                    assert all(size in {1, full} for size, full in zip(value.shape, parameter.shape, strict=True)), key
