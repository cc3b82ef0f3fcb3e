import copy
from typing import Any

import pytest
import torch
from asserts import assert_optimizers_hold
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import PruningPlan, apply_plan
from lightning_cosprune.surgery.optim import check_bound

PLAN = PruningPlan({"0.0": [1, 4], "1.0": [0]}, {"0.0": 8, "1.0": 6})
OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, amsgrad=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "Adafactor": torch.optim.Adafactor,
    "Adadelta": torch.optim.Adadelta,
    "Adagrad": torch.optim.Adagrad,
    "Adamax": torch.optim.Adamax,
    "ASGD": torch.optim.ASGD,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "RMSprop": lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.9),
    "Rprop": torch.optim.Rprop,
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(SPECTROGRAM).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_stays_bound_and_moves(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(3):
        step(model, optimizer)
    apply_plan(model, PLAN, SPECTROGRAM, optimizers=[optimizer])
    assert_optimizers_hold(model, [optimizer])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(model, optimizer)
    scheduler.step()
    for (key, parameter), old in zip(model.named_parameters(), before, strict=True):
        if not key.endswith("0.bias"):  # batch norm takes a convolution's bias out again: its gradient is rounding
            assert not torch.equal(parameter, old), key


SCHEDULERS = {
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "CosineAnnealingWarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.StepLR(o, 2)], milestones=[2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_on_where_they_were(name: str) -> None:
    """The same rates as without a prune, in both parameter groups."""

    def rates(prune: bool) -> list[list[float]]:
        model = network()
        groups = [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[1:].parameters()}]
        optimizer = torch.optim.Adam(groups, lr=0.01)
        scheduler = SCHEDULERS[name](optimizer)
        found = []
        for epoch in range(6):
            if prune and epoch == 3:
                apply_plan(model, PLAN, SPECTROGRAM, optimizers=[optimizer])
            step(model, optimizer)
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            found.append([group["lr"] for group in optimizer.param_groups])
        return found

    assert rates(prune=True) == rates(prune=False)


def test_state_is_that_of_the_kept_filters() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer)
    dense = copy.deepcopy(optimizer.state_dict()["state"])
    apply_plan(model, PLAN, SPECTROGRAM, optimizers=[optimizer])
    state = optimizer.state_dict()["state"]
    first, second = PLAN.kept["0.0"], PLAN.kept["1.0"]
    # Parameters count in the order of the network: 0 and 4 are the weights of the two convolutions.
    assert torch.equal(state[0]["exp_avg"], dense[0]["exp_avg"][first])
    assert torch.equal(state[4]["exp_avg_sq"], dense[4]["exp_avg_sq"][second][:, first])
    assert state[4]["step"] == dense[4]["step"] == 1


def test_parameter_groups_and_several_optimizers() -> None:
    model = network()
    body = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.2}], momentum=0.9
    )
    head = torch.optim.Adam(model[3].parameters())
    step(model, body)
    head.step()
    groups = [id(group) for group in body.param_groups]
    apply_plan(model, PLAN, SPECTROGRAM, optimizers=[body, head])
    assert_optimizers_hold(model, [body, head])
    assert [id(group) for group in body.param_groups] == groups
    assert [group["lr"] for group in body.param_groups] == [0.1, 0.2]
    assert body.param_groups[1]["params"][0] is model[1][0].weight


def test_pruned_and_dense_optimizer_walk_together() -> None:
    """Masked dense training and pruned training take the same step on the kept weights."""
    model = network().double().eval()
    optimizer = torch.optim.Adam(model.parameters())
    spectrogram = SPECTROGRAM.double()
    for _ in range(2):
        optimizer.zero_grad()
        model(spectrogram).square().sum().backward()
        optimizer.step()
    dense, plan = copy.deepcopy(model), PruningPlan({"0.0": [1, 4]}, {"0.0": 8})
    dense_optimizer = torch.optim.Adam(dense.parameters())
    dense_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        dense[1][0].weight[:, plan.pruned["0.0"]] = 0
    apply_plan(model, plan, spectrogram, optimizers=[optimizer])
    for net, steps in ((model, optimizer), (dense, dense_optimizer)):
        steps.zero_grad()
        net(spectrogram).square().sum().backward()
        steps.step()
    kept = plan.kept["0.0"]
    torch.testing.assert_close(model[0][0].weight, dense[0][0].weight[kept])
    torch.testing.assert_close(model[1][0].weight, dense[1][0].weight[:, kept])
    torch.testing.assert_close(model[3].weight, dense[3].weight)


class SAM(torch.optim.Optimizer):
    """As its authors wrote it: groups shared with an optimizer within, which has the moments."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, {"rho": 0.05, **options})
        self.base_optimizer = torch.optim.Adam(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups
        self.defaults.update(self.base_optimizer.defaults)

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["old_p"] = parameter.data.clone()
        self.base_optimizer.step()


class Lookahead(torch.optim.Optimizer):
    """With groups of its own, a list of optimizers, and slow weights."""

    def __init__(self, params: Any) -> None:
        params = list(params)
        super().__init__(params, {})
        self.inner = [torch.optim.SGD(params, lr=0.1, momentum=0.9)]

    def step(self, closure: Any = None) -> None:
        self.inner[0].step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["slow"] = parameter.data.clone()


@pytest.mark.parametrize(
    ("make", "inner", "key"),
    [
        (lambda params: SAM(params, lr=0.01), lambda outer: outer.base_optimizer, "exp_avg"),
        (Lookahead, lambda outer: outer.inner[0], "momentum_buffer"),
    ],
    ids=["SAM", "Lookahead"],
)
def test_an_optimizer_within_another_keeps_the_state_of_kept_filters(make: Any, inner: Any, key: str) -> None:
    model = network()
    optimizer = make(model.parameters())
    step(model, optimizer)
    moments = inner(optimizer).state[model[0][0].weight][key].clone()
    counted = check_bound([optimizer], [model])
    with pytest.raises(ValueError, match="expected filters that can be removed"):
        apply_plan(model, PruningPlan({}, {}), SPECTROGRAM, optimizers=[optimizer])
    apply_plan(model, PLAN, SPECTROGRAM, optimizers=[optimizer])
    assert check_bound([optimizer], [model]) == counted
    assert_optimizers_hold(model, [optimizer])
    assert_optimizers_hold(model, [inner(optimizer)])
    assert set(inner(optimizer).state) == set(optimizer.state) == set(model.parameters())
    assert torch.equal(inner(optimizer).state[model[0][0].weight][key], moments[PLAN.kept["0.0"]])
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step(model, optimizer)
    assert sum(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)) < len(before) / 2


def test_an_optimizer_with_parameters_beside_its_groups_is_refused_before_anything_is_cut() -> None:
    class Listed(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params, lr=0.1)
            self.all = [parameter for group in self.param_groups for parameter in group["params"]]

    model = network()
    with pytest.raises(ValueError, match=r"Listed keeps parameters in its attribute 'all' beside its groups"):
        apply_plan(model, PLAN, SPECTROGRAM, optimizers=[Listed(model.parameters())])
    assert model[0][0].out_channels == 8


def test_a_state_within_that_cannot_be_cut_is_refused_too() -> None:
    model = network()
    optimizer = SAM(model.parameters(), lr=0.01)
    step(model, optimizer)
    optimizer.base_optimizer.state[model[0][0].weight]["sketch"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"Adam keeps a state 'sketch'"):
        apply_plan(model, PLAN, SPECTROGRAM, optimizers=[optimizer])


def test_lbfgs_is_refused_before_anything_is_cut() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"LBFGS keeps its history as flat vectors.*make the optimizer afterwards"):
        apply_plan(model, PLAN, SPECTROGRAM, optimizers=[torch.optim.LBFGS(model.parameters())])
    assert model[0][0].out_channels == 8


def test_a_state_of_unknown_shape_is_refused_before_anything_is_cut() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    step(model, optimizer)
    optimizer.state[model[0][0].weight]["sketch"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"a state 'sketch' of shape \(3, 3\) for a parameter of shape \(8, 1, 3, 3\)"):
        apply_plan(model, PLAN, SPECTROGRAM, optimizers=[optimizer])
    assert model[0][0].out_channels == 8


def test_volumes_keep_their_memory_format() -> None:
    """Of the parameters and of the optimizer's state, to which fused kernels are bound."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(2, 8, 3), nn.ReLU(), nn.Conv3d(8, 4, 3)).to(memory_format=torch.channels_last_3d)
    volumes = torch.randn(1, 2, 6, 6, 6).to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.Adam(model.parameters())
    model(volumes).square().sum().backward()
    optimizer.step()
    apply_plan(model, PruningPlan({"0": [1, 4]}, {"0": 8}), volumes, optimizers=[optimizer])
    for layer in (model[0], model[2]):
        state = optimizer.state[layer.weight]
        for tensor in (layer.weight, layer.weight.grad, state["exp_avg"], state["exp_avg_sq"]):
            assert tensor.is_contiguous(memory_format=torch.channels_last_3d)
            assert not tensor.is_contiguous()
