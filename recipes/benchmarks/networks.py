# Question: do networks that nobody here wrote come through, are they cut right, and at what price beside torch-pruning?
# Command:  .venv/bin/python -m recipes.benchmarks.networks     (pip install torchvision timm; resumable; an hour)
# Measured: README.md one folder up; it writes networks.csv and networks.md beside this file.
"""Take 0.3 of every convolution's filters from networks of torchvision and timm, and look at what is left.

Each network is pruned in a process of its own, by this package and by torch-pruning alone: the same layers, as many
filters of each, no linear layers, nothing that makes the outputs. This package ranks by cosine similarity, as it does
unless told otherwise, and once by the L1 norm, as torch-pruning does: so that the rest can be compared. Weights are
random, those of batch norms and their statistics too.

Whether a cut is right is told without anybody's bookkeeping: the values of a weight say which of its columns are left,
and the pruned network must compute what the dense one does when all other columns are zero, in float64. Where a norm
ranges over channels there is no such equality, and nothing is said.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import multiprocessing
import resource
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_cosprune import apply_plan, measure_complexity, plan_pruning
from recipes.cells import read, write

RATIO = 0.3
SECONDS, MEGABYTES = 60, 1536
"""What planning and cutting should take at most, above what the network takes; a process ends after four times that."""

_TORCHVISION = """
alexnet vgg11 vgg16_bn resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d wide_resnet50_2
densenet121 densenet169 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5
mnasnet1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 efficientnet_b0 efficientnet_v2_s
regnet_x_400mf regnet_y_400mf convnext_tiny swin_t maxvit_t video.r3d_18 video.mc3_18 video.r2plus1d_18
segmentation.fcn_resnet50 segmentation.deeplabv3_mobilenet_v3_large segmentation.lraspp_mobilenet_v3_large
detection.ssdlite320_mobilenet_v3_large detection.retinanet_resnet50_fpn
"""
TORCHVISION = _TORCHVISION.split()

_TIMM = """
resnet10t resnet26d resnetv2_50 legacy_seresnet18 skresnet18 resnest14d res2net50_26w_4s res2next50 ecaresnet26t
cspresnet50 cspdarknet53 darknet53 dla34 dpn68 efficientnet_lite0 fbnetc_100 gernet_s ghostnet_100
ghostnetv2_100 hardcorenas_a hgnetv2_b0 hrnet_w18_small inception_v4 lcnet_050 mixnet_s mobilenetv1_100
mobilenetv4_conv_small mobileone_s0 nf_resnet26 regnetz_005 repghostnet_050 repvgg_a0 rexnet_100 selecsls42b
semnasnet_075 spnasnet_100 starnet_s1 tf_efficientnet_b0 tinynet_e ese_vovnet19b_dw xception41 convnext_atto
convnextv2_atto fasternet_t0 edgenext_xx_small inception_next_atto efficientvit_b0 poolformer_s12
"""
TIMM = _TIMM.split()

CHAINS = ("chain 75", "chain 150", "chain 300", "residual 75", "residual 150", "residual 150 wide")
"""Plain networks of so many layers or residual blocks: time must grow with depth alone."""

SIDES = {"inception_v3": 96, "inception_v4": 96, "swin_t": 224, "maxvit_t": 224}
_SIDE = 64


@dataclass(frozen=True)
class Row:
    """One network, pruned by one package."""

    network: str
    by: str
    macs: int
    params: int
    macs_removed: float
    params_removed: float
    filters_removed: float
    """Of all convolutions."""
    seconds: float
    megabytes: float
    error: float
    """Greatest difference of the outputs, as a part of the greatest output; -1 where it cannot be told."""
    problem: str
    kept: str
    """Why the convolution with the most filters that keeps all of them does so."""


def make(name: str) -> tuple[nn.Module, Any]:
    """A network with random weights, in evaluation mode, and an input for it."""
    torch.manual_seed(0)
    library, _, short = name.partition(":")
    side = SIDES.get(short, _SIDE)
    inputs: Any = torch.randn(1, 3, side, side)
    if library == "chain":
        network, inputs = chain(short), torch.randn(1, 3, 64, 64)
    elif library == "timm":
        network = importlib.import_module("timm").create_model(short)
    else:
        models = importlib.import_module("torchvision.models")
        *folder, made = short.split(".")
        options: dict[str, Any] = {"init_weights": True} if made in ("googlenet", "inception_v3") else {}
        options |= {"weights_backbone": None} if folder and folder[0] != "video" else {}
        network = models.get_model(made, weights=None, **options)
        if folder == ["video"]:
            inputs = torch.randn(1, 3, 8, side, side)
        if folder == ["detection"]:
            inputs = ([torch.rand(3, 128, 128)],)
            # Random weights score all boxes alike, and rounding decides which are chosen: the heads are compared.
            network.postprocess_detections = lambda outputs, *_: [outputs]
            network.transform.postprocess = lambda result, *_: result
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.1, 0.1),
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.5, 1.5),
            ):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high)
    return network.eval(), inputs


def chain(kind: str) -> nn.Module:
    """So many convolutions, or residual blocks of two, with batch norms and rectifiers."""
    shape, count, *wide = kind.split()
    width = 64 if wide else 32

    def unit(channels: int) -> nn.Sequential:
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

    units: list[nn.Module] = [unit(3)]
    for _ in range(int(count)):
        inner = unit(width)
        units += [inner if shape == "chain" else Residual(nn.Sequential(inner, unit(width)))]
    return nn.Sequential(*units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Residual(nn.Module):
    """``x + inner(x)``."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.inner(x)
        return found


