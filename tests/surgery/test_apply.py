import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from asserts import (
    assert_equals_masked_dense,
    assert_optimizers_hold,
    assert_same,
    assert_same_network,
    assert_trains,
    outputs_of,
)
from torch import nn
from zoo import CASES, SPECTROGRAM, Case, Net, Residual, conv, conv_bn
from zoo.case import FOLLOWS, FROZEN, NOT_ASKED, UNREACHED, pooled
from zoo.norms import narrowed

from lightning_cosprune import PruningPlan, apply_plan, plan_pruning
from lightning_cosprune.network.channels import ChannelGraph, channel_groups
from lightning_cosprune.network.forward import call, float_tensors
from lightning_cosprune.network.layers import is_depthwise, num_filters, prunable_layers
from lightning_cosprune.surgery import apply
from lightning_cosprune.surgery.draws import draw
from lightning_cosprune.surgery.trial import Trial


def trained(case: Case) -> nn.Module:
    """The network of a case with batch norms as training leaves them: removed channels are not zero by themselves."""
    torch.manual_seed(0)
    model = case.build()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_()
    return model


def twin(case: Case, model: nn.Module) -> nn.Module:
    """A copy, also of networks that cannot be copied, such as those with the older weight norm."""
    other = trained(case)
    other.load_state_dict(model.state_dict())
    return other


