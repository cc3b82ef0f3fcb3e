import copy
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from asserts import assert_trains, outputs_of
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from zoo import CASES, SPECTROGRAM, Case, Net, conv, conv_bn
from zoo.case import UNREACHED, pooled

from lightning_cosprune import PruningPlan, PruningReport, apply_plan, plan_pruning, refit_least_squares
from lightning_cosprune.network.rows import set_weight_rows
from lightning_cosprune.repair import least_squares, refit

PRUNED = [case for case in CASES if case.pruned]
# PyTorch's compiler looks at the gradients of all inputs.
compiler = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def drawn(inputs: Any, samples: int, seed: int) -> Any:
    """Inputs like these, as many as are asked for."""
    generator = torch.Generator().manual_seed(seed)

    def one(leaf: Any) -> Any:
        return torch.randn(samples, *leaf.shape[1:], generator=generator).to(leaf.dtype)

    return tree_map(one, inputs)


def trained(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network with batch norms as training leaves them: removed channels are not zero by themselves."""
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.bias.normal_()
    return model


def network(seed: int = 0) -> nn.Module:
    return trained(
        lambda: nn.Sequential(
            conv_bn(1, 8), conv_bn(8, 8), conv(8, 6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)
        ),
        seed,
    )


def cut(model: nn.Module, ratio: float = 0.5, inputs: Any = SPECTROGRAM) -> tuple[nn.Module, PruningReport]:
    """The network before the cut, and what was cut from it."""
    dense = copy.deepcopy(model)
    return dense, apply_plan(model, plan_pruning(model, inputs, pruning_ratio=ratio), inputs)


def output_error(pruned: nn.Module, dense: nn.Module, batches: Iterable[Any]) -> float:
    """Mean squared difference of all outputs as a part of the dense ones' variance, straight from the definition."""
    wrong = total = 0.0
    for batch in batches:
        for found, exact in zip(outputs_of(pruned, batch), outputs_of(dense, batch), strict=True):
            found, exact = found.double(), exact.double()
            wrong += float((found - exact).square().sum())
            about = exact.mean(dim=0) if exact.ndim and len(exact) > 1 else 0
            total += float((exact - about).square().sum())
    return wrong / max(total, 1e-300)


@pytest.mark.parametrize("case", PRUNED, ids=lambda case: case.name)
def test_on_the_zoo_the_calibration_error_never_grows(case: Case) -> None:
    model, dense = trained(case.build), trained(case.build)
    apply_plan(model, plan_pruning(model, case.inputs, pruning_ratio=0.5), case.inputs)
    model.train()
    next(model.children()).eval()
    next(dense.children()).train()
    batches = [drawn(case.inputs, 12, 1)]
    state, dense_state = ({name: value.clone() for name, value in net.state_dict().items()} for net in (model, dense))
    places = {name: value.data_ptr() for name, value in model.state_dict().items()}
    modes = [[module.training for module in net.modules()] for net in (model, dense)]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    attributes = [list(vars(module)) for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    before, random_state = output_error(model, dense, batches), torch.get_rng_state()

    report = refit_least_squares(model, dense, batches)

    assert torch.equal(torch.get_rng_state(), random_state)
    assert report.samples == 12
    assert report.error_before == pytest.approx(before, rel=1e-4, abs=1e-12)
    assert report.error_after <= report.error_before
    after = output_error(model, dense, batches)
    assert report.error_after == pytest.approx(after, rel=1e-4, abs=1e-12)
    assert {layer.name for layer in report.layers}.isdisjoint(report.skipped)
    for layer in report.layers:
        assert 0 <= layer.error_after <= layer.error_before
        assert (layer.ridge is None) == (layer.error_after == layer.error_before)
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        assert not report.skipped
        assert not report.undone
        assert report.layers
        assert after < 0.7 * before or before == 0
    assert all(output.isfinite().all() for output in outputs_of(model, batches[0]))

    assert [[module.training for module in net.modules()] for net in (model, dense)] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [list(vars(module)) for module in model.modules()] == attributes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert list(dense.state_dict()) == list(dense_state)
    for name, value in dense.state_dict().items():
        assert torch.equal(value, dense_state[name]), name
    assert list(model.state_dict()) == list(state)
    for name, value in model.state_dict().items():
        assert value.shape == state[name].shape
        assert value.dtype == state[name].dtype
        assert value.data_ptr() == places[name]  # optimizers go on with the same parameters
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])}
    repaired = {layer.name for layer in report.layers}
    assert {name for name in changed if not name.endswith("running_mean")} <= {
        f"{name}.{key}" for name in repaired for key in ("weight", "bias")
    }
    if UNREACHED not in case.skipped.values():
        assert_trains(model, case.inputs, case.unread)


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_few_samples_help_and_do_no_harm(samples: int, seed: int) -> None:
    model = network(seed)
    dense, _ = cut(model)
    batches = [drawn(SPECTROGRAM, samples, seed)]
    others = [drawn(SPECTROGRAM, 64, 100)]
    before = output_error(model, dense, others)
    report = refit_least_squares(model, dense, batches)
    assert report.samples == samples
    assert report.error_after <= report.error_before
    allowed = 1.01 if samples < 4 else 1.0  # one or two samples say next to nothing
    assert output_error(model, dense, others) < allowed * before