def by_us(network: nn.Module, inputs: Any, criterion: str = "cosine") -> dict[str, str]:
    """Returns the reasons of layers that keep all filters."""
    own = {type(module) for module in network.modules() if type(module).__name__ in OWN_NORMS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = plan_pruning(network, inputs, criterion=criterion, pruning_ratio=RATIO, normalising=tuple(own))
        return dict(apply_plan(network, plan, inputs, normalising=tuple(own), allow_unpruned=True).skipped)


def by_torch_pruning(network: nn.Module, inputs: Any) -> dict[str, str]:
    import torch_pruning as tp

    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    ratios = {}
    ignored: list[nn.Module] = []
    for module in network.modules():
        if isinstance(module, convolutions):
            # torch-pruning keeps the integer part of (1 - ratio) of the filters, this package removes that of ratio.
            ratios[module] = int(RATIO * module.out_channels) / module.out_channels - 1e-6
        if isinstance(module, nn.Linear):
            ignored.append(module)
    with torch.no_grad():
        outputs = torch.utils._pytree.tree_leaves(network(*inputs) if isinstance(inputs, tuple) else network(inputs))
    makers = {leaf.shape[1] for leaf in outputs if isinstance(leaf, Tensor) and leaf.ndim > 1}
    last = [module for module in ratios if module.out_channels in makers]
    tp.pruner.BasePruner(
        network,
        inputs,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.0,
        pruning_ratio_dict={module: ratio for module, ratio in ratios.items() if module not in last},
        ignored_layers=ignored + last,
        round_to=None,
    ).step()
    return {}


OURS, ALIKE, THEIRS = "lightning_cosprune", "lightning_cosprune by L1", "torch-pruning"
CONTENDERS: dict[str, Callable[[nn.Module, Any], dict[str, str]]] = {
    OURS: by_us,
    ALIKE: functools.partial(by_us, criterion="l1"),
    THEIRS: by_torch_pruning,
}


def measure(name: str, by: str) -> Row:
    """Prune one network, in this process."""
    warm = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    CONTENDERS[by](nn.Sequential(warm, nn.Linear(8, 2)).eval(), torch.randn(1, 3, 16, 16))
    network, inputs = make(name)
    before, dense, wide = measure_complexity(network, inputs), copy.deepcopy(network), filters(network)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    problem, reasons = "", {}
    try:
        reasons = CONTENDERS[by](network, inputs)
    except Exception as error:  # whatever it is, it is told
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    seconds = time.process_time() - start
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    after, error = before, -1.0
    if not problem:
        try:
            after = measure_complexity(network, inputs)
            error = difference(dense, network, inputs)
        except Exception as failed:
            problem = f"the pruned network fails: {type(failed).__name__}: {failed}".splitlines()[0][:200]
    largest = max((name for name in wide if name in reasons), key=lambda name: wide[name], default=None)
    return Row(
        name,
        by,
        before.macs,
        before.params,
        macs_removed=1 - after.macs / before.macs,
        params_removed=1 - after.params / before.params,
        filters_removed=1 - sum(filters(network).values()) / sum(wide.values()),
        seconds=seconds,
        megabytes=megabytes,
        error=error,
        problem=problem,
        kept="" if largest is None else f"{largest}: {reasons[largest]}"[:200],
    )


def filters(network: nn.Module) -> dict[str, int]:
    """How many filters each convolution has."""
    convolutions = nn.Conv1d, nn.Conv2d, nn.Conv3d
    return {name: one.out_channels for name, one in network.named_modules() if isinstance(one, convolutions)}


OWN_NORMS = ("GlobalResponseNorm",)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)


