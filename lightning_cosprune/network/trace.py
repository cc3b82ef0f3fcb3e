"""One forward pass with gradients, from which Torch-Pruning reads which layer reads which."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map

from lightning_cosprune.network.calls import Calls
from lightning_cosprune.network.forward import (
    call,
    evaluating,
    float_tensors,
    forward_failed,
    outside_inference_mode,
    same_random_state,
    unchanged,
)
from lightning_cosprune.network.graph import DependencyGraph
from lightning_cosprune.network.pruners import (
    ConvPruner,
    InstanceNormPruner,
    NormPruner,
    RecurrentPruner,
    as_one_node,
    as_one_step,
)

__all__ = ["trace"]


def trace(
    model: nn.Module, example_inputs: Any, norms: set[type[nn.Module]], *, keep: bool = False
) -> tuple[DependencyGraph, Calls]:
    """Record which layer reads which in one forward pass; the model is left as it was found.

    Every floating-point parameter requires grad meanwhile: Torch-Pruning follows autograd's graph, which has no edges
    through frozen layers.

    Args:
        model: The network.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.
        norms: Classes of norms over channels, each of which is one step.
        keep: Keep what autograd saves for a backward pass, which is as large as all that the network computes, and
            needed only by code that computes gradients within its forward pass.

    Returns:
        Torch-Pruning's graph of the layers, and what was called. Neither holds on to what the pass computed.

    Raises:
        ValueError: The forward pass fails.
    """
    frozen = [
        parameter for parameter in model.parameters() if not parameter.requires_grad and parameter.is_floating_point()
    ]
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    graph = DependencyGraph()
    graph.register(tp.ops.OPTYPE.CONV, ConvPruner())
    graph.register(tp.ops.OPTYPE.LN, NormPruner())
    pruners: dict[type[nn.Module], Any] = {type(layer): RecurrentPruner() for layer in recurrent}
    pruners |= {
        type(module): InstanceNormPruner()
        for module in model.modules()
        if isinstance(module, nn.modules.instancenorm._InstanceNorm)
    }
    norms = norms | {type(part) for part in model.modules() if isinstance(part, (nn.RMSNorm, nn.LocalResponseNorm))}
    pruners |= dict.fromkeys(norms, NormPruner())
    opaque = [module for module in model.modules() if type(module) in norms]
    calls = Calls()
    missed: list[Any] = []
    arguments = example_inputs if isinstance(example_inputs, (Mapping, Sequence)) else (example_inputs,)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            same_random_state(),
            unchanged(model),
            evaluating(model),
            _quiet(),
            contextlib.nullcontext() if keep else saved_tensors_hooks(_forget, missed.append),  # type: ignore[arg-type]
        ):
            for parameter in frozen:
                parameter.requires_grad_(True)
            calls.listen(model)
            for layer in recurrent:
                layer.forward = functools.partial(as_one_node, layer.forward)
            for norm in opaque:
                norm.forward = functools.partial(as_one_step, norm.forward)
            graph.build(
                model,
                tree_map(outside_inference_mode, arguments),
                lambda module, inputs: float_tensors(call(module, inputs)),
                pruners,
            )
    except Exception as error:
        if missed:
            return trace(model, example_inputs, norms, keep=True)
        if _runs(model, example_inputs):
            raise ValueError(
                f"{type(model).__name__} runs, but which layer reads which cannot be followed: {type(error).__name__}: "
                f"{error}. Prune the parts of it for which that is not so, each by itself."
            ) from error
        raise forward_failed(model, error) from error
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    calls.settle()
    graph.settle()
    return graph, calls


def _forget(_: Tensor) -> Any:
    """In place of a tensor that a backward pass would need."""
    return None


def _runs(model: nn.Module, example_inputs: Any) -> bool:
    """Whether the forward pass alone is no cause of an error."""
    try:
        with torch.no_grad(), same_random_state(), unchanged(model), evaluating(model):
            float_tensors(call(model, example_inputs))
    except Exception:  # of the user's code
        return False
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Torch-Pruning's notes on operations it has no rule for: where it guesses wrong, the trial fails."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch_pruning")
        yield
