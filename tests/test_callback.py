"""Every test runs a real Trainer for two or more epochs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jsonargparse
import lightning.pytorch as pl
import pytest
import torch
from fits import Recorder, UsersModule, fit, loader
from lightning.pytorch.callbacks import ModelPruning
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_cosprune import CosineFilterPruning, load_pruned, measure_complexity
from lightning_cosprune import callback as callback_file
from lightning_cosprune.network.layers import prunable_layers
from lightning_cosprune.surgery.trial import Trial


def filters(module: nn.Module) -> dict[str, int]:
    return {name: layer.weight.shape[0] for name, layer in prunable_layers(module).items()}


def test_one_added_line_makes_a_users_network_smaller_and_all_of_it_trains(tmp_path: Path) -> None:
    module, recorder = UsersModule(), Recorder()
    dense = sum(parameter.numel() for parameter in module.parameters())
    fit(module, CosineFilterPruning(), tmp_path, recorder)
    assert sum(parameter.numel() for parameter in module.parameters()) < 0.9 * dense
    assert recorder.params == [recorder.params[0]] * 3
    assert all(all(moved.values()) for moved in recorder.moved)
    assert filters(module)["head"] == 4


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.5},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"plugins": [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]},
    ],
    ids=lambda options: next(iter(options)) + str(options.get("precision", "")),
)
def test_prune_in_the_middle_of_training(tmp_path: Path, options: dict[str, Any]) -> None:
    module, recorder = UsersModule(), Recorder()
    callback = CosineFilterPruning(0.5, at_epoch=2)
    fit(module, callback, tmp_path, recorder, max_epochs=4, **options)
    assert recorder.params[0] == recorder.params[1] > recorder.params[2] == recorder.params[3]
    assert all(all(moved.values()) for moved in recorder.moved)
    assert callback.reports[0].epoch == 2
    assert filters(module) == {
        "stem": 8,
        "blocks.0.conv1": 8,
        "blocks.0.conv2": 8,
        "blocks.0.shortcut": 8,
        "blocks.1.conv1": 16,
        "blocks.1.conv2": 16,
        "blocks.1.shortcut": 16,
        "head": 4,
    }


def test_several_epochs_reach_the_ratio_in_equal_steps(tmp_path: Path) -> None:
    module = UsersModule()
    callback = CosineFilterPruning({"stem": 0.5, "blocks.1.*": 0.3}, at_epoch=[0, 1, 2])
    fit(module, callback, tmp_path)
    steps = [{layer.name: layer.filters_after for layer in report.layers} for report in callback.reports]
    assert [step["stem"] for step in steps] == [14, 11, 8]
    # 30 % of 32 filters is 9.6: 3.2, 6.4 and 9.6 of them are gone after each step, rounded down.
    assert [step["blocks.1.conv1"] for step in steps] == [29, 26, 23]
    assert filters(module)["blocks.0.conv1"] == 16


class Entangled(UsersModule):
    """One filter of a layer moves all its others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.register_forward_hook(lambda _, __, output: output - output.mean(dim=1, keepdim=True))


def test_what_a_trial_refused_is_not_tried_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    own = Trial.check
    module, callback = Entangled(), CosineFilterPruning(0.5, at_epoch=[0, 1, 2])
    monkeypatch.setattr(Trial, "check", lambda *args: tried.append(len(callback.reports)) or own(*args))
    fit(module, callback, tmp_path, max_epochs=3)
    first, *others = (dict(report.refused) for report in callback.reports)
    assert "stem" in first
    assert others == [first, first]
    assert callback.state_dict()["refused"] == first
    assert filters(module)["stem"] == 16
    assert filters(module)["blocks.1.conv1"] == 16
    assert tried.count(0) > 1
    assert tried.count(1) == tried.count(2) == 1


def test_redundant_in_steps_repeats_the_rule(tmp_path: Path) -> None:
    callback = CosineFilterPruning(at_epoch=(0, 2), layers=["blocks.0.conv1"])
    fit(UsersModule(), callback, tmp_path)
    (first,), (second,) = (report.layers for report in callback.reports)
    assert first.filters_after == second.filters_before
    assert second.filters_after < second.filters_before


def test_ignored_layers(tmp_path: Path) -> None:
    module = UsersModule()
    callback = CosineFilterPruning(0.5, ignored_layers=["blocks.0"])
    fit(module, callback, tmp_path)
    assert {name for name, left in filters(module).items() if left in {8, 16} and name.startswith("blocks.1")} == {
        "blocks.1.conv1",
        "blocks.1.conv2",
        "blocks.1.shortcut",
    }
    assert callback.reports[0].skipped["blocks.0.conv1"] == "ignored"
    assert filters(module)["stem"] == 8