def difference(dense: nn.Module, pruned: nn.Module, inputs: Any) -> float:
    """Greatest difference to the dense network without the columns that are gone; -1 where norms decide."""
    named = dict(dense.named_modules())
    if any(isinstance(module, NORMS) or type(module).__name__ in OWN_NORMS for module in named.values()):
        return -1.0
    masked = {}
    for name, module in pruned.named_modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            weight = named[name].weight.detach().double()
            rows = _columns_left(weight, module.weight.detach().double(), getattr(module, "groups", 1))
            if rows is not None:
                masked[f"{name}.weight"] = rows
    dense, pruned = copy.deepcopy(dense).double(), pruned.double()
    inputs = torch.utils._pytree.tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) else leaf, inputs)
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    with torch.no_grad():
        wanted = torch.utils._pytree.tree_leaves(torch.func.functional_call(dense, masked, arguments))
        found = torch.utils._pytree.tree_leaves(pruned(*arguments))
    greatest = 0.0
    for one, other in zip(found, wanted, strict=True):
        if isinstance(one, Tensor) and one.is_floating_point():
            if one.shape != other.shape:
                return float("inf")
            greatest = max(greatest, float((one - other).abs().max() / other.abs().max().clamp_min(1e-12)))
    return greatest


def _columns_left(wide: Tensor, narrow: Tensor, groups: int) -> Tensor | None:
    """The wide weight with zeros where a column is not in the narrow one; ``None`` where no column is gone."""
    if narrow.shape[1] == wide.shape[1] and (wide.shape[1] == 1 or narrow.shape[0] == wide.shape[0]):
        return None
    masked = wide.clone()
    for block, of_wide, of_narrow in zip(masked.chunk(groups), wide.chunk(groups), narrow.chunk(groups), strict=True):
        whole, part = (of.reshape(*of.shape[:2], -1)[..., 0] for of in (of_wide, of_narrow))
        columns = torch.ones(whole.shape[1], dtype=torch.bool)
        for row in part[:4]:  # a value can be there twice; not in the same columns of several rows
            same = max((whole == row[0]).any(dim=1).nonzero()[:, 0], key=lambda at: torch.isin(row, whole[at]).sum())
            columns &= torch.isin(whole[same], row)
        assert int(columns.sum()) == part.shape[1], "a column of the pruned weight is none of the dense one's"
        block[:, ~columns] = 0
    return masked


def names() -> list[str]:
    """All networks of the benchmark."""
    listed = [(f"{library}:{name}") for library, of in (("torchvision", TORCHVISION), ("timm", TIMM)) for name in of]
    return [*listed, *(f"chain:{name}" for name in CHAINS)]


def run(name: str, by: str, folder: Path) -> None:
    """Measure in a process of its own, unless that was done; one that takes too long is told."""
    path = folder / f"{name}_{by}.csv".replace(":", "_").replace(" ", "_")
    if read(path, Row):
        return
    started = multiprocessing.get_context("forkserver").Process(target=_measured, args=(name, by, path))
    started.start()
    started.join(4 * SECONDS)
    if started.is_alive():
        started.kill()
        problem = f"not done after {4 * SECONDS} s"
    elif started.exitcode == 0:
        return
    else:
        problem = f"the process ended with {started.exitcode}"
    write(path, Row, [Row(name, by, 0, 0, 0.0, 0.0, 0.0, float(4 * SECONDS), -1.0, -1.0, problem, "")])


def _measured(name: str, by: str, path: Path) -> None:
    torch.set_num_threads(1)
    write(path, Row, [measure(name, by)])


