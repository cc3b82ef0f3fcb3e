"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightning_cosprune.data.disk import writing_to, written_beside
from lightning_cosprune.network.rollback import uninterrupted

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lets a Trainer write each checkpoint beside its place, to the disk, and only then give it its name.

    Lightning's own way goes through the system's folder for temporary files. Where that is on another file system, as
    on many clusters and in containers, the last step is a copy over the old checkpoint, and a run that is killed
    meanwhile leaves half a file and no old one.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(accelerator="cpu", plugins=[AtomicCheckpointIO()], logger=False)
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to a local ``path``; any other is left to Lightning. Ctrl-C waits until it is written.

        Raises:
            OSError: The disk is full; what was at ``path`` is still there.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)
            return
        target = Path(path)
        with writing_to(target.parent, f"Checkpoint {target.name}", again="older checkpoints are untouched"):
            target.parent.mkdir(parents=True, exist_ok=True)
            # PyTorch's writer ends the whole process where an interrupt meets it.
            with uninterrupted(), written_beside(target) as file:
                torch.save(checkpoint, file)
