# Question: does the Nystroem approximation select what exact similarities select, and is it faster?
# Command:  .venv/bin/python -m recipes.icassp2023.selection --networks runs/icassp2023/*/networks/dense-*.pt
# Measured: not yet on networks of the papers' sets; random weights are no answer, since they hold nothing redundant.
"""Apply the published rule to every convolution of trained networks, with exact similarities and with approximate ones.

As many columns are taken as in the paper: 12, 6 and 21 for the three layers of the DCASE 2021 network, 9 elsewhere.
Agreement is the share of a layer's filters of which both say the same, kept or gone. Seconds are processor time, the
least of some rounds in which both take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_cosprune import Redundancy, redundant_filters
from recipes.cells import read, write

COLUMNS = {"conv1": 12, "conv2": 6, "conv3": 21}
"""Of the DCASE 2021 network; every other layer has nine, the rank of 3x3 kernels."""


@dataclass(frozen=True)
class Layer:
    """One layer of one network."""

    network: str
    layer: str
    filters: int
    columns: int
    kept: int
    kept_approximately: int
    agreement: float
    seconds: float
    seconds_approximately: float


def layers(path: Path) -> dict[str, Tensor]:
    """The weights of a network's convolutions that are not depthwise, from a file with a state dict."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content.get("model", content))
    return {
        name.removesuffix(".weight"): weight
        for name, weight in state.items()
        if name.endswith(".weight") and weight.ndim == 4 and len(weight) > 1
    }


def compare(network: str, name: str, weight: Tensor, columns: int, rounds: int) -> Layer:
    """Both selections of one layer, and what they take."""
    seconds: dict[str, list[float]] = {"exact": [], "approximate": []}
    found: dict[str, Redundancy] = {}
    for _ in range(rounds):
        for kind, option in (("exact", None), ("approximate", columns)):
            start = time.process_time()
            found[kind] = redundant_filters(weight, nystrom_columns=option)
            seconds[kind].append(time.process_time() - start)
    exact, approximate = (set(found[kind].kept_idxs) for kind in ("exact", "approximate"))
    return Layer(
        network,
        name,
        len(weight),
        columns,
        len(exact),
        len(approximate),
        1 - len(exact ^ approximate) / len(weight),
        min(seconds["exact"]),
        min(seconds["approximate"]),
    )


def table(found: Sequence[Layer]) -> str:
    lines = [
        "| network | layer | filters | columns | kept | kept by Nystroem | agreement % | ms | ms by Nystroem |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        named = [one.network, one.layer, one.filters, one.columns, one.kept, one.kept_approximately]
        measured = [f"{100 * one.agreement:.1f}", *(f"{1e3 * s:.2f}" for s in (one.seconds, one.seconds_approximately))]
        lines += [f"| {' | '.join(map(str, [*named, *measured]))} |"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="selection", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--networks", type=Path, nargs="+", required=True, help="files with state dicts")
    parser.add_argument("--columns", type=int, help="of every layer (default: as published)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/icassp2023/selection.csv"))
    options = parser.parse_args(arguments)
    found = []
    for path in options.networks:
        weights = layers(path)
        # Kernels of 7x7 are those of the DCASE 2021 network.
        own = COLUMNS if all(weight.shape[-1] == 7 for weight in weights.values()) else {}
        found += [
            compare(path.stem, name, weight, options.columns or own.get(name, 9), options.rounds)
            for name, weight in weights.items()
        ]
    write(options.out, Layer, found)
    print(table(read(options.out, Layer)))


if __name__ == "__main__":
    main()
