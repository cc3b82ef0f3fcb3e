"""
Train wide, prune, repair, distil
=================================

Participants of the DCASE challenges train a network that is too large for the rules, cut it to the size that is allowed, and
let what is left learn from what it was. Here all of that is one fit with two callbacks. The scenes are synthetic and few,
so no accuracy here says anything about real ones; whether it pays is what ``recipes/widths`` measures.
"""

# %%
# A wide network
# --------------
# Twice the filters of the DCASE 2021 baseline.

import copy
import logging
import tempfile

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import torch

from lightning_cosprune import (
    CosineFilterPruning,
    KnowledgeDistillation,
    apply_plan,
    measure_complexity,
    refit_least_squares,
)
from lightning_cosprune.data import LogMel, SyntheticScenes
from lightning_cosprune.models import DCASE2021Baseline, SceneClassifier

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pl.seed_everything(0, verbose=False)
folder = tempfile.TemporaryDirectory()
scenes = SyntheticScenes(
    f"{folder.name}/scenes",
    num_recordings=200,
    features=LogMel(num_frames=51),
    cache_dir=f"{folder.name}/features",
    validation_fraction=0,
    progress=False,
)
scenes.prepare_data()
scenes.setup()


def trainer(epochs, *callbacks):
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )


wide = SceneClassifier(DCASE2021Baseline(num_frames=51, widths=(32, 32, 64)))
trainer(5).fit(wide, datamodule=scenes)

# %%
# Cut it, and let it learn from what it was
# -----------------------------------------
# ``CosineFilterPruning`` cuts before the first epoch and re-solves the layers behind on 16 training clips, without their
# labels. ``KnowledgeDistillation`` keeps a copy of the network as it was before the cut: the teacher needs no file and no
# place in the module. With ``alpha=1`` no label is looked at in what follows either. The learning rate is low, since what
# a repair has found is easily lost.


class Losses(pl.Callback):
    """Notes the distance from the teacher after each epoch."""

    def __init__(self):
        self.values = []

    def on_train_epoch_end(self, trainer, *_):
        self.values.append(float(trainer.callback_metrics["distillation_loss"]))


narrow = SceneClassifier(copy.deepcopy(wide.network), learning_rate=1e-4)
clips = next(iter(scenes.train_dataloader()))[0][:16]
pruning = CosineFilterPruning(
    0.5, criterion="response", repair="least_squares", calibration=[clips], module="network", example_inputs=clips[:1]
)
losses = Losses()
trainer(8, pruning, KnowledgeDistillation(module="network"), losses).fit(narrow, datamodule=scenes)

example = torch.zeros(1, 1, 40, 51)
small = measure_complexity(DCASE2021Baseline(num_frames=51), example)
assert [getattr(narrow.network, name).out_channels for name in ("conv1", "conv2", "conv3")] == [16, 16, 32]
assert measure_complexity(narrow.network, example) == small  # the baseline's own size
print(pruning.reports[0])

# %%
# What each step brought
# ----------------------
# The distance of the scores from the wide network's on the test clips, which none of the steps has seen: as cut, repaired, and
# trained on after that.

batches = [batch[0] for batch in scenes.test_dataloader()]


@torch.no_grad()
def scores(network):
    return torch.cat([network.eval()(batch) for batch in batches])


cut = copy.deepcopy(wide.network)
report = apply_plan(cut, pruning.plans[0], example)
repaired = copy.deepcopy(cut)
refit_least_squares(repaired, wide.network, [clips], report=report)
dense = scores(wide.network)
distance = {
    name: (scores(network) - dense).square().mean().item()
    for name, network in (("as cut", cut), ("repaired", repaired), ("and distilled", narrow.network))
}
assert distance["repaired"] < distance["as cut"]
assert distance["and distilled"] < distance["as cut"] / 2
assert losses.values[-1] < losses.values[0]

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].bar(list(distance), list(distance.values()), color=["#9aa3b2", "#c8553d", "#1f6fb2"])
axes[0].set_ylabel("squared distance of the scores")
axes[1].plot(range(1, 9), losses.values, marker="o", color="#1f6fb2")
axes[1].set_xlabel("epoch after the cut")
axes[1].set_ylabel("distillation loss")
folder.cleanup()