def step(model: nn.Module, inputs: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    sum(leaf.double().square().mean() for leaf in float_tensors(call(model.train(), inputs))).backward()
    optimizer.step()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestZoo:
    def test_equal_to_the_masked_dense_network_or_refused(self, case: Case) -> None:
        model, dense = trained(case), trained(case)
        layers = prunable_layers(model)
        plan = plan_pruning(model, case.inputs, pruning_ratio=0.5)
        report = apply_plan(model, plan, case.inputs, allow_unpruned=not case.pruned)
        removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
        assert tuple(removed) == case.pruned
        for layer in report.layers:
            assert layer.filters_after == layer.filters_before - len(layer.pruned_idxs) == layer.filters_before // 2
            assert layer.filters_after == num_filters(layers[layer.name])
        assert set(report.skipped) == set(layers).difference(removed)
        for name, reason in report.skipped.items():
            assert case.skipped.get(name, NOT_ASKED) in reason
            assert num_filters(layers[name]) == num_filters(dense.get_submodule(name))
        assert_equals_masked_dense(dense, model, removed, case.inputs, narrowed(dense, report.norms, removed))
        if case.pruned:
            assert report.after.params < report.before.params
            assert report.after.macs < report.before.macs
        if not any(reason == UNREACHED for reason in case.skipped.values()):
            assert_trains(model, case.inputs, case.unread)

    def test_as_many_as_are_redundant_in_the_midst_of_training(self, case: Case) -> None:
        model = trained(case)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        step(model, case.inputs, optimizer)
        dense = twin(case, model)
        plan = plan_pruning(model, case.inputs)
        report = apply_plan(model, plan, case.inputs, optimizers=[optimizer], allow_unpruned=True)
        removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
        assert set(removed) | set(report.skipped) == set(prunable_layers(model))
        if case.name != "state between calls":
            narrow = narrowed(dense, report.norms, removed)
            assert_equals_masked_dense(dense, model, removed, case.inputs, narrow)
        assert_optimizers_hold(model, [optimizer])
        before = [parameter.detach().clone() for parameter in model.parameters()]
        step(model, case.inputs, optimizer)
        assert_optimizers_hold(model, [optimizer])
        for then, parameter in zip(before, model.parameters(), strict=True):
            assert parameter.grad is None or not parameter.grad.any() or not torch.equal(then, parameter)

    def test_what_is_refused_is_left_untouched(self, case: Case) -> None:
        """The refused layers alone, by a plan that asks for what :func:`plan_pruning` would not."""
        model = trained(case).train()
        layers = prunable_layers(model)
        wanted = {
            name: list(range(num_filters(layers[name]) // 2))
            for name, words in case.skipped.items()
            if words not in {FROZEN, FOLLOWS} and num_filters(layers[name]) > 1 and not is_depthwise(layers[name])
        }
        before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, case.inputs)
        parameters = dict(model.named_parameters())
        attributes = [dict(vars(module)) for module in model.modules()]
        plan = PruningPlan(wanted, {name: num_filters(layers[name]) for name in wanted})
        report = apply_plan(model, plan, case.inputs, allow_unpruned=True)
        assert not report.layers
        assert set(report.skipped) == set(layers)
        for module, then in zip(model.modules(), attributes, strict=True):
            assert list(vars(module)) == list(then)
            for key, value in vars(module).items():
                assert value is then[key] or (not isinstance(value, torch.Tensor) and value == then[key]), key
        assert all(now is parameters[name] for name, now in model.named_parameters())
        assert_same_network(model, before, case.inputs, outputs)

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
        assert [module.training for module in model.modules()] == modes
        assert [parameter.requires_grad for parameter in model.parameters()] == flags
        assert [len(module._forward_hooks) for module in model.modules()] == hooks
        assert not any("forward" in vars(module) for module in model.modules())
        assert_same_network(model, before, case.inputs, outputs)


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
    plan = PruningPlan({"stem": [0], "block1.1.0": [1]}, {"stem": 8, "block1.1.0": 8})
    report = apply_plan(model, plan, SPECTROGRAM, allow_unpruned=True)
    assert not report.layers
    assert report.skipped["stem"] == "coupled: the plan must name the same filters for stem, block1.1.0"
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
    report = apply_plan(model, PruningPlan({"conv1": [0, 3]}, {"conv1": 8}), SPECTROGRAM, allow_unpruned=True)
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
    calls: dict[str, list[Any]] = {key: [] for key in ("tensor", "accumulated", "forward", "backward")}
    frozen, marked = model[1][0].bias, model[0][0].weight
    frozen.requires_grad_(False)
    marked.note = "mine"
    marked.register_hook(lambda grad: calls["tensor"].append(grad.shape))
    marked.register_post_accumulate_grad_hook(lambda parameter: calls["accumulated"].append(parameter.grad.shape))
    handle = model[0][0].register_forward_hook(lambda module, args, out: calls["forward"].append(out.shape[1]))
    model[1][0].register_full_backward_hook(lambda module, into, out: calls["backward"].append(into[0].shape[1]))
    model(SPECTROGRAM).sum().backward()
    gradient = marked.grad.clone()
    plan = PruningPlan({"0.0": [2]}, {"0.0": 8})
    for seen in calls.values():
        seen.clear()
    apply_plan(model, plan, SPECTROGRAM)
    calls["forward"].clear()  # those of the trial
    weight = model[0][0].weight
    assert weight.note == "mine"
    assert torch.equal(weight.grad, gradient[plan.kept["0.0"]])
    assert not model[1][0].bias.requires_grad
    assert model[1][0].weight.is_contiguous(memory_format=torch.channels_last)
    model(SPECTROGRAM).sum().backward()
    assert calls == {"tensor": [(7, 1, 3, 3)], "accumulated": [(7, 1, 3, 3)], "forward": [7], "backward": [7]}
    handle.remove()
    model(SPECTROGRAM)
    assert calls["forward"] == [7]


def test_frozen_layers_are_followed_like_others() -> None:
    model = Residual()
    expected = channel_groups(model, SPECTROGRAM)
    model.stem.requires_grad_(False)
    assert channel_groups(model, SPECTROGRAM) == expected
    model.requires_grad_(False)
    assert channel_groups(model, SPECTROGRAM) == expected


def test_frozen_parameters_stay_frozen_where_they_are_cut() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    for name in ("0.1", "1.0", "3"):
        model.get_submodule(name).requires_grad_(False)
    report = apply_plan(model, PruningPlan({"0.0": [2]}, {"0.0": 8}), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["0.0"]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"0.1.weight", "0.1.bias", "1.0.weight", "1.0.bias", "3.weight", "3.bias"}
    assert model[1][0].in_channels == 7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_data_types_are_kept(dtype: torch.dtype) -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5)).to(dtype)
    report = apply_plan(model, PruningPlan({"0.0": [2, 5]}, {"0.0": 8}), SPECTROGRAM.to(dtype))
    assert [layer.name for layer in report.layers] == ["0.0"]
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_constant_example_input_does_not_blind_the_trial() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.GroupNorm(8, 8), nn.Conv2d(8, 4, 3))
    report = apply_plan(model, PruningPlan({"0": [0]}, {"0": 8}), torch.zeros(1, 1, 8, 8), allow_unpruned=True)
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


class Failing(nn.Module):
    """Fails in the midst of its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv_bn(1, 8), nn.LSTM(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last(self.first(x).mean(dim=(2, 3)))
        raise RuntimeError("no more")


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_failing_forward_pass_is_told_and_leaves_no_trace(context: Any) -> None:
    model = Failing().train()
    model.first[1].eval()
    model.first[0].weight.requires_grad_(False)
    model.first.register_forward_hook(lambda *_: None)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with context():
        modes_of_autograd = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        message = r"forward pass of Failing on the example input failed.*no more.*Pass `example_inputs`"
        with pytest.raises(ValueError, match=message):
            channel_groups(model, SPECTROGRAM)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == modes_of_autograd
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_what_is_pruned_without_gradients_can_be_trained(context: Any) -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5)).train()
    with context():
        example = torch.randn(2, 1, 8, 8)
        plan = plan_pruning(model, example, pruning_ratio=0.5)
        assert plan.pruned.keys() == {"0.0", "1.0"}
        apply_plan(model, plan, example)
    assert not any(parameter.is_inference() for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert_trains(model, SPECTROGRAM)


class TestGroupedConvolutions:
    @pytest.fixture
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            conv_bn(1, 8),
            conv_bn(8, 12, groups=2),
            conv_bn(12, 6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 5),
        )

    def test_each_group_loses_its_first_in_the_ranking(self, model: nn.Module) -> None:
        plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, criterion="l1")
        for name, half in (("0.0", 4), ("1.0", 6)):
            norms = model.get_submodule(name).weight.abs().sum(dim=(1, 2, 3))
            smallest = [norms[start : start + half].argsort()[: half // 2] + start for start in (0, half)]
            assert plan.pruned[name] == sorted(torch.cat(smallest).tolist())

    def test_no_group_loses_more_than_was_asked(self, model: nn.Module) -> None:
        plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.3)
        assert {name: len(idxs) for name, idxs in plan.pruned.items()} == {"0.0": 2, "1.0": 2, "2.0": 1}
        plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, round_to=4)
        assert {name: len(kept) for name, kept in plan.kept.items()} == {"0.0": 4, "1.0": 8, "2.0": 4}

    def test_any_filters_of_each_group_may_go(self, model: nn.Module) -> None:
        dense = copy.deepcopy(model)
        optimizer = torch.optim.Adam(model.parameters())
        step(model, SPECTROGRAM, optimizer)
        dense.load_state_dict(model.state_dict())
        moments = optimizer.state[model[1][0].weight]["exp_avg"].clone()
        removed = {"0.0": [0, 1, 6, 7], "1.0": [0, 5, 6, 7]}
        apply_plan(model, PruningPlan(removed, {"0.0": 8, "1.0": 12}), SPECTROGRAM, optimizers=[optimizer])
        assert_equals_masked_dense(dense, model, removed, SPECTROGRAM)
        layer = model[1][0]
        assert (layer.in_channels, layer.out_channels, layer.groups, layer.weight.shape) == (4, 8, 2, (8, 2, 3, 3))
        first, second = moments[1:5][:, [2, 3]], moments[8:][:, [0, 1]]
        assert torch.equal(optimizer.state[layer.weight]["exp_avg"], torch.cat([first, second]))
        step(model, SPECTROGRAM, optimizer)
        assert_optimizers_hold(model, [optimizer])

    @pytest.mark.parametrize(("name", "idxs"), [("0.0", [0]), ("0.0", [0, 1]), ("1.0", [0, 1, 2, 6])])
    def test_groups_that_would_lose_different_numbers_are_refused(
        self, model: nn.Module, name: str, idxs: list[int]
    ) -> None:
        before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
        plan = PruningPlan({name: idxs}, {name: num_filters(model.get_submodule(name))})
        report = apply_plan(model, plan, SPECTROGRAM, allow_unpruned=True)
        assert "must lose the same number, found" in report.skipped[name]
        assert_same_network(model, before, SPECTROGRAM, outputs)


def test_every_layer_that_is_left_alone_is_listed_with_its_reason() -> None:
    model = nn.ModuleDict(
        {
            "ignored": conv(1, 4),
            "frozen": conv(4, 4),
            "depthwise": conv(4, 4, groups=4),
            "normed": conv(4, 4),
            "norm": nn.GroupNorm(2, 4),
            "cut": conv(4, 4),
            "kept": conv(4, 2),
            "unused": conv(4, 4),
            "linear": nn.Linear(2, 3),
            "last": nn.Conv1d(3, 2, 1),
        }
    )
    model["frozen"].requires_grad_(False)
    net = Net(
        lambda net, x: net.m["last"](
            net.m["linear"](
                pooled(
                    net.m["kept"](
                        net.m["cut"](
                            net.m["norm"](net.m["normed"](net.m["depthwise"](net.m["frozen"](net.m["ignored"](x)))))
                        )
                    )
                )
            )[:, :, None]
        ),
        m=model,
    )
    ratios = {"m.kept": 0.1, "m.[!l]*": 0.5, "m.last": 0.5}
    plan = plan_pruning(net, SPECTROGRAM, pruning_ratio=ratios, ignored_layers=["m.ignored"], strict=True)
    report = apply_plan(net, plan, SPECTROGRAM, strict=True)
    assert [layer.name for layer in report.layers] == ["m.cut"]
    assert dict(report.skipped) == {
        "m.ignored": "ignored",
        "m.frozen": "frozen: the weight of it, or of a layer coupled to it, does not require grad",
        "m.depthwise": "depthwise: it follows m.frozen, which keeps its filters",
        "m.normed": "m.norm normalises over groups of channels, and `strict` keeps what that computes",
        "m.kept": "a pruning ratio of 0.1 of its 2 filters is less than one filter",
        "m.unused": "not reached by the example input's forward pass",
        "m.linear": "a linear layer, pruned only where `layers` or `pruning_ratio` names it",
        "m.last": "its filters are outputs of the network",
    }


def test_a_depthwise_layer_is_reported_with_the_layer_it_follows() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 4), nn.Flatten(), nn.Linear(256, 5))
    report = apply_plan(model, PruningPlan({"0.0": [1, 5]}, {"0.0": 8}), SPECTROGRAM)
    assert [(layer.name, layer.pruned_idxs) for layer in report.layers] == [("0.0", (1, 5)), ("1.0", (1, 5))]
    assert report.skipped["2.0"] == "the plan does not name it"


def separable_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 4), nn.Flatten(), nn.Linear(256, 5))


def test_a_plan_that_is_made_of_a_report_does_the_same_again() -> None:
    first, again = separable_network(), separable_network()
    report = apply_plan(first, plan_pruning(first, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    plan = PruningPlan(
        {layer.name: list(layer.pruned_idxs) for layer in report.layers},
        {layer.name: layer.filters_before for layer in report.layers},
    )
    assert "1.0" in plan.pruned
    assert apply_plan(again, plan, SPECTROGRAM).layers == report.layers
    assert_same(dict(again.state_dict()), dict(first.state_dict()))


@pytest.mark.parametrize(
    ("pruned", "refused", "reason"),
    [
        (
            {"0.0": [1, 5], "1.0": [1, 4]},
            {"0.0", "1.0"},
            "the plan names other filters of 1.0, which is depthwise, than",
        ),
        ({"0.0": [1, 5], "1.0": [1]}, {"0.0", "1.0"}, "the plan names other filters of 1.0"),
        ({"1.0": [1, 5]}, {"1.0"}, "depthwise: the plan does not name the layer that feeds it"),
    ],
)
def test_depthwise_layers_that_do_not_agree_with_their_source_are_refused(
    pruned: dict[str, list[int]], refused: set[str], reason: str
) -> None:
    model = separable_network()
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
    plan = PruningPlan(pruned, dict.fromkeys(pruned, 8))
    report = apply_plan(model, plan, SPECTROGRAM, allow_unpruned=True)
    assert not report.layers
    assert {name for name, why in report.skipped.items() if why.startswith(reason)} == refused
    assert_same_network(model, before, SPECTROGRAM, outputs)


def test_nothing_to_remove_is_an_error_with_every_reason() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3))
    optimizer = torch.optim.Adam(model.parameters())
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
    plan = PruningPlan({"0": [0], "2": [1]}, {"0": 8, "2": 4})
    with pytest.raises(ValueError, match=r"found none.*\n  0: 1 normalises over.*\n  2: its filters are outputs"):
        apply_plan(model, plan, SPECTROGRAM, optimizers=[optimizer], strict=True)
    assert_same_network(model, before, SPECTROGRAM, outputs)
    assert_optimizers_hold(model, [optimizer])
    assert not apply_plan(model, plan, SPECTROGRAM, allow_unpruned=True).layers


def test_layers_are_cut_one_after_the_other_through_concatenations() -> None:
    """Each cut renumbers the channels of the next: what was found out before the first is no longer true."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(pooled(net.mix(torch.cat([branch(x) for branch in net.branches], 1)).relu())),
        branches=nn.ModuleList(conv_bn(1, filters) for filters in (4, 6, 8)),
        mix=conv(18, 8),
        head=nn.Linear(8, 5),
    )
    dense = copy.deepcopy(model)
    removed = {"branches.0.0": [0, 3], "branches.1.0": [1, 2, 5], "branches.2.0": [0, 7], "mix": [4]}
    apply_plan(
        model, PruningPlan(removed, {"branches.0.0": 4, "branches.1.0": 6, "branches.2.0": 8, "mix": 8}), SPECTROGRAM
    )
    assert model.mix.in_channels == 11
    assert_equals_masked_dense(dense, model, removed, SPECTROGRAM)


