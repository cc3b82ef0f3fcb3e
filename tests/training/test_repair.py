"""What the repair of a prune does in a run: every test trains for two or more epochs."""

import copy
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from asserts import assert_optimizers_hold, assert_same, outputs_of
from fits import Recorder, UsersModule, fit, loader, trainer_for
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader

from lightning_cosprune import CosineFilterPruning, apply_plan
from lightning_cosprune.training import repair as repair_file
from lightning_cosprune.training.averages import averaged_modules
from lightning_cosprune.training.repair import dense_copy

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Swapping scheduler"),
]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


IMAGES = loader().dataset.tensors[0]


def error(network, dense):
    ((found,), (wanted,)) = outputs_of(network, IMAGES), outputs_of(dense, IMAGES)
    return float((found - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum())


class Watch(CosineFilterPruning):
    """Measures, at each prune, the error with and without repair, of the network and of its averages."""

    def __init__(self, *args, **options):
        super().__init__(*args, repair=options.pop("repair", "least_squares"), **options)
        self.repaired, self.cut = [], []

    def _prune(self, trainer, pl_module):
        networks = [pl_module, *averaged_modules(trainer)]
        dense = [dense_copy(network, trainer).float() for network in networks]
        super()._prune(trainer, pl_module)
        cut = [copy.deepcopy(network) for network in dense]
        for network in cut:
            apply_plan(network, self.plans[-1], IMAGES[:1])
        after = [copy.deepcopy(network).float() for network in networks]
        self.repaired.append([error(*pair) for pair in zip(after, dense, strict=True)])
        self.cut.append([error(*pair) for pair in zip(cut, dense, strict=True)])

    def assert_better(self, networks=1):
        assert all(len(errors) == networks for errors in self.repaired)
        for repaired, cut in zip(self.repaired, self.cut, strict=True):
            assert all(one < 0.8 * other for one, other in zip(repaired, cut, strict=True)), (repaired, cut)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "64-true"},
        {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]},
        {"accumulate_grad_batches": 2},
    ],
    ids=lambda options: "".join(options) + str(options.get("precision", "")),
)
def test_the_outputs_come_back_and_training_goes_on(options, tmp_path):
    module, recorder = UsersModule(), Recorder()
    callback = Watch(0.5, at_epoch=2, calibration=24)
    fit(module, callback, tmp_path, recorder, max_epochs=4, **options)
    (repair,) = callback.repairs
    assert repair.samples == 24
    assert repair.error_after < 0.8 * repair.error_before
    assert repair.layers[-1].name == "head"
    callback.assert_better()
    assert recorder.params[1] > recorder.params[2] == recorder.params[3]
    # A step of the last epochs is less than half a unit in the last place of bfloat16.
    assert options.get("precision") == "bf16-true" or all(all(moved.values()) for moved in recorder.moved)


def test_every_step_of_a_schedule_is_repaired(tmp_path):
    callback = Watch(0.5, at_epoch=[0, 1, 2], calibration=24)
    fit(UsersModule(), callback, tmp_path)
    callback.assert_better()
    assert len(callback.repairs) == 3


@pytest.mark.parametrize("method", ["merge", "constant"])
def test_repair_without_data(method, tmp_path, monkeypatch):
    module, recorder = UsersModule(), Recorder()
    callback = Watch(0.5, at_epoch=2, repair=method)
    monkeypatch.setattr(repair_file, "calibration_batches", None)
    fit(module, callback, tmp_path, recorder, max_epochs=4)
    assert [(repair.method, repair.samples) for repair in callback.repairs] == [(method, 0)]
    assert callback.repaired != callback.cut
    assert all(all(moved.values()) for moved in recorder.moved)


def test_nothing_pruned_nothing_repaired(tmp_path):
    callback = CosineFilterPruning(0.01, allow_unpruned=True, repair="least_squares")
    fit(UsersModule(), callback, tmp_path)
    assert len(callback.reports) == 1
    assert callback.repairs == []


def test_numbers_reach_the_logger_and_the_table_the_console(tmp_path, caplog):
    callback = CosineFilterPruning(0.25, at_epoch=[0, 1], repair="least_squares", calibration=8)
    with caplog.at_level("INFO"):
        trainer = fit(UsersModule(), callback, tmp_path)
    columns = Path(trainer.logger.experiment.metrics_file_path).read_text().splitlines()[0]
    for column in ("pruning/params_after", "repair/output_error_after", "repair/samples", "repair/error/head_before"):
        assert column in columns
    assert caplog.text.count("Repaired 7 layers on 8 unlabelled samples: the outputs differ") == 2
    assert caplog.text.count("Repaired by least squares on 8 unlabelled samples") == 2


