"""Callbacks that count what training costs, over interruptions too, and look at the test clips meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_cosprune.data import DCASEScenes


class Clock(Callback):
    """Seconds of training, the prunes and repairs at the start of epochs included, and training clips seen."""

    def __init__(self) -> None:
        self.seconds, self.clips = 0.0, 0
        self._since = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, _: int) -> None:  # noqa: ARG002
        self.clips += len(batch[0]) * trainer.world_size

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._since

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "clips": self.clips}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.clips = state_dict["seconds"], state_dict["clips"]


class Curve(Callback):
    """Accuracy on the test clips after every few epochs. It is only looked at: nothing is chosen by it."""

    def __init__(self, every: int, clock: Clock, scenes: DCASEScenes) -> None:
        self.every, self.clock, self.scenes = every, clock, scenes
        self.points: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == trainer.max_epochs:
            self.points.append(
                {
                    "epoch": epoch,
                    "clips": self.clock.clips,
                    "seconds": self.clock.seconds,
                    "accuracy": accuracy(module, self.scenes),
                }
            )

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = state_dict["points"]


@torch.no_grad()
def accuracy(module: LightningModule, scenes: DCASEScenes) -> float:
    """Share of the test clips that are recognised; the module and the stream of random numbers stay as they were."""
    modes = {part: part.training for part in module.modules()}
    right = total = 0
    with torch.random.fork_rng(devices=[]):  # loaders draw a seed
        module.eval()
        for loaded in scenes.test_dataloader():  # features, which only training augments
            batch = scenes.transfer_batch_to_device(loaded, module.device, 0)
            right += int((module(batch[0]).argmax(dim=1) == batch[1]).sum())
            total += len(batch[1])
    for part, mode in modes.items():
        part.training = mode
    return right / total


class Energy:
    """Kilowatt-hours of a piece of work as codecarbon estimates them; NaN where that is not asked for."""

    def __init__(self, wanted: bool) -> None:
        self.kwh = float("nan")
        self._tracker: Any = None
        if wanted:
            try:
                from codecarbon import OfflineEmissionsTracker
            except ImportError as error:
                raise ValueError(
                    "`study.energy=true`: expected the package codecarbon, found none. Write `pip install "
                    "'lightning-cosprune[energy]'`, or leave it out."
                ) from error
            # The country decides the carbon only, which is not asked for.
            self._tracker = OfflineEmissionsTracker(country_iso_code="GBR", save_to_file=False, log_level="error")

    def of(self, work: Callable[[], None]) -> None:
        """Run ``work`` and measure it."""
        if self._tracker is None:
            work()
            return
        self._tracker.start()
        try:
            work()
        finally:
            self._tracker.stop()
        self.kwh = float(self._tracker.final_emissions_data.energy_consumed)
