"""A budget in a run: every test trains for two or more epochs."""

from pathlib import Path

import pytest
import torch
from fits import Recorder, UsersModule, fit, loader, trainer_for
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_cosprune import CosineFilterPruning, measure_complexity
from lightning_cosprune.training.budget import BudgetInSteps

pytestmark = [
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]

INPUT = loader().dataset.tensors[0][:1]


@pytest.mark.parametrize("options", [{}, {"repair": "least_squares"}, {"criterion": "response"}], ids=str)
def test_the_budget_is_met_and_training_goes_on(tmp_path: Path, options) -> None:
    torch.manual_seed(0)
    module, recorder = UsersModule(), Recorder()
    dense = measure_complexity(module, INPUT)
    callback = CosineFilterPruning(max_macs=0.5, max_params="60 %", at_epoch=1, **options)
    fit(module, callback, tmp_path, recorder)
    found = measure_complexity(module, INPUT)
    assert found.macs <= 0.5 * dense.macs
    assert found.params <= 0.6 * dense.params
    assert all(all(moved.values()) for moved in recorder.moved)
    assert len(callback.repairs) == ("repair" in options)


def test_every_step_goes_its_share_of_the_way_and_is_repaired(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = UsersModule()
    dense = measure_complexity(module, INPUT).macs
    callback = CosineFilterPruning(max_macs=0.4, at_epoch=[0, 1, 2], schedule="cubic", repair="least_squares")
    fit(module, callback, tmp_path, max_epochs=4)
    shares = [1 - (1 - step / 3) ** 3 for step in (1, 2, 3)]
    for report, share in zip(callback.reports, shares, strict=True):
        limit = dense - share * 0.6 * dense
        assert 0.9 * limit < report.after.macs <= limit + 1
    assert len(callback.repairs) == 3


def test_a_resumed_run_goes_on_towards_the_same_budget(tmp_path: Path) -> None:
    def callback() -> CosineFilterPruning:
        return CosineFilterPruning(max_params=0.5, at_epoch=[0, 2])

    torch.manual_seed(0)
    module = UsersModule()
    dense = measure_complexity(module, INPUT).params
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    first = callback()
    trainer_for(tmp_path, first, saving, max_epochs=4).fit(module, loader())
    assert first.reports[0].after.params > 0.5 * dense
    resumed, again = callback(), UsersModule()
    trainer = trainer_for(tmp_path, resumed, max_epochs=4)
    trainer.fit(again, loader(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert 0.4 * dense < measure_complexity(again, INPUT).params <= 0.5 * dense
    assert resumed.plans == first.plans


def test_a_network_within_its_budget_is_left_alone(tmp_path: Path) -> None:
    module = UsersModule()
    callback = CosineFilterPruning(budget="dcase2022")
    fit(module, callback, tmp_path)
    assert not callback.reports[0].layers
    assert set(callback.reports[0].skipped.values()) >= {"the network meets the budget as it is"}


def test_what_each_step_asks_for() -> None:
    module = UsersModule()
    limits = {"max_params": None, "max_bytes": None, "budget": None, "deployed_as": None}
    steps = BudgetInSteps("CosineFilterPruning", "redundant", **{**limits, "max_macs": 0.5, "max_latency": 0.5})
    dense = measure_complexity(module, INPUT).macs
    first = steps.arguments(module, INPUT, 0.5, 0.0)
    assert first["max_macs"] == int(0.75 * dense)
    assert first["max_latency"] == 0.75
    last = steps.arguments(torch.nn.Identity(), INPUT, 1.0, 0.5)  # the dense network is remembered, not counted anew
    assert last["max_macs"] == int(0.5 * dense)
    assert last["max_latency"] == pytest.approx(0.5 / 0.75)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_macs": 0.5, "pruning_ratio": 0.5}, r"`CosineFilterPruning\(pruning_ratio=0.5, max_macs=...\)`"),
        ({"max_params": -1}, r"`CosineFilterPruning\(max_params=-1\)`"),
        ({"budget": "dcase1999"}, r"`CosineFilterPruning\(budget='dcase1999'\)`"),
        ({"min_filters": 0}, r"`CosineFilterPruning\(min_filters=0\)`"),
    ],
)
def test_wrong_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CosineFilterPruning(**options)
