"""Two prunes of two kinds, or of two parts, in one Trainer."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from asserts import assert_same
from fits import UsersModule, loader, trainer_for
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_cosprune import CosineFilterPruning

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Pair(UsersModule):
    """Two networks in one module, as of a teacher and a student that both learn."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = UsersModule(), UsersModule()
        self.stem, self.blocks, self.head = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        return self.teacher(x) + self.student(x)


SETS = {
    "parts": (
        Pair,
        lambda: [
            CosineFilterPruning(0.5, at_epoch=1, module="teacher", example_inputs=torch.zeros(1, 3, 8, 8)),
            CosineFilterPruning(0.25, at_epoch=[0, 2], module="student", example_inputs=torch.zeros(1, 3, 8, 8)),
        ],
    ),
    "criteria": (
        UsersModule,
        lambda: [CosineFilterPruning(0.25, at_epoch=1, criterion="l1"), CosineFilterPruning(0.5, at_epoch=[1, 2])],
    ),
    "layers": (
        UsersModule,
        lambda: [CosineFilterPruning(0.5, 1, layers=["stem"], allow_unpruned=True), CosineFilterPruning(0.5, 1)],
    ),
}


def run(folder, name, max_epochs, ckpt_path=None, order=slice(None)):
    build, callbacks = SETS[name]
    pl.seed_everything(0, verbose=False)
    module, prunes = build(), callbacks()
    every = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_last=True)
    trainer = trainer_for(folder, *prunes[order], every, max_epochs=max_epochs)
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return module, trainer, prunes


@pytest.mark.parametrize("name", SETS)
def test_each_prunes_and_resumes_by_itself(tmp_path, name):
    module, trainer, prunes = run(tmp_path / "whole", name, 4)
    assert len({callback.state_key for callback in prunes}) == 2
    assert [len(callback.plans) for callback in prunes] == [len(callback._schedule.epochs) for callback in prunes]
    for epoch in range(3):
        again, resumed, found = run(tmp_path / "rest", name, 4, tmp_path / "whole" / f"epoch={epoch}.ckpt")
        assert_same(dict(again.state_dict()), dict(module.state_dict()))
        assert_same(resumed.optimizers[0].state_dict(), trainer.optimizers[0].state_dict())
        assert [callback.plans for callback in found] == [callback.plans for callback in prunes]


def test_two_that_do_the_same_are_lightnings_error():
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `CosineFilterPruning`"):
        pl.Trainer(accelerator="cpu", callbacks=[CosineFilterPruning(0.5), CosineFilterPruning(0.25)], logger=False)


@pytest.mark.parametrize("key", ["CosineFilterPruning", None])
def test_a_run_goes_on_with_other_settings_and_does_not_prune_again(tmp_path, key):
    """Also from a checkpoint of before there were keys of their own."""
    trainer = trainer_for(tmp_path, CosineFilterPruning(0.5), max_epochs=1)
    trainer.fit(UsersModule(), loader())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    (own,) = [name for name in checkpoint["callbacks"] if "Cosine" in name]
    checkpoint["callbacks"][key or own] = checkpoint["callbacks"].pop(own)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    module, callback = UsersModule(), CosineFilterPruning(0.75, at_epoch=[0, 1], criterion="l1")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        trainer_for(tmp_path, callback, max_epochs=3).fit(module, loader(), ckpt_path=tmp_path / "a.ckpt")
    assert [len(callback.plans), len(callback.reports), module.stem.out_channels] == [2, 1, 4]
