# Question: similar filters, similar responses? How well does the similarity of weights tell that of what they give?
# Command:  .venv/bin/python -m recipes.responses --esc10 path [--weights sbcnn_tau2019.pt]     (or --data path)
# Measured: docs/similar-filters.md.
"""Compare the similarity of filters by their weights with that of their responses, layer by layer.

A DCASE 2021 baseline is trained on the scenes once a seed, for a fixed number of epochs; with --weights the
convolutions of a network trained on TAU Urban Acoustic Scenes 2019 are measured as well. The responses are those to
training clips, without their labels.

Four similarities are computed from the weights: of the prototypes, as published; of the flat weights; of the flat
weights with batch norm folded in, where it can be; and of those with the folded bias as one more entry. Each is held
against the similarity of the responses: of the layer's own output, and of what batch norm and ReLU make of it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from lightning_cosprune import cosine_similarity, filter_vectors, fold_batch_norms, redundant_filters, response_vectors
from lightning_cosprune.data import DCASEScenes, LogMel
from lightning_cosprune.models import DCASE2021Baseline, SceneClassifier
from lightning_cosprune.surgery.report import format_table
from recipes.quickstart import add_scenes, last_fold, positive, quieten, real_scenes

KINDS = {
    "prototype": "prototypes",
    "flat": "flat weights",
    "folded": "batch norm folded",
    "folded_bias": "and its bias",
}
TAU = "TAU 2019 network"
PATCH_FRAMES = 64


@dataclass(frozen=True)
class Measured:
    """One layer of one network: similarities of every two filters, in the order of the upper triangle.

    Attributes:
        network: What was measured.
        seed: Of its training.
        layer: Name of the convolution.
        filters: How many it has.
        weights: Kind of vector -> similarity of the weights.
        outputs: Similarity of the layer's outputs.
        activations: Similarity of what batch norm and ReLU make of them.
        named: Places of the pairs of which the published rule removes one.
        nearest: Places of each filter's pair with the filter whose prototype is most similar.
    """

    network: str
    seed: int
    layer: str
    filters: int
    weights: Mapping[str, Tensor]
    outputs: Tensor
    activations: Tensor
    named: Tensor
    nearest: Tensor

    def correlation(self, kind: str, responses: str) -> float:
        """Spearman's rank correlation, over all pairs."""
        return float(spearmanr(self.weights[kind], getattr(self, responses)).statistic)


