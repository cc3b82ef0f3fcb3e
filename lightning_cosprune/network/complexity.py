"""Parameters, multiply-accumulates and bytes of a network at a stated input."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lightning_cosprune.network.forward import call, evaluating, forward_failed, unchanged
from lightning_cosprune.network.layers import check_model

__all__ = ["Complexity", "measure_complexity"]


@dataclass(frozen=True)
class Complexity:
    """What a network costs, for the input it was measured at.

    Attributes:
        params: Numbers that the deployed network stores: its parameters and its batch-norm statistics, as Keras and the
            papers count them.
        trainable_params: The elements of its parameters alone, frozen or not, as PyTorch users count them.
        macs: Multiply-accumulates of convolutions, linear layers, recurrent layers and attention in one forward pass.
            Normalisation, activations and pooling are not counted.
        bytes: Memory of ``params`` in the data types they have now.
        input_shape: Shape of each input tensor that ``macs`` holds for, the batch dimension included.
    """

    params: int
    trainable_params: int
    macs: int
    bytes: int
    input_shape: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.input_shape)
        return (
            f"{self.params:,} parameters ({self.trainable_params:,} of them weights), {self.macs / 1e6:,.2f} M MACs at "
            f"{shapes}, {self.bytes / 1e3:,.1f} kB"
        )


def measure_complexity(model: nn.Module, example_inputs: Any) -> Complexity:
    """Count what ``model`` costs for ``example_inputs``.

    The multiply-accumulates are half of what PyTorch's own FLOP counter sees during a forward pass without gradients,
    in evaluation mode; so they hold for the batch that is passed, and it is natural to pass a batch of one. Fused
    recurrent and attention kernels, which that counter passes over in silence, are switched off meanwhile.

    Args:
        model: Any module; left as it was found.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of ``model``.

    Returns:
        The counts, with the input shapes they hold for.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: The forward pass fails, or a lazy layer has no size yet.

    Example:
        >>> measure_complexity(nn.Conv2d(1, 4, 3, padding=1), torch.zeros(1, 1, 8, 8)).macs
        2304
    """
    check_model(model, "measure_complexity")
    stored = _stored_tensors(model)
    with (
        unchanged(model),
        evaluating(model),
        _unfused(model),
        torch.no_grad(),
        _Counter() as counter,
    ):
        try:
            call(model, example_inputs)
        except Exception as error:  # a network may fail in any way
            raise forward_failed(model, error) from error
    return Complexity(
        params=sum(tensor.numel() for tensor in stored),
        trainable_params=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.flops // 2,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
        input_shape=tuple(tuple(leaf.shape) for leaf in tree_leaves(example_inputs) if isinstance(leaf, Tensor)),
    )


class _Counter(TorchDispatchMode):
    """Adds up what PyTorch's own counter counts for each operation; that counter itself loads the compiler first."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # else PyTorch wraps what is below, and loads the compiler for it
        return False

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        count = flop_registry.get(operation._overloadpacket)
        if count is None:
            with self:
                parts = operation.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        found = operation(*args, **kwargs)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=found)
        return found


def _stored_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and batch-norm statistics, each once even where it is shared."""
    statistics = [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    return [*model.parameters(), *{id(buffer): buffer for buffer in statistics}.values()]


@contextlib.contextmanager
def _unfused(model: nn.Module) -> Iterator[None]:
    """Compute recurrent layers and attention from matrix products, one by one, so that the FLOP counter sees them."""
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), contextlib.ExitStack() as kernels:
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                kernels.enter_context(torch.backends.cudnn.flags(enabled=False))
                with warnings.catch_warnings():
                    # Switching oneDNN off also sets its TF32 flag, which warns where there is no Intel GPU to heed it.
                    warnings.simplefilter("ignore")
                    kernels.enter_context(torch.backends.mkldnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
