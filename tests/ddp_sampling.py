"""Run by test_ddp_sampling.py in each process: notes which rows every step of every epoch trains on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import pandas as pd
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune.data import FractionSampler

CLIPS = 60


def table() -> pd.DataFrame:
    rows = range(CLIPS)
    return pd.DataFrame(
        {
            "scene_label": [f"scene{row // 2 % 3}" for row in rows],
            "device": [f"device{row // 2 % 2}" for row in rows],
            "parent": [f"recording{row // 2}" for row in rows],
        }
    )


class Notes(pl.LightningModule):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.folder = folder
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch, _):
        (row,) = batch
        self.seen[-1].extend(row[:, 0].int().tolist())
        return self.layer(row).square().mean()

    def on_train_epoch_end(self) -> None:
        name = f"epoch{self.current_epoch}-rank{self.global_rank}.json"
        (self.folder / name).write_text(json.dumps(self.seen[-1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def main() -> None:
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    rows = torch.arange(CLIPS, dtype=torch.float32)[:, None]
    sampler = FractionSampler(table(), options["fraction"], seed=3)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=options["devices"],
        strategy="ddp" if options["devices"] > 1 else "auto",
        max_epochs=options["epochs"],
        callbacks=[pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(
        Notes(folder), DataLoader(TensorDataset(rows), batch_size=5, sampler=sampler), ckpt_path=options.get("resume")
    )


if __name__ == "__main__":
    main()
