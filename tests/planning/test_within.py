"""From a budget to a plan whose costs, counted after surgery, meet it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from zoo import CASES, SPECTROGRAM, Case, Residual, conv, conv_bn, separable

from lightning_cosprune import apply_plan, measure_complexity, plan_pruning
from lightning_cosprune.models import CPMobile, DCASE2021Baseline, DCASE2022Baseline

BASELINE_INPUT = torch.zeros(1, 1, 40, 51)


def plain(widths=(16, 24)):
    torch.manual_seed(0)
    return nn.Sequential(
        conv_bn(1, widths[0]), conv_bn(*widths), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[1], 5)
    )


def data(samples=12):
    return [torch.randn(samples, *SPECTROGRAM.shape[1:], generator=torch.Generator().manual_seed(0))]


def after(model, plan, inputs=SPECTROGRAM):
    pruned = copy.deepcopy(model)
    return apply_plan(pruned, plan, inputs, allow_unpruned=True).after


@pytest.mark.parametrize(
    ("criterion", "calibration"),
    [("cosine", None), ("cosine", "data"), ("l1", None), ("random", "data"), ("response", "data")],
)
@pytest.mark.parametrize(("cost", "share"), [("macs", 0.5), ("params", 0.35), ("bytes", 0.6)])
def test_a_limit_is_met_by_the_true_count(criterion, calibration, cost, share):
    model = plain()
    dense = getattr(measure_complexity(model, SPECTROGRAM), cost)
    plan = plan_pruning(
        model,
        SPECTROGRAM,
        criterion=criterion,
        calibration=data() if calibration else None,
        **{f"max_{cost}": share},
    )
    found = getattr(after(model, plan), cost)
    assert 0.5 * share * dense < found <= share * dense


@pytest.mark.parametrize("case", [case for case in CASES if case.pruned], ids=lambda case: case.name)
def test_the_whole_zoo_meets_what_it_can_or_says_what_it_cannot(case: Case):
    torch.manual_seed(0)
    model = case.build()
    before = copy.deepcopy(model.state_dict())
    dense = measure_complexity(model, case.inputs)
    limit = int(0.7 * dense.params)
    try:
        plan = plan_pruning(model, case.inputs, max_params=limit)
    except ValueError as error:
        assert f"found at most {limit:,} parameters; the smallest that can be reached is" in str(error)  # noqa: PT017
        smallest = int(str(error).split("reached is ")[1].split()[0].replace(",", ""))
        assert smallest > limit
        plan = plan_pruning(model, case.inputs, max_params=smallest)
        limit = smallest
    assert list(model.state_dict()) == list(before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    report = apply_plan(model, plan, case.inputs)
    assert report.after.params <= limit
    assert set(report.skipped) == set(plan.skipped)


def test_several_limits_at_once_and_the_type_that_is_deployed():
    model = plain()
    dense = measure_complexity(model, SPECTROGRAM)
    plan = plan_pruning(
        model, SPECTROGRAM, max_macs=0.6, max_bytes=int(0.4 * dense.params), deployed_as="int8", calibration=data()
    )
    found = after(model, plan)
    assert found.macs <= 0.6 * dense.macs
    assert found.params <= 0.4 * dense.params


def test_a_tighter_budget_never_gives_a_larger_network():
    model = Residual()
    counts = [
        after(model, plan_pruning(model, SPECTROGRAM, max_macs=share, calibration=data())).macs
        for share in np.linspace(1, 0.2, 9)[1:]
    ]
    assert counts == sorted(counts, reverse=True)


def test_what_is_met_already_is_left_alone():
    plan = plan_pruning(plain(), SPECTROGRAM, max_params="1 M")
    assert not plan.pruned
    assert plan.skipped["0.0"] == "the network meets the budget as it is"


def test_multiples_and_minimums_are_kept():
    model = plain()
    plan = plan_pruning(model, SPECTROGRAM, max_macs=0.5, round_to=4)
    assert all(len(kept) % 4 == 0 for kept in plan.kept.values())
    plan = plan_pruning(model, SPECTROGRAM, max_params=0.4, round_to={"0.*": 8}, min_filters={"1.*": 6})
    assert len(plan.kept.get("0.0", range(16))) in (8, 16)
    assert len(plan.kept["1.0"]) >= 6
    ratios = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.9, min_filters={"1.*": 6})
    assert [len(kept) for kept in ratios.kept.values()] == [2, 6]
    whole = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, min_filters=16)
    assert whole.skipped["0.0"] == "at least 16 of its 16 filters are to be kept"


def test_layers_that_are_ignored_or_not_named_stay_whole():
    model = plain()
    plan = plan_pruning(model, SPECTROGRAM, max_params=0.6, ignored_layers=["0.0"])
    assert plan.pruned.keys() == {"1.0"}
    assert plan.skipped["0.0"] == "ignored"
    plan = plan_pruning(model, SPECTROGRAM, max_params=0.7, layers=["0.0"])
    assert plan.pruned.keys() == {"0.0"}


def test_coupled_layers_lose_the_same_filters():
    plan = plan_pruning(Residual(), SPECTROGRAM, max_params=0.8, calibration=data(), layers=["stem", "block1.1.0"])
    assert plan.pruned["stem"] == plan.pruned["block1.1.0"]


class Mixed(nn.Module):
    """A layer whose cut changes the others: each channel is divided by the mean of all."""

    def __init__(self):
        super().__init__()
        self.first, self.guarded, self.last = conv(1, 16), conv(16, 16), conv(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.guarded(self.first(x).relu()).relu()
        x = x / (x.mean(dim=1, keepdim=True) + 1)
        return self.head(self.last(x).relu().mean(dim=(2, 3)))


def test_a_layer_that_fails_its_trial_is_planned_around():
    torch.manual_seed(0)
    model = Mixed()
    plan = plan_pruning(model, SPECTROGRAM, max_params=0.5)
    assert "guarded" not in plan.pruned
    assert "changes what the other channels compute" in plan.skipped["guarded"]
    assert after(model, plan).params <= 0.5 * measure_complexity(model, SPECTROGRAM).params


def test_a_budget_that_cannot_be_met_is_refused_before_any_work_with_what_stood_in_the_way():
    torch.manual_seed(0)

    def unread():
        raise AssertionError("the calibration data were read")
        yield

    with pytest.raises(ValueError, match=r"found at most 100 parameters; the smallest .* is [\d,]+ parameters") as told:
        plan_pruning(Mixed(), SPECTROGRAM, max_params=100, calibration=unread(), criterion="response")
    assert "guarded: the cut changes what the other channels compute" in str(told.value)
    assert "head: a linear layer" in str(told.value)


def test_dcase_networks_and_their_budgets():
    model = DCASE2021Baseline(num_classes=10)
    example = torch.zeros(1, 1, 40, 500)
    plan = plan_pruning(model, example, max_macs="100 MMACs")
    assert 95e6 < after(model, plan, example).macs <= 100e6
    small = DCASE2022Baseline(num_classes=10)
    plan = plan_pruning(small, BASELINE_INPUT, budget="dcase2022", max_macs="3 MMACs")
    assert after(small, plan, BASELINE_INPUT).macs <= 3e6
    wide = plain((96, 160))
    plan = plan_pruning(wide, SPECTROGRAM, budget="dcase2024", deployed_as="float16")
    assert 0.9 * 64_000 < after(wide, plan).trainable_params <= 64_000


def test_cp_mobile_within_the_rule_of_its_year():
    torch.manual_seed(0)
    model, second = CPMobile(base_channels=40), torch.zeros(1, 1, 256, 65)
    dense = measure_complexity(model, second)
    assert 2 * dense.trainable_params > 128_000 or dense.macs > 30e6
    plan = plan_pruning(model, second, budget="dcase2024", deployed_as="float16")
    found = after(model, plan, second)
    assert 2 * found.trainable_params <= 128_000
    assert found.macs <= 30_000_000
    assert 2 * found.trainable_params > 0.97 * 128_000 or found.macs > 0.97 * 30e6
    with pytest.raises(ValueError, match=r"found at most 20,000 MACs; the smallest .* is"):
        plan_pruning(model, second, budget="dcase2024", max_macs="0.02 MMACs")


def test_networks_of_separable_blocks_keep_depthwise_layers_in_step():
    model = separable()
    plan = plan_pruning(model, SPECTROGRAM, max_params=0.6)
    pruned = copy.deepcopy(model)
    report = apply_plan(pruned, plan, SPECTROGRAM)
    assert report.after.params <= 0.6 * report.before.params
    assert pruned[0][0].out_channels == pruned[1][0].out_channels == pruned[2][0].in_channels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pruning_ratio": 0.5}, r"pruning_ratio=0.5, max_macs=...\)`: expected either a ratio or a limit"),
        ({"criterion": "response"}, "expected calibration data"),
        ({"max_macs": "much"}, "max_macs='much'"),
        ({"min_filters": 0}, r"min_filters=0\)`: expected a whole number"),
        ({"deployed_as": "int8"}, "expected a limit of bytes beside it"),
        ({"round_to": {"nothing": 8}}, "`round_to='nothing'`: expected the name"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        plan_pruning(plain(), SPECTROGRAM, **{"max_macs": 0.5, **options})


def test_calibration_data_stay_refused_for_other_criteria_without_a_limit():
    with pytest.raises(ValueError, match="Together with a limit"):
        plan_pruning(plain(), SPECTROGRAM, pruning_ratio=0.5, calibration=data())
