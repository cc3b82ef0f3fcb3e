"""Projections of features beside the network that is pruned: what a prune says of them."""

import warnings

import lightning.pytorch as pl
import pytest
import torch
from fits import UsersModule, fit
from torch import nn

from lightning_cosprune import CosineFilterPruning


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.mix(self.stem(x).relu()).relu().mean(dim=(2, 3)))


class Distilled(pl.LightningModule):
    """Features that a hook catches are projected to those of a frozen teacher."""

    def __init__(self, *, catch: bool = True, **parts) -> None:
        super().__init__()
        self.student, self.teacher = Student(), Student().requires_grad_(False)
        for name, part in parts.items():
            setattr(self, name, part)
        self.caught = {}
        for network in (self.student, self.teacher):
            network.mix.register_forward_hook(lambda module, _, output: self.caught.update({module: output}))
        self.catch = catch

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.student(batch[0]), batch[1])
        if self.catch:
            self.teacher(batch[0])
            features = self.caught[self.student.mix].mean(dim=(2, 3))
            loss = loss + nn.functional.mse_loss(self.projection(features), self.caught[self.teacher.mix].mean((2, 3)))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam([parameter for parameter in self.parameters() if parameter.requires_grad])


def test_a_projection_that_reads_a_cut_layer_is_told_at_the_prune(tmp_path):
    module = Distilled(projection=nn.Linear(12, 12))
    told = r"forward pass of Student.*\n  projection.weight, of shape \(12, 12\): as many inputs as mix \(6 now\) had"
    with pytest.warns(UserWarning, match=told), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(module, CosineFilterPruning(0.5, module="student"), tmp_path, max_epochs=1)


def test_what_it_advises_works(tmp_path):
    module = Distilled(projection=nn.Linear(12, 12))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Filters were removed")
        fit(module, CosineFilterPruning(0.5, module="student", ignored_layers=["mix"]), tmp_path, max_epochs=1)
    assert (module.student.stem.out_channels, module.student.mix.out_channels) == (8, 12)


@pytest.mark.parametrize(
    "part",
    [
        lambda: nn.Parameter(torch.zeros(12, 5)),
        lambda: nn.Conv2d(12, 6, 1, groups=2),
        lambda: nn.BatchNorm1d(12),
        lambda: nn.GRU(12, 3),
    ],
)
def test_readers_of_every_kind(part, tmp_path):
    module = Distilled(catch=False, reader=part())
    with pytest.warns(UserWarning, match=r"\n  reader.* as many inputs as mix \(6 now\)"):
        fit(module, CosineFilterPruning(0.5, module="student"), tmp_path, max_epochs=1)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"other": Student()},
        {"frozen": nn.Linear(12, 12).requires_grad_(False)},
        {"wide": nn.Linear(7, 12)},
        {"units": nn.GRU(5, 12)},
    ],
    ids=lambda parts: next(iter(parts), "none"),
)
def test_what_reads_nothing_that_was_cut_is_not_told(parts, tmp_path):
    """Neither a teacher, a second network of the same kind, nor what only makes as many channels."""
    module = Distilled(catch=False, **parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Filters were removed")
        fit(module, CosineFilterPruning(0.5, module="student"), tmp_path, max_epochs=1)
    assert module.student.mix.out_channels == 6


def test_a_head_that_only_training_runs_is_reached(tmp_path):
    class Auxiliary(UsersModule):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Linear(32, 4)

        def forward(self, x):
            y = self.blocks(self.stem(x)).mean(dim=(2, 3))
            return self.head(y) + (self.spare(y) if self.training else 0)

    module = Auxiliary()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Filters were removed")
        fit(module, CosineFilterPruning(0.5, layers=["stem"]), tmp_path, max_epochs=1)
    assert module.stem.out_channels == 8
