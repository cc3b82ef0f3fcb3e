"""Which part of the work is going on, and how long each took."""

from __future__ import annotations

import time

__all__ = ["Clock", "PHASES"]

PHASES = ("dense training", "ranking", "surgery", "repair", "fine-tuning", "evaluation", "reporting", "other")
"""The parts of a run, in the order in which they are told."""


class Clock:
    """Seconds by phase; one phase at a time.

    Attributes:
        phase: The one that is going on, or ``None``.
        seconds: Phase -> seconds so far, without the one that is going on.
    """

    def __init__(self) -> None:
        self.phase: str | None = None
        self.seconds: dict[str, float] = {}
        self._since = 0.0

    def enter(self, phase: str | None) -> str | None:
        """End the phase that is going on and begin another.

        Returns:
            The one that ended, to go back to.
        """
        now = time.perf_counter()
        before = self.phase
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self.phase, self._since = phase, now
        return before
