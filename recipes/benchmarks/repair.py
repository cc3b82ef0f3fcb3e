# Question: what does a repair cost, beside GRAIL's map and an epoch of fine-tuning?
# Command:  .venv/bin/python -m recipes.benchmarks.repair        (--help lists the options; CNN14 takes minutes)
# Measured: ../README.md
"""Processor time and memory of repairing networks of which half of the filters were removed.

Weights and clips are random: what is measured is time. Each network and number of clips runs in a process of its own,
so that the peak of memory is its own; memory is what the process holds above what it held before the repair.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from lightning_cosprune import apply_plan, plan_pruning, refit_least_squares
from lightning_cosprune.models import DCASE2021Baseline, YAMNet
from lightning_cosprune.network.forward import float_tensors
from lightning_cosprune.surgery.report import format_table
from recipes.benchmarks.surgery import Cnn14
from recipes.repair.grail import grail_map

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "DCASE2021Baseline, 16 clips of 10 s": (DCASE2021Baseline, (1, 40, 500), 16),
    "YAMNet, 16 clips of 5 s": (YAMNet, (1, 96, 64), 16 * 9),
    "YAMNet, 80 clips of 5 s": (YAMNet, (1, 96, 64), 80 * 9),
    "CNN14, 32 clips of 10 s": (Cnn14, (1, 1001, 64), 32),
}
"""Network, shape of an input, and how many of them: a clip is nine patches for YAMNet."""


def measure(case: str) -> dict[str, float]:
    build, shape, samples = CASES[case]
    torch.manual_seed(0)
    dense = build().eval()
    pruned = copy.deepcopy(dense)
    example = torch.randn(1, *shape)
    plan = plan_pruning(pruned, example, pruning_ratio=0.5, criterion="random")
    report = apply_plan(pruned, plan, example)
    data = list(torch.randn(samples, *shape).split(160 if samples > 100 else 8))
    rival = copy.deepcopy(pruned)
    seconds: dict[str, float] = {"macs cut %": 100 * (1 - report.after.macs / report.before.macs)}
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with timed(seconds, "repair s"):
        refit_least_squares(pruned, dense, data, report=report)
    seconds["MiB above"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    with timed(seconds, "GRAIL s"):
        grail_map(rival, dense, report, data, example_inputs=example)
    with timed(seconds, "epoch s"):
        train(rival, data)
    return seconds


def train(network: nn.Module, data: Sequence[torch.Tensor]) -> None:
    """One pass of gradient steps over the same clips."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters())
    for batch in data:
        for part in batch.split(32):
            optimizer.zero_grad()
            sum(output.square().mean() for output in float_tensors(network(part))).backward()
            optimizer.step()


class timed:
    """Adds the processor time of what is within to a mapping."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *_: Any) -> None:
        self.seconds[self.name] = time.process_time() - self.start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="repair", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help="default: all")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    rows = []
    for case in options.cases:
        command = [sys.executable, "-m", "recipes.benchmarks.repair", "--one", case]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append([case, *(f"{value:.1f}" for value in found.values())])
        header = ["processor time", *found]
        print(rows[-1], file=sys.stderr, flush=True)
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
