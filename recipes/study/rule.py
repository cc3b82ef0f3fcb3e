"""What the DCASE challenges count: bytes of the parameters in half precision, and torchinfo's multiply-accumulates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cosprune.network.forward import evaluating, unchanged

MAX_BYTES, MAX_MACS = 128_000, 30_000_000


def rule_counts(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """Bytes and multiply-accumulates by the rules of DCASE 2023 to 2025, task 1.

    Parameters alone take bytes, two each; batch-norm statistics do not count. Of each layer's weights and biases a
    convolution's are used once at every place of its output, all others once.

    Source: the complexity check of the baseline of 2024, which calls torchinfo 1.8.

    Args:
        network: Any module; left as it was found.
        example: One input, ``(1, ...)``.
    """
    macs = 0

    def count(layer: nn.Module, _: Any, output: Any) -> None:
        nonlocal macs
        places = output.shape[0]
        if isinstance(layer, nn.modules.conv._ConvNd):
            places *= math.prod(output.shape[2:])
        macs += places * sum(parameter.numel() for parameter in layer.parameters(recurse=False))

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not list(layer.children())]
    try:
        with unchanged(network), evaluating(network), torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return 2 * sum(parameter.numel() for parameter in network.parameters()), macs
