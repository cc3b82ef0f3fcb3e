"""When to prune, and how much of the way to the final ratio each step goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lightning_cosprune.arguments import as_whole, one_of, whole_numbers

__all__ = ["Schedule", "parse_schedule"]

_SHAPES = ("linear", "cubic")


@dataclass(frozen=True)
class Schedule:
    r"""Epochs at whose start filters are removed.

    After step :math:`k` of :math:`n` the network has lost a share of what it will lose in the end:

    .. math:: \text{linear: } k / n, \qquad \text{cubic: } 1 - (1 - k / n)^3 .

    Attributes:
        epochs: Counted from 0, rising.
        shape: ``"linear"`` removes as much in each step; ``"cubic"`` most in the first steps, when most is redundant.

    Raises:
        TypeError: ``epochs`` is no sequence.
        ValueError: They do not rise, or the shape is unknown.

    Source: cubic is the schedule of Zhu and Gupta, "To prune, or not to prune", 2017, read at its steps.
    """

    epochs: tuple[int, ...]
    shape: Literal["linear", "cubic"] = "linear"

    def __post_init__(self) -> None:
        one_of(self.shape, "`Schedule(shape={})`", _SHAPES)
        expected = "rising epochs, counted from 0"
        epochs = whole_numbers(self.epochs, "`Schedule(epochs={})`", expected, 0)
        if not epochs or list(epochs) != sorted(set(epochs)):
            raise ValueError(
                f"`Schedule(epochs={epochs})`: expected {expected}, at least one. Write (0,) for the start."
            )
        object.__setattr__(self, "epochs", epochs)

    def steps_due(self, epoch: int) -> int:
        """How many steps have come by the start of ``epoch``."""
        return sum(one <= epoch for one in self.epochs)

    def share(self, step: int) -> float:
        """How much of the way is gone after ``step`` steps, from 0 to 1."""
        left = 1 - step / len(self.epochs)
        return 1 - (left if self.shape == "linear" else left**3)


def parse_schedule(at_epoch: Any, shape: str, caller: str) -> Schedule:
    """The schedule that a user's arguments mean.

    Args:
        at_epoch: An epoch, a rising sequence of epochs, or a mapping with ``start``, ``stop`` and ``every``, which are
            the arguments of ``range``: from ``start`` (0 where left out) to before ``stop``.
        shape: ``"linear"`` or ``"cubic"``.
        caller: Name that an error is about.

    Returns:
        The schedule.

    Raises:
        ValueError: With what was found and what to write instead.
    """
    if not isinstance(shape, str) or shape not in _SHAPES:
        raise ValueError(f'`{caller}(schedule={shape!r})`: expected "linear" or "cubic". Choose one.')
    epochs: list[Any]
    if isinstance(at_epoch, Mapping):
        parts: dict[str, Any] = {"start": 0, "every": 1, **{key: as_whole(part) for key, part in at_epoch.items()}}
        whole = all(part is not None for part in parts.values())
        if set(parts) != {"start", "stop", "every"} or not whole or parts["every"] < 1:
            raise ValueError(
                f"`{caller}(at_epoch={dict(at_epoch)!r})`: expected whole numbers for start, stop and every. To prune "
                "at epochs 2, 4, 6 and 8 write {'start': 2, 'stop': 10, 'every': 2}."
            )
        epochs = list(range(parts["start"], parts["stop"], parts["every"]))
    else:
        many = isinstance(at_epoch, Iterable) and getattr(at_epoch, "shape", None) != ()
        epochs = [as_whole(epoch) for epoch in (at_epoch if many else [at_epoch])]
    if not epochs or any(epoch is None or epoch < 0 for epoch in epochs) or epochs != sorted(set(epochs)):
        raise ValueError(
            f"`{caller}(at_epoch={at_epoch!r})`: expected an epoch counted from 0, a rising sequence of such epochs, "
            "or a mapping with start, stop and every. To prune before training write 0."
        )
    return Schedule(tuple(epochs), shape)  # type: ignore[arg-type]