def table(rows: Sequence[Row]) -> str:
    """One line a network, ours beside torch-pruning's, and the medians."""
    found = {(row.network, row.by): row for row in rows}
    lines = [
        "| network | MACs | MACs removed, ours | theirs | of theirs | filters, ours | theirs | seconds, ours | by L1 | "
        "theirs | ratio | by L1 | MB | error, ours | theirs |",
        "|" + "---|" * 15,
    ]
    parts: list[float] = []
    ratios: dict[str, list[float]] = {OURS: [], ALIKE: []}
    less = []
    for name in dict.fromkeys(row.network for row in rows):
        ours, alike, theirs = (found.get((name, by)) for by in CONTENDERS)
        if ours is None or alike is None or theirs is None:
            continue
        part = ours.macs_removed / theirs.macs_removed if theirs.macs_removed > 0 and not theirs.problem else None
        parts += [part] if part is not None else []
        times = ["", ""]
        if not theirs.problem:
            for place, row in enumerate((ours, alike)):
                ratios[row.by].append(row.seconds / theirs.seconds)
                times[place] = f"{ratios[row.by][-1]:.1f}"
        if (part is not None and part < 0.9) or (part is None and ours.macs_removed < 0.25):
            less.append(
                f"- {name}: {ours.macs_removed:.1%} of the MACs and {ours.filters_removed:.1%} of the filters, "
                f"torch-pruning {_percent(theirs)} and {theirs.filters_removed:.1%}. {ours.kept}"
            )
        lines.append(
            f"| {name} | {ours.macs / 1e6:,.0f} M | {_percent(ours)} | {_percent(theirs)} | "
            f"{'' if part is None else f'{part:.2f}'} | {ours.filters_removed:.1%} | "
            f"{'-' if theirs.problem else f'{theirs.filters_removed:.1%}'} | "
            f"{ours.seconds:.2f} | {alike.seconds:.2f} | {theirs.seconds:.2f} | {times[0]} | {times[1]} | "
            f"{ours.megabytes:.0f} | {_error(ours)} | {_error(theirs)} |"
        )
    problems = [f"- {row.network}, {row.by}: {row.problem}" for row in rows if row.problem]
    summary = [
        f"Of {len({row.network for row in rows})} networks {_through(rows, OURS)} came through this package and "
        f"{_through(rows, THEIRS)} through torch-pruning; cut wrongly: "
        + ", ".join(f"{sum(row.by == by and row.error > 1e-6 for row in rows)} by {by}" for by in CONTENDERS)
        + ".",
        f"MACs removed as a part of torch-pruning's: median {statistics.median(parts):.3f}, least {min(parts):.2f}.",
        *(
            f"Time of {by} as a multiple of theirs: median {statistics.median(of):.1f}, greatest {max(of):.1f}."
            for by, of in ratios.items()
        ),
        f"Over {SECONDS} s or {MEGABYTES} MB: "
        + ", ".join(f"{sum(_costly(row) for row in rows if row.by == by)} by {by}" for by in CONTENDERS)
        + ".",
    ]
    less = ["Where less goes than 0.9 of torch-pruning's, or less than a quarter:", "", *less]
    return "\n".join([*summary, "", *lines, "", *less, "", "What failed:", "", *problems])


def _through(rows: Sequence[Row], by: str) -> int:
    return sum(row.by == by and not row.problem for row in rows)


def _costly(row: Row) -> bool:
    return row.seconds > SECONDS or row.megabytes > MEGABYTES


def _percent(row: Row) -> str:
    return "-" if row.problem else f"{row.macs_removed:.1%}"


def _error(row: Row) -> str:
    return "" if row.error < 0 else f"{row.error:.0e}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="networks", description=str(__doc__).split("\n\n", maxsplit=1)[0])
    parser.add_argument("--networks", nargs="+", default=None, help="some of them, such as timm:dla34")
    parser.add_argument("--runs", type=Path, default=Path("runs/networks"))
    parser.add_argument("--out", type=Path, default=Path("recipes/benchmarks/networks.csv"))
    options = parser.parse_args(arguments)
    multiprocessing.set_forkserver_preload(["recipes.benchmarks.networks", "torchvision.models", "timm"])
    asked = options.networks or names()
    for name in tqdm(asked, unit="network"):
        for by in CONTENDERS:
            run(name, by, options.runs)
    rows = [row for path in sorted(options.runs.glob("*.csv")) for row in read(path, Row)]
    order = {name: place for place, name in enumerate(names())}
    rows.sort(key=lambda row: (order.get(row.network, len(order)), row.by))
    write(options.out, Row, rows)
    options.out.with_suffix(".md").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
