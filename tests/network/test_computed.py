"""Weights that are computed at each call are cut so that what is computed is the slice of what was computed."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_optimizers_hold, assert_same_network, assert_trains, outputs_of
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_cosprune import (
    PruningPlan,
    apply_plan,
    load_pruned,
    measure_complexity,
    merge_removed,
    plan_pruning,
    refit_least_squares,
)
from lightning_cosprune.network.computed import effective_weight, plain_weights, write_weight
from lightning_cosprune.network.structure import describe_structure
from lightning_cosprune.planning.costs import CostModel

INPUTS = torch.randn(3, 2, 24, generator=torch.Generator().manual_seed(0))


def older(wrap: Callable[..., nn.Module], **options: Any) -> Callable[[nn.Module], nn.Module]:
    def wrapped(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and in EnCodec and every vocoder
            return wrap(layer, **options)

    return wrapped


WRAPS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, all filters": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "weight norm, inputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight norm by hook": older(nn.utils.weight_norm),
    "weight norm by hook, all filters": older(nn.utils.weight_norm, dim=None),
    "weight norm by hook, inputs": older(nn.utils.weight_norm, dim=1),
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by hook": older(nn.utils.spectral_norm),
}


BY_INPUTS = [wrap for name, wrap in WRAPS.items() if "inputs" in name]


def vocoder(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Every layer wrapped, as in HiFi-GAN: convolutions in groups, transposed, depthwise, around a shortcut; a head."""

    class Vocoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = wrap(nn.Conv1d(2, 8, 3, padding=1))
            self.depthwise = wrap(nn.Conv1d(8, 8, 3, padding=1, groups=8))
            self.up = wrap(nn.ConvTranspose1d(8, 12, 4, 2, 1, bias=False))
            # Lengths of input channels have no meaning across groups.
            self.mix = wrap(nn.Conv1d(12, 12, 3, padding=1, groups=1 if wrap in BY_INPUTS else 2))
            self.norm = nn.BatchNorm1d(12)
            self.block = wrap(nn.Conv1d(12, 12, 1))
            self.head = wrap(nn.Linear(12, 5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(self.depthwise(self.first(x).relu()).relu()).relu()
            x = self.norm(self.mix(x)).relu()
            return self.head((x + self.block(x)).mean(dim=2))

    torch.manual_seed(0)
    model = Vocoder()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("_g", "original0")):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    model.train()
    model(INPUTS)  # the vectors of spectral norm move in training
    return model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    names = ("first", "depthwise", "up", "mix", "block", "head")
    return {name: effective_weight(model.get_submodule(name)).detach().clone() for name in names}


def without(tensor: Tensor, idxs: list[int], axis: int) -> Tensor:
    return tensor.index_select(axis, torch.tensor([i for i in range(tensor.shape[axis]) if i not in idxs]))


PLAN = PruningPlan(
    {"first": [1, 6], "up": [0, 3, 7, 8], "mix": [2, 11], "block": [2, 11]},
    {"first": 8, "up": 12, "mix": 12, "block": 12},
)


@pytest.mark.parametrize("name", WRAPS)
def test_what_is_computed_is_the_slice_of_what_was_computed(name: str) -> None:
    model = vocoder(WRAPS[name])
    dense = weights_of(model)
    report = apply_plan(model, PLAN, INPUTS)
    assert {layer.name for layer in report.layers} == {"first", "depthwise", "up", "mix", "block"}
    # The input channels of a grouped convolution are those of its own group: 0 and 3, and 7 and 8 less six.
    first, last = without(dense["mix"][:6], [2], 0), without(dense["mix"][6:], [5], 0)
    gone = [[0, 3], [1, 2]] if model.mix.groups == 2 else [[0, 3, 7, 8]] * 2
    wanted = {
        "first": without(dense["first"], [1, 6], 0),
        "depthwise": without(dense["depthwise"], [1, 6], 0),
        "up": without(without(dense["up"], [1, 6], 0), [0, 3, 7, 8], 1),
        "mix": torch.cat([without(first, gone[0], 1), without(last, gone[1], 1)]),
        "block": without(without(dense["block"], [2, 11], 0), [2, 11], 1),
        "head": without(dense["head"], [2, 11], 1),
    }
    for key, weight in weights_of(model).items():
        torch.testing.assert_close(weight, wanted[key], rtol=1e-6, atol=1e-6 * float(wanted[key].abs().max()))
    layer = model.first
    assert parametrize.is_parametrized(layer) == (" by hook" not in name)
    model.eval()
    computed = model.first.weight if " by hook" not in name else None
    model(INPUTS)
    torch.testing.assert_close(model.first.weight if computed is None else computed, wanted["first"])


@pytest.mark.parametrize("name", WRAPS)
def test_training_goes_on_with_the_state_of_the_kept_filters(name: str) -> None:
    model = vocoder(WRAPS[name])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(INPUTS).square().sum().backward()
    optimizer.step()
    key = next(
        key
        for key, _ in model.named_parameters()
        if key.startswith("first") and key.endswith(("weight_v", "weight_orig", "original1", "original"))
    )
    before = model.get_parameter(key)
    moments, gradient = optimizer.state[before]["exp_avg"].clone(), before.grad.clone()
    apply_plan(model, PLAN, INPUTS, optimizers=[optimizer])
    assert_optimizers_hold(model, [optimizer])
    after = model.get_parameter(key)
    assert torch.equal(optimizer.state[after]["exp_avg"], without(moments, [1, 6], 0))
    assert torch.equal(after.grad, without(gradient, [1, 6], 0))
    assert_trains(model, INPUTS)
    then = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    optimizer.step()
    for key, parameter in model.named_parameters():
        assert not torch.equal(parameter, then[key]) or key in {"mix.bias"}, key


@pytest.mark.parametrize("name", WRAPS)
def test_every_filter_that_can_go_goes_and_the_costs_are_right(name: str) -> None:
    model = vocoder(WRAPS[name])
    before = copy.deepcopy({key: tensor.clone() for key, tensor in model.state_dict().items()})
    outputs = outputs_of(model, INPUTS)
    plan = plan_pruning(model, INPUTS, pruning_ratio=0.5, criterion="l1")
    assert plan.pruned.keys() == {"first", "up", "mix", "block"}
    limited = plan_pruning(model, INPUTS, max_params=0.6)
    assert_same_network(model, before, INPUTS, outputs)
    total = measure_complexity(model, INPUTS).params
    report = apply_plan(model, limited, INPUTS)
    assert 0.4 * total < report.after.params <= 0.6 * total
    assert report.after == measure_complexity(model, INPUTS)
    assert report.after.macs < report.before.macs


def test_filters_are_ranked_by_what_is_computed_now() -> None:
    """The older hooks compute at a call: after a step of the optimizer the layer still shows the weight of before."""
    model = vocoder(WRAPS["weight norm by hook"])
    with torch.no_grad():
        model.first.weight_g.copy_(torch.arange(1.0, 9).view(-1, 1, 1).flip(0))
    assert plan_pruning(model, INPUTS, pruning_ratio=0.25, criterion="l2", layers=["first"]).pruned["first"] == [6, 7]


@pytest.mark.parametrize("with_structure", [True, False])
@pytest.mark.parametrize("name", WRAPS)
def test_they_come_back_from_a_checkpoint(name: str, with_structure: bool) -> None:
    model = vocoder(WRAPS[name])
    apply_plan(model, PLAN, INPUTS)
    content = {"state_dict": model.state_dict()}
    content |= {"lightning_cosprune": describe_structure(model)} if with_structure else {}
    again = load_pruned(lambda: vocoder(WRAPS[name]), content)
    assert describe_structure(again) == describe_structure(model)
    assert torch.equal(again.eval()(INPUTS), model.eval()(INPUTS))


@pytest.mark.parametrize("name", WRAPS)
def test_a_weight_is_written_through_to_what_it_is_computed_from(name: str) -> None:
    model = vocoder(WRAPS[name]).eval()
    for key, weight in weights_of(model).items():
        new = torch.randn_like(weight)
        write_weight(model.get_submodule(key), new)
        torch.testing.assert_close(effective_weight(model.get_submodule(key)), new)
    model(INPUTS)
    torch.testing.assert_close(model.head.weight, effective_weight(model.head))


@pytest.mark.parametrize("repair", ["least squares", "merge"])
@pytest.mark.parametrize("name", ["weight norm", "weight norm by hook"])
def test_repairs_reach_them(name: str, repair: str) -> None:
    model, dense = (vocoder(WRAPS[name]).eval() for _ in range(2))
    report = apply_plan(model, PLAN, INPUTS)

    def error() -> float:
        with torch.no_grad():
            return float((model(INPUTS) - dense(INPUTS)).square().sum())

    before = error()
    if repair == "merge":
        assert merge_removed(model, dense, report, example_inputs=INPUTS).layers
    else:
        assert refit_least_squares(model, dense, [INPUTS], report=report).layers
        assert error() < 0.5 * before


def test_for_a_while_they_are_plain_parameters() -> None:
    for wrap in WRAPS.values():
        model = vocoder(wrap)
        state, kinds = copy.deepcopy(dict(model.state_dict())), [type(module) for module in model.modules()]
        order = [name for name, _ in model.named_parameters()]
        with plain_weights(model):
            assert type(model.first) is nn.Conv1d
            assert isinstance(model.first.weight, nn.Parameter)
            assert not any("parametrizations" in name or "weight_" in name for name, _ in model.named_parameters())
            with plain_weights(model):
                names = [name for name, _ in model.named_parameters()]
                assert {name for name in names if name.startswith("first")} == {"first.weight", "first.bias"}
        assert [type(module) for module in model.modules()] == kinds
        assert [name for name, _ in model.named_parameters()] == order
        assert_same_network(model, state, INPUTS, outputs_of(model, INPUTS))


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def two_rules(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(parametrizations.weight_norm(layer))


def own_rule(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Halved())
    return layer


@pytest.mark.parametrize("wrap", [two_rules, own_rule, parametrizations.orthogonal])
def test_other_computations_are_refused_with_the_reason(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), wrap(nn.Conv1d(8, 8, 1)), nn.Conv1d(8, 4, 1))
    plan = plan_pruning(model, INPUTS, pruning_ratio=0.5)
    assert not plan.pruned
    for name in ("0", "2"):
        assert plan.skipped[name].startswith("the weight of 2 is computed in a way that cannot be cut")


def test_lengths_across_groups_are_refused() -> None:
    layer = parametrizations.weight_norm(nn.Conv1d(8, 8, 3, groups=2), dim=1)
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), layer, nn.Conv1d(8, 4, 1))
    plan = plan_pruning(model, INPUTS, pruning_ratio=0.5)
    assert not plan.pruned
    assert "the weight of 2 is normalised across its groups" in plan.skipped["0"]