def test_training_sees_the_same_batches_and_draws_the_same_numbers(tmp_path):
    def numbers(**repair):
        seen = []

        class Spy(pl.Callback):
            def on_train_batch_start(self, *arguments):
                seen.append(torch.cat([arguments[2][0][:, 0, 0, 0], torch.rand(1)]))

        data = DataLoader(loader().dataset, batch_size=8, shuffle=True)
        fit(UsersModule(), CosineFilterPruning(0.5, at_epoch=1, **repair), tmp_path, Spy(), data=data)
        return torch.stack(seen)

    assert torch.equal(numbers(), numbers(repair="least_squares"))


# Frozen, compiled, normed


def test_frozen_layers_are_left_alone(tmp_path):
    class Frozen(UsersModule):
        def __init__(self):
            super().__init__()
            self.blocks[0].requires_grad_(False)

    module = Frozen()
    before = {name: parameter.clone() for name, parameter in module.blocks[0].named_parameters()}
    callback = CosineFilterPruning({"stem": 0.5}, repair="least_squares")
    fit(module, callback, tmp_path)
    assert set(callback.repairs[0].skipped.values()) == {"frozen"}
    for name, parameter in module.blocks[0].named_parameters():
        assert torch.isin(parameter, before[name]).all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("part", [False, True])
def test_compiled_networks(part, tmp_path):
    class Silent(UsersModule):
        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

    torch._dynamo.reset()
    plain = Silent()
    module = copy.deepcopy(plain)
    if part:
        module.blocks.compile(backend="aot_eager")
    else:
        module = torch.compile(module, backend="aot_eager")
    callbacks = [CosineFilterPruning(0.5, at_epoch=1, repair="least_squares") for _ in range(2)]
    fit(plain, callbacks[0], tmp_path)
    fit(module, callbacks[1], tmp_path)
    ((one,), (other,)) = (callback.repairs for callback in callbacks)
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    assert other.error_before == pytest.approx(one.error_before, rel=1e-2)
    assert other.error_after == pytest.approx(one.error_after, rel=0.1)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_a_copy_of_a_network_in_the_middle_of_training(tmp_path):
    """Computed weights that are no leaves, and references to the Trainer and the data, do not stand in its way."""

    class Holding(UsersModule):
        def __init__(self):
            super().__init__()
            self.extra = nn.utils.weight_norm(nn.Linear(4, 4))
            self.last = None

        def forward(self, x):
            self.last = self.extra(super().forward(x))
            return self.last

        def on_train_start(self):
            self.mine = [self.trainer]

    module = Holding()
    callback = CosineFilterPruning(0.5, at_epoch=1, repair="least_squares")
    trainer = fit(module, callback, tmp_path)
    assert module.last.grad_fn is not None
    copied = dense_copy(module, trainer)
    assert copied.mine[0] is trainer
    assert copied._trainer is None
    assert copied.extra is not module.extra
    assert callback.repairs[0].error_after < callback.repairs[0].error_before


# Averages


@pytest.mark.parametrize(
    "average",
    [
        lambda: EMAWeightAveraging(decay=0.5),
        WeightAveraging,
        lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=1),
    ],
)
def test_averages_are_repaired_alike(average, tmp_path):
    callback = Watch(0.5, at_epoch=2, calibration=24)
    fit(UsersModule(), callback, tmp_path, average(), max_epochs=4)
    callback.assert_better(networks=2)


def test_an_average_of_a_part_is_repaired_too(tmp_path):
    class Teacher(UsersModule):
        def __init__(self):
            super().__init__()
            self.average = AveragedModel(self.blocks, avg_fn=get_ema_avg_fn(0.5))

        def on_train_batch_end(self, *_):
            self.average.update_parameters(self.blocks)

        def configure_optimizers(self):
            trained = [*self.stem.parameters(), *self.blocks.parameters(), *self.head.parameters()]
            return torch.optim.AdamW(trained, lr=1e-2)

    class Cut(CosineFilterPruning):
        def _prune(self, trainer, pl_module):
            dense = copy.deepcopy(pl_module.average.module)
            stem = copy.deepcopy(pl_module.stem)
            super()._prune(trainer, pl_module)
            with torch.no_grad():
                wanted, found = dense(stem(IMAGES)), pl_module.average.module(pl_module.stem(IMAGES))
            kept = self.plans[-1].kept["blocks.1.conv2"]
            self.error = float((found - wanted[:, kept]).square().mean() / wanted[:, kept].var())

    without, repaired = Cut(0.5, at_epoch=1), Cut(0.5, at_epoch=1, repair="least_squares", calibration=24)
    for callback in (without, repaired):
        fit(Teacher(), callback, tmp_path)
    assert repaired.error < 0.8 * without.error
    assert "not reached by the calibration data" not in repaired.repairs[0].skipped.values()