class Neighbours(nn.Module):
    """A local response normalisation of the user's own that nobody has named as a norm."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.local_response_norm(x, 3, self.alpha)


def test_a_weak_coupling_is_heard_in_networks_too_large_for_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_cosprune.surgery.apply._CHEAP", 0)
    torch.manual_seed(0)
    model = nn.Sequential(conv(1, 8), Neighbours(alpha=1e-5), conv(8, 4), nn.Flatten(), nn.Linear(256, 5))
    report = apply_plan(model, PruningPlan({"0": [2], "2": [1]}, {"0": 8, "2": 4}), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["2"]
    assert "changes what the other channels compute" in report.skipped["0"]


def test_the_report_names_who_stands_for_each_removed_filter() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    with torch.no_grad():
        model[0].weight[4] = 2 * model[0].weight[1]
        model[0].weight[5] = -model[0].weight[2]
    inputs = torch.randn(2, 1, 9, 9)
    (layer,) = apply_plan(model, PruningPlan({"0": [4, 5]}, {"0": 6}), inputs).layers
    assert layer.partners[0] == 1
    assert layer.explained[0] == pytest.approx(1, abs=1e-3)
    assert layer.explained[1] < 1  # its mirror image is no near copy
    assert layer.together == pytest.approx((1, 1), abs=1e-3)


def test_partners_are_told_of_the_dense_weight_or_not_at_all() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    dense, weight = copy.deepcopy(model), model[0].weight
    report = apply_plan(model, PruningPlan({"0": [4, 5]}, {"0": 6}), torch.randn(2, 1, 9, 9))
    of_the_copy = apply_plan(dense, PruningPlan({"0": [4, 5]}, {"0": 6}), torch.randn(2, 1, 9, 9))
    with torch.no_grad():
        weight.zero_()
    with pytest.raises(RuntimeError, match="written into since"):
        _ = report.layers[0].partners
    told = pickle.loads(pickle.dumps(of_the_copy)).layers[0]
    assert "_weight" not in vars(told)
    assert told == of_the_copy.layers[0]
    assert told.together == of_the_copy.layers[0].together
    assert len(told.partners) == 2


def test_a_depthwise_layer_is_reported_without_partners() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 3))
    report = apply_plan(model, PruningPlan({"0": [4, 5]}, {"0": 6}), torch.randn(2, 1, 12, 12))
    assert [len(layer.partners) for layer in report.layers] == [2, 0]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (apply, "ChannelGraph"),
        (ChannelGraph, "cut"),
        (apply, "Trial"),
        (Trial, "check"),
        (apply, "rebind_optimizers"),
        (apply, "LayerReport"),
        (apply, "measure_complexity"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_any_moment_leaves_all_as_it_was(owner: Any, name: str, when: str) -> None:
    """Also between two cuts: the first layer's is refused, so that the others are cut one after the other."""

    def network() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(
            conv(1, 8),
            Neighbours(alpha=0.1),
            conv_bn(8, 6),
            conv_bn(6, 6),
            nn.Flatten(),
            nn.Linear(384, 5),
        )
        optimizer = torch.optim.Adam(model.parameters())
        model(SPECTROGRAM).square().sum().backward()
        optimizer.step()
        return model, optimizer

    plan = PruningPlan({"0": [2], "2.0": [1], "3.0": [0, 5]}, {"0": 8, "2.0": 6, "3.0": 6})
    own = getattr(owner, name)
    calls = 0
    with pytest.MonkeyPatch.context() as patch:

        def counted(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            return own(*args, **options)

        patch.setattr(owner, name, counted)
        model, optimizer = network()
        assert [layer.name for layer in apply_plan(model, plan, SPECTROGRAM, optimizers=[optimizer]).layers] == [
            "2.0",
            "3.0",
        ]
    for moment in range(calls):
        model, optimizer = network()
        parameters, before = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
        state = copy.deepcopy(optimizer.state_dict())
        count = iter(range(calls))

        def interrupted(*args: Any, moment: int = moment, count: Iterator[int] = count, **options: Any) -> Any:
            due = next(count) == moment
            if due and when == "before":
                raise KeyboardInterrupt
            try:
                return own(*args, **options)
            finally:
                if due:
                    raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                apply_plan(model, plan, SPECTROGRAM, optimizers=[optimizer])
        assert all(parameter is parameters[key] for key, parameter in model.named_parameters())
        assert_same(dict(model.state_dict()), dict(before))
        assert_optimizers_hold(model, [optimizer])
        assert_same(optimizer.state_dict(), state)
        assert (model[2][0].out_channels, model[3][0].in_channels, model.training) == (6, 6, True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0.bias", r"expected finite numbers in 0\.bias, found NaN or infinity in 1 of 8.*Training has diverged"),
        ("1.running_var", r"expected finite numbers in 1\.running_var.*the checkpoint is damaged"),
        ("3.bias", r"expected finite numbers in 3\.bias"),
        ("input", r"`apply_plan\(example_inputs=...\)`: expected finite numbers, found NaN or infinity. Pass a sample"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(name: str, message: str, value: float) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    tensors = {**model.state_dict(), "input": SPECTROGRAM.clone()}
    # A variance of infinity only silences its channel.
    tensors[name].view(-1)[1] = float("nan") if name == "1.running_var" else value
    for allow_unpruned in (False, True):
        with pytest.raises(ValueError, match=message):
            apply_plan(model, PruningPlan({"0": [0]}, {"0": 8}), tensors["input"], allow_unpruned=allow_unpruned)
    assert model[0].out_channels == 8


def test_what_stands_in_for_weights_and_inputs_has_their_signs_and_size() -> None:
    model = nn.Sequential(nn.Conv2d(30, 64, 3), nn.BatchNorm2d(64))
    model[1].running_var.fill_(0.3)
    negative, mixed = -torch.rand(1, 30, 5, 5), 1000 * torch.randn(1, 30, 5, 5)
    drawn, again = draw(model, (negative, mixed)), draw(model, (negative, mixed))
    assert (drawn.tensors["1.running_var"] > 0).all()  # its root will be taken
    assert (drawn.inputs[0] < 0).all()
    for values in (drawn.tensors["0.weight"], drawn.inputs[1]):
        assert abs(values.mean()) < 0.1 * values.std()
    assert drawn.tensors["0.weight"].std() == pytest.approx((2 / 270) ** 0.5, rel=0.1)
    assert 100 < drawn.inputs[1].abs().max() < 10_000
    assert all(torch.equal(drawn.tensors[name], again.tensors[name]) for name in drawn.tensors)
