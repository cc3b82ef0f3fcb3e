"""Checkpoints from before and after a prune; every Trainer is a real one."""

import contextlib
import copy
import io
import pickle

import lightning.pytorch as pl
import pytest
import torch
from asserts import assert_same
from fits import BATCH_TWICE, SAFELY, UsersModule, loader, trainer_for
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader
from zoo import CASES

from lightning_cosprune import (
    AtomicCheckpointIO,
    CosineFilterPruning,
    PrunableMixin,
    apply_plan,
    load_pruned,
    plan_pruning,
)
from lightning_cosprune.network.structure import STRUCTURE, describe_structure, restore_structure

# Lightning says so wherever a test resumes in another folder or with other callbacks than it saved with.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Prunable(PrunableMixin, UsersModule):
    pass


class Sized(UsersModule):
    """Keeps its arguments as hyper-parameters."""

    def __init__(self, width: int = 16, rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks[0].conv1 = nn.Conv2d(width, 16, 3, padding=1, bias=False)
        self.blocks[0].shortcut = nn.Conv2d(width, 16, 1, bias=False)


def every_epoch(tmp_path, **options):
    return ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_last=True, **options)


def states_of(trainer):
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    return trainer.lightning_module.state_dict(), trainer.optimizers[0].state_dict(), scheduler.state_dict()


