# Question: after a repair in the middle of training, should the optimizer remember what it knew of re-solved weights?
# Command:  .venv/bin/python -m recipes.benchmarks.optimizer_state --data path-of-ESC-10 --seeds 10
# Measured: README.md one folder up.
"""Prune and repair in the middle of training, then train on with each way to treat the state of re-solved weights.

The weights that a repair solves for jump, while momentum and second moments are those of the old ones. ``keep`` leaves
the state as the cut left it, ``zero momentum`` forgets the direction alone, ``reset`` drops the whole state, step count
included. All train on from the same network with the same batches; losses are those of the training and the validation
clips in evaluation mode.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from lightning_cosprune import apply_plan, plan_pruning, refit_least_squares
from lightning_cosprune.data import DCASEScenes, LogMel
from lightning_cosprune.models import DCASE2021Baseline
from lightning_cosprune.surgery.report import format_table

BEFORE, AFTER, FRAMES = 12, 6, 50
SETS = ("training", "validation")
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "Adam 1e-3": lambda network: torch.optim.Adam(network.parameters(), lr=1e-3),
    "SGD 1e-2, momentum 0.9": lambda network: torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9),
}
STEPS = (0, 1, 3, 10, 30)
END = -1
STATES = ("keep", "zero momentum", "reset")


def treat(state: str, optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Change the optimizer's state of ``parameters`` in place."""
    for parameter in parameters:
        if state == "reset":
            optimizer.state.pop(parameter, None)
        elif state == "zero momentum":
            for name in ("exp_avg", "momentum_buffer"):
                if isinstance(optimizer.state[parameter].get(name), Tensor):
                    optimizer.state[parameter][name].zero_()


def clips(data: Path, fold: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of training and validation clips."""
    scenes = DCASEScenes(data, fold=fold, features=LogMel(), batch_size=400, progress=False)
    scenes.prepare_data()
    scenes.setup("fit")
    found = []
    for loader in (scenes.train_dataloader(), scenes.val_dataloader()):
        batches = [(batch.features, batch.scene) for batch in loader]
        found += [torch.cat(column) for column in zip(*batches, strict=True)]
    train, labels, held_out, their_labels = found
    return train[..., :FRAMES], labels, held_out[..., :FRAMES], their_labels  # the first second of each


def order(count: int, seed: int, epoch: int) -> Iterator[Tensor]:
    yield from torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + epoch)).split(32)


@torch.no_grad()
def losses(network: nn.Module, data: tuple[Tensor, ...]) -> tuple[float, ...]:
    network.eval()
    return tuple(
        float(functional.cross_entropy(torch.cat([network(part) for part in inputs.split(64)]), labels))
        for inputs, labels in (data[:2], data[2:])
    )


def train(
    network: nn.Module, optimizer: Optimizer, data: tuple[Tensor, ...], seed: int, epochs: range, watch: bool
) -> dict[int, tuple[float, ...]]:
    """Train in place.

    Returns:
        Steps -> losses on the training and the validation clips, where asked for.
    """
    inputs, labels = data[:2]
    steps, found = 0, {}
    for epoch in epochs:
        for batch in order(len(inputs), seed, epoch):
            if watch and steps in STEPS:
                found[steps] = losses(network, data)
            network.train()
            optimizer.zero_grad()
            functional.cross_entropy(network(inputs[batch]), labels[batch]).backward()
            optimizer.step()
            steps += 1
    if watch:
        found[END] = losses(network, data)
    return found


def compare(
    data: tuple[Tensor, ...], seed: int, build: Callable[[nn.Module], Optimizer]
) -> dict[str, dict[int, tuple[float, ...]]]:
    """The losses of each way, from one network."""
    torch.manual_seed(seed)
    network = DCASE2021Baseline(num_frames=FRAMES)
    optimizer = build(network)
    train(network, optimizer, data, seed, range(BEFORE), watch=False)
    dense, example = copy.deepcopy(network), data[0][:1]
    report = apply_plan(network, plan_pruning(network, example, pruning_ratio=0.5), example, optimizers=[optimizer])
    before = [parameter.detach().clone() for parameter in network.parameters()]
    refit_least_squares(network, dense, [data[0][:: len(data[0]) // 16][:16]], report=report)
    found = {}
    for state in STATES:
        copied, own = copy.deepcopy((network, optimizer))
        pairs = zip(copied.parameters(), before, strict=True)
        treat(state, own, [parameter for parameter, old in pairs if not torch.equal(parameter, old)])
        torch.manual_seed(seed)
        found[state] = train(copied, own, data, seed, range(BEFORE, BEFORE + AFTER), watch=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="optimizer_state", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of ESC-10 in DCASE layout")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each optimizer, each on a fold of its own")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    sets = [clips(options.data, 1 + seed % 5) for seed in range(options.seeds)]
    runs = {name: [compare(data, seed, build) for seed, data in enumerate(sets)] for name, build in OPTIMIZERS.items()}
    for which, title in enumerate(SETS):
        rows = [
            (f"{name}, {state}", *(cell(found, state, steps, which) for steps in (*STEPS, END)))
            for name, found in runs.items()
            for state in STATES
        ]
        columns = [f"{steps} steps" for steps in STEPS] + ["end"]
        print(format_table((f"{title} loss (minus keep)", *columns), rows))
    print(f"{options.seeds} runs each, +- standard error, {time.perf_counter() - start:.0f} s.")


def cell(runs: Sequence[dict[str, dict[int, tuple[float, ...]]]], state: str, steps: int, which: int) -> str:
    found = [run[state][steps][which] for run in runs]
    gaps = [run[state][steps][which] - run["keep"][steps][which] for run in runs]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return f"{statistics.mean(found):.3f} ({statistics.mean(gaps):+.3f} +- {error:.3f})"


if __name__ == "__main__":
    main()
