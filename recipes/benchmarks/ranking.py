# Question: what does it cost to rank a layer's filters, beside what one would use instead?
# Command:  .venv/bin/python -m recipes.benchmarks.ranking     (under a minute; --help lists sizes and the figure)
# Measured: README.md one folder up.
"""Processor time of ranking filters, one thread, contenders in turn, as ratios to this package's cosine ranking.

The floor is what the prototypes and similarities need at the very least: the kernels' Gram matrices, their
eigenvectors, and one product of the prototypes. The published double loop takes one SVD a filter and SciPy's cosine
distance for every pair; it is measured on a part of the filters and pairs and extrapolated, since it takes hours where
it matters most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.spatial.distance
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.ao.pruning._experimental.pruner.FPGM_pruner import FPGMPruner

from lightning_cosprune import rank_filters, redundant_filters
from lightning_cosprune.surgery.report import format_table

CNN14 = [(64, 1), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256)]
CNN14 += [(512, 256), (512, 512), (1024, 512), (1024, 1024), (2048, 1024), (2048, 2048)]


def floor(weight: Tensor) -> Tensor:
    taps = weight.flatten(2).transpose(1, 2)
    prototypes = torch.linalg.eigh(taps @ taps.mT).eigenvectors[..., -1]
    return prototypes @ prototypes.T


def torch_pruning_fpgm(weight: Tensor) -> Callable[[Tensor], object]:
    """Torch-Pruning's criterion on the group of this one layer, which is made beforehand and not timed."""
    filters, channels = weight.shape[:2]
    conv, reader = nn.Conv2d(channels, filters, weight.shape[2:], bias=False), nn.Conv2d(filters, 1, 1, bias=False)
    conv.weight = nn.Parameter(weight)
    model = nn.Sequential(conv, reader)
    graph = tp.DependencyGraph().build_dependency(model, (torch.zeros(1, *weight.shape[1:]),))
    group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, list(range(filters)))
    importance = tp.importance.FPGMImportance()
    return lambda _: importance(group)


def double_loop(weight: Tensor, seconds: float = 1.0) -> float:
    """Time of the papers' way, from as many filters and pairs as fit into about ``seconds`` each."""
    slices = weight.flatten(2).transpose(1, 2).numpy()
    filters = len(slices)
    prototypes: list[np.ndarray] = []
    start = time.process_time()
    while len(prototypes) < filters and time.process_time() - start < seconds:
        left, _, right = np.linalg.svd(slices[len(prototypes)], full_matrices=False)
        prototypes.append(left[:, 0] * np.sign(right[0, 0]))
    svd = (time.process_time() - start) / len(prototypes) * filters
    pairs = 0
    start = time.process_time()
    while pairs < filters**2 and time.process_time() - start < seconds:
        i, j = divmod(pairs % len(prototypes) ** 2, len(prototypes))
        scipy.spatial.distance.cosine(prototypes[i], prototypes[j])
        pairs += 1
    return svd + (time.process_time() - start) / pairs * filters**2


def contenders(weight: Tensor, largest_fpgm: int) -> dict[str, Callable[[Tensor], object]]:
    rivals: dict[str, Callable[[Tensor], object]] = {
        "floor: eigh and Gram products": floor,
        "redundant_filters": redundant_filters,
        "redundant_filters, nystrom_columns=9": lambda layer: redundant_filters(layer, nystrom_columns=9),
        "rank_filters, cosine": rank_filters,
    }
    if len(weight) <= largest_fpgm:
        rivals["rank_filters, geometric median"] = lambda layer: rank_filters(layer, "geometric_median")
        rivals["torch-pruning FPGM"] = torch_pruning_fpgm(weight)
        rivals["torch.ao.pruning FPGM"] = FPGMPruner()._compute_distance
    return rivals


def measure(weight: Tensor, rounds: int, largest_fpgm: int) -> dict[str, list[float]]:
    """Seconds of every contender, one after the other in each round, after one round that is not counted."""
    rivals = contenders(weight, largest_fpgm)
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, rank in rivals.items():
            start = time.process_time()
            rank(weight)
            if number:
                times[name].append(time.process_time() - start)
    return times


def report(label: str, weight: Tensor, options: argparse.Namespace) -> dict[str, float]:
    times = measure(weight, options.rounds, options.largest_fpgm)
    times["published double loop, extrapolated"] = [double_loop(weight)]
    ours = times["redundant_filters"]
    rows = []
    for name, seconds in times.items():
        if len(seconds) == len(ours):
            ratio = statistics.median(one / other for one, other in zip(seconds, ours, strict=True))
        else:
            ratio = seconds[0] / statistics.median(ours)
        rows.append([name, f"{1e3 * min(seconds):,.2f}", f"{1e3 * statistics.median(seconds):,.2f}", f"{ratio:,.2f}"])
    print(f"\n{label}\n{format_table(['', 'min ms', 'median ms', 'x redundant_filters'], rows)}", flush=True)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def peak_memory(shape: Sequence[int], rank: str) -> None:
    """In a process of its own: how far ranking goes above the memory that the weights take."""
    torch.set_num_threads(1)
    function = {"redundant_filters": redundant_filters, "rank_filters": rank_filters}[rank]
    function(torch.randn(16, *shape[1:]))  # what libraries allocate on their first use is not ranking's
    weight = torch.randn(*shape)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    function(weight)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  {rank} of {tuple(shape)}: {(peak - before) / 2**20:,.0f} MiB above the weights", flush=True)


def draw(costs: dict[int, dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for name in next(iter(costs.values())):
        points = [(filters, 1e3 * times[name]) for filters, times in costs.items() if name in times]
        axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("filters of the layer, 512 channels, 3x3 taps")
    axes.set_ylabel("processor time, ms, one thread")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\nFigure: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="ranking", description=str(__doc__).split("\n\n")[0])
    add = parser.add_argument
    add("--filters", type=int, nargs="+", default=[16, 64, 256, 512, 1024, 2048, 4096, 8192], help="sizes of the layer")
    add("--channels", type=int, default=512, help="input channels (default: 512)")
    add("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    add("--largest-fpgm", type=int, default=2048, help="no FPGM, of anyone, above this many filters (default: 2048)")
    add("--weights", type=Path, help="state dict whose convolutions are ranked too")
    add("--figure", type=Path, help="where to draw cost against number of filters")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    costs = {}
    for filters in options.filters:
        shape = (filters, options.channels, 3, 3)
        costs[filters] = report(f"{shape}, random weights", torch.randn(shape), options)
    if options.weights:
        for name, weight in torch.load(options.weights, weights_only=True).items():
            if weight.ndim == 4:
                report(f"{name} {tuple(weight.shape)}, trained weights", weight, options)

    layers = [torch.randn(filters, channels, 3, 3) for filters, channels in CNN14]
    start = time.process_time()
    for layer in layers:
        redundant_filters(layer)
    print(f"\nThe twelve convolutions of CNN14: {time.process_time() - start:.2f} s")
    del layers, layer

    print("\nPeak memory")
    for rank in ("redundant_filters", "rank_filters"):
        child = multiprocessing.get_context("spawn").Process(
            target=peak_memory, args=((max(options.filters), options.channels, 3, 3), rank)
        )
        child.start()
        child.join()
    if options.figure:
        draw(costs, options.figure)


if __name__ == "__main__":
    main()
