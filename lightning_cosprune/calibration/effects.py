"""What an error in one place does to the outputs: some channels are guessed from the others, and the network is run."""

# ruff: noqa: F722 - jaxtyping writes the axes of a tensor in a string

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_cosprune.calibration.batches import num_samples
from lightning_cosprune.calibration.moments import Moments
from lightning_cosprune.network.forward import call, evaluating, float_tensors, same_random_state, unchanged

if TYPE_CHECKING:
    from jaxtyping import Bool

__all__ = ["OutputEffects", "some_samples"]

_RIDGE = 1e-2
"""Relative to the mean variance of the channels that are guessed from."""


def some_samples(batches: Sequence[Any], share: float, most: int) -> list[Any]:
    """Of the first ``share`` of the samples ``most`` at most, evenly spread; what is no tensor of samples stays."""
    wanted = max(1, round(sum(map(num_samples, batches)) * share))
    step = max(1, -(-wanted // most))
    found, done = [], 0
    for batch in batches:
        samples = num_samples(batch)
        first = -done % step
        places = torch.arange(first, max(min(samples, wanted - done), 0), step)
        done += samples
        if len(places):
            found.append(tree_map(lambda leaf, n=samples, at=places: _rows(leaf, n, at), batch))
    return found


def _rows(leaf: Any, samples: int, places: Tensor) -> Any:
    is_of_samples = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == samples
    return leaf[places.to(leaf.device)] if is_of_samples else leaf


class OutputEffects:
    """How far the outputs move where a layer is given guesses for some of its input channels.

    Args:
        model: The network; left as it was found.
        batches: What it is run on.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self._model, self._batches = model, batches
        self._outputs = [self._run(batch, {}) for batch in batches]
        self._variance = _variance(self._outputs)

    def error(
        self,
        channels: Mapping[str, Tensor],
        moments: Mapping[str, Sequence[Moments]],
        gone: Bool[Tensor, " filters"],
    ) -> float | None:
        """Mean squared change of the outputs, as a part of their variance, without some filters of one group.

        Each reader is given, in place of the channels of removed filters, the best linear guess from those of the kept
        ones: what a repair of its weights comes to, where it is solved channel by channel.

        Args:
            channels: Reader -> the channels of its input in which each filter arrives, ``(filters, channels)``.
            moments: Reader -> moments of its inputs for each of its groups, on other data.
            gone: The filters that are missing.

        Returns:
            The error; ``None`` where the outputs have no variance that could be a measure.
        """
        if self._variance <= 0:
            return None
        guesses = {
            name: _Guess(self._model.get_submodule(name), channels[name], moments[name], gone)
            for name in channels
            if name in moments
        }
        total = 0.0
        for batch, wanted in zip(self._batches, self._outputs, strict=True):
            found = self._run(batch, guesses)
            total += sum(float((one - other).square().sum()) for one, other in zip(found, wanted, strict=True))
        return total / self._variance

    def _run(self, batch: Any, guesses: Mapping[str, Callable[..., Any]]) -> list[Tensor]:
        model = self._model
        with unchanged(model), evaluating(model), torch.no_grad(), same_random_state():
            for name, guess in guesses.items():
                model.get_submodule(name).register_forward_pre_hook(guess, with_kwargs=True)  # taken off with all else
            return [one.double() for one in float_tensors(call(model, batch))]


def _variance(outputs: Sequence[Sequence[Tensor]]) -> float:
    """Sum of squares about the mean over all samples, of every output that has a row a sample."""
    total = 0.0
    for of_all in zip(*outputs, strict=True):
        if all(one.ndim and one.shape[1:] == of_all[0].shape[1:] for one in of_all):
            joined = torch.cat(list(of_all))
            total += float((joined - joined.mean(dim=0)).square().sum())
    return total


class _Guess:
    """A hook that puts guesses in place of some channels of a layer's input."""

    def __init__(self, layer: nn.Module, channels: Tensor, moments: Sequence[Moments], gone: Tensor) -> None:
        self._axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)  # type: ignore[arg-type]
        size = _channels_of(layer) // len(moments)
        self._maps: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        for group, own in enumerate(moments):
            inside = ((channels // size) == group).all(dim=1)
            held, lost = (channels[inside & mask].flatten() for mask in (~gone, gone))
            if not len(lost):
                continue
            covariance, mean = _by_channel(own, size)
            near, far = held - group * size, lost - group * size
            inner = covariance[near][:, near]
            inner.diagonal().add_(_RIDGE * inner.diagonal().mean().clamp_min(1e-300) if len(near) else 0)
            linear = torch.linalg.solve(inner, covariance[near][:, far])
            self._maps.append((held, lost, linear, mean[near], mean[far]))

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given: Tensor = args[0] if args else kwargs["input"]
        last = given.movedim(self._axis, -1)
        guessed = last.clone()
        for held, lost, linear, near, far in self._maps:
            told = (last[..., held.to(given.device)] - near.to(last)) @ linear.to(last) + far.to(last)
            guessed[..., lost.to(given.device)] = told
        inputs = guessed.movedim(-1, self._axis)
        return ((inputs, *args[1:]), kwargs) if args else ((), {**kwargs, "input": inputs})


def _channels_of(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def _by_channel(moments: Moments, channels: int) -> tuple[Tensor, Tensor]:
    """Covariance and means of the channels, where the taps of a kernel are told apart the mean over them."""
    covariance, mean = moments.xx / max(moments.count, 1), moments.mean_x
    taps = len(mean) // channels
    if taps > 1:
        covariance = torch.einsum("itjt->ij", covariance.unflatten(0, (channels, taps)).unflatten(2, (channels, taps)))
        covariance, mean = covariance / taps, mean.unflatten(0, (channels, taps)).mean(dim=1)
    return covariance, mean
