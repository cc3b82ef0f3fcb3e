"""Laws that many tests hold a network to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_cosprune.network.forward import as_call, call, evaluating, float_tensors, same_random_state, unchanged


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What the network computes in evaluation mode."""
    with unchanged(model), evaluating(model), torch.no_grad(), same_random_state():
        return float_tensors(call(model, inputs))


def assert_same_network(model: nn.Module, before: dict[str, Tensor], inputs: Any, outputs: list[Tensor]) -> None:
    """Nothing was changed: the same tensors under the same names, and the same outputs, to the last bit."""
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    for found, expected in zip(outputs_of(model, inputs), outputs, strict=True):
        assert torch.equal(found, expected)


def assert_trains(model: nn.Module, inputs: Any, unread: Iterable[str] = ()) -> None:
    """A forward and backward pass in training mode gives every parameter that requires it a finite gradient.

    But for those of ``unread``, which run although no output hangs on them.
    """
    model.train()
    model.zero_grad()
    sum(leaf.square().sum() for leaf in float_tensors(call(model, inputs))).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.rpartition(".")[0] not in unread:
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


def _kept_inputs(dense: nn.Module, pruned: nn.Module, name: str, kept_filters: list[int]) -> Tensor | None:
    """Which input slices of a weight are left, found by their values; ``None`` where none was taken."""
    before, after = dense.get_parameter(name).detach().double(), pruned.get_parameter(name).detach().double()
    layer = dense.get_submodule(name.rpartition(".")[0])
    groups = getattr(layer, "groups", 1)
    if getattr(layer, "transposed", False):  # (in, out / groups, *kernel) -> (out, in / groups, *kernel)
        before, after = (weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1) for weight in (before, after))
    before = before[kept_filters] if len(after) < len(before) else before
    if before.shape == after.shape:
        return None
    kept = []
    for wide, narrow in zip(before.chunk(groups), after.chunk(groups), strict=True):
        columns = (narrow.transpose(0, 1).flatten(1)[:, None] == wide.transpose(0, 1).flatten(1)[None]).all(dim=2)
        assert (columns.sum(dim=1) == 1).all(), f"{name}: an input slice is none of the dense network's"
        kept.append(columns.any(dim=0))
    return torch.stack(kept)


def assert_equals_masked_dense(
    dense: nn.Module,
    pruned: nn.Module,
    removed: dict[str, list[int]],
    inputs: Any,
    narrow: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> None:
    """The pruned network computes what the dense one does whose readers' weights for the removed channels are zero.

    Which channels a reader has lost is read from the values that its weight has left, not from anybody's bookkeeping.
    ``narrow`` says of norms over channels what they compute over those that are kept.
    """
    masked: dict[str, Tensor] = {}
    for name, parameter in dense.named_parameters():
        owner, _, key = name.rpartition(".")
        module = dense.get_submodule(owner)
        reads = isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) and key == "weight"
        if not reads and not key.startswith("weight_ih_l0"):
            continue
        filters = range(getattr(module, "out_channels", len(parameter)))
        kept = _kept_inputs(dense, pruned, name, sorted(set(filters).difference(removed.get(owner, ()))))
        if kept is None or (getattr(module, "groups", 1) == len(filters) == getattr(module, "in_channels", 0)):
            continue
        weight = masked[name] = parameter.detach().clone()
        if getattr(module, "transposed", False):
            weight[~kept.flatten()] = 0
        else:
            for block, row in zip(weight.chunk(len(kept)), kept, strict=True):
                block[:, ~row] = 0
    tolerance = {torch.bfloat16: 3e-2, torch.float64: 1e-9}
    with unchanged(dense), evaluating(dense), torch.no_grad(), same_random_state():
        for name, compute in (narrow or {}).items():
            dense.get_submodule(name).register_forward_hook(lambda _, args, __, compute=compute: compute(args[0]))
        wanted = float_tensors(torch.func.functional_call(dense, masked, *as_call(inputs)))
    for found, expected in zip(outputs_of(pruned, inputs), wanted, strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance.get(expected.dtype, 1e-5) * max(scale, 1e-6))


def assert_same(found: Any, expected: Any) -> None:
    """Nested containers of tensors and values are equal, to the last bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected
