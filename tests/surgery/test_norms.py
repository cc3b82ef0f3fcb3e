"""Norms over channels: cut so that they range over the kept channels, refused where that is not wanted or not so."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from asserts import assert_equals_masked_dense, assert_same_network, assert_trains, outputs_of
from torch import Tensor, nn
from zoo import SPECTROGRAM, Net, conv, conv_bn
from zoo.case import pooled
from zoo.norms import GRN, NORMS, Form, ResponseNorm, cp_mobile, group_norm, joined, narrowed

from lightning_cosprune import (
    PruningPlan,
    apply_plan,
    compensate_constants,
    measure_complexity,
    merge_removed,
    plan_pruning,
    refit_least_squares,
)
from lightning_cosprune.network.layers import num_filters
from lightning_cosprune.network.structure import describe_structure, restore_structure

FORMS = pytest.mark.parametrize("form", NORMS.values(), ids=NORMS)


def built(form: Form) -> tuple[nn.Module, Tensor]:
    """In double precision, as training leaves it."""
    torch.manual_seed(0)
    model = form.build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model, form.inputs.double()


def cut(model: nn.Module, inputs: Tensor, form: Form, **options: Any) -> Any:
    plan = plan_pruning(model, inputs, pruning_ratio=0.5, layers=form.layers, normalising=form.normalising, **options)
    return plan, apply_plan(model, plan, inputs)


@FORMS
def test_equal_to_the_dense_network_whose_norms_range_over_the_kept_channels(form: Form) -> None:
    model, inputs = built(form)
    dense = copy.deepcopy(model)
    plan, report = cut(model, inputs, form)
    removed = {layer.name: list(layer.pruned_idxs) for layer in report.layers}
    assert set(removed) == set(form.pruned)
    assert all(layer.filters_after == layer.filters_before // 2 for layer in report.layers)
    assert set(report.norms) == set(plan.norms) == set(form.norms)
    assert_equals_masked_dense(dense, model, removed, inputs, narrowed(dense, report.norms, removed))
    with pytest.raises(AssertionError):  # nor is it the dense network whose norms range over all
        assert_equals_masked_dense(dense, model, removed, inputs)
    assert_trains(model, inputs)


@FORMS
def test_strict_keeps_all_filters_in_front_of_norms(form: Form) -> None:
    model, inputs = built(form)
    plan, _ = cut(copy.deepcopy(model), inputs, form)
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, inputs)
    strict = plan_pruning(
        model, inputs, pruning_ratio=0.5, layers=form.layers, normalising=form.normalising, strict=True
    )
    ahead = {name for name in form.pruned if "and `strict` keeps what that computes" in strict.skipped.get(name, "")}
    assert ahead
    assert not strict.norms
    report = apply_plan(model, plan, inputs, normalising=form.normalising, strict=True, allow_unpruned=True)
    assert not report.norms
    assert ahead <= set(report.skipped)
    if not report.layers:
        assert_same_network(model, before, inputs, outputs)
    for name in ahead:
        assert num_filters(model.get_submodule(name)) == plan.filters[name]


@pytest.mark.parametrize(
    ("form", "with_structure"),
    [
        pytest.param(form, told, id=f"{name}, {'structure' if told else 'shapes alone'}")
        for name, form in NORMS.items()
        for told in (True, False)
        if told or name != "tasnet, cumulative"  # what a module of one's own counts stands in the structure alone
    ],
)
def test_a_pruned_norm_comes_back_from_a_checkpoint(form: Form, with_structure: bool) -> None:
    model, inputs = built(form)
    cut(model, inputs, form)
    again, _ = built(form)
    restore_structure(again, model.state_dict(), describe_structure(model) if with_structure else None)
    again.load_state_dict(model.state_dict())
    for one, other in zip(outputs_of(again, inputs), outputs_of(model, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["convnext, declared", "group norm, residual", "tasnet, group norm", "rms norm"])
def test_least_squares_fits_what_reads_a_norm_over_fewer_channels(name: str) -> None:
    """The refit reader is the best linear one for what the pruned network gives it, and all in all that helps."""
    form = NORMS[name]
    model, inputs = built(form)
    dense = copy.deepcopy(model)
    _, report = cut(model, inputs, form)
    torch.manual_seed(1)
    batches = [torch.randn(32, *inputs.shape[1:], dtype=torch.float64) for _ in range(2)]
    as_cut = sum(error(model, dense, batch) for batch in batches)
    found = refit_least_squares(model, dense, batches, report=report)
    assert {layer.name for layer in found.layers}
    assert not set(found.skipped) & {layer.name for layer in found.layers}
    assert sum(error(model, dense, batch) for batch in batches) < 0.9 * as_cut
    for layer in found.layers:
        assert layer.error_after <= layer.error_before


def error(pruned: nn.Module, dense: nn.Module, batch: Tensor) -> float:
    return float((outputs_of(pruned, batch)[0] - outputs_of(dense, batch)[0]).square().sum())


def test_repair_without_data_leaves_alone_what_reads_through_a_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv_bn(1, 8), nn.GroupNorm(2, 8), conv(8, 8), nn.BatchNorm2d(8), conv(8, 4)).eval()
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert dict(report.norms) == {"1": ("0.0",)}
    for repair in (merge_removed, compensate_constants):
        again = copy.deepcopy(model)
        found = repair(again, dense, report, example_inputs=SPECTROGRAM)
        assert "norm" in found.skipped["2"]
        assert {layer.name for layer in found.layers} == {"4"}
        assert torch.equal(again[2].weight, model[2].weight)
        assert torch.equal(again[2].bias, model[2].bias)


@pytest.mark.parametrize("groups", [1, 3, 2])
def test_filters_side_by_side_go_evenly_from_each_group(groups: int) -> None:
    """Groups of 12, 4 and 6 channels, of which the first convolution makes eight and the second four."""
    torch.manual_seed(0)
    model, inputs = joined(groups).double().eval(), SPECTROGRAM.double()
    dense = copy.deepcopy(model)
    report = apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
    removed = {layer.name: layer.pruned_idxs for layer in report.layers}
    assert set(removed) == {"left", "right", "after"}
    kept = torch.ones(12, dtype=torch.float64)
    kept[[*removed["left"], *(8 + idx for idx in removed["right"])]] = 0
    left = {name: sorted(set(range(len(dense.get_submodule(name).weight))) - set(removed[name])) for name in removed}

    def masked(_: nn.Module, args: tuple[Tensor], __: Tensor) -> Tensor:
        return group_norm(dense.norm, args[0], kept) * kept[:, None, None]

    dense.norm.register_forward_hook(masked)
    heard = torch.zeros(6).index_fill(0, torch.tensor(left["after"]), 1)
    dense.head.register_forward_pre_hook(lambda _, args: args[0] * heard)
    torch.testing.assert_close(model(inputs), dense(inputs), rtol=0, atol=1e-10)


def test_undeclared_norms_are_refused_with_the_way_out() -> None:
    torch.manual_seed(0)
    model = cp_mobile()
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
    plan = PruningPlan({"0.2.project.0": [0, 3]}, {"0.2.project.0": 12})
    report = apply_plan(model, plan, SPECTROGRAM, allow_unpruned=True)
    reason = report.skipped["0.2.project.0"]
    assert "changes what the other channels compute" in reason
    assert "name it in `normalising`" in reason
    assert_same_network(model, before, SPECTROGRAM, outputs)
    report = apply_plan(model, plan, SPECTROGRAM, normalising=["0.2.grn"])
    assert dict(report.norms) == {"0.2.grn": ("0.2.project.0",)}
    assert "0.2.grn: over fewer channels of 0.2.project.0" in str(report)


def test_a_declared_module_that_mixes_channels_otherwise_is_refused() -> None:
    """What is declared is compared up to it and from it on: nobody else may listen to what has gone."""

    class Reversed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / (1 + x.abs().mean(dim=(1, 2, 3), keepdim=True))

    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(pooled(net.after(net.norm(net.before(x)) + net.before(x).mean(dim=1, keepdim=True)))),
        before=conv(1, 8),
        norm=Reversed(),
        after=conv(8, 8),
        head=nn.Linear(8, 5),
    )
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, normalising=["norm"])
    report = apply_plan(model, plan, SPECTROGRAM)
    assert "changes what the other channels compute" in report.skipped["before"]
    assert {layer.name for layer in report.layers} == {"after"}
    assert not report.norms


@pytest.mark.parametrize(
    ("normalising", "error", "words"),
    [
        ([nn.BatchNorm2d], ValueError, "found a BatchNorm2d of PyTorch"),
        (["nowhere"], ValueError, "found none.*own classes are: CPMobileBlock, ResponseNorm"),
        (["0.1"], ValueError, "that 0.1 holds the layer 'expand.0'. Name the norm within it"),
        ([GRN], ValueError, r"normalising=\[GRN\]\)`: expected .* found none"),
        (ResponseNorm, TypeError, "expected a sequence of classes"),
        ("*.grn", TypeError, "expected a sequence of classes"),
        ([ResponseNorm()], TypeError, "found a ResponseNorm"),
        (None, TypeError, r"found None.*\[\] for none"),
    ],
)
def test_what_is_declared_wrongly_is_told(normalising: Any, error: type[Exception], words: str) -> None:
    model = cp_mobile()
    with pytest.raises(error, match=words):
        plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, normalising=normalising)
    with pytest.raises(error, match=words):
        apply_plan(model, PruningPlan({"0.0.0": [1]}, {"0.0.0": 8}), SPECTROGRAM, normalising=normalising)


def test_a_plan_travels_with_its_norms() -> None:
    model = cp_mobile()
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, normalising=[ResponseNorm])
    assert plan.norms == ("0.1.grn", "0.2.grn")
    assert PruningPlan.from_json(plan.to_json()) == plan == pickle.loads(pickle.dumps(plan))
    old = {key: value for key, value in plan.to_dict().items() if key != "norms"}
    assert PruningPlan.from_dict(old).norms == ()
    with pytest.raises(TypeError, match=r"PruningPlan\(norms='grn'\)`: expected names"):
        PruningPlan({"0": [1]}, {"0": 8}, norms="grn")
    with pytest.raises(ValueError, match=r"expected the norm '0.1.grn' to be a module of the model"):
        apply_plan(conv_bn(1, 8), plan, SPECTROGRAM)
    report = apply_plan(model, plan, SPECTROGRAM)
    assert report.norms == {"0.1.grn": ("0.0.0", "0.1.project.0"), "0.2.grn": ("0.2.project.0",)}
    assert pickle.loads(pickle.dumps(report)).norms == report.norms


def test_a_limit_is_met_through_declared_norms() -> None:
    torch.manual_seed(0)
    model = cp_mobile()
    before = measure_complexity(model, SPECTROGRAM).macs
    plan = plan_pruning(model, SPECTROGRAM, max_macs=0.4, normalising=[ResponseNorm])
    assert plan.norms
    assert apply_plan(model, plan, SPECTROGRAM).after.macs <= 0.4 * before
