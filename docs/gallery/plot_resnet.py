"""
A ResNet of your own
====================

Nothing in this package has to know your network. Here a residual network as one finds them in repositories, in a plain
LightningModule, becomes half as wide in the midst of its training by one more callback. What its residual sums tie
together stays together, and the optimizer goes on with what it knew.
"""

# %%
# A network and its module
# ------------------------
# Neither uses anything of ours. The scenes are synthetic, so no accuracy here says anything about real ones.

import logging
import tempfile

import lightning.pytorch as pl
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional

from lightning_cosprune import CosineFilterPruning, load_pruned, measure_complexity, plan_pruning
from lightning_cosprune.data import LogMel, SyntheticScenes


class Block(nn.Module):
    def __init__(self, channels, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, inputs):
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(inputs)))))
        return functional.relu(inner + self.shortcut(inputs))


class ResNet(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.fc = nn.Linear(32, num_classes)

    def forward(self, features):
        maps = self.layer2(self.layer1(functional.relu(self.bn(self.stem(features)))))
        return self.fc(maps.mean(dim=(2, 3)))


class Scenes(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = ResNet()

    def training_step(self, batch, _):
        features, labels, *_ = batch
        return functional.cross_entropy(self.net(features), labels)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)]


# %%
# What would go
# -------------
# A plan changes nothing. It says which filters of which layer would go, and why the others stay.

pl.seed_everything(0, verbose=False)
module = Scenes()
example = torch.zeros(1, 1, 40, 51)
plan = plan_pruning(module.net, example, pruning_ratio=0.5)
print(plan)

# The stem and the last convolution of each block of ``layer1`` feed one sum after the other.
tied = [plan.pruned[name] for name in ("stem", "layer1.0.conv2", "layer1.1.conv2")]
assert tied[0] == tied[1] == tied[2]
assert plan.pruned["layer1.0.conv1"] != tied[0]  # the first convolutions of the blocks are free

# %%
# One more callback
# -----------------
# Four epochs with all filters, four with half of them. ``module=`` names the part that is pruned.

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
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


class Losses(pl.Callback):
    """Notes the mean training loss of each epoch."""

    def __init__(self):
        self.sums = []

    def on_train_epoch_start(self, *_):
        self.sums.append([])

    def on_train_batch_end(self, _trainer, _module, outputs, *_):
        self.sums[-1].append(float(outputs["loss"]))

    def means(self):
        return [sum(epoch) / len(epoch) for epoch in self.sums]


losses = Losses()
pruning = CosineFilterPruning(0.5, at_epoch=4, module="net", example_inputs=example)
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=8,
    callbacks=[pruning, losses],
    logger=False,
    default_root_dir=folder.name,
    enable_progress_bar=False,
    enable_model_summary=False,
    limit_val_batches=0,
)
before = measure_complexity(module.net, example)
trainer.fit(module, datamodule=scenes)
after = measure_complexity(module.net, example)
print(pruning.reports[0])

assert module.net.stem.out_channels == module.net.layer1[1].conv2.out_channels == 8
assert module.net.fc.in_features == 16
assert after.macs < before.macs / 3  # both sides of most convolutions are halved
optimizer = trainer.optimizers[0]
held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
assert held == {id(parameter) for parameter in module.parameters()}  # no dead parameter, none forgotten
assert all(state["momentum_buffer"].shape == parameter.shape for parameter, state in optimizer.state.items())

# %%
# Its checkpoint opens without this package's callback: ``load_pruned`` makes the module as narrow as its weights.

path = f"{folder.name}/pruned.ckpt"
trainer.save_checkpoint(path)
again = load_pruned(Scenes, path)
batch = next(iter(scenes.test_dataloader()))[0]
assert torch.equal(again.net.eval()(batch), module.net.eval()(batch))

# %%
# The cut costs some loss, which a few epochs bring back.

means = losses.means()
assert means[-1] < means[3]
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
axes.plot(range(1, 9), means, marker="o", color="#1f6fb2")
axes.axvline(4.5, color="#c8553d", linestyle="--")
axes.text(4.6, max(means), f"{1 - after.macs / before.macs:.0%} of the MACs go", color="#c8553d", va="top")
axes.set_xlabel("epoch")
axes.set_ylabel("training loss")
folder.cleanup()