class SBCNN(nn.Module):
    """The convolutions of MTG's DCASE-models SB-CNN: batch norm comes after ReLU and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.pool1, self.bn1 = nn.Conv2d(1, 24, 5), nn.ReLU(), nn.MaxPool2d(2), norm(24)
        self.conv2, self.relu2, self.pool2, self.bn2 = nn.Conv2d(24, 48, 5), nn.ReLU(), nn.MaxPool2d((4, 2)), norm(48)
        self.conv3, self.relu3, self.bn3 = nn.Conv2d(48, 48, 5), nn.ReLU(), norm(48)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.pool1(self.relu1(self.conv1(x))))
        x = self.bn2(self.pool2(self.relu2(self.conv2(x))))
        features: Tensor = self.bn3(self.relu3(self.conv3(x)))
        return features


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    quieten()
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[Measured] = []
    if options.weights:
        print("Measuring the TAU 2019 network", flush=True)
        found += measure_tau(options)
    scenes = open_scenes(options, LogMel())
    for seed in range(options.seeds):
        print(f"Training the baseline, seed {seed + 1} of {options.seeds}", flush=True)
        found += measure_baseline(train(scenes, options, seed), scenes, options, seed)

    tables = {
        "outputs": correlations(found, "outputs"),
        "activations": correlations(found, "activations"),
        "named_pairs": named_pairs(found),
    }
    print("\nRank correlation of the similarity of weights with that of the layers' outputs, over all pairs of filters")
    print(format_table(*head_and_rows(tables["outputs"])))
    print("\nThe same with what batch norm and ReLU make of the outputs")
    print(format_table(*head_and_rows(tables["activations"])))
    print("\nMean similarity of responses, and the rank of the pair that the prototypes call nearest (1 is best)")
    print(format_table(*head_and_rows(tables["named_pairs"])))
    (options.out / "responses.json").write_text(json.dumps({**tables, "options": describe(options)}, indent=1))
    if options.figure:
        draw([one for one in found if one.seed == 0], options.figure)
        print(f"Figure: {options.figure}")


def measure_tau(options: argparse.Namespace) -> list[Measured]:
    """The network's own front end is not published with its weights; this one has its bands and about its hop."""
    network = SBCNN()
    state = torch.load(options.weights, weights_only=True)
    network.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith(("conv", "bn"))})
    scenes = open_scenes(options, LogMel(22_050, 1024, 512, 1024, 64))

    def patches() -> Iterator[Tensor]:
        for features in calibration(scenes, options):
            whole = features[..., : features.shape[-1] // PATCH_FRAMES * PATCH_FRAMES]
            yield whole.unflatten(-1, (-1, PATCH_FRAMES)).movedim(-2, 1).flatten(0, 1).transpose(-1, -2)

    activations = {f"conv{i}": f"relu{i}" for i in (1, 2, 3)}
    return compare(TAU, 0, network, list(patches()), activations)


def measure_baseline(
    classifier: SceneClassifier, scenes: DCASEScenes, options: argparse.Namespace, seed: int
) -> list[Measured]:
    network = copy.deepcopy(classifier.network)
    # Its one ReLU serves all layers; another one in front, which changes nothing, has a place in each of them.
    for i in (1, 2, 3):
        setattr(network, f"bn{i}", nn.Sequential(getattr(network, f"bn{i}"), nn.ReLU()))
    activations = {f"conv{i}": f"bn{i}" for i in (1, 2, 3)}
    return compare(scenes.root.resolve().name, seed, network, list(calibration(scenes, options)), activations)


def compare(
    network: str, seed: int, model: nn.Module, batches: list[Tensor], activations: Mapping[str, str]
) -> list[Measured]:
    responses = response_vectors(model, batches, [*activations, *activations.values()])
    folded = fold_batch_norms(model, batches[0][:1])
    measured = []
    for layer, activation in activations.items():
        weight = model.get_submodule(layer).weight
        filters = len(weight)
        vectors = {"prototype": filter_vectors(weight), "flat": filter_vectors(weight, "flat")}
        if folded[layer].batch_norm:
            vectors["folded"] = folded[layer].weight.flatten(1)
            vectors["folded_bias"] = torch.cat([vectors["folded"], folded[layer].bias[:, None]], dim=1)
        else:
            print(f"  {layer}: {folded[layer].reason}")
        rows, columns = torch.triu_indices(filters, filters, offset=1)
        place = torch.zeros(filters, filters, dtype=torch.long)
        place[rows, columns] = place[columns, rows] = torch.arange(len(rows))
        redundancy = redundant_filters(weight)
        pruned = torch.tensor(redundancy.pruned_idxs)
        measured.append(
            Measured(
                network,
                seed,
                layer,
                filters,
                {kind: cosine_similarity(each)[rows, columns] for kind, each in vectors.items()},
                cosine_similarity(responses[layer])[rows, columns],
                cosine_similarity(responses[activation])[rows, columns],
                place[pruned, redundancy.partner[pruned]],
                place[torch.arange(filters), redundancy.partner],
            )
        )
    return measured


def train(scenes: DCASEScenes, options: argparse.Namespace, seed: int) -> SceneClassifier:
    pl.seed_everything(seed, verbose=False)
    _, bands, frames = scenes.feature_shape
    classes = len(scenes.scene_labels)
    classifier = SceneClassifier(DCASE2021Baseline(classes, bands, frames), classes, scenes.devices)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(classifier, datamodule=scenes)
    return classifier


def open_scenes(options: argparse.Namespace, features: LogMel) -> DCASEScenes:
    scenes = real_scenes(options, features=features, validation_fraction=0, cache_dir=options.out / "features")
    scenes.prepare_data()
    scenes.setup()
    return scenes


def calibration(scenes: DCASEScenes, options: argparse.Namespace) -> Iterator[Tensor]:
    """Features of the first so many training clips in the data set's own order of one seed."""
    left = options.clips
    for features, *_ in scenes.train_dataloader():
        yield features[:left]
        left -= len(features)
        if left <= 0:
            return


def correlations(found: Sequence[Measured], responses: str) -> list[list[str]]:
    rows = [["network", "layer", "filters", *KINDS.values()]]
    for network, layer in layers_of(found):
        mine = [one for one in found if (one.network, one.layer) == (network, layer)]
        cells = [spread([one.correlation(kind, responses) for one in mine if kind in one.weights]) for kind in KINDS]
        rows.append([network, layer, str(mine[0].filters), *cells])
    return rows


def named_pairs(found: Sequence[Measured]) -> list[list[str]]:
    rows = [["network", "layer", "all pairs", "pairs the rule names", "most similar pairs", "median rank of nearest"]]
    for network, layer in layers_of(found):
        mine = [one for one in found if (one.network, one.layer) == (network, layer)]
        rows.append(
            [
                network,
                layer,
                spread([float(one.outputs.mean()) for one in mine]),
                spread([float(one.outputs[one.named].mean()) for one in mine]),
                spread([float(one.outputs.sort(descending=True).values[: len(one.named)].mean()) for one in mine]),
                spread([median_rank(one) for one in mine], 1) + f" of {mine[0].filters - 1}",
            ]
        )
    return rows


def median_rank(measured: Measured) -> float:
    """Of each filter's others, ordered by the similarity of outputs: where the nearest by prototype stands."""
    filters = measured.filters
    similarity = torch.full((filters, filters), -torch.inf)
    rows, columns = torch.triu_indices(filters, filters, offset=1)
    similarity[rows, columns] = similarity[columns, rows] = measured.outputs
    own = measured.outputs[measured.nearest]
    return float((similarity > own[:, None]).sum(dim=1).double().quantile(0.5)) + 1


def layers_of(found: Sequence[Measured]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.network, one.layer) for one in found))


