"""How long a forward pass takes on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightning_cosprune.network.forward import call, evaluating, same_random_state, unchanged

__all__ = ["seconds_of_passes"]

_ROUNDS, _SECONDS = 20, 1.0


def seconds_of_passes(networks: Sequence[nn.Module], example_inputs: Any) -> list[float]:
    """Shortest time of a forward pass of each network in evaluation mode.

    The networks take turns, twenty times or for a second, after a pass of each that is not counted: what else the
    machine does disturbs them alike, and the shortest pass least. They are left as they were found.

    Args:
        networks: Any modules, on one device.
        example_inputs: A tensor, or a tuple of positional or a mapping of keyword arguments of each.

    Returns:
        Seconds, one number a network.
    """
    device = next((parameter.device for network in networks for parameter in network.parameters()), torch.device("cpu"))
    best = [float("inf")] * len(networks)
    with contextlib.ExitStack() as held, torch.no_grad(), same_random_state():
        for network in networks:
            held.enter_context(unchanged(network))
            held.enter_context(evaluating(network))
            call(network, example_inputs)
        end = time.perf_counter() + _SECONDS
        for turn in range(_ROUNDS):
            for place, network in enumerate(networks):
                _wait(device)
                start = time.perf_counter()
                call(network, example_inputs)
                _wait(device)
                best[place] = min(best[place], time.perf_counter() - start)
            if turn and time.perf_counter() > end:
                break
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