def test_numbers_reach_the_logger_and_the_table_the_console(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, callback = UsersModule(), CosineFilterPruning(0.25, at_epoch=1)
    with caplog.at_level("INFO"):
        trainer = fit(module, callback, tmp_path)
    report = callback.reports[0]
    logged = trainer.logger.experiment.metrics_file_path
    text = Path(logged).read_text()
    for column in ("pruning/params_before", "pruning/macs_after", "pruning/bytes_after", "pruning/filters/stem_after"):
        assert column in text.splitlines()[0]
    assert report.metrics()["pruning/params_before"] > report.metrics()["pruning/params_after"]
    assert report.before.input_shape == ((1, 3, 8, 8),)
    table = caplog.text
    for words in ("Pruned at the start of epoch 1", "MACs at 1x3x8x8", "filters of stem", f"{report.after.params:,}"):
        assert words in table


@pytest.mark.parametrize("source", ["argument", "attribute", "training data"])
def test_where_the_example_input_comes_from(tmp_path: Path, source: str) -> None:
    module = UsersModule()
    callback = CosineFilterPruning(0.5, example_inputs=torch.zeros(1, 3, 12, 12) if source == "argument" else None)
    if source != "training data":
        module.example_input_array = torch.zeros(1, 3, 10, 10)
    fit(module, callback, tmp_path)
    width = {"argument": 12, "attribute": 10, "training data": 8}[source]
    assert callback.reports[0].before.input_shape == ((1, 3, width, width),)


def test_looking_at_a_batch_does_not_change_the_training_data(tmp_path: Path) -> None:
    """The same random numbers are drawn with and without the look, so that runs stay comparable."""

    def epochs(example_inputs: Tensor | None) -> list[Tensor]:
        seen: list[Tensor] = []

        class Spy(pl.Callback):
            def on_train_batch_start(self, *arguments: Any) -> None:
                seen.append(arguments[2][0][:, 0, 0, 0])

        dataset = loader().dataset
        callback = CosineFilterPruning(0.5, at_epoch=1, example_inputs=example_inputs)
        fit(UsersModule(), callback, tmp_path, Spy(), data=DataLoader(dataset, batch_size=8, shuffle=True))
        return seen

    for looked, not_looked in zip(epochs(None), epochs(torch.zeros(1, 3, 8, 8)), strict=True):
        assert torch.equal(looked, not_looked)


def test_a_part_of_the_module_can_be_pruned(tmp_path: Path) -> None:
    class Distilled(UsersModule):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))

    module = Distilled()
    callback = CosineFilterPruning(0.5, module="blocks", example_inputs=torch.zeros(1, 16, 8, 8))
    fit(module, callback, tmp_path)
    assert {layer.name for layer in callback.reports[0].layers} == {"0.conv1", "0.conv2", "0.shortcut", "1.conv1"}
    assert callback.reports[0].skipped["1.conv2"] == "its filters are outputs of the network"
    assert module.teacher[0].out_channels == 8
    inputs = torch.zeros(1, 16, 8, 8)
    assert callback.reports[0].before == measure_complexity(UsersModule().blocks, inputs)
    assert callback.reports[0].after == measure_complexity(module.blocks, inputs)


def test_a_pruned_network_is_pruned_further_in_a_new_run(tmp_path: Path) -> None:
    module = UsersModule()
    trainer = fit(module, CosineFilterPruning(0.5), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "pruned.ckpt")
    again = load_pruned(UsersModule, tmp_path / "pruned.ckpt")
    fit(again, CosineFilterPruning(0.5), tmp_path, max_epochs=1)
    assert [one.stem.out_channels for one in (UsersModule(), module, again)] == [16, 8, 4]


def test_manual_optimization_with_two_optimizers(tmp_path: Path) -> None:
    class Manual(UsersModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(self(batch[0]), batch[1]))
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            body = torch.optim.SGD([*self.stem.parameters(), *self.blocks.parameters()], lr=0.1, momentum=0.9)
            return body, torch.optim.Adam(self.head.parameters())

    recorder = Recorder()
    fit(Manual(), CosineFilterPruning(0.5, at_epoch=1), tmp_path, recorder)
    assert recorder.params[0] > recorder.params[1]
    assert all(all(moved.values()) for moved in recorder.moved)


