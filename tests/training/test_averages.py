"""Averaged weights follow every prune: those of the kept filters bit for bit, those of the others gone."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from asserts import assert_same
from fits import Recorder, UsersModule, fit, loader, trainer_for
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from lightning_cosprune import CosineFilterPruning
from lightning_cosprune.training.averages import averaged_modules

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Swapping scheduler"),
]

AVERAGES = {
    "EMA": lambda: EMAWeightAveraging(decay=0.5),
    "equal weights": WeightAveraging,
    "SWA": lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1),
}


class Watch(CosineFilterPruning):
    """Compares the averages before and after each prune."""

    cuts = 0

    def _prune(self, trainer, pl_module):
        (average,) = averaged_modules(trainer)
        before = {name: tensor.clone() for name, tensor in average.named_parameters()}
        dense = {name: tensor.detach().clone() for name, tensor in pl_module.named_parameters()}
        super()._prune(trainer, pl_module)
        kept_filters = self.plans[-1].kept
        for name, tensor in average.named_parameters():
            now = dict(pl_module.named_parameters())[name]
            assert tensor.shape == now.shape
            layer, _, key = name.rpartition(".")
            if key == "weight" and layer in kept_filters:
                # The inputs that were kept are told from the network's own weights, which were cut alike.
                kept = kept_filters[layer]
                inputs = [
                    i
                    for i in range(dense[name].shape[1])
                    if any(torch.equal(dense[name][kept, i], now[:, j]) for j in range(now.shape[1]))
                ]
                assert torch.equal(tensor, before[name][kept][:, inputs])
                Watch.cuts += 1


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_cut_like_the_network_and_training_goes_on(name, tmp_path):
    module, average, Watch.cuts = UsersModule(), AVERAGES[name](), 0
    fit(module, Watch(0.5, at_epoch=2), tmp_path, average, max_epochs=4)
    assert Watch.cuts == 7
    assert module.stem.out_channels == 8
    assert averaged_modules(None) == []


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("name", AVERAGES)
def test_a_run_with_averages_resumes(name, order, tmp_path):
    """Whichever of the two callbacks comes first."""

    def callbacks():
        return [CosineFilterPruning(0.5, at_epoch=1), AVERAGES[name]()][:: 1 if order else -1]

    def run(folder, **options):
        pl.seed_everything(0, verbose=False)
        saved = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        trainer = trainer_for(folder, *callbacks(), saved, max_epochs=4)
        trainer.fit(UsersModule(), loader(), **options)
        return trainer

    whole = run(tmp_path / "whole")
    rest = run(tmp_path / "rest", ckpt_path=tmp_path / "whole" / "epoch=2.ckpt")
    assert_same(dict(rest.lightning_module.state_dict()), dict(whole.lightning_module.state_dict()))


class Teacher(UsersModule):
    """Keeps an average of a part of itself, and a copy that is none."""

    def __init__(self):
        super().__init__()
        self.average = AveragedModel(self.blocks, avg_fn=get_ema_avg_fn(0.5))
        self.teacher = copy.deepcopy(self.head)

    def on_train_batch_end(self, *_):
        self.average.update_parameters(self.blocks)

    def configure_optimizers(self):
        trained = [*self.stem.parameters(), *self.blocks.parameters(), *self.head.parameters()]
        return torch.optim.AdamW(trained, lr=1e-2)


def test_an_average_in_the_module_follows_the_part_that_it_averages(tmp_path):
    module = Teacher()
    fit(module, CosineFilterPruning(0.5, at_epoch=1), tmp_path)
    shapes = [tuple(parameter.shape) for parameter in module.blocks.parameters()]
    assert [tuple(parameter.shape) for parameter in module.average.module.parameters()] == shapes
    assert module.blocks[1].conv1.out_channels == module.average.module[1].conv1.out_channels == 16
    assert module.teacher.weight.shape == (4, 32)  # a copy that nobody averages stays what it was


def test_an_average_of_one_knows_not_which_part_is_refused(tmp_path):
    class Twins(UsersModule):
        def __init__(self):
            super().__init__()
            self.other = copy.deepcopy(self.blocks)
            self.average = AveragedModel(self.blocks)

    module = Twins()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"AveragedModel 'average': expected one part of Twins .*found 'blocks' and 'other'"
    ):
        fit(module, CosineFilterPruning(0.5), tmp_path)
    assert_same(dict(module.state_dict()), before)


def test_an_average_without_filters_is_left_alone(tmp_path):
    class Scaled(UsersModule):
        def __init__(self):
            super().__init__()
            self.average = AveragedModel(nn.BatchNorm1d(3))

    module = Scaled()
    fit(module, CosineFilterPruning(0.5), tmp_path, max_epochs=1)
    assert module.average.module.num_features == 3


def follow(holder, part):
    """Makes the average of ``part(module)`` when training starts, and updates it after each batch."""

    class Follow(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            holder(self, pl_module)["kept"] = [AveragedModel(part(pl_module), avg_fn=get_ema_avg_fn(0.5))]

        def on_train_batch_end(self, trainer, pl_module, *_):
            holder(self, pl_module)["kept"][0].update_parameters(part(pl_module))

    return Follow()


@pytest.mark.parametrize("holder", [lambda callback, _: vars(callback), lambda _, module: vars(module)])
@pytest.mark.parametrize("part", [lambda module: module, lambda module: module.blocks])
def test_averages_that_are_no_submodules_follow_too(holder, part, tmp_path):
    """With one filter left, old averages would be broadcast over the new weights without an error."""
    module, callback = UsersModule(), follow(holder, part)
    fit(module, CosineFilterPruning({"blocks.0.conv1": 0.9375}, at_epoch=1), tmp_path, callback)
    average = holder(callback, module)["kept"][0].module
    shapes = {name: parameter.shape for name, parameter in part(module).named_parameters()}
    assert module.blocks[0].conv1.out_channels == 1
    assert {name: parameter.shape for name, parameter in average.named_parameters()} == shapes


def test_an_average_that_evaluation_uses_is_refused(tmp_path):
    """The layers that are trained would be missed."""

    class Evaluated(Teacher):
        def forward(self, x):
            blocks = self.blocks if self.training else self.average
            return self.head(blocks(self.stem(x)).mean(dim=(2, 3)))

    module = Evaluated()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"AveragedModel 'average': expected a forward pass through the trained"):
        fit(module, CosineFilterPruning(0.5), tmp_path)
    assert_same(dict(module.state_dict()), before)


def test_an_average_that_is_held_twice_is_cut_once(tmp_path):
    class Twice(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            average = AveragedModel(pl_module.blocks)
            self.kept, self.again, pl_module.__dict__["third"] = [average], {"same": average}, average

    module, callback = UsersModule(), Twice()
    fit(module, CosineFilterPruning(0.5, at_epoch=1), tmp_path, callback)
    shapes = {name: parameter.shape for name, parameter in module.blocks.named_parameters()}
    assert {name: parameter.shape for name, parameter in callback.kept[0].module.named_parameters()} == shapes
    assert callback.kept[0].module[0].conv1.out_channels == 8


@pytest.mark.parametrize("at_epoch", [0, 2])
def test_an_average_in_the_module_of_none_of_its_parts_is_refused(tmp_path, at_epoch):
    class Stray(UsersModule):
        def __init__(self):
            super().__init__()
            self.average = AveragedModel(nn.Conv2d(3, 5, 3))

    module, recorder = Stray(), Recorder()
    with pytest.raises(ValueError, match=r"AveragedModel 'average': expected one part of Stray .*, found none"):
        fit(module, CosineFilterPruning(0.5, at_epoch=at_epoch), tmp_path, recorder)
    assert not recorder.params
    assert module.stem.out_channels == 16


def test_an_average_of_somebody_elses_network_is_left_alone(tmp_path):
    class Holder(pl.Callback):
        average = None

    holder = Holder()
    holder.average = AveragedModel(nn.Conv2d(3, 5, 3))
    module = UsersModule()
    fit(module, CosineFilterPruning(0.5), tmp_path, holder)
    assert module.stem.out_channels == 8
    assert holder.average.module.out_channels == 5
