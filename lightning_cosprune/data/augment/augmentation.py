"""``Augmentation``: what all of them are, and how they refuse wrong settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from lightning_cosprune.arguments import real_number
from lightning_cosprune.data.dataset import SceneBatch

Domain = Literal["features", "waveform"]


class Augmentation(nn.Module):
    """A random change to training batches. Subclasses write :meth:`augment`.

    In evaluation mode the batch passes untouched.
    """

    domain: Domain = "features"

    def prepare(self, *, num_classes: int, devices: Sequence[str], sample_rate: int) -> None:
        """Learn about the set, before the first batch; :class:`DCASEScenes` calls it.

        Args:
            num_classes: Scenes to tell apart.
            devices: Names of the recording devices, in the order of their numbers in the batches.
            sample_rate: Of the waveforms.
        """

    def forward(self, batch: SceneBatch) -> SceneBatch:
        """The batch, changed in training mode.

        Args:
            batch: With ``features`` of shape ``(batch, 1, mels, frames)``, or ``(batch, samples)`` where ``domain`` is
                ``"waveform"``.

        Returns:
            A new batch, or the given one.
        """
        if not self.training:
            return batch
        with torch.no_grad():
            return self.augment(batch)

    def augment(self, batch: SceneBatch) -> SceneBatch:
        """The changed batch; ``batch`` itself must stay as it is.

        Args:
            batch: As for :meth:`forward`.

        Returns:
            A new batch.
        """
        raise NotImplementedError


def probability(owner: nn.Module, p: float) -> float:
    """Refuse what is no probability.

    Args:
        owner: Whose setting ``p`` is, named in the error.
        p: Should be in [0, 1].

    Returns:
        ``p``.

    Raises:
        TypeError: It is no number.
        ValueError: It is not.
    """
    expected = "a probability in [0, 1]; 1 is every time"
    return real_number(p, f"`{type(owner).__name__}(p={{}})`", expected, least=0, most=1)


def positive(owner: nn.Module, name: str, value: float) -> float:
    """Refuse what is no positive number.

    Args:
        owner: Whose setting it is, named in the error.
        name: Of the setting.
        value: Should be positive and finite.

    Returns:
        ``value``.

    Raises:
        TypeError: It is no number.
        ValueError: It is not.
    """
    return real_number(value, f"`{type(owner).__name__}({name}={{}})`", "a positive number", above=0, finite=True)


def unprepared(owner: nn.Module, arguments: str) -> RuntimeError:
    """The error for an augmentation that was never told about the set.

    Args:
        owner: The augmentation.
        arguments: What :meth:`Augmentation.prepare` could be called with.

    Returns:
        The error to raise.
    """
    name = type(owner).__name__
    return RuntimeError(
        f"`{name}`: expected to know the set before its first batch. Pass it as DCASEScenes(augment=[{name}(...)]), or "
        f"call prepare({arguments}) yourself."
    )
