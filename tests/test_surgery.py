import copy

import pytest
import torch
from asserts import assert_same_network, assert_trains, outputs_of
from torch import nn
from zoo import CASES, SPECTROGRAM, Case, Residual, conv_bn

from lightning_cosprune import PruningPlan, apply_plan, plan_pruning
from lightning_cosprune.plan import prunable_layers
from lightning_cosprune.surgery import channel_groups


def mask(model: nn.Module, plan: PruningPlan, consumers: dict[str, list[str]]) -> nn.Module:
    """The dense network with the consumers' weights for removed channels set to zero, by hand."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for producer, names in consumers.items():
            for name in names:
                weight = masked.get_submodule(name).weight
                channels = plan.filters[producer]
                weight.view(weight.shape[0], channels, -1)[:, plan.pruned[producer]] = 0
    return masked


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestZoo:
    def test_cut_or_refused(self, case: Case) -> None:
        torch.manual_seed(0)
        model = case.build()
        before = {name: layer.weight.shape[0] for name, layer in prunable_layers(model).items()}
        plan = plan_pruning(model, case.inputs, pruning_ratio=0.5)
        report = apply_plan(model, plan, case.inputs)
        assert {layer.name for layer in report.layers} == set(case.pruned)
        assert set(report.skipped) == set(case.skipped)
        assert all(report.skipped.values())
        for layer in report.layers:
            assert layer.filters_after == layer.filters_before - len(layer.pruned_idxs) == layer.filters_before // 2
        if case.pruned:
            assert report.after.params < report.before.params
            assert report.after.macs < report.before.macs
        for name in case.skipped:
            assert prunable_layers(model)[name].weight.shape[0] == before[name]
        assert_trains(model, case.inputs)

    def test_planning_leaves_no_trace(self, case: Case) -> None:
        model = case.build().train()
        model[0].eval() if isinstance(model, nn.Sequential) else None
        next(model.parameters()).requires_grad_(False)
        before = copy.deepcopy(model.state_dict())
        outputs = outputs_of(model, case.inputs)
        modes = [module.training for module in model.modules()]
        flags = [parameter.requires_grad for parameter in model.parameters()]
        hooks = [len(module._forward_hooks) for module in model.modules()]
        random_state = torch.get_rng_state()
        channel_groups(model, case.inputs)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert_same_network(model, before, case.inputs, outputs)
        assert [module.training for module in model.modules()] == modes
        assert [parameter.requires_grad for parameter in model.parameters()] == flags
        assert [len(module._forward_hooks) for module in model.modules()] == hooks
        assert not any("forward" in vars(module) for module in model.modules())


def test_pruned_equals_masked_dense() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    with torch.no_grad():  # batch norms as training leaves them: removed channels would not be zero by themselves
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.bias.normal_()
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    masked = mask(model, plan, {"0.0": ["1.0"], "1.0": ["3"]})
    apply_plan(model, plan, SPECTROGRAM)
    torch.testing.assert_close(outputs_of(model, SPECTROGRAM), outputs_of(masked, SPECTROGRAM), rtol=1e-4, atol=1e-5)
    assert [layer.weight.shape for layer in prunable_layers(model).values()] == [(4, 1, 3, 3), (3, 4, 3, 3), (5, 192)]


def test_kept_weights_are_the_dense_ones() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    dense = copy.deepcopy(model)
    plan = PruningPlan({"0.0": [1, 4]}, {"0.0": 8})
    apply_plan(model, plan, SPECTROGRAM)
    kept = plan.kept["0.0"]
    assert torch.equal(model[0][0].weight, dense[0][0].weight[kept])
    assert torch.equal(model[0][0].bias, dense[0][0].bias[kept])
    assert torch.equal(model[0][1].weight, dense[0][1].weight[kept])
    assert torch.equal(model[1][0].weight, dense[1][0].weight[:, kept])
    assert torch.equal(model[3].weight, dense[3].weight)


def test_coupled_layers_lose_the_same_filters() -> None:
    groups = {group.layers for group in channel_groups(Residual(), SPECTROGRAM)}
    assert ("stem", "block1.1.0") in groups
    assert ("block2.1.0", "projection") in groups
    plan = plan_pruning(Residual(), SPECTROGRAM, pruning_ratio=0.25)
    assert plan.pruned["stem"] == plan.pruned["block1.1.0"]
    assert plan.pruned["block2.1.0"] == plan.pruned["projection"]


def test_coupled_layers_with_different_filters_are_refused_untouched() -> None:
    model = Residual()
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
    report = apply_plan(model, PruningPlan({"stem": [0], "block1.1.0": [1]}, {"stem": 8, "block1.1.0": 8}), SPECTROGRAM)
    assert not report.layers
    assert "coupled to block1.1.0" in report.skipped["stem"]
    assert_same_network(model, before, SPECTROGRAM, outputs)


def test_a_wrong_cut_is_undone_to_the_last_bit() -> None:
    """Instance-wide statistics over channels change when one goes; the trial sees it, and nothing of it stays."""

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm, self.conv2 = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
            self.head = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.conv1(x))
            x = x / x.square().mean(dim=1, keepdim=True).sqrt()
            return self.head(self.conv2(x).mean(dim=(2, 3)))

    model = Normalised()
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
    parameters = list(model.parameters())
    report = apply_plan(model, PruningPlan({"conv1": [0, 3]}, {"conv1": 8}), SPECTROGRAM)
    assert "changes what the other channels compute" in report.skipped["conv1"]
    assert_same_network(model, before, SPECTROGRAM, outputs)
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    assert model.conv1.out_channels == model.norm.num_features == model.conv2.in_channels == 8
    # The graph is made anew after an undone cut, so that the next one is right.
    report = apply_plan(model, PruningPlan({"conv1": [0], "conv2": [1]}, {"conv1": 8, "conv2": 4}), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["conv2"]


def test_kept_parameters_keep_what_belongs_to_them() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    model = model.to(memory_format=torch.channels_last)
    calls = []
    frozen, marked = model[1][0].bias, model[0][0].weight
    frozen.requires_grad_(False)
    marked.note = "mine"
    marked.register_hook(lambda grad: calls.append(grad.shape))
    model(SPECTROGRAM).sum().backward()
    gradient = marked.grad.clone()
    plan = PruningPlan({"0.0": [2]}, {"0.0": 8})
    apply_plan(model, plan, SPECTROGRAM)
    weight = model[0][0].weight
    assert weight.note == "mine"
    assert torch.equal(weight.grad, gradient[plan.kept["0.0"]])
    assert not model[1][0].bias.requires_grad
    assert model[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    model(SPECTROGRAM).sum().backward()
    assert calls == [(8, 1, 3, 3), (7, 1, 3, 3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_data_types_are_kept(dtype: torch.dtype) -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5)).to(dtype)
    report = apply_plan(model, PruningPlan({"0.0": [2, 5]}, {"0.0": 8}), SPECTROGRAM.to(dtype))
    assert [layer.name for layer in report.layers] == ["0.0"]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_constant_example_input_does_not_blind_the_trial() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.GroupNorm(8, 8), nn.Conv2d(8, 4, 3))
    report = apply_plan(model, PruningPlan({"0": [0]}, {"0": 8}), torch.zeros(1, 1, 8, 8), optimizers=[])
    assert "0" in report.skipped


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PruningPlan({"nowhere": [0]}, {"nowhere": 8}), "expected layer 'nowhere' to be a convolution or linear layer"),
        (PruningPlan({"0.1": [0]}, {"0.1": 8}), "found BatchNorm2d"),
        (PruningPlan({"0.0": [0]}, {"0.0": 9}), "the 9 filters that the plan was made for, found 8"),
    ],
)
def test_a_plan_for_another_network_is_refused(plan: PruningPlan, message: str) -> None:
    model = nn.Sequential(conv_bn(1, 8), nn.Flatten(), nn.Linear(512, 5))
    with pytest.raises(ValueError, match=message):
        apply_plan(model, plan, SPECTROGRAM)


def test_a_failing_forward_pass_is_told_and_leaves_no_trace() -> None:
    model = nn.Sequential(conv_bn(1, 8), nn.Flatten(), nn.Linear(512, 5)).train()
    with pytest.raises(
        ValueError, match=r"forward pass of Sequential on the example input failed.*Pass `example_inputs`"
    ):
        channel_groups(model, torch.zeros(1, 3, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_inside_no_grad_and_inference_mode() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    with torch.no_grad():
        assert plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5).pruned.keys() == {"0.0", "1.0"}
    with torch.inference_mode():
        assert plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5).pruned.keys() == {"0.0", "1.0"}
