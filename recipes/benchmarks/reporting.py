# Question: what does it add to a fit that the callback also leaves a page, or a W&B run?
# Command:  .venv/bin/python -m recipes.benchmarks.reporting     (--help lists networks and repeats)
# Measured: README.md one folder up.
"""Time that reporting adds to a fit that prunes half of the filters: a page, an offline W&B run, both.

Each fit has a process of its own, so that what is imported for figures counts, but for pandas, which data modules of
recordings have loaded by then; two short epochs, and the prune with a repair by merging at the start of the second. The
clips are random numbers: nothing that is measured depends on them. With validation data a page also validates copies of
the network at the prune, as it would in a real fit; here on one batch of two clips. Wall time and processor time are
those of the fit and of ending the W&B run, with all processes that were started for it. The limits are those that were
set: 5 s for the DCASE 2021 network, 30 s for CNN14.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import CosineFilterPruning, SafeWandbLogger
from lightning_cosprune.models import Cnn14, DCASE2021Baseline, SceneClassifier
from lightning_cosprune.surgery.report import format_table

NETWORKS = {"dcase2021": (DCASE2021Baseline, (1, 40, 500), 5), "cnn14": (Cnn14, (1, 64, 1001), 30)}
"""Network, shape of a clip, and the seconds that reporting may add."""

WAYS = ("nothing", "page", "wandb", "both", "wandb's own")
"""The last: an offline W&B run that is given one number, beside a fit that reports nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.way:
        print(json.dumps(fit(options.network[0], options.way)))
        return
    rows = []
    for network in options.network:
        times: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:  # in turn, so that what else the machine does meets all of them
                times[way].append(in_a_process(network, way))
        plain = {kind: statistics.median(one[kind] for one in times["nothing"]) for kind in ("wall", "processor")}
        for way in WAYS:
            found = {kind: statistics.median(one[kind] for one in times[way]) for kind in plain}
            added = [f"{found[kind] - plain[kind]:+.1f}" for kind in plain] if way != "nothing" else ["", ""]
            ratios = [f"{found[kind] / plain[kind]:.2f}" for kind in plain]
            rows.append([network, way, *(f"{found[kind]:.1f}" for kind in plain), *added, *ratios])
        print(f"{network}: may add {NETWORKS[network][2]} s", flush=True)
    header = ["", "reported", "wall s", "processor s", "added wall s", "added processor s", "wall ratio", "ratio"]
    print(f"{format_table(header, rows)}\nMedians of {options.repeats}, {torch.get_num_threads()} threads.")


def in_a_process(network: str, way: str) -> dict[str, float]:
    command = [sys.executable, "-m", "recipes.benchmarks.reporting", "--network", network, "--way", way]
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if told.returncode:
        raise OSError(f"{network}, {way}: {told.stderr.strip()[-500:]}")
    measured: dict[str, float] = json.loads(told.stdout.strip().splitlines()[-1])
    return measured


def fit(network: str, way: str) -> dict[str, float]:
    """One fit; seconds of wall and of processor time."""
    importlib.import_module("pandas")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    pl.seed_everything(0, verbose=False)
    build, shape, _ = NETWORKS[network]
    classifier = SceneClassifier(build(num_classes=10), 10)
    clips = TensorDataset(torch.randn(4, *shape), torch.arange(4) % 10)
    with tempfile.TemporaryDirectory() as folder:
        logger: Any = SafeWandbLogger(project="benchmark", save_dir=folder, offline=True)
        wanted = way in ("wandb", "both")
        pruning = CosineFilterPruning(
            0.5,
            at_epoch=1,
            repair="merge",
            report=Path(folder) / "report.html" if way in ("page", "both") else None,
        )
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=logger if wanted else False,
            max_epochs=2,
            callbacks=[pruning],
            limit_val_batches=1,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start, used = time.perf_counter(), processor_seconds()
        trainer.fit(classifier, DataLoader(clips, 2), DataLoader(clips, 2))
        if way == "wandb's own":
            logger.log_metrics({"number": 1.0}, step=0)
        logger.finish()
        if wanted or way == "wandb's own":
            import wandb

            wandb.teardown()  # so that its process has ended, and is counted
        return {"wall": time.perf_counter() - start, "processor": processor_seconds() - used}


def processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="reporting", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="default: both")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--way", choices=WAYS, help="measure one fit in this process, and write it as JSON")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
