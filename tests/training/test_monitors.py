import lightning.pytorch as pl
import pytest
import torch
from fits import UsersModule, loader
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint

from lightning_cosprune import CosineFilterPruning
from lightning_cosprune.training.monitors import forget_scores


class GoodWhileDense(UsersModule):
    """Its validation score is best before the prune, and improves after it without getting there again."""

    scores = (0.9, 0.95, 0.3, 0.4, 0.5)

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])


class MyCheckpoint(ModelCheckpoint):
    pass


def run(tmp_path, **options):
    checkpoint = MyCheckpoint(tmp_path, "{epoch}", monitor="score", mode="max", save_top_k=1)
    stopping = EarlyStopping("score", mode="max", patience=3)
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[CosineFilterPruning(0.5, at_epoch=2, **options), checkpoint, stopping],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(GoodWhileDense(), loader(), loader())
    return trainer, checkpoint, stopping


def test_best_is_the_best_of_the_pruned_network(tmp_path):
    trainer, checkpoint, stopping = run(tmp_path)
    assert trainer.current_epoch == 5
    assert checkpoint.best_model_path.endswith("epoch=4.ckpt")
    assert checkpoint.best_model_score == pytest.approx(0.5)
    assert stopping.best_score == pytest.approx(0.5)
    weights = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert weights["stem.weight"].shape[0] == 8
    assert (tmp_path / "epoch=1.ckpt").exists()  # the dense network's best is not deleted


def test_the_scores_can_be_kept(tmp_path):
    _, checkpoint, stopping = run(tmp_path, reset_scores=False)
    assert checkpoint.best_model_path.endswith("epoch=1.ckpt")
    assert stopping.best_score == pytest.approx(0.95)
    assert stopping.wait_count == 3


@pytest.mark.parametrize(("mode", "worst"), [("min", torch.inf), ("max", -torch.inf)])
def test_they_start_as_new_ones_do(mode, worst, tmp_path):
    checkpoint, stopping = ModelCheckpoint(tmp_path, monitor="x", mode=mode), EarlyStopping("x", mode=mode)
    new = vars(ModelCheckpoint(tmp_path, monitor="x", mode=mode)).copy(), vars(EarlyStopping("x", mode=mode)).copy()
    checkpoint.best_k_models, checkpoint.best_model_path = {"a": torch.tensor(1.0)}, "a"
    checkpoint.best_model_score = checkpoint.current_score = checkpoint.kth_value = torch.tensor(1.0)
    checkpoint.kth_best_model_path = "a"
    stopping.wait_count, stopping.best_score = 4, torch.tensor(1.0)
    assert forget_scores([checkpoint, LearningRateMonitor(), stopping]) == ["ModelCheckpoint", "EarlyStopping"]
    assert vars(checkpoint) == new[0]
    assert vars(stopping) == new[1]
    assert checkpoint.kth_value == stopping.best_score == worst