def test_more_samples_help_more() -> None:
    errors = []
    for samples in (4, 16, 64, 256):
        model = network()
        dense, _ = cut(model)
        refit_least_squares(model, dense, [drawn(SPECTROGRAM, samples, 1)])
        errors.append(output_error(model, dense, [drawn(SPECTROGRAM, 200, 2)]))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_it_is_deterministic_to_the_last_bit() -> None:
    states = []
    for _ in range(2):
        model = network()
        dense, _ = cut(model)
        torch.rand(len(states))  # wherever the random stream is
        refit_least_squares(model, dense, drawn(SPECTROGRAM, 16, 1).split(5))
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def as_list(batch: Tensor) -> Any:
    return list(batch.split(4))


def as_uneven(batch: Tensor) -> Any:
    return list(batch.split([1, 7, 3, 5]))


def as_tuples(batch: Tensor) -> Any:
    return [(part,) for part in batch.split(4)]


def as_mappings(batch: Tensor) -> Any:
    return [{"input": part} for part in batch.split(4)]


def as_generator(batch: Tensor) -> Any:
    return (part for part in batch.split(4))


def as_loader(batch: Tensor) -> Any:
    return torch.utils.data.DataLoader(batch, batch_size=4)


@pytest.mark.parametrize("form", [as_list, as_uneven, as_tuples, as_mappings, as_generator, as_loader])
def test_calibration_data_come_in_many_forms(form: Callable[[Tensor], Any]) -> None:
    batch = drawn(SPECTROGRAM, 16, 1)
    whole, parts = network(), network()
    dense, _ = cut(whole)
    cut(parts)
    expected = refit_least_squares(whole, dense, [batch])
    found = refit_least_squares(parts, dense, form(batch))
    assert found.samples == 16
    assert [layer.ridge for layer in found.layers] == [layer.ridge for layer in expected.layers]
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.error_after == pytest.approx(other.error_after, rel=1e-3)
    for one, other in zip(outputs_of(parts, batch), outputs_of(whole, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_a_network_that_keeps_all_its_filters_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"expected a layer that reads fewer channels.*found none.*before the cut"):
        refit_least_squares(model, copy.deepcopy(model), [SPECTROGRAM])


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ([], r"`refit_least_squares\(calibration=...\)`: expected at least one input, found none"),
        (SPECTROGRAM, r"expected an iterable of inputs, one a forward pass, found a Tensor. Write `\[inputs\]`"),
    ],
)
def test_no_calibration_data_are_refused(calibration: Any, message: str) -> None:
    model = network()
    dense, _ = cut(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        refit_least_squares(model, dense, calibration)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_wrong_dense_network_is_refused() -> None:
    model = network()
    cut(model)
    with pytest.raises(
        ValueError, match=r"`refit_least_squares\(pruned=..., dense=...\)`: expected layer '0.0' to have"
    ):
        refit_least_squares(model, network(1), [SPECTROGRAM])


def test_a_network_trained_since_the_cut_needs_the_report() -> None:
    model = network()
    dense, report = cut(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.add_(0.1)
    batches = [drawn(SPECTROGRAM, 32, 1)]
    with pytest.raises(ValueError, match="If it was trained since the cut, pass `report=`"):
        refit_least_squares(model, dense, batches)
    before = output_error(model, dense, batches)
    repair = refit_least_squares(model, dense, batches, report=report)
    assert not repair.undone
    assert output_error(model, dense, batches) < 0.3 * before


def test_frozen_layers_are_left_alone_and_named() -> None:
    model = network()
    dense, _ = cut(model)
    for name in ("1.0.weight", "2.bias"):
        model.get_parameter(name).requires_grad_(False)
    model[1][1].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    report = refit_least_squares(model, dense, [drawn(SPECTROGRAM, 16, 1)])
    assert dict(report.skipped) == {"1.0": "frozen"}
    assert [layer.name for layer in report.layers] == ["2", "6"]
    assert report.error_after < report.error_before
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"2.weight", "6.weight", "6.bias"}
    assert not model[1][0].weight.requires_grad


def test_the_running_mean_of_a_frozen_batch_norm_stays() -> None:
    def build() -> nn.Module:
        return nn.Sequential(conv_bn(1, 8), conv(8, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4))

    means = {}
    for frozen in (False, True):
        model = trained(build)
        dense, _ = cut(model)
        model[2].requires_grad_(not frozen)
        before = model[2].running_mean.clone()
        report = refit_least_squares(model, dense, [drawn(SPECTROGRAM, 16, 1)])
        assert report.error_after < report.error_before
        means[frozen] = torch.equal(model[2].running_mean, before)
    assert means == {False: False, True: True}


def test_depthwise_layers_keep_their_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    dense, inputs = copy.deepcopy(model), torch.randn(32, 1, 12, 12)
    report = apply_plan(model, plan_pruning(model, inputs[:1], pruning_ratio=0.5), inputs[:1])
    before = {name: tensor.clone() for name, tensor in model[2].state_dict().items()}
    repair = refit_least_squares(model, dense, [inputs], report=report)
    assert repair.error_after < repair.error_before
    assert [layer.name for layer in repair.layers] == ["4"]
    assert all(torch.equal(model[2].state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("samples", "told"), [(63, [(False, True)]), (64, [(True, True), (False, True)])])
def test_from_64_samples_on_a_repair_without_those_held_out_tells_the_strengths(samples, told, monkeypatch):
    """It leaves no trace but the strengths: the second starts from the same weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))
    dense, inputs = copy.deepcopy(model), torch.randn(samples, 1, 12, 12)
    report = apply_plan(model, plan_pruning(model, inputs[:1], pruning_ratio=0.5), inputs[:1])
    start, seen, own = copy.deepcopy(model.state_dict()), [], least_squares.refit_layer

    def watched(pruned, name, *args, **options):
        if name == "2":  # the first to be repaired
            seen.append((options["hold_out"], all(torch.equal(pruned.state_dict()[key], start[key]) for key in start)))
        return own(pruned, name, *args, **options)

    monkeypatch.setattr(least_squares, "refit_layer", watched)
    refit_least_squares(model, dense, [inputs], report=report)
    assert seen == told


def test_what_cannot_be_solved_for_is_named_with_its_reason() -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, x: net.head(
                net.rnn((y := net.body(x)).mean(2).transpose(1, 2))[0][:, -1] + pooled(net.normed(y))
            ),
            body=conv_bn(1, 8),
            rnn=nn.GRU(8, 4, batch_first=True),
            normed=nn.utils.parametrizations.orthogonal(conv(8, 4)),
            unused=conv(8, 4),
            head=nn.Linear(4, 2),
        )

    model, dense = trained(build), trained(build)
    kept = [0, 2, 3, 5, 6, 7]
    # Cut by hand what `apply_plan` would refuse.
    with torch.no_grad():
        for name in ("body.0", "body.1"):
            module = model.get_submodule(name)
            for key in ("weight", "bias"):
                module._parameters[key] = nn.Parameter(module._parameters[key][kept])
        model.body[0].out_channels = model.body[1].num_features = 6
        for key in ("running_mean", "running_var"):
            model.body[1]._buffers[key] = model.body[1]._buffers[key][kept]
        model.rnn = nn.GRU(6, 4, batch_first=True)
        model.normed = nn.utils.parametrizations.orthogonal(conv(6, 4))
        model.unused = conv(6, 4)
    before = copy.deepcopy(model.state_dict())
    report = refit_least_squares(model, dense, [drawn(SPECTROGRAM, 8, 1)])
    assert not report.layers
    assert list(report.skipped) == ["rnn", "normed", "unused"]
    assert "GRU" in report.skipped["rnn"]
    assert report.skipped["normed"] == "its weight is computed in a way that is not known"
    assert report.skipped["unused"] == "not reached by the calibration data"
    for name, reason in report.skipped.items():
        assert f"{name}: {reason}" in str(report)
    assert report.error_after == report.error_before
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_old_weights_stay_where_new_ones_do_worse_on_data_held_out() -> None:
    """The kept channels tell nothing of the removed ones: all that a fit to few samples could find is noise."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(40, 40, 1), nn.Flatten(), nn.Linear(40 * 4, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(40)[:, :, None])
        model[0].bias.zero_()
    dense = copy.deepcopy(model)
    inputs = torch.randn(12, 40, 4).double()
    apply_plan(model, PruningPlan({"0": [0]}, {"0": 40}), inputs[:2])
    with torch.no_grad():
        model[2].weight.copy_(dense[2].weight[:, 4:])
    before = copy.deepcopy(model.state_dict())
    report = refit_least_squares(model, dense, [inputs])
    (layer,) = report.layers
    if layer.ridge is None:
        assert layer.error_after == layer.error_before
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    else:  # what was chosen is weak
        assert layer.ridge >= 1
    others = [torch.randn(500, 40, 4).double()]
    pruned = copy.deepcopy(model)
    pruned.load_state_dict(before)
    assert output_error(model, dense, others) < 1.15 * output_error(pruned, dense, others)


def test_all_is_undone_where_the_outputs_come_out_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    dense, _ = cut(model)
    before = copy.deepcopy(model.state_dict())
    places = [parameter.data_ptr() for parameter in model.parameters()]
    written: list[Any] = []

    def spoil(layer: nn.Module, rows: Tensor) -> None:
        written.append(layer)
        set_weight_rows(layer, 100 * rows)

    monkeypatch.setattr(refit, "set_weight_rows", spoil)
    report = refit_least_squares(model, dense, [drawn(SPECTROGRAM, 8, 1)])
    assert written == [model[1][0], model[2], model[6]]
    assert report.undone
    assert report.error_after == report.error_before
    assert "put back" in str(report)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [parameter.data_ptr() for parameter in model.parameters()] == places


def constant_channel(*behind: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A removed filter that always says 2: all that its reader needs is a bias."""
    model = trained(lambda: nn.Sequential(conv(1, 4), nn.ReLU(), *behind)).double()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 2
    dense = copy.deepcopy(model)
    report = apply_plan(model, PruningPlan({"0": [1]}, {"0": 4}), SPECTROGRAM.double())
    assert [layer.name for layer in report.layers] == ["0"]
    return model, dense


@pytest.mark.parametrize(
    "behind",
    [
        [nn.Conv2d(4, 3, 3)],
        [nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU()],
        [nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU()],
        [nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False), nn.Tanh()],
        [nn.ConvTranspose2d(4, 3, 1), nn.ReLU6()],
        [nn.Flatten(2), nn.Conv1d(4, 3, 1, bias=False), nn.BatchNorm1d(3)],
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3)],
    ],
    ids=str,
)
def test_a_constant_goes_into_the_bias_or_through_the_batch_norm(behind: list[nn.Module]) -> None:
    model, dense = constant_channel(*copy.deepcopy(behind))
    others = torch.randn(8, 1, 8, 8).double()
    assert output_error(model, dense, [others]) > 0.01
    report = refit_least_squares(model, dense, [drawn(SPECTROGRAM, 24, 1).double()])
    assert len(report.layers) == 1
    assert output_error(model, dense, [others]) < 1e-10


def test_without_a_place_for_a_bias_it_does_what_it_can() -> None:
    model, dense = constant_channel(nn.Conv2d(4, 3, 3, bias=False), nn.Tanh())
    others = [torch.randn(8, 1, 8, 8).double()]
    before = output_error(model, dense, others)
    report = refit_least_squares(model, dense, [drawn(SPECTROGRAM, 24, 1).double()])
    assert report.layers[0].ridge is not None
    assert output_error(model, dense, others) < 0.5 * before


def test_after_a_second_cut_it_repairs_against_the_same_dense_network() -> None:
    """The first repair has written into the running mean of the batch norm behind a layer without bias."""
    model, dense = constant_channel(nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
    batches, others = [drawn(SPECTROGRAM, 24, 1).double()], [torch.randn(8, 1, 8, 8).double()]
    refit_least_squares(model, dense, batches)
    again = refit_least_squares(model, dense, batches)
    assert again.error_before < 1e-10
    assert output_error(model, dense, others) < 1e-10
    second = apply_plan(model, PruningPlan({"0": [2]}, {"0": 3}), SPECTROGRAM.double())
    removed = PruningReport(
        second.before,
        second.after,
        tuple(type(layer)(layer.name, 4, 2, (1, 3)) for layer in second.layers),
        second.skipped,
    )
    before = output_error(model, dense, others)
    report = refit_least_squares(model, dense, batches, report=removed)
    assert not report.undone
    assert output_error(model, dense, others) < 0.9 * before


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", [False, True])
def test_behind_a_relu_knowing_of_it_lowers_the_error(monkeypatch: pytest.MonkeyPatch, seed: int, norm: bool) -> None:
    errors = {}
    for rounds in (0, refit._ROUNDS):
        monkeypatch.setattr(refit, "_ROUNDS", rounds)
        model = trained(
            lambda: nn.Sequential(
                conv(1, 12), nn.ReLU(), conv(12, 8), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()
            ),
            seed,
        )
        dense = copy.deepcopy(model)
        apply_plan(model, PruningPlan({"0": [1, 4, 7, 9, 10]}, {"0": 12}), SPECTROGRAM)
        refit_least_squares(model, dense, [drawn(SPECTROGRAM, 64, seed)])
        errors[rounds] = output_error(model, dense, [drawn(SPECTROGRAM, 64, 100)])
    assert 0 < errors[refit._ROUNDS] < 1.001 * errors[0]
    assert errors[refit._ROUNDS] != errors[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_data_types_are_kept_and_served(dtype: torch.dtype) -> None:
    model, reference = network().to(dtype), network()
    dense, report = cut(model, inputs=SPECTROGRAM.to(dtype))
    exact, _ = cut(reference)
    batch = drawn(SPECTROGRAM, 16, 1)
    repair = refit_least_squares(model, dense, [batch.to(dtype)], report=report)
    expected = refit_least_squares(reference, exact, [batch])
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert repair.error_after < 0.3 * repair.error_before
    assert repair.error_after == pytest.approx(expected.error_after, rel=0.2)


def test_channels_last_and_gradient_flags_are_kept() -> None:
    model = network().to(memory_format=torch.channels_last)
    dense, _ = cut(model)
    plain = network()
    cut(plain)
    parameters = list(model.parameters())
    batch = drawn(SPECTROGRAM, 16, 1).to(memory_format=torch.channels_last)
    refit_least_squares(model, dense, [batch])
    refit_least_squares(plain, dense, [batch.contiguous()])
    for name in ("1.0", "2"):
        assert model.get_submodule(name).weight.is_contiguous(memory_format=torch.channels_last)
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())
    for one, other in zip(outputs_of(model, batch), outputs_of(plain, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_it_does_not_matter_whether_gradients_are_recorded(context: Any) -> None:
    model, plain = network(), network()
    dense, _ = cut(model)
    cut(plain)
    batch = drawn(SPECTROGRAM, 16, 1)
    refit_least_squares(plain, dense, [batch])
    with context():
        refit_least_squares(model, dense, [batch.clone()])
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert_trains(model, SPECTROGRAM)


def whole(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="aot_eager")


def inner(model: nn.Module) -> nn.Module:
    model[1] = torch.compile(model[1], backend="aot_eager")
    return model


def in_place(model: nn.Module) -> nn.Module:
    model[1].compile(backend="aot_eager")
    return model


@compiler
@pytest.mark.parametrize("compiled", [whole, inner, in_place])
def test_compiled_networks_are_repaired_like_others(compiled: Callable[[nn.Module], nn.Module]) -> None:
    torch._dynamo.reset()
    model, plain = compiled(network()), network()
    batch = drawn(SPECTROGRAM, 16, 1)
    with torch.no_grad():
        model.eval()(batch)  # code for the dense network
    dense, _ = cut(model)
    exact, _ = cut(plain)
    found = refit_least_squares(model, dense, [batch])
    expected = refit_least_squares(plain, exact, [batch])
    assert [layer.name.replace("_orig_mod.", "") for layer in found.layers] == [layer.name for layer in expected.layers]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batch), plain.eval()(batch), rtol=0, atol=1e-4)
    torch._dynamo.reset()


def test_a_layer_that_is_called_several_times_is_fitted_to_all_calls() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.stem(x)
        for scale in (1.0, 0.5, 2.0):
            y = y + scale * net.back(net.loop(y).relu())  # the state is wide, what is cut is within
        return pooled(y)

    def build() -> nn.Module:
        return Net(run, stem=conv(1, 6), loop=conv(6, 10), back=conv(10, 6))

    model = trained(build)
    dense = copy.deepcopy(model)
    report = apply_plan(model, PruningPlan({"loop": [0, 3, 4]}, {"loop": 10}), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["loop"]
    batches = [drawn(SPECTROGRAM, size, size) for size in (3, 9, 20)]
    repair = refit_least_squares(model, dense, batches)
    assert [layer.name for layer in repair.layers] == ["back"]
    assert not repair.undone
    assert repair.error_after < 0.7 * repair.error_before


def test_samples_of_different_sizes_may_follow_each_other() -> None:
    def build() -> nn.Module:
        return nn.Sequential(conv_bn(1, 8), conv_bn(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    model = trained(build)
    dense, _ = cut(model)
    torch.manual_seed(1)
    batches = [torch.randn(samples, 1, 8, frames) for samples, frames in ((3, 8), (5, 20), (8, 11))]
    report = refit_least_squares(model, dense, batches)
    assert report.samples == 16
    assert report.error_after < 0.5 * report.error_before


def test_of_a_large_map_some_positions_are_enough() -> None:
    """A quarter of the 65,536: what is found serves the others too."""
    model = trained(lambda: nn.Sequential(conv_bn(1, 8), conv(8, 4), nn.ReLU()))
    dense, _ = cut(model)
    batches, others = [drawn(torch.zeros(1, 1, 128, 128), 4, seed) for seed in (1, 2)]
    before = output_error(model, dense, [others])
    report = refit_least_squares(model, dense, [batches])
    assert output_error(model, dense, [others]) == pytest.approx(report.error_after, rel=0.05)
    assert report.error_after < 0.5 * before


def test_inputs_that_all_samples_share_are_left_whole() -> None:
    def build() -> nn.Module:
        return Net(
            lambda net, x, window: pooled(net.last(net.first(x * window).relu())), first=conv(1, 8), last=conv(8, 5)
        )

    model = trained(build)
    window = torch.hann_window(8)
    dense = copy.deepcopy(model)
    inputs = {"x": SPECTROGRAM, "window": window}
    apply_plan(model, plan_pruning(model, inputs, pruning_ratio=0.5), inputs)
    batches = [{"x": drawn(SPECTROGRAM, 7, seed), "window": window} for seed in (1, 2)]
    report = refit_least_squares(model, dense, batches)
    assert report.samples == 14
    assert report.error_after < 0.5 * report.error_before


class Processes:
    """Two threads that pool as two processes would: each waits for what the other gives."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)
        self.given: list[list[Tensor]] = [[], []]

    def pool(self, rank: int) -> Callable[[list[Tensor]], list[Tensor]]:
        def summed(tensors: list[Tensor]) -> list[Tensor]:
            self.given[rank] = tensors
            self.barrier.wait()
            result = [sum(one) for one in zip(*self.given, strict=True)]
            self.barrier.wait()
            return result

        return summed


@pytest.mark.parametrize("shares", [(16, 16), (24, 8), (30, 2)])
def test_processes_that_share_the_data_end_with_the_same_bits(shares: tuple[int, int]) -> None:
    data = drawn(SPECTROGRAM, 32, 1)
    models = [network(), network()]
    pairs = [(model, cut(model)[0]) for model in models]
    processes = Processes()
    with ThreadPoolExecutor(2) as threads:
        running = [
            threads.submit(refit_least_squares, model, dense, [share], pool=processes.pool(rank))
            for rank, ((model, dense), share) in enumerate(zip(pairs, data.split(shares), strict=True))
        ]
        reports = [one.result() for one in running]
    assert reports[0] == reports[1]
    assert reports[0].samples == 32
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
    alone = network()
    expected = refit_least_squares(alone, cut(alone)[0], [data])
    assert reports[0].error_after == pytest.approx(expected.error_after, rel=0.2)
    for one, other in zip(reports[0].layers, expected.layers, strict=True):
        assert one.error_before == pytest.approx(other.error_before, rel=0.1)  # other samples are held out together


@pytest.mark.parametrize("case", [case for case in PRUNED if "noise" not in case.name][::3], ids=lambda case: case.name)
def test_layer_by_layer_it_finds_what_one_pass_finds(case: Case) -> None:
    """Batches that cannot be put together are run anew for each layer."""
    batch = drawn(case.inputs, 12, 1)
    forms = [[batch], [tree_map(lambda leaf: leaf[:5], batch), tree_map(lambda leaf: leaf[5:], batch)]]
    forms[1] = [(part,) if isinstance(part, Tensor) else part for part in forms[1]]
    reports, outputs = [], []
    for batches in forms:
        model, dense = trained(case.build), trained(case.build)
        apply_plan(model, plan_pruning(model, case.inputs, pruning_ratio=0.5), case.inputs)
        reports.append(refit_least_squares(model, dense, batches))
        outputs.append(outputs_of(model, batch))
    for one, other in zip(reports[0].layers, reports[1].layers, strict=True):
        assert (one.name, one.ridge) == (other.name, other.ridge)
        assert one.error_after == pytest.approx(other.error_after, rel=1e-2, abs=1e-9)
    scale = max(float(leaf.abs().max()) for leaf in outputs[0])
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=(0.05 if one.dtype == torch.bfloat16 else 1e-3) * scale)
