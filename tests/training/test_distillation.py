"""A pruned network learns from what it was, in a real Trainer; every run has three epochs of three batches."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import ddp_distillation
import jsonargparse
import lightning.pytorch as pl
import pytest
import torch
from asserts import assert_optimizers_hold
from fits import UsersModule, fit, loader, trainer_for
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from processes import launch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_cosprune import (
    CosineFilterPruning,
    KnowledgeDistillation,
    apply_plan,
    load_pruned,
    plan_pruning,
    refit_least_squares,
)
from lightning_cosprune.models.distillation import as_evaluated, distillation_loss, in_modes

HALF = {"pruning_ratio": 0.5}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
]


class Slow(UsersModule):
    """Fine-tunes with a rate that does not spoil a repaired network, and drops units while it trains."""

    rate = 5e-4

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.blocks(self.stem(x)).mean(dim=(2, 3))))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.rate)


def dense_module(kind: type[UsersModule] = UsersModule) -> UsersModule:
    """With statistics of data, as a trained network has them."""
    torch.manual_seed(0)
    module = kind()
    for _ in range(30):
        module(torch.randn(16, 3, 8, 8))
    return module


def pruned_copy(dense: UsersModule) -> UsersModule:
    module, inputs = copy.deepcopy(dense), torch.randn(4, 3, 8, 8)
    apply_plan(module, plan_pruning(module, inputs, pruning_ratio=0.5), inputs)
    return module


def garbage() -> DataLoader:
    """The same inputs, with labels that no loss takes."""
    inputs = loader().dataset.tensors[0]
    return DataLoader(TensorDataset(inputs, torch.full((24,), -7)), batch_size=8)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@torch.no_grad()
def distance(module: nn.Module, dense: nn.Module) -> float:
    inputs = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    return float((copy.deepcopy(module).eval()(inputs) - copy.deepcopy(dense).eval()(inputs)).square().mean())


class Watch(pl.Callback):
    """What holds during every batch."""

    def __init__(self) -> None:
        self.pickled: Any = None
        self.seen = 0

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        assert_optimizers_hold(module, trainer.optimizers)
        self.pickled = pickle.dumps(module) if self.pickled is None else self.pickled
        self.modes = {name: part.training for name, part in module.named_modules()}
        self.seen += 1


def test_labels_are_not_looked_at(tmp_path: Path) -> None:
    ends = []
    for data in (loader(), garbage()):
        module = dense_module()
        fit(module, CosineFilterPruning(**HALF), tmp_path, KnowledgeDistillation(), data=data)
        ends.append(weights(module))
    assert_equal(*ends)
    assert len(ends[0]["stem.weight"]) == 8


def test_it_brings_a_repaired_network_nearer_to_the_dense_one(tmp_path: Path) -> None:
    dense = dense_module(Slow)
    before = weights(dense)
    module = pruned_copy(dense)
    inputs = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    data = DataLoader(TensorDataset(inputs, torch.arange(256) % 4), batch_size=32)
    refit_least_squares(module, dense, [inputs[:32]])
    repaired, first = copy.deepcopy(module), distance(module, dense)
    assert first > 1e-6
    trainer = fit(module, KnowledgeDistillation(dense), tmp_path, Watch(), data=data, max_epochs=6)
    assert distance(module, dense) < 0.95 * first
    fit(repaired, Watch(), tmp_path, data=data, max_epochs=6)  # the same steps on labels
    assert distance(repaired, dense) > first
    assert_equal(weights(dense), before)
    assert all(part.training for part in dense.modules())
    assert all(parameter.requires_grad for parameter in dense.parameters())
    assert trainer.callback_metrics["distillation_loss"] > 0


@pytest.mark.parametrize("first", ["pruning", "distillation"])
@pytest.mark.parametrize("at_epoch", [0, 1])
def test_the_teacher_is_the_network_before_the_prune_whatever_the_order(
    tmp_path: Path, first: str, at_epoch: int
) -> None:
    module, distillation = dense_module(), KnowledgeDistillation()
    pruning = CosineFilterPruning(**HALF, at_epoch=at_epoch, repair="least_squares", calibration=24)
    callbacks = [pruning, distillation] if first == "pruning" else [distillation, pruning]
    at_prune: dict[str, Tensor] = {}

    class Note(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == at_epoch - 1:
                at_prune.update(weights(module))

    if at_epoch == 0:
        at_prune = weights(module)
    fit(module, Note(), tmp_path, *callbacks)
    assert_equal(weights(distillation._copy), at_prune)
    assert len(module.stem.weight) == 8


def test_until_the_prune_training_is_the_modules_own(tmp_path: Path) -> None:
    plain, module = dense_module(), dense_module()
    fit(plain, Watch(), tmp_path, max_epochs=2)
    with pytest.warns(UserWarning, match=r"expected a prune during training, found none until epoch 2"):
        fit(module, KnowledgeDistillation(), tmp_path, max_epochs=2)
    assert_equal(weights(module), weights(plain))


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 3},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]},
        {"gradient_clip_val": 0.1},
    ],
    ids=lambda options: next(iter(options)) + str(options.get("precision", "")),
)
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_trainer_options(tmp_path: Path, options: dict[str, Any], alpha: float) -> None:
    dense, watch = dense_module(), Watch()
    before, module = weights(dense), pruned_copy(dense)
    distillation = KnowledgeDistillation(dense, alpha)
    start = weights(module)
    trainer = fit(module, distillation, tmp_path, watch, max_epochs=2, **options)
    assert watch.seen == trainer.global_step == (2 if "accumulate_grad_batches" in options else 6)
    assert_equal(weights(dense), before)
    assert torch.isfinite(trainer.callback_metrics["distillation_loss"])
    dtype = torch.float64 if options.get("precision") == "64-true" else torch.float32
    assert {parameter.dtype for parameter in distillation._copy.parameters()} == {dtype}
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, start[name].to(dtype)), name


def test_accumulated_gradients_are_those_of_the_larger_batch(tmp_path: Path) -> None:
    dense, ends = dense_module(), []
    for size, parts in ((24, 1), (8, 3)):
        module = pruned_copy(dense_module())
        data = DataLoader(loader().dataset, batch_size=size)
        module.configure_optimizers = lambda module=module: torch.optim.SGD(module.parameters(), lr=1e-2)
        fit(module, KnowledgeDistillation(dense), tmp_path, data=data, accumulate_grad_batches=parts)
        ends.append(weights(module))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=1e-4, atol=1e-6)


def test_the_loss_is_mixed_by_alpha(tmp_path: Path) -> None:
    dense = dense_module()
    module = pruned_copy(dense)
    batch = next(iter(loader()))
    modes = as_evaluated(module)
    found = module(batch[0])
    in_modes(modes)
    with torch.no_grad():
        wanted = dense.eval()(batch[0])
    task = nn.functional.cross_entropy(found, batch[1])
    expected = 0.75 * task + 0.25 * (found - wanted).square().mean()
    seen: list[Tensor] = []

    class Loss(pl.Callback):
        def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
            seen.append(loss.detach())

    fit(module, KnowledgeDistillation(dense, 0.25), tmp_path, Loss(), max_epochs=1)
    torch.testing.assert_close(seen[0], expected.detach())


def test_batch_norms_and_dropout_rest_unless_told_otherwise(tmp_path: Path) -> None:
    for options, norms, drops in (({}, False, False), ({"batch_norm": "training", "dropout": True}, True, True)):
        dense, watch = dense_module(Slow), Watch()
        module = pruned_copy(dense)
        start = weights(module)
        fit(module, KnowledgeDistillation(dense, **options), tmp_path, watch, max_epochs=1)
        assert watch.modes["blocks.0.bn1"] is norms
        assert watch.modes["dropout"] is drops
        assert torch.equal(module.blocks[0].bn1.running_mean, start["blocks.0.bn1.running_mean"]) is not norms
        assert not torch.equal(module.blocks[0].bn1.weight, start["blocks.0.bn1.weight"])
        assert all(part.training for part in module.modules())  # as it was


def test_what_is_frozen_stays(tmp_path: Path) -> None:
    dense = dense_module()
    module = pruned_copy(dense)
    start = weights(module)
    fit(module, KnowledgeDistillation(dense, frozen=["stem", "blocks.*.bn?"]), tmp_path)
    moved = {name for name, tensor in weights(module).items() if not torch.equal(tensor, start[name])}
    assert moved == {name for name, _ in module.named_parameters() if not name.startswith("stem") and ".bn" not in name}


@pytest.mark.parametrize("held_out", ["validation", [torch.randn(32, 3, 8, 8)]], ids=["validation", "inputs"])
def test_the_best_weights_on_held_out_inputs_are_put_back(tmp_path: Path, held_out: Any) -> None:
    """Steps that spoil a repaired network are undone, whole, and training stops early."""
    dense = dense_module()
    module = pruned_copy(dense)
    refit_least_squares(module, dense, [loader().dataset.tensors[0]])
    start = weights(module)
    module.validation_step = lambda batch, batch_idx: None
    module.configure_optimizers = lambda: torch.optim.Adam(module.parameters(), lr=0.1)
    callback = KnowledgeDistillation(dense, held_out=held_out, patience=2)
    validation = DataLoader(TensorDataset(torch.randn(16, 3, 8, 8), torch.full((16,), -7)), batch_size=8)
    data = {"train": loader(), "val": validation}

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return data["train"]

        def val_dataloader(self) -> Any:
            return data["val"]

    trainer = fit(module, callback, tmp_path, data=Data(), max_epochs=9)
    assert trainer.current_epoch == 2
    assert trainer.callback_metrics["distillation_loss_held_out"] > callback._held_out.loss
    assert_equal(weights(module), start)


def test_a_part_of_the_module_learns(tmp_path: Path) -> None:
    class Outer(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.student = dense_module()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": nn.functional.cross_entropy(self.student(batch[0] * 2), batch[1]), "more": 1}

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    module, callback = Outer(), KnowledgeDistillation(alpha=0.5, module="student")
    fit(
        module,
        callback,
        tmp_path,
        CosineFilterPruning(**HALF, module="student", example_inputs=torch.randn(1, 3, 8, 8)),
    )
    assert_equal(weights(callback._copy), weights(dense_module()))
    assert len(module.student.stem.weight) == 8


def test_module_and_checkpoints_hold_no_teacher_and_copies_have_their_own_step(tmp_path: Path) -> None:
    dense, watch = dense_module(), Watch()
    module = pruned_copy(dense)
    names = list(module.state_dict())
    saved = ModelCheckpoint(tmp_path, save_last=True)
    trainer = fit(
        module,
        KnowledgeDistillation(dense),
        tmp_path,
        watch,
        saved,
        EMAWeightAveraging(decay=0.5),
        enable_checkpointing=True,
    )
    checkpoint = torch.load(saved.last_model_path, weights_only=True)
    assert list(checkpoint["state_dict"]) == list(module.state_dict()) == names
    (state,) = [state for key, state in checkpoint["callbacks"].items() if "KnowledgeDistillation" in key]
    assert state["dense"] is None
    assert "training_step" not in vars(module)
    again = pickle.loads(watch.pickled)
    assert len(watch.pickled) < 1.5 * len(pickle.dumps(copy.deepcopy(again)))
    again.log = lambda *_, **__: None
    torch.testing.assert_close(
        again.training_step(next(iter(loader())), 0),
        nn.functional.cross_entropy(again(next(iter(loader()))[0]), next(iter(loader()))[1]),
    )
    assert trainer.current_epoch == 3


class Crash(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("crash")


@pytest.mark.parametrize("at_epoch", [0, 2])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, at_epoch: int) -> None:
    def callbacks() -> list[pl.Callback]:
        return [
            CosineFilterPruning(**HALF, at_epoch=at_epoch),
            KnowledgeDistillation(held_out=[torch.ones(2, 3, 8, 8)]),
            ModelCheckpoint(tmp_path / str(at_epoch), save_last=True),
        ]

    whole = dense_module()
    trainer_for(tmp_path, *callbacks()[:2], enable_checkpointing=False).fit(whole, loader())
    module = dense_module()
    with pytest.raises(RuntimeError, match="crash"):
        trainer_for(tmp_path, Crash(), *callbacks()).fit(module, loader())
    assert "training_step" not in vars(module)
    assert all(part.training for part in module.modules())
    path = tmp_path / str(at_epoch) / "last.ckpt"
    again, kept = UsersModule(), callbacks()
    trainer_for(tmp_path, *kept[:2], enable_checkpointing=False).fit(again, loader(), ckpt_path=path)
    assert_equal(weights(again), weights(whole))
    if at_epoch == 0:
        assert_equal(weights(kept[1]._copy), weights(dense_module()))


def test_a_resumed_run_does_not_learn_from_a_pruned_network(tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, save_last=True)
    pruning, dense = CosineFilterPruning(**HALF), dense_module()
    trainer_for(tmp_path, pruning, saved, max_epochs=1).fit(dense_module(), loader())
    resumed = trainer_for(tmp_path, CosineFilterPruning(**HALF), KnowledgeDistillation(), enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"`KnowledgeDistillation\(teacher=None\)` of a resumed run: expected a check"):
        resumed.fit(UsersModule(), loader(), ckpt_path=saved.last_model_path)

    saved = ModelCheckpoint(tmp_path / "given", save_last=True)
    callbacks = [CosineFilterPruning(**HALF), KnowledgeDistillation(dense), saved]
    trainer_for(tmp_path, *callbacks, max_epochs=1).fit(dense_module(), loader())
    path = saved.last_model_path
    wrong = KnowledgeDistillation(load_pruned(UsersModule, path))
    resumed = trainer_for(tmp_path, CosineFilterPruning(**HALF), wrong, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"expected the teacher that the run began with, found other weights"):
        resumed.fit(UsersModule(), loader(), ckpt_path=path)
    right = KnowledgeDistillation(dense)
    trainer_for(tmp_path, CosineFilterPruning(**HALF), right, enable_checkpointing=False, max_epochs=2).fit(
        UsersModule(), loader(), ckpt_path=path
    )


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    class Manual(UsersModule):
        automatic_optimization = False

    class Iterates(UsersModule):
        def training_step(self, dataloader_iter: Any) -> Any: ...

    class Hidden(UsersModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.forward(batch[0]).sum()

    for module, options, message in (
        (Manual(), {}, r"with Manual: expected automatic optimization"),
        (Iterates(), {}, r"found one that takes a `dataloader_iter`"),
        (UsersModule(), {"module": "network"}, r"module='network'\)`: expected the name of a submodule"),
        (UsersModule(), {"frozen": "conv9"}, r"frozen=\.\.\.\)`: expected names, .* found 'conv9'"),
        (Hidden(), {"alpha": 0.5}, r"expected `training_step` to call `self\(\.\.\.\)`, found no call"),
        (UsersModule(), {"held_out": "validation"}, r"expected validation data in the fit, found none"),
        (UsersModule(), {"teacher": nn.Flatten()}, r"expected outputs of one shape, found \(8, 4\)"),
    ):
        callback = KnowledgeDistillation(**{"teacher": UsersModule(), **options})
        with pytest.raises(ValueError, match=message):
            fit(module, callback, tmp_path)
        assert "training_step" not in vars(module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, r"alpha=0\)`: expected the teacher's share"),
        ({"alpha": 1.5}, r"alpha=1.5"),
        ({"temperature": 0.0}, r"temperature=0.0\)`: expected None"),
        ({"batch_norm": "eval"}, r"batch_norm='eval'\)`: expected \"frozen\""),
        ({"held_out": 8}, r"held_out=\.\.\.\)`: expected None, \"validation\""),
        ({"held_out": torch.zeros(2, 1)}, r"found a tensor of shape \(2, 1\)"),
        ({"patience": 0}, r"patience=0"),
        ({"teacher": "dense.ckpt"}, r"expected a network, found str"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        KnowledgeDistillation(**options)


def test_divergence_by_hand() -> None:
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    found = distillation_loss(student, teacher, temperature=4.0)
    expected = 16 * nn.functional.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(found, expected)
    assert distillation_loss(teacher, teacher, 2.0) == 0
    assert distillation_loss(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.slow
def test_two_processes_learn_as_one_with_their_batches_together(tmp_path: Path) -> None:
    """Also where one of them was given another teacher: the first one's counts."""
    run = launch("ddp_distillation.py", tmp_path)
    assert run.returncode == 0, run.stderr
    two = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert_equal(*two)
    _, one = ddp_distillation.fit(1, 8)
    assert len(one.stem.weight) == 8
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_command_line_reads_its_arguments() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(KnowledgeDistillation, "teaching")
    arguments = {"alpha": 0.5, "temperature": 4.0, "held_out": "validation", "frozen": ["stem"], "module": "network"}
    arguments |= {"teacher": {"class_path": "torch.nn.Flatten"}}
    config = parser.parse_object(
        {"teaching": {"class_path": "lightning_cosprune.KnowledgeDistillation", "init_args": arguments}}
    )
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its older name
    found = instantiate(config).teaching
    assert repr(found) == "KnowledgeDistillation(teacher=Flatten, alpha=0.5, temperature=4.0)"
    assert found.frozen == ("stem",)