def test_a_part_of_the_module_is_repaired(tmp_path):
    module = UsersModule()
    data = torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"module": "blocks", "example_inputs": data[:1], "repair": "least_squares"}
    callback = CosineFilterPruning(0.5, at_epoch=1, calibration=[data], **options)
    fit(module, callback, tmp_path, EMAWeightAveraging(decay=0.5))
    assert callback.repairs[0].error_after < 0.5 * callback.repairs[0].error_before
    with pytest.raises(ValueError, match=r"expected inputs that Sequential takes, .*a part of a module is given what"):
        fit(UsersModule(), CosineFilterPruning(0.5, calibration=4, **options), tmp_path)


# Resumed, interrupted, failed


def pruning():
    return CosineFilterPruning({"stem": 0.5, "blocks.*": 0.25}, at_epoch=[1, 3], repair="least_squares")


def states_of(trainer):
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    return trainer.lightning_module.state_dict(), trainer.optimizers[0].state_dict(), scheduler.state_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(0, verbose=False)
    by_epoch = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    by_step = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=3)
    trainer = trainer_for(folder, pruning(), by_epoch, by_step, max_epochs=5)
    trainer.fit(UsersModule(), loader())
    return trainer, folder


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("name", ["epoch=0", "epoch=1", "epoch=2", "epoch=3", "step=3", "step=6", "step=9"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(run, name, tmp_path):
    expected, folder = run
    trainer = trainer_for(tmp_path, pruning(), max_epochs=5, enable_checkpointing=False)
    trainer.fit(UsersModule(), loader(), ckpt_path=folder / f"{name}.ckpt")
    assert_same(states_of(trainer), states_of(expected))


def test_a_resumed_run_reads_the_data_of_its_epoch(tmp_path):
    """Lightning comes to `on_train_start` with the loader of the epoch before."""

    class ByEpoch(pl.LightningDataModule):
        def train_dataloader(self):
            order = torch.randperm(24, generator=torch.Generator().manual_seed(self.trainer.current_epoch))
            return DataLoader(torch.utils.data.Subset(loader().dataset, order.tolist()), 8)

    def run(folder, **options):
        pl.seed_everything(0, verbose=False)
        saved = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        callback = CosineFilterPruning(0.5, at_epoch=1, repair="least_squares", calibration=8)
        trainer = trainer_for(folder, callback, saved, max_epochs=2, reload_dataloaders_every_n_epochs=1)
        trainer.fit(UsersModule(), ByEpoch(), **options)
        return trainer

    whole = run(tmp_path / "whole")
    rest = run(tmp_path / "rest", ckpt_path=tmp_path / "whole" / "epoch=0.ckpt")
    assert_same(states_of(rest), states_of(whole))


@pytest.mark.filterwarnings("ignore:.*was called without a model", "ignore:.*there is no last checkpoint available")
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("problem", [KeyboardInterrupt, MemoryError])
def test_what_stops_within_a_repair_leaves_all_as_it_was(problem, average, tmp_path, monkeypatch):
    """A checkpoint that is written then is one of the dense network, which the resumed run prunes again."""
    refit, begun = repair_file.refit_least_squares, []

    def stopped(pruned, dense, *args, **options):
        refit(pruned, dense, *args, **options)
        begun.append(1)
        if len(begun) == 1 + average:
            raise problem("stop")

    class Note(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            networks = [pl_module, *averaged_modules(trainer)]
            self.before = copy.deepcopy(([one.state_dict() for one in networks], trainer.optimizers[0].state_dict()))

        def on_exception(self, trainer, pl_module, exception):
            networks = [pl_module, *averaged_modules(trainer)]
            self.after = copy.deepcopy(([one.state_dict() for one in networks], trainer.optimizers[0].state_dict()))
            assert_optimizers_hold(pl_module, trainer.optimizers)

    monkeypatch.setattr(repair_file, "refit_least_squares", stopped)
    callback, note = CosineFilterPruning(0.5, at_epoch=1, repair="least_squares"), Note()
    module = UsersModule()
    others = [EMAWeightAveraging(decay=0.5)] if average else []
    with pytest.raises((problem, SystemExit)):
        fit(module, note, tmp_path, callback, *others, OnExceptionCheckpoint(tmp_path), enable_checkpointing=True)
    assert module.stem.out_channels == 16
    assert_same([dict(one) for one in note.after[0]], [dict(one) for one in note.before[0]])
    assert_same(note.after[1], note.before[1])
    assert callback.repairs == callback.plans == []
    monkeypatch.undo()
    resumed, again = UsersModule(), CosineFilterPruning(0.5, at_epoch=1, repair="least_squares")
    others = [EMAWeightAveraging(decay=0.5)] if average else []
    trainer = trainer_for(tmp_path, again, *others, enable_checkpointing=False)
    trainer.fit(resumed, loader(), ckpt_path=tmp_path / "on_exception.ckpt")
    assert (len(again.plans), resumed.stem.out_channels) == (1, 8)
