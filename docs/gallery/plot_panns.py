"""
A PANNs network for your own scenes
===================================

The usual way to a scene classifier with little data is a network that was trained on AudioSet, with a new last layer. It is
large. E-PANNs remove filters of its last blocks by their operator norm and train on; here what was removed is also said by
what is left, on sixteen clips and without labels. The published weights are 300 MB, so this page trains a narrow ``Cnn6``
of its own on synthetic scenes; with ``Cnn14.from_pretrained("Cnn14_mAP=0.431.pth")`` in its place every line below stays
as it is.
"""

# %%
# A tagger and a new last layer
# -----------------------------
# ``features="panns"`` are the log-mel energies that these networks read; they take waveforms as well.

import copy
import logging
import tempfile

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import torch
from torch import nn

from lightning_cosprune import apply_plan, measure_complexity, plan_pruning, refit_least_squares
from lightning_cosprune.data import SyntheticScenes
from lightning_cosprune.models import Cnn6, Cnn10, SceneClassifier

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pl.seed_everything(0, verbose=False)
folder = tempfile.TemporaryDirectory()
scenes = SyntheticScenes(
    f"{folder.name}/scenes",
    num_recordings=200,
    features="panns",
    cache_dir=f"{folder.name}/features",
    validation_fraction=0,
    progress=False,
)
scenes.prepare_data()
scenes.setup()

tagger = Cnn6(widths=(8, 16, 32, 64))
tagger.fc_audioset = nn.Linear(tagger.fc_audioset.in_features, 10)
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=4,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    limit_val_batches=0,
)
trainer.fit(SceneClassifier(tagger), datamodule=scenes)

# %%
# Half of the last blocks
# -----------------------
# In one forward pass on an example the package finds out what reads what: the sum of mean and maximum over time, too, behind
# which the first linear layer is.

clips = next(iter(scenes.train_dataloader()))[0][:16]
plan = plan_pruning(
    tagger, clips[:1], pruning_ratio=0.5, layers=["conv_block3.*", "conv_block4.*"], criterion="operator_norm"
)
cut = copy.deepcopy(tagger)
report = apply_plan(cut, plan, clips[:1])
print(report)
assert cut.fc1.in_features == 32
before, after = (measure_complexity(network, clips[:1]) for network in (tagger, cut))

# %%
# What the removed filters said
# -----------------------------
# Each layer behind the cut is solved again, front to back, for what it computed before.

repaired = copy.deepcopy(cut)
repair = refit_least_squares(repaired, tagger, [clips], report=report)
print(repair)

batches = [batch[0] for batch in scenes.test_dataloader()]


@torch.no_grad()
def scores(network):
    return torch.cat([network.eval()(batch) for batch in batches])


dense = scores(tagger)
distance = {
    name: ((scores(network) - dense).square().mean() / dense.var()).item()
    for name, network in (("as cut", cut), ("repaired", repaired))
}
assert distance["repaired"] < distance["as cut"] / 2
figure, axes = plt.subplots(figsize=(4.5, 3), layout="constrained")
axes.bar(list(distance), list(distance.values()), color=["#9aa3b2", "#c8553d"])
axes.set_ylabel("squared distance of the scores,\npart of their variance")
axes.set_title(f"{1 - after.params / before.params:.0%} of the parameters gone", fontsize=10)

# %%
# Save it, and read it again
# --------------------------
# The file is one like PANNs' own. It is read as narrow as it is; a file of another network is refused with what differs.

torch.save({"model": repaired.state_dict()}, f"{folder.name}/mine.pth")
again = Cnn6.from_pretrained(f"{folder.name}/mine.pth")
torch.testing.assert_close(scores(again), scores(repaired))  # the classifier's memory layout may move a last digit
try:
    Cnn10.from_pretrained(f"{folder.name}/mine.pth")
except ValueError as error:
    print(error)
else:
    raise AssertionError("a Cnn6 was taken for a Cnn10")
folder.cleanup()
