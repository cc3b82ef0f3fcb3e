"""Running a network without a trace: whatever its inputs are, whatever it keeps between calls."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_cosprune.network.rollback import Snapshot

__all__ = [
    "as_call",
    "call",
    "eager",
    "evaluating",
    "float_tensors",
    "forward_failed",
    "outside_inference_mode",
    "same_random_state",
    "unchanged",
]


def call(model: nn.Module, example_inputs: Any) -> Any:
    """Run ``model`` on a tensor, on a tuple or list of positional arguments, or on a mapping of keyword arguments.

    Returns:
        What the model returns.
    """
    args, kwargs = as_call(example_inputs)
    with eager():
        return model(*args, **kwargs)


def forward_failed(model: nn.Module, error: Exception) -> ValueError:
    """What to raise where a network does not run on the example input.

    Returns:
        An error that says how to give one that it runs on, or that it has no ``forward`` at all.
    """
    what = f"The forward pass of {type(model).__name__} on the example input failed"
    own = getattr(type(model).forward, "__qualname__", "")
    if isinstance(error, NotImplementedError) and own in ("_forward_unimplemented", "LightningModule.forward"):
        parts = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
        named = f", such as {parts[0]!r}" if parts else ""
        return ValueError(
            f"{what}: it has no `forward`. Prune the part that has one{named}: pass that part in place of the whole, "
            "or its name as `CosineFilterPruning(module=...)`."
        )
    return ValueError(
        f"{what}: {type(error).__name__}: {error}. Pass `example_inputs` that `forward` accepts: a tensor, or a tuple "
        "of its positional or a mapping of its keyword arguments."
    )


def eager() -> contextlib.AbstractContextManager[Any]:
    """Run compiled modules as they were written: compiled code keeps no record of which layer reads which.

    Returns:
        A context.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)  # from PyTorch 2.6 on
    # Where the compiler was never loaded nothing is compiled, and loading it takes over a second.
    return set_stance("force_eager") if set_stance and "torch._dynamo" in sys.modules else contextlib.nullcontext()


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that ``example_inputs`` stands for.

    Returns:
        Both, one of them empty.
    """
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def float_tensors(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of a network's output, which may be nested and may be a dataclass.

    Of complex tensors it is the real and imaginary parts.

    Raises:
        ValueError: There is none.

    Returns:
        The tensors, in a fixed order.
    """
    tensors: list[Tensor] = []
    stack = [outputs]
    while stack:
        leaf = stack.pop()
        fields = getattr(leaf, "__dataclass_fields__", None)
        if fields is not None and not isinstance(leaf, type):
            stack += [getattr(leaf, name) for name in fields]
        elif isinstance(leaf, Tensor):
            leaf = torch.view_as_real(leaf) if leaf.is_complex() else leaf
            tensors += [leaf] if leaf.is_floating_point() else []
        elif isinstance(leaf, Mapping):
            stack += leaf.values()
        else:
            leaves = tree_leaves(leaf)
            stack += [] if len(leaves) == 1 and leaves[0] is leaf else leaves
    if not tensors:
        raise ValueError(f"expected `forward` to return a floating-point tensor, found {type(outputs).__name__}")
    return tensors[::-1]


@contextlib.contextmanager
def same_random_state(seed: int = 0) -> Iterator[None]:
    """Leave the random streams of training where they are, and draw the same numbers each time."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode and give each module its own mode back afterwards."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what happens to ``model``'s modules within, such as states that a forward pass carries on.

    Buffers are copies meanwhile, for code may write into them. TorchScript keeps the very tensors, whose values are put
    back.
    """
    before = Snapshot(model)
    contents: list[tuple[Tensor, Tensor]] = []
    try:
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                contents += [(buffer, buffer.detach().clone()) for buffer in module.buffers(recurse=False)]
            else:
                buffers = module._buffers
                buffers.update({name: buffer.clone() for name, buffer in buffers.items() if buffer is not None})
        yield
    finally:
        before.restore()
        with torch.no_grad():
            for buffer, content in contents:
                buffer.copy_(content)


def outside_inference_mode(leaf: Any) -> Any:
    """The leaf, or where it is a tensor made in inference mode a copy that autograd can work with."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf
