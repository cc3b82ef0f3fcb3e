"""
Similar filters, similar responses?
===================================

The published method removes one of two filters whose weights point the same way. It rests on a hypothesis: that *similar
filters produce similar responses*, so that what reads them loses little. The hypothesis can be measured, and this page
measures it on a small network trained on synthetic scenes. What it shows on real recordings is in
:doc:`/similar-filters`.
"""

# %%
# A network
# ---------
# Training takes a few seconds; the scenes are synthetic, so no accuracy here says anything about real ones.

import logging
import tempfile

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import torch

from lightning_cosprune import cosine_similarity, filter_vectors, fold_batch_norms, plan_pruning, response_vectors
from lightning_cosprune.data import LogMel, SyntheticScenes
from lightning_cosprune.models import DCASE2021Baseline, SceneClassifier

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pl.seed_everything(0, verbose=False)
folder = tempfile.TemporaryDirectory()
scenes = SyntheticScenes(
    f"{folder.name}/scenes",
    features=LogMel(num_frames=51),
    cache_dir=f"{folder.name}/features",
    validation_fraction=0,
    progress=False,
)
scenes.prepare_data()
scenes.setup()
network = DCASE2021Baseline(num_frames=51)
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=5,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    limit_val_batches=0,
)
trainer.fit(SceneClassifier(network), datamodule=scenes)

# %%
# Three readings of the same weights
# ----------------------------------
# The prototype keeps of each filter one spatial pattern; the flat weights keep all input channels; and batch norm adds
# the sign with which the network uses the filter and the place where its activation sets in. The folded bias knows
# something of the data: it holds the mean response that training saw.

example = torch.zeros(1, 1, 40, 51)
folded = fold_batch_norms(network, example)
for name, layer in folded.items():
    print(f"{name}: {layer.batch_norm or layer.reason}")


def readings(name):
    weight = network.get_submodule(name).weight
    return {
        "prototypes": filter_vectors(weight),
        "flat weights": filter_vectors(weight, "flat"),
        "batch norm folded": torch.cat([folded[name].weight.flatten(1), folded[name].bias[:, None]], dim=1),
    }


# %%
# The responses
# -------------
# ``response_vectors`` runs training clips through the network, without their labels, and keeps one matrix a layer.

batches = [features for features, *_ in scenes.train_dataloader()]
responses = response_vectors(network, batches)

# %%
# Pair by pair
# ------------
# Each point is a pair of filters. If the weights told all, the points would lie on a rising line. Behind the first layer, where
# filters have many input channels, one spatial pattern a filter tells less than all of its weights do.

layers = ["conv1", "conv2", "conv3"]
told = {}
figure, axes = plt.subplots(3, 3, figsize=(8, 7.5), sharex=True, sharey=True, layout="constrained")
for column, name in enumerate(layers):
    given = cosine_similarity(responses[name])
    pairs = torch.triu_indices(len(given), len(given), offset=1).unbind()
    for axis, (reading, vectors) in zip(axes[:, column], readings(name).items(), strict=True):
        similarity = cosine_similarity(vectors)
        points = torch.stack([similarity[pairs], given[pairs]])
        ranks = points.argsort(dim=1).argsort(dim=1).double()
        told[name, reading] = float(ranks.corrcoef()[0, 1])
        axis.scatter(*points, s=6, alpha=0.4, linewidths=0)
        axis.set_title(f"{name}, rank correlation {told[name, reading]:.2f}", fontsize=9)
        axis.set_xlabel(f"similarity of {reading}", fontsize=8)
for axis in axes[:, 0]:
    axis.set_ylabel("similarity of responses", fontsize=8)
plt.show()
for name in ("conv2", "conv3"):
    assert 0 < told[name, "prototypes"] < told[name, "flat weights"] < 1

# %%
# Planning with responses
# -----------------------
# The vectors of responses go wherever the vectors of weights go, so the published rule can be applied to what filters do
# instead of what they look like. The two agree in part.

by_weights = plan_pruning(network, example)
by_responses = plan_pruning(network, example, vectors=responses)
for name in layers:
    print(f"{name}: by weights {by_weights.pruned[name]}, by responses {by_responses.pruned[name]}")

gone = [{(name, idx) for name in layers for idx in plan.pruned.get(name, [])} for plan in (by_weights, by_responses)]
assert gone[0] & gone[1]
assert gone[0] != gone[1]
folder.cleanup()