def test_optimizers_that_were_left_behind_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = callback_file.apply_plan
    monkeypatch.setattr(callback_file, "apply_plan", lambda *args, optimizers, **options: cut(*args, **options))
    with pytest.raises(RuntimeError, match=r"\d+ of the 18 parameters that the optimizers hold are alive, .* 18 of 18"):
        fit(UsersModule(), CosineFilterPruning(0.5), tmp_path)


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    class WhenLossFalls(CosineFilterPruning):
        def should_prune(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
            return trainer.current_epoch == 1 and "loss" in trainer.callback_metrics and not self.reports

    callback = WhenLossFalls(0.5)
    fit(UsersModule(), callback, tmp_path)
    assert [report.epoch for report in callback.reports] == [1]


def test_the_command_line_builds_it() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(CosineFilterPruning, "pruning")
    arguments = {"pruning_ratio": {"stem": 0.5}, "at_epoch": [0, 2], "layers": ["stem"], "ignored_layers": ["head"]}
    arguments |= {"repair": "least_squares", "calibration": 80}
    config = parser.parse_object(
        {"pruning": {"class_path": "lightning_cosprune.CosineFilterPruning", "init_args": arguments}}
    )
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its older name
    callback = instantiate(config).pruning
    assert repr(callback) == "CosineFilterPruning(pruning_ratio={'stem': 0.5}, at_epoch=[0, 2], criterion='cosine')"
    assert callback.layers == ["stem"]
    assert (callback.repair, callback.calibration) == ("least_squares", 80)


def test_one_callback_serves_one_run_after_another(tmp_path: Path) -> None:
    callback = CosineFilterPruning(0.5, at_epoch=1)
    for _ in range(2):
        module = UsersModule()
        fit(module, callback, tmp_path, max_epochs=2)
        assert module.stem.out_channels == 8
        assert len(callback.reports) == len(callback.plans) == 1


def test_training_on_with_the_same_trainer_does_not_prune_again(tmp_path: Path) -> None:
    module, callback = UsersModule(), CosineFilterPruning(0.5)
    trainer = fit(module, callback, tmp_path, max_epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert trainer.current_epoch == 3
    assert module.stem.out_channels == 8
    assert len(callback.reports) == 1


def test_its_state_says_which_steps_are_done(tmp_path: Path) -> None:
    callback = CosineFilterPruning(0.5, at_epoch=[0, 5])
    with pytest.warns(UserWarning, match="expected epochs below max_epochs=1, found"):
        fit(UsersModule(), callback, tmp_path, max_epochs=1)
    resumed = CosineFilterPruning(0.5, at_epoch=[0, 5])
    resumed.load_state_dict(callback.state_dict())
    assert resumed.state_dict() == callback.state_dict()
    assert callback.state_dict()["at_epoch"] == [0, 5]
    assert callback.state_dict()["steps_done"] == 1
    assert callback.state_dict()["dense_filters"]["stem"] == 16


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pruning_ratio": 1.2},
            r"`CosineFilterPruning\(pruning_ratio=1.2\)`: expected a fraction in \[0, 1\).*write 0.2",
        ),
        ({"pruning_ratio": -0.1}, r"pruning_ratio=-0.1.*expected a fraction"),
        ({"pruning_ratio": True}, r"pruning_ratio=True.*expected a fraction"),
        ({"pruning_ratio": "all"}, "pruning_ratio='all'.*expected 'redundant'"),
        ({"pruning_ratio": {}}, "expected at least one layer pattern"),
        ({"pruning_ratio": {"stem": 20}}, r"\{'stem': 20\}.*expected a fraction"),
        ({"criterion": "cosin"}, "criterion.*cosin.*cosine"),
        ({"at_epoch": -1}, "at_epoch=-1.*expected an epoch counted from 0"),
        ({"at_epoch": [3, 1]}, r"at_epoch=\[3, 1\].*rising sequence"),
        ({"at_epoch": []}, "at_epoch="),
        ({"at_epoch": 1.5}, "at_epoch=1.5"),
        ({"round_to": 0}, "round_to=0.*expected a whole number, 1 or more"),
        ({"repair": "retrain"}, "repair='retrain'.*expected None, 'least_squares' or 'merge' or 'constant'"),
        ({"repair": True}, "repair=True.*expected None"),
        (
            {"calibration": 0},
            r"calibration=...\)`: expected a number of training samples, 1 or more.*found 0. Write 16",
        ),
        ({"calibration": True}, "calibration=.*found True"),
        ({"calibration": 1.5}, "calibration=.*found 1.5"),
        ({"calibration": "all"}, "calibration=.*found 'all'"),
        ({"calibration": []}, r"calibration=.*found \[\]"),
        ({"calibration": torch.zeros(4, 3)}, r"calibration=.*found a tensor of shape \(4, 3\). Write `\[inputs\]`"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CosineFilterPruning(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["convolution*"]}, r"`layers='convolution\*'`: expected.*Its layers are: stem, blocks.0.conv1"),
        ({"ignored_layers": ["blocks.0.conv3"]}, "`ignored_layers='blocks.0.conv3'`.*Did you mean 'blocks.0.conv"),
        ({"pruning_ratio": {"stam": 0.5}}, "`pruning_ratio='stam'`.*Did you mean 'stem'"),
        ({"module": "network"}, "module='network'.*Its submodules are: stem, blocks, head"),
        ({"example_inputs": torch.zeros(1, 1, 8, 8)}, "forward pass of UsersModule on the example input failed"),
        ({"ignored_layers": ["stem", "blocks"]}, "removed nothing at epoch 0. Each layer's reason:\n  stem: "),
    ],
)
def test_wrong_arguments_that_only_the_network_shows(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(UsersModule(), CosineFilterPruning(**arguments), tmp_path)


def test_no_convolution(tmp_path: Path) -> None:
    class Dense(UsersModule):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks, self.head = nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.blocks(self.stem(x)))

    with pytest.raises(ValueError, match=r"model=Dense\(...\).*expected at least one convolution, found none"):
        fit(Dense(), CosineFilterPruning(), tmp_path)
    module = Dense()
    fit(module, CosineFilterPruning(0.5, layers=["blocks"]), tmp_path)
    assert module.blocks.out_features == 4