def pruning():
    return CosineFilterPruning({"stem": 0.5, "blocks.*": 0.25}, at_epoch=[1, 3], schedule="cubic")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An uninterrupted run that prunes at the start of epochs 1 and 3, with a checkpoint of every epoch."""
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(0, verbose=False)
    trainer = trainer_for(folder, pruning(), every_epoch(folder), max_epochs=5)
    trainer.fit(UsersModule(), loader())
    return trainer, folder


@pytest.fixture
def pruned(run):
    return torch.load(run[1] / "epoch=4.ckpt", weights_only=True)


# Resuming


@pytest.mark.parametrize("epoch", range(4))
def test_a_resumed_run_ends_as_the_uninterrupted_one(run, epoch, tmp_path):
    """From before the first prune, from between the two, and from after both."""
    expected, folder = run
    callback = pruning()
    trainer = trainer_for(tmp_path, callback, every_epoch(tmp_path), max_epochs=5)
    trainer.fit(UsersModule(), loader(), ckpt_path=folder / f"epoch={epoch}.ckpt")
    assert_same(states_of(trainer), states_of(expected))
    assert len(callback.reports) == (2, 1, 1, 0)[epoch]


@pytest.mark.skipif(BATCH_TWICE, reason="the run is another one with this release of Lightning")
def test_a_run_resumes_from_the_middle_of_an_epoch(run, tmp_path):
    """`on_train_epoch_start` has passed then; the prune must not be passed by."""
    saved = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_last=True, every_n_train_steps=2)
    pl.seed_everything(0, verbose=False)
    trainer_for(tmp_path, pruning(), saved, max_epochs=5, max_steps=6).fit(UsersModule(), loader())
    assert torch.load(saved.last_model_path, weights_only=True)["epoch"] == 1
    trainer = trainer_for(tmp_path, pruning(), max_epochs=5, enable_checkpointing=False)
    trainer.fit(UsersModule(), loader(), ckpt_path=saved.last_model_path)
    assert_same(states_of(trainer), states_of(run[0]))


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("steps", [2, 3])
def test_a_dense_run_is_pruned_before_it_trains_on(steps, tmp_path):
    """Resumed within an epoch or after its last batch, Lightning does not call `on_train_epoch_start` for it again."""

    class Seen(pl.Callback):
        def __init__(self):
            self.filters = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.filters.append(pl_module.stem.out_channels)

    saved = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=steps)
    trainer_for(tmp_path, saved, max_epochs=1).fit(UsersModule(), loader())
    seen = Seen()
    resumed = trainer_for(tmp_path, CosineFilterPruning(0.5), seen, max_epochs=2, enable_checkpointing=False)
    resumed.fit(UsersModule(), loader(), ckpt_path=tmp_path / f"step={steps}.ckpt")
    assert seen.filters == [8] * (6 - steps + BATCH_TWICE)


@pytest.mark.parametrize(
    ("at_epoch", "ratio", "told"), [([0, 2], 0.5, True), ([0], 0.5, False), ([0, 2], "redundant", False)]
)
def test_a_resumed_run_with_further_epochs_says_what_the_ratio_counts_from(at_epoch, ratio, told, tmp_path, caplog):
    trainer_for(tmp_path, CosineFilterPruning(ratio), every_epoch(tmp_path), max_epochs=1).fit(UsersModule(), loader())
    resumed = trainer_for(tmp_path, CosineFilterPruning(ratio, at_epoch=at_epoch), max_epochs=3)
    with caplog.at_level("INFO"), contextlib.suppress(ValueError):  # the last step has nothing left to remove
        resumed.fit(UsersModule(), loader(), ckpt_path=tmp_path / "last.ckpt")
    words = "at_epoch=[0]. The ratio counts from the dense network: what has been removed is part of it"
    assert (words in caplog.text) is told


@pytest.mark.parametrize(("name", "filters"), [("last", 8), ("best", 16)])
def test_last_and_best_after_the_fit(tmp_path, name, filters):
    """The best checkpoint is that of the dense network here, so the pruned module grows again."""

    class Worsening(UsersModule):
        def on_train_epoch_end(self):
            self.log("worse", float(self.current_epoch))

    saved = ModelCheckpoint(tmp_path, "{epoch}", monitor="worse", save_top_k=-1, save_last=True)
    trainer = trainer_for(tmp_path, CosineFilterPruning(0.5, at_epoch=1, reset_scores=False), saved, max_epochs=2)
    trainer.fit(Worsening(), loader())
    assert trainer.lightning_module.stem.out_channels == 8
    trainer.predict(ckpt_path=name, dataloaders=DataLoader(torch.randn(4, 3, 8, 8)), **SAFELY)
    assert trainer.lightning_module.stem.out_channels == filters
    path = saved.last_model_path if name == "last" else saved.best_model_path
    found = torch.load(path, weights_only=True)["state_dict"]
    assert_same(dict(trainer.lightning_module.state_dict()), dict(found))


@pytest.mark.parametrize("epoch", [0, 1, 4])
def test_a_new_trainer_predicts_from_each_checkpoint(run, pruned, epoch, tmp_path):
    images = torch.randn(4, 3, 8, 8)
    expected = load_pruned(UsersModule, run[1] / f"epoch={epoch}.ckpt").eval()(images)
    trainer = trainer_for(tmp_path, pruning())
    found = trainer.predict(
        UsersModule(), DataLoader(images, batch_size=4), ckpt_path=run[1] / f"epoch={epoch}.ckpt", **SAFELY
    )
    torch.testing.assert_close(found[0], expected)


def test_checkpoints_of_weights_alone(tmp_path):
    pl.seed_everything(0, verbose=False)
    trainer = trainer_for(
        tmp_path, CosineFilterPruning(0.5), every_epoch(tmp_path, save_weights_only=True), max_epochs=1
    )
    trainer.fit(UsersModule(), loader())
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert "callbacks" not in saved
    assert saved[STRUCTURE]["modules"]["stem"]["sizes"]["out_channels"] == 8
    found = trainer_for(tmp_path, CosineFilterPruning(0.5)).predict(
        UsersModule(), DataLoader(torch.randn(4, 3, 8, 8)), ckpt_path=tmp_path / "epoch=0.ckpt", **SAFELY
    )
    assert len(found) == 4


def test_a_checkpoint_that_is_saved_after_the_run_holds_the_structure(run, tmp_path):
    run[0].save_checkpoint(tmp_path / "after.ckpt")
    saved = torch.load(tmp_path / "after.ckpt", weights_only=True)
    assert saved[STRUCTURE]["modules"]["stem"]["sizes"]["out_channels"] == saved["state_dict"]["stem.weight"].shape[0]


def test_the_users_own_hooks_are_called_and_given_back(tmp_path):
    class Own(UsersModule):
        calls = ()

        def on_save_checkpoint(self, checkpoint):
            self.calls += ("save",)

        def on_load_checkpoint(self, checkpoint):
            self.calls += ("load", tuple(checkpoint["state_dict"]["stem.weight"].shape), self.stem.out_channels)

    module = Own()
    trainer_for(tmp_path, CosineFilterPruning(0.5), every_epoch(tmp_path), max_epochs=1).fit(module, loader())
    assert set(module.calls) == {"save"}
    assert "on_save_checkpoint" not in vars(module)
    resumed = Own()
    trainer_for(tmp_path, CosineFilterPruning(0.5), max_epochs=1, enable_checkpointing=False).fit(
        resumed, loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert resumed.calls == ("load", (8, 3, 3, 3), 8)


def test_hooks_that_the_instance_has_are_called_and_given_back(tmp_path):
    module, calls = UsersModule(), []
    module.on_save_checkpoint = own = lambda checkpoint: calls.append("save")
    trainer_for(tmp_path, CosineFilterPruning(0.5), every_epoch(tmp_path, save_weights_only=True), max_epochs=1).fit(
        module, loader()
    )
    assert set(calls) == {"save"}
    assert STRUCTURE in torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert vars(module)["on_save_checkpoint"] is own


class Once(CosineFilterPruning):
    """A rule that looks at what was done."""

    def should_prune(self, trainer, pl_module):
        return trainer.current_epoch >= 1 and not self.plans


def test_a_rule_of_ones_own_knows_after_resuming_what_was_done(tmp_path):
    trainer_for(tmp_path, Once(0.5), every_epoch(tmp_path), max_epochs=2).fit(UsersModule(), loader())
    module, callback = UsersModule(), Once(0.5)
    resumed = trainer_for(tmp_path, callback, every_epoch(tmp_path), max_epochs=4)
    resumed.fit(module, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert module.stem.out_channels == 8
    assert len(callback.plans) == 1
    assert callback.reports == []


def test_a_checkpoint_is_written_beside_its_place(tmp_path, monkeypatch):
    """A writer that is stopped half way leaves the old file and no other; one that is killed could leave a `.part`."""
    trainer = trainer_for(tmp_path, plugins=[AtomicCheckpointIO()], max_epochs=1)
    trainer.fit(UsersModule(), loader())
    trainer.save_checkpoint(tmp_path / "deep" / "last.ckpt")
    before = (tmp_path / "deep" / "last.ckpt").read_bytes()
    written = torch.save

    def half(checkpoint, file):
        buffer = io.BytesIO()
        written(checkpoint, buffer)
        file.write(buffer.getvalue()[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(tmp_path / "deep" / "last.ckpt")
    assert (tmp_path / "deep" / "last.ckpt").read_bytes() == before
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"last.ckpt"}


# Without the callback


def test_checkpoints_that_go_elsewhere_are_left_to_lightning(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"a": 1}, "memory://checkpoints/a.ckpt")
    assert AtomicCheckpointIO().load_checkpoint("memory://checkpoints/a.ckpt") == {"a": 1}
    with pytest.raises(TypeError, match="storage_options"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt", storage_options={"x": 1})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("epoch", range(5))
def test_load_pruned(run, epoch):
    path = run[1] / f"epoch={epoch}.ckpt"
    saved = torch.load(path, weights_only=True)
    images = torch.randn(4, 3, 8, 8)
    outputs = []
    for source in (path, str(path), io.BytesIO(path.read_bytes()), saved, {"state_dict": saved["state_dict"]}):
        module = load_pruned(UsersModule, source)
        assert_same(dict(module.state_dict()), dict(saved["state_dict"]))
        outputs.append(module.eval()(images))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_load_pruned_gives_a_lightning_module_its_hyper_parameters(tmp_path):
    trainer = trainer_for(tmp_path, CosineFilterPruning(0.5), every_epoch(tmp_path), max_epochs=1)
    trainer.fit(Sized(width=12, rate=0.5), loader())
    module = load_pruned(Sized, tmp_path / "last.ckpt")
    assert (module.hparams.width, module.hparams.rate, module.stem.out_channels) == (12, 0.5, 6)
    assert load_pruned(Sized, tmp_path / "last.ckpt", rate=0.1).hparams.rate == 0.1


def test_the_mixin_loads_by_load_from_checkpoint(run, pruned, tmp_path):
    module = Prunable.load_from_checkpoint(run[1] / "epoch=4.ckpt", weights_only=True)
    assert_same(dict(module.state_dict()), dict(pruned["state_dict"]))
    trainer = trainer_for(tmp_path)  # without the callback, and on to training
    trainer.fit(Prunable(), loader(), ckpt_path=run[1] / "epoch=2.ckpt")
    assert (
        trainer.lightning_module.stem.out_channels
        == torch.load(run[1] / "epoch=2.ckpt", weights_only=True)["state_dict"]["stem.weight"].shape[0]
    )
    trainer.save_checkpoint(tmp_path / "again.ckpt", weights_only=True)
    assert STRUCTURE in torch.load(tmp_path / "again.ckpt", weights_only=True)


def test_the_mixin_loads_plain_state_dicts_smaller_and_larger(pruned):
    module, dense = Prunable(), UsersModule().state_dict()
    module.load_state_dict(pruned["state_dict"])
    assert module.stem.out_channels == pruned["state_dict"]["stem.weight"].shape[0]
    module.load_state_dict(dense)
    assert module.stem.out_channels == 16
    assert_same(dict(module.state_dict()), dict(dense))


@pytest.mark.parametrize(
    "change", [lambda state: state.pop("head.bias"), lambda state: state.update(extra=torch.ones(1))]
)
def test_a_load_that_the_mixin_refuses_changes_no_shape(change, pruned):
    module, state = Prunable(), dict(pruned["state_dict"])
    change(state)
    structure, stem = describe_structure(module), module.stem.weight
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict"):
        module.load_state_dict(state)
    assert describe_structure(module) == structure
    assert module.stem.weight is stem


def test_the_mixin_serves_plain_modules():
    class Net(PrunableMixin, nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3))

        def forward(self, x):
            return self.body(x)

    model, example = Net(), torch.randn(2, 1, 8, 8)
    apply_plan(model, plan_pruning(model, example, pruning_ratio=0.5), example)
    other = Net()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(example), model.eval()(example))


@pytest.mark.parametrize("case", [case for case in CASES if case.pruned], ids=lambda case: case.name)
@pytest.mark.parametrize("with_structure", [True, False])
def test_every_network_comes_back_from_its_state_dict(case, with_structure):
    torch.manual_seed(0)
    model = case.build()
    apply_plan(model, plan_pruning(model, case.inputs, pruning_ratio=0.5), case.inputs)
    again = case.build()
    restore_structure(again, model.state_dict(), describe_structure(model) if with_structure else None)
    again.load_state_dict(model.state_dict())
    told = describe_structure(model)
    if not with_structure:  # weights alone do not say what sizes a network's own code goes by
        told["modules"] = {
            name: {key: value for key, value in entry.items() if key != "parts"}
            for name, entry in told["modules"].items()
            if entry["sizes"] or entry["shapes"]
        }
    assert describe_structure(again) == told
    assert repr(again) == repr(model)
    assert [parameter.requires_grad for parameter in again.parameters()] == [
        parameter.requires_grad for parameter in model.parameters()
    ]


# Copies


def test_module_and_callback_travel_in_the_middle_of_training(tmp_path):
    class Copies(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            for copied in (copy.deepcopy(pl_module), pickle.loads(pickle.dumps(pl_module))):
                assert_same(dict(copied.state_dict()), dict(pl_module.state_dict()))
                assert vars(copied)["on_save_checkpoint"].args[0] is copied
            file = io.BytesIO()
            torch.save(pl_module, file)
            callback = trainer.callbacks[0]
            assert repr(pickle.loads(pickle.dumps(callback))) == repr(copy.deepcopy(callback)) == repr(callback)
            self.done = True

    copies = Copies()
    trainer = trainer_for(tmp_path, CosineFilterPruning(0.5), copies, max_epochs=1, enable_checkpointing=False)
    trainer.fit(UsersModule(), loader())
    assert copies.done


# What is refused


def damaged(saved, change):
    saved = copy.deepcopy(saved)
    change(saved[STRUCTURE])
    return saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(version=2), "expected version 1, found 2"),
        (lambda s: s.pop("version"), "expected version 1, found None"),
        (lambda s: s.pop("modules"), "expected a mapping with `version` and `modules`"),
        (
            lambda s: s["modules"].update(head2={"sizes": {}, "shapes": {}}),
            "a layer 'head2', which the network has not",
        ),
        (lambda s: s["modules"].update(stem=[1]), r"`sizes` and `shapes` of layer 'stem', found \[1\]"),
        (
            lambda s: s["modules"].update(stem=s["modules"]["head"]),
            "'stem' has the sizes in_features, out_features, in",
        ),
        (lambda s: s["modules"]["stem"]["sizes"].update(groups="1"), "whole numbers for 'groups' of layer 'stem'"),
        (
            lambda s: s["modules"]["stem"]["sizes"].update(groups=0),
            "'stem' has the sizes .*, the shapes of its tensors say",
        ),
        (
            lambda s: s["modules"]["stem"]["sizes"].update(out_channels=7),
            "'stem' has the sizes .*, the shapes of its ten",
        ),
        (
            lambda s: s["modules"]["stem"]["sizes"].update(out_channels=[4, 4]),
            "'stem' has the sizes .*, the shapes of i",
        ),
        (lambda s: s["modules"]["stem"].update(sizes=5), "`sizes` and `shapes` of layer 'stem', found"),
        (
            lambda s: s["modules"]["stem"]["shapes"].update(weight=[8, 3]),
            "expected 4 axes for 'weight' of layer 'stem'",
        ),
        (lambda s: s["modules"]["stem"]["shapes"].update(scale=[8]), "'stem' has a tensor 'scale'"),
        (
            lambda s: s["modules"]["stem"]["shapes"].update(bias=[3]),
            r"stem.bias has shape \(3,\), but its weights have",
        ),
    ],
)
def test_a_damaged_structure_is_refused_and_nothing_changed(pruned, change, message):
    module = UsersModule()
    before = describe_structure(module)
    weights = copy.deepcopy(module.state_dict())
    saved = damaged(pruned, change)
    with pytest.raises(ValueError, match=message):
        restore_structure(module, saved["state_dict"], saved[STRUCTURE])
    assert describe_structure(module) == before
    assert_same(dict(module.state_dict()), dict(weights))


def test_weights_that_the_structure_counts_on_must_be_there(pruned):
    saved = copy.deepcopy(pruned)
    del saved["state_dict"]["stem.weight"]
    with pytest.raises(ValueError, match=r"stem.weight has shape .* but its weights lack it"):
        load_pruned(UsersModule, saved)


def test_another_networks_checkpoint_is_refused(pruned):
    with pytest.raises(ValueError, match="does not fit Sequential: it has a layer 'stem'"):
        load_pruned(lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), pruned)


def test_what_no_shape_explains_is_left_to_pytorch():
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict"):
        load_pruned(lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), {"0.bias": torch.zeros(2)})
    with pytest.raises(RuntimeError, match=r"size mismatch for 0.weight"):
        load_pruned(lambda: nn.Sequential(nn.Conv2d(1, 2, 3)), {"0.weight": torch.zeros(3), "0.bias": torch.zeros(2)})


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(run, keep, tmp_path):
    content = (run[1] / "epoch=4.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"cut.ckpt'\)`: expected a checkpoint that loads with `weights_only=True`"):
        load_pruned(UsersModule, tmp_path / "cut.ckpt")


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="loads with `weights_only=True`"):
        load_pruned(UsersModule, tmp_path / "whole.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a mapping, found list"):
        load_pruned(UsersModule, tmp_path / "list.pt")
    with pytest.raises(ValueError, match="found a mapping with the keys epoch, loss"):
        load_pruned(UsersModule, {"epoch": 1, "loss": 0.5})
    with pytest.raises(FileNotFoundError):
        load_pruned(UsersModule, tmp_path / "nowhere.ckpt")


class Student(nn.Module):
    def __init__(self, filters: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, filters, 3), nn.InstanceNorm2d(filters), nn.Conv2d(filters, 2, 3))

    def forward(self, x):
        return self.body(x)


class Taught(pl.LightningModule):
    """A pruned student beside its teacher."""

    def __init__(self, filters: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.student, self.teacher = Student(filters), nn.Linear(3, 3)


EXAMPLE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def taught(dtype=torch.float32):
    model = Taught()
    apply_plan(model.student, plan_pruning(model.student, EXAMPLE, pruning_ratio=0.5), EXAMPLE)
    return model.to(dtype)


@pytest.mark.parametrize("with_structure", [True, False])
@pytest.mark.parametrize("prefix", ["student.", "student"])
def test_one_part_of_what_was_saved(prefix, with_structure, tmp_path):
    model = taught()
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": {"filters": 8}}
    torch.save(checkpoint | ({STRUCTURE: describe_structure(model)} if with_structure else {}), tmp_path / "all.ckpt")
    again = load_pruned(Student, tmp_path / "all.ckpt", prefix=prefix)
    assert describe_structure(again) == describe_structure(model.student)
    assert torch.equal(again(EXAMPLE), model.student(EXAMPLE))
    assert load_pruned(Student, tmp_path / "all.ckpt", prefix=prefix, filters=12).body[0].out_channels == 4
    (again.body[0].weight + 1).sum().backward()
    with pytest.raises(ValueError, match=r"found none\. Begins of names that there are: 'student\.', 'teacher\.'"):
        load_pruned(Student, tmp_path / "all.ckpt", prefix="network.")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefix": 3}, r"\(prefix=...\)`: expected a `str`, found a int\. Write"),
        ({"ignore_extra": "probe"}, r"\(ignore_extra=...\)`: expected a `bool`, found a str\. Write"),
    ],
)
def test_what_is_no_prefix_and_no_choice_is_refused(wrong, message):
    with pytest.raises(TypeError, match=f"`load_pruned{message}"):
        load_pruned(Student, {}, **wrong)


@pytest.mark.parametrize("with_structure", [True, False])
def test_weights_beyond_the_network_are_named_or_ignored_on_request(with_structure):
    model = taught().student
    model.probe = nn.Linear(3, 2)
    saved = {"state_dict": model.state_dict()} | ({STRUCTURE: describe_structure(model)} if with_structure else {})
    with pytest.raises(ValueError, match=r"layer 'probe'.*`ignore_extra=True`|2 more: probe\.weight, probe\.bias"):
        load_pruned(Student, saved)
    assert torch.equal(load_pruned(Student, saved, ignore_extra=True)(EXAMPLE), model(EXAMPLE))
    del saved["state_dict"]["body.2.bias"]
    with pytest.raises((RuntimeError, ValueError), match=r"Missing key\(s\): body\.2\.bias|body\.2\.bias has shape"):
        load_pruned(Student, saved, ignore_extra=True)


def test_the_prefix_that_was_meant_is_told():
    with pytest.raises(ValueError, match=r"Its own begin with 'student\.': pass `prefix='student\.'`"):
        load_pruned(Student, taught().state_dict())


def test_a_network_that_is_built_is_changed_whole_or_not_at_all():
    pruned, model = taught().student, Student()
    assert load_pruned(model, pruned.state_dict()) is model
    assert torch.equal(model(EXAMPLE), pruned(EXAMPLE))
    other, weights = Student(), pruned.state_dict()
    before, structure = copy.deepcopy(other.state_dict()), describe_structure(other)
    del weights["body.2.bias"]
    with pytest.raises(RuntimeError, match="Missing key"):
        load_pruned(other, weights)
    assert_same(dict(other.state_dict()), dict(before))
    assert describe_structure(other) == structure
    with pytest.raises(TypeError, match=r"load_pruned\(Student\(...\), filters=...\)`: expected no arguments"):
        load_pruned(Student(), weights, filters=8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_keep_the_data_type_of_the_file(dtype):
    model = taught(dtype)
    again = load_pruned(Taught, {"state_dict": model.state_dict(), STRUCTURE: describe_structure(model)})
    assert {tensor.dtype for tensor in again.state_dict().values()} == {dtype}
    assert again.dtype == dtype
    assert_same(dict(again.state_dict()), dict(model.state_dict()))


def test_a_mixture_of_data_types_and_buffers_that_are_not_saved():
    class Windowed(Student):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.ones(3), persistent=False)
            self.register_buffer("table", torch.ones(3, dtype=torch.float64), persistent=False)

    model = Windowed()
    model.body[2].double()
    again = load_pruned(Windowed, model.state_dict())
    assert (again.body[0].weight.dtype, again.body[2].weight.dtype) == (torch.float32, torch.float64)
    assert (again.window.dtype, again.table.dtype) == (torch.float32, torch.float64)
    again = load_pruned(Windowed, model.bfloat16().state_dict())
    assert (again.window.dtype, again.table.dtype) == (torch.bfloat16, torch.float64)


@pytest.mark.parametrize("prefix", ["", "net."])
def test_layers_are_told_which_release_saved_them(prefix, tmp_path):
    class Versioned(nn.Module):
        """As torchvision's MNASNet, which asks what release of it a state dict is from."""

        _version = 2

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            if local_metadata.get("version") not in {1, 2}:
                raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    model = nn.ModuleDict({"net": Versioned()}) if prefix else Versioned()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pt")
    again = load_pruned(Versioned, tmp_path / "weights.pt", prefix=prefix)
    assert_same(again.conv.weight, model.get_parameter(f"{prefix}conv.weight"))


def test_load_pruned_leaves_out_hyper_parameters_that_the_class_has_not(tmp_path):
    class Tagger(UsersModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.width = width

    module = Tagger()
    apply_plan(module, plan_pruning(module, torch.zeros(1, 3, 8, 8), pruning_ratio=0.5), torch.zeros(1, 3, 8, 8))
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": {"width": 9, "of_another_release": 1}}
    assert load_pruned(Tagger, checkpoint).width == 9
    assert load_pruned(Tagger, checkpoint, width=7).width == 7

    class Taker(Tagger):
        def __init__(self, **options: int) -> None:
            super().__init__(options["width"])
            self.options = options

    assert load_pruned(Taker, checkpoint).options == {"width": 9, "of_another_release": 1}


def test_channels_last_stays(tmp_path):
    def dense():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)

    model = dense()
    apply_plan(model, plan_pruning(model, torch.zeros(1, 3, 8, 8), pruning_ratio=0.5), torch.zeros(1, 3, 8, 8))
    loaded = load_pruned(dense, model.state_dict())
    for layer in (loaded[0], loaded[2]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.is_contiguous()
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))