def spread(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def head_and_rows(table: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return table[0], table[1:]


def describe(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def draw(found: Sequence[Measured], path: Path) -> None:
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(one.network for one in found))
    figure = Figure(figsize=(9, 2 * 2.6 * len(networks)), layout="constrained")
    axes = figure.subplots(2 * len(networks), 3, sharex=True, sharey=True)
    for one in found:
        for offset, kind in enumerate(("prototype", "flat")):
            axis = axes[2 * networks.index(one.network) + offset, int(one.layer[-1]) - 1]
            axis.axhline(0, color="0.8", linewidth=0.8)
            axis.axvline(0, color="0.8", linewidth=0.8)
            axis.scatter(one.weights[kind], one.outputs, s=5, color="C0", alpha=0.35, linewidths=0, label="pair")
            axis.scatter(
                one.weights[kind][one.named], one.outputs[one.named], s=14, color="C3", label="pair the rule names"
            )
            axis.set_title(f"{one.network}, {one.layer}: $\\rho$ = {one.correlation(kind, 'outputs'):.2f}", fontsize=9)
            if one.layer[-1] == "1":
                axis.set_ylabel("responses", fontsize=9)
            axis.set_xlabel(f"{KINDS[kind]}", fontsize=9)
    axes[0, 0].legend(fontsize=7, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="responses", description=str(__doc__).split("\n\n")[0])
    add = parser.add_argument
    add_scenes(parser.add_mutually_exclusive_group(required=True))
    add("--fold", type=positive, help="of the data set (default: the highest there is)")
    add("--weights", type=Path, help="state dict of the SB-CNN that DCASE-models trained on TAU 2019")
    add("--epochs", type=positive, default=30, help="of the baseline (default: 30)")
    add("--seeds", type=positive, default=3, help="how often the baseline is trained (default: 3)")
    add("--clips", type=positive, default=64, help="training clips whose responses are measured (default: 64)")
    add("--figure", type=Path, help="where to draw the pairs of the first seed")
    add("--out", type=Path, default=Path("runs/responses"), help="where everything goes (default: runs/responses)")
    options = parser.parse_args(arguments)
    options.fold = options.fold or last_fold(options)
    return options


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