def test_what_layers_share_is_refused() -> None:
    model = vocoder(WRAPS["weight norm"])
    model.block.parametrizations.weight.original1 = nn.Parameter(torch.randn(12, 12, 1))
    model.other = parametrizations.weight_norm(nn.Conv1d(12, 12, 1))
    model.other.parametrizations.weight.original0 = model.block.parametrizations.weight.original0
    before, outputs = copy.deepcopy(dict(model.state_dict())), outputs_of(model, INPUTS)
    report = apply_plan(
        model, PruningPlan({"mix": [2, 11], "block": [2, 11]}, {"mix": 12, "block": 12}), INPUTS, allow_unpruned=True
    )
    assert not report.layers
    assert "is computed from tensors that other layers share" in report.skipped["block"]
    assert_same_network(model, before, INPUTS, outputs)


def test_costs_are_counted_at_what_the_weights_are_computed_from() -> None:
    for wrap in WRAPS.values():
        model = vocoder(wrap)
        groups = [group for group in _groups(model) if group.refusal is None]
        costs = CostModel(model, INPUTS, groups)
        widths = costs.filters.copy()
        widths[:] = [group.filters // 2 for group in groups]
        plan = {name: list(range(0, group.filters, 2)) for group in groups for name in group.layers}
        report = apply_plan(model, PruningPlan(plan, {name: 2 * len(idxs) for name, idxs in plan.items()}), INPUTS)
        found = costs(widths)
        assert (found["params"][0], found["macs"][0]) == (report.after.params, report.after.macs)


def _groups(model: nn.Module) -> list[Any]:
    from lightning_cosprune.network.channels import channel_groups

    return [group for group in channel_groups(model, INPUTS) if "head" not in group.layers]