def test_batches_whose_input_cannot_be_told(tmp_path: Path) -> None:
    class FromDict(UsersModule):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step((batch["image"], batch["label"]), batch_idx)

    rows = [{"image": image, "label": label} for image, label in loader().dataset]
    with pytest.raises(ValueError, match=r"mapping with the keys image, label. Pass `example_inputs`"):
        fit(FromDict(), CosineFilterPruning(), tmp_path, data=DataLoader(rows, batch_size=8))
    module = FromDict()
    fit(
        module,
        CosineFilterPruning(0.5, example_inputs=torch.zeros(1, 3, 8, 8)),
        tmp_path,
        data=DataLoader(rows, batch_size=8),
    )
    assert module.stem.out_channels == 8


def test_an_epoch_beyond_the_last_is_told_at_the_start_and_at_the_end(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(UsersModule(), CosineFilterPruning(at_epoch=3), tmp_path)
    messages = [str(warning.message) for warning in caught if "CosineFilterPruning" in str(warning.message)]
    assert "expected epochs below max_epochs=3, found [3]" in messages[0]
    assert "removed nothing: training ended at epoch 3" in messages[1]


def test_nothing_to_remove_can_be_allowed(tmp_path: Path) -> None:
    callback = CosineFilterPruning(0.01, allow_unpruned=True)
    fit(UsersModule(), callback, tmp_path)
    assert not callback.reports[0].layers
    assert callback.reports[0].skipped["stem"] == "a pruning ratio of 0.01 of its 16 filters is less than one filter"


def test_lightnings_own_pruning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="beside Lightning's `ModelPruning`: expected one of them"):
        fit(UsersModule(), CosineFilterPruning(), tmp_path, ModelPruning("l1_unstructured", amount=0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["convolution*"]}, r"`layers='convolution\*'`: expected.*Its layers are: stem, blocks.0.conv1"),
        ({"ignored_layers": ["blocks.0.conv3"]}, "`ignored_layers='blocks.0.conv3'`.*Did you mean 'blocks.0.conv"),
        ({"pruning_ratio": {"stam": 0.5}}, "`pruning_ratio='stam'`.*Did you mean 'stem'"),
        ({"round_to": {"stam": 2}}, "`round_to='stam'`.*Did you mean 'stem'"),
        ({"module": "network"}, "module='network'.*Its submodules are: stem, blocks, head"),
        ({"pruning_ratio": 0.01}, r"will remove nothing at any epoch.*\n  stem: .*0.01 of its 16 filters is less than"),
        ({"round_to": 32}, "will remove nothing at any epoch.*rounding up to a multiple of 32 filters"),
        ({"example_inputs": torch.zeros(1, 1, 8, 8)}, "forward pass of UsersModule on the example input failed"),
        ({"max_params": 50}, r"expected a budget that can be met, found at most 50 parameters; the smallest"),
        ({"max_macs": 1e-4, "max_latency": 0.9, "criterion": "l1"}, "expected a budget that can be met, found at most"),
        (
            {"repair": "least_squares", "calibration": 25},
            r"calibration=25\)`: expected as many training samples, found 24",
        ),
        (
            {"criterion": "response", "calibration": [torch.zeros(4, 1, 8, 8)]},
            r"takes, without labels, found \(4, 1, 8, 8",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("at_epoch", [2, [2, 3]])
def test_what_would_fail_at_the_prune_is_told_before_training(
    tmp_path: Path, arguments: dict[str, Any], message: str, at_epoch: Any
) -> None:
    recorder, limited = Recorder(), any(name.startswith("max_") for name in arguments)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(
            UsersModule(),
            CosineFilterPruning(**{**({} if limited else {"pruning_ratio": 0.5}), "at_epoch": at_epoch, **arguments}),
            tmp_path,
            recorder,
            max_epochs=4,
        )
    assert not recorder.params


def test_an_optimizer_that_cannot_be_cut_is_told_before_training(tmp_path: Path) -> None:
    class Quadratic(UsersModule):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    recorder = Recorder()
    with pytest.raises(ValueError, match="LBFGS keeps its history as flat vectors"):
        fit(Quadratic(), CosineFilterPruning(0.5, at_epoch=2), tmp_path, recorder)
    assert not recorder.params


@pytest.mark.parametrize(
    "options",
    [
        {"pruning_ratio": 0.5},
        {"max_macs": 0.5, "repair": "least_squares"},
        {"pruning_ratio": 0.5, "criterion": "response", "calibration": DataLoader(torch.randn(8, 3, 8, 8), 4)},
    ],
    ids=["ratio", "budget", "response"],
)
def test_a_rehearsal_changes_nothing_and_waits_for_what_may_change(tmp_path: Path, options: dict[str, Any]) -> None:
    """The same training to the bit as without; layers that are frozen at the start may be pruned later."""

    class Thaw(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            module.requires_grad_(trainer.current_epoch > 0)
            module.head.requires_grad_(requires_grad=True)

        def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            module.requires_grad_(requires_grad=False)

    weights = []
    for callbacks in ([Recorder()], [CosineFilterPruning(at_epoch=2, **options), Recorder()]):
        torch.manual_seed(3)
        module = UsersModule()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(module, *callbacks[:1], tmp_path, *callbacks[1:], max_epochs=2)
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    module = UsersModule()
    fit(module, Thaw(), tmp_path, CosineFilterPruning(at_epoch=2, **options))
    assert sum(parameter.numel() for parameter in module.parameters()) < 0.9 * sum(
        one.numel() for one in UsersModule().parameters()
    )


class Scaled(nn.Module):
    """A norm over channels of the user's own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x / (x.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()


class NormedModule(UsersModule):
    """Each of its batch norms is a norm over channels."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            filters = block.conv1.out_channels
            block.bn1, block.bn2 = nn.GroupNorm(4, filters), Scaled(filters)


@pytest.mark.parametrize("strict", [False, True])
def test_norms_over_channels_range_over_fewer_unless_it_is_strict(tmp_path: Path, strict: bool) -> None:
    module, average = NormedModule(), pl.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=1)
    callback = CosineFilterPruning(0.5, at_epoch=2, normalising=[Scaled], strict=strict)
    trainer = fit(module, callback, tmp_path, average, max_epochs=4)
    report = callback.reports[0]
    norms = {f"blocks.{block}.bn{place}" for block in (0, 1) for place in (1, 2)}
    assert set(callback.plans[0].norms) == set(report.norms) == (set() if strict else norms)
    assert filters(module)["blocks.1.conv1"] == (32 if strict else 16)
    if strict:
        assert "normalises over groups of channels, and `strict`" in report.skipped["blocks.1.conv1"]
        return
    assert module.blocks[1].bn1.num_channels == 16
    assert module.blocks[1].bn2.gain.shape == (16, 1, 1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert filters(load_pruned(NormedModule, tmp_path / "last.ckpt")) == filters(module)


@pytest.mark.parametrize("normalising", [["nowhere"], [nn.Conv2d]])
def test_norms_that_the_network_has_not_are_told_when_training_starts(tmp_path: Path, normalising: Any) -> None:
    callback = CosineFilterPruning(0.5, at_epoch=1, normalising=normalising)
    with pytest.raises(ValueError, match=r"CosineFilterPruning\(normalising=.*expected the class, the name or a"):
        fit(NormedModule(), callback, tmp_path)
