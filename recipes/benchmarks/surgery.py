# Question: what does it cost to prune CNN14 whole, beside plain torch-pruning, and what does the callback cost a step?
# Command:  .venv/bin/python -m recipes.benchmarks.surgery     (four minutes; --help lists the options)
# Measured: README.md one folder up.
"""Processor time of pruning CNN14 whole, phase by phase, and of a training step with and without the callback.

The rival is what one would use instead: Torch-Pruning's `MagnitudePruner`, layer by layer, which neither checks what it
cuts nor tells the optimizer. The contenders take turns, and so do the training runs; each ratio is that of one round.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch_pruning as tp
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import CosineFilterPruning, apply_plan, plan_pruning
from lightning_cosprune.surgery import apply as surgery
from lightning_cosprune.surgery.optim import check_bound
from lightning_cosprune.surgery.report import format_table


class Block(nn.Module):
    """Two convolutions of CNN14."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(filters), nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


class Cnn14(nn.Module):
    """The shape of PANNs' CNN14 behind its log-mel front: 80.8 million parameters, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(64)
        widths = [1, 64, 128, 256, 512, 1024, 2048]
        self.blocks = nn.ModuleList(Block(*pair) for pair in itertools.pairwise(widths))
        self.fc1, self.fc_audioset = nn.Linear(2048, 2048), nn.Linear(2048, 527)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.bn0(x.transpose(1, 3)).transpose(1, 3)
        for number, block in enumerate(self.blocks):
            x = nn.functional.avg_pool2d(block(x), 2 if number < 5 else 1)
            x = nn.functional.dropout(x, 0.2, self.training)
        x = x.mean(dim=3)
        embedding = self.fc1(x.amax(dim=2) + x.mean(dim=2)).relu()
        return {"clipwise_output": self.fc_audioset(embedding).sigmoid(), "embedding": embedding}


class Classifier(LightningModule):
    """A small network whose steps are short, so that what a callback adds would show."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 7, padding=3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(5),
            nn.Conv2d(16, 32, 7, padding=3),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class StepTimes(Callback):
    """Processor time from the start of one batch to the start of the next, all callbacks included."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.process_time())

    def seconds(self) -> float:
        steps = [after - before for before, after in itertools.pairwise(self.starts)]
        return statistics.median(steps[5:])


@contextlib.contextmanager
def timed(owner: Any, name: str, seconds: dict[str, float], label: str) -> Iterator[None]:
    function: Callable[..., Any] = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[label] = seconds.get(label, 0.0) + time.process_time() - start

    with mock.patch.object(owner, name, wrapper):
        yield


def with_adam(model: nn.Module, frames: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of the network and an optimizer that holds the moments of one step."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    sum(output.sum() for output in model(torch.randn(2, 1, frames, 64)).values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def ours(model: nn.Module, frames: int) -> tuple[dict[str, float], int, tuple[int, int]]:
    model, optimizer = with_adam(model, frames)
    example = torch.randn(1, 1, frames, 64)
    seconds: dict[str, float] = {}
    start = time.process_time()
    plan = plan_pruning(model, example, pruning_ratio=0.5)
    seconds["plan: trace and rank"] = time.process_time() - start
    with (
        timed(surgery.ChannelGraph, "cut", seconds, "cut"),
        timed(surgery.Trial, "check", seconds, "guard: passes of both networks"),
        timed(surgery, "measure_complexity", seconds, "count parameters and MACs, twice"),
        timed(surgery, "channel_graph", seconds, "find the graph of the plan"),
        timed(surgery, "rebind_optimizers", seconds, "optimizer state"),
    ):
        apply_plan(model, plan, example, optimizers=[optimizer])
    seconds["all"] = time.process_time() - start
    bound = check_bound([optimizer], [model])
    return seconds, sum(parameter.numel() for parameter in model.parameters()), bound


def theirs(model: nn.Module, frames: int) -> tuple[dict[str, float], int, tuple[int, int]]:
    model, optimizer = with_adam(model, frames)
    seconds = {}
    start = time.process_time()
    pruner = tp.pruner.MagnitudePruner(
        model,
        (torch.randn(1, 1, frames, 64),),
        importance=tp.importance.MagnitudeImportance(p=2),
        global_pruning=False,
        pruning_ratio=0.5,
        ignored_layers=[model.fc1, model.fc_audioset],
        output_transform=lambda outputs: list(outputs.values()),
    )
    seconds["trace"] = time.process_time() - start
    pruner.step()
    seconds["all"] = time.process_time() - start
    bound = check_bound([optimizer], [model])
    return seconds, sum(parameter.numel() for parameter in model.parameters()), bound


def prune(rounds: int, frames: int) -> None:
    torch.manual_seed(0)
    dense = Cnn14()
    runs: dict[str, list[dict[str, float]]] = {"lightning_cosprune": [], "torch-pruning MagnitudePruner": []}
    rows = []
    for number in range(rounds + 1):
        for contender, function in zip(runs, (ours, theirs), strict=True):
            seconds, params, bound = function(dense, frames)
            if number:  # the first round is not counted
                runs[contender].append(seconds)
            if number == rounds:
                rows.append([contender, f"{params:,}", f"{bound[0]} of {bound[1]}"])
    print(f"CNN14 of {sum(p.numel() for p in dense.parameters()):,} parameters, half of every layer, {frames} frames\n")
    print(format_table(["", "parameters left", "live parameters in Adam"], rows))
    one, other = runs.values()
    table = [
        [
            f"{contender}: {phase}",
            f"{min(run[phase] for run in times):.2f}",
            f"{statistics.median(run[phase] for run in times):.2f}",
        ]
        for contender, times in runs.items()
        for phase in times[0]
    ]
    print(f"\n{format_table(['', 'min s', 'median s'], table)}")
    ratio = statistics.median(a["all"] / b["all"] for a, b in zip(one, other, strict=True))
    print(f"\nOurs takes {ratio:.2f} times as long, round by round.", flush=True)


def train(pruning: bool, steps: int) -> float:
    torch.manual_seed(0)
    times = StepTimes()
    generator = torch.Generator().manual_seed(0)
    samples = TensorDataset(
        torch.randn(steps * 8, 1, 40, 51, generator=generator), torch.randint(10, (steps * 8,), generator=generator)
    )
    callbacks = [times, *([CosineFilterPruning(at_epoch=1)] if pruning else [])]
    trainer = Trainer(
        max_epochs=2,
        max_steps=steps,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few workers load the data, and that no prune came
        trainer.fit(Classifier(), DataLoader(samples, batch_size=8))
    return times.seconds()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="surgery", description=str(__doc__).split("\n\n")[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="how often CNN14 is pruned by each (default: 5)")
    add("--frames", type=int, default=101, help="frames of the example input, a hundred a second (default: 101)")
    add("--runs", type=int, default=9, help="training runs with and without the callback (default: 9)")
    add("--steps", type=int, default=60, help="steps of each (default: 60)")
    add("--threads", type=int, default=2, help="threads (default: 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    if options.rounds:
        prune(options.rounds, options.frames)
    torch.set_num_threads(1)
    ratios, with_it, without = [], [], []
    for number in range(options.runs + 1):
        pair = [train(pruning, options.steps) for pruning in ((True, False) if number % 2 else (False, True))]
        on, off = pair if number % 2 else pair[::-1]
        if number:
            ratios.append(on / off)
            with_it.append(on)
            without.append(off)
    print(
        f"\nA training step: {1e3 * statistics.median(with_it):.2f} ms with the callback waiting, "
        f"{1e3 * statistics.median(without):.2f} ms without; ratio of {options.runs} pairs: median "
        f"{statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
    )


if __name__ == "__main__":
    main()
