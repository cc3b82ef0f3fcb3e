"""The callback where users put it: the other package of Lightning, a LightningCLI file, Hydra's containers."""

from pathlib import Path

import pytest
import torch
from fits import UsersModule, fit, loader
from lightning.pytorch.cli import LightningCLI
from torch import nn

from lightning_cosprune import CosineFilterPruning, load_pruned

FILTERS = {"stem": 8, "blocks.0.conv1": 12}


def assert_pruned(module: nn.Module) -> None:
    assert {name: module.get_submodule(name).out_channels for name in FILTERS} == FILTERS


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_trainer_of_pytorch_lightning(tmp_path: Path) -> None:
    other = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")

    class Theirs(other.LightningModule):
        def __init__(self, rate: float = 0.01) -> None:
            super().__init__()
            self.save_hyperparameters()
            users = UsersModule()
            self.stem, self.blocks, self.head = users.stem, users.blocks, users.head

        forward = UsersModule.forward

        def training_step(self, batch, batch_idx):
            self.log("falling", -float(self.current_epoch))
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=self.hparams.rate)

    def trainer(**options):
        pruning = CosineFilterPruning({"stem": 0.5, "blocks.0.conv1": 0.25}, at_epoch=1)
        saved = other.callbacks.ModelCheckpoint(tmp_path, "{epoch}", monitor="falling", mode="max", save_last=True)
        average = other.callbacks.EMAWeightAveraging(decay=0.5)
        return other.Trainer(
            accelerator="cpu",
            callbacks=[pruning, saved, average],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )

    module = Theirs(rate=0.005)
    first = trainer(max_epochs=3)
    first.fit(module, loader())
    assert_pruned(module)
    assert first.checkpoint_callback.best_model_path.endswith("epoch=1.ckpt")  # the best since the prune
    again = load_pruned(Theirs, first.checkpoint_callback.best_model_path)
    assert_pruned(again)
    assert again.hparams.rate == 0.005
    resumed = Theirs()
    trainer(max_epochs=4).fit(resumed, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert_pruned(resumed)
    both = [CosineFilterPruning(), other.callbacks.ModelPruning("l1_unstructured", amount=0.5)]
    refused = other.Trainer(accelerator="cpu", max_epochs=1, callbacks=both, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match="beside Lightning's `ModelPruning`"):
        refused.fit(module, loader())


CONFIG = """\
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  callbacks:
    - class_path: lightning_cosprune.CosineFilterPruning
      init_args:
        pruning_ratio:
          stem: 0.5
          blocks.0.*: 0.25
        at_epoch: [0, 1]
        schedule: cubic
        ignored_layers: [blocks.1, blocks.0.conv2, blocks.0.shortcut]
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LightningCLI 2.6 and jsonargparse 4.53
def test_a_lightning_cli_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["main.py"])  # LightningCLI warns of pytest's own arguments
    (tmp_path / "config.yaml").write_text(CONFIG)

    class Module(UsersModule):
        def train_dataloader(self):
            return loader()

    def run(*arguments):
        options = {"save_config_callback": None, "seed_everything_default": 0}
        return LightningCLI(Module, args=list(arguments), **options)

    assert_pruned(run("fit", "--config", str(tmp_path / "config.yaml")).model)
    with pytest.raises(SystemExit):
        run("fit", "--config", str(tmp_path / "config.yaml"), "--print_config")
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    assert "schedule: cubic" in printed
    assert_pruned(run("fit", "--config", str(tmp_path / "printed.yaml")).model)


@pytest.mark.parametrize("at_epoch", [[0, 1], {"stop": 2}])
def test_hydras_containers(at_epoch, tmp_path: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf", reason="omegaconf is not installed")
    config = omegaconf.OmegaConf.create(
        {
            "pruning_ratio": {"stem": 0.5, "blocks.0.conv1": 0.25},
            "at_epoch": at_epoch,
            "layers": ["stem", "blocks.*"],
            "ignored_layers": ["blocks.1"],
        }
    )
    module, callback = UsersModule(), CosineFilterPruning(**config)
    trainer = fit(module, callback, tmp_path, max_epochs=2)
    assert_pruned(module)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")  # which must not need omegaconf to be read
    assert_pruned(load_pruned(UsersModule, tmp_path / "plain.ckpt"))
    plain = callback.state_dict()
    assert {type(value) for value in (plain, plain["dense_filters"])} == {dict}
