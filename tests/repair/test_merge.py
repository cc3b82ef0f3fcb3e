import copy

import pytest
import torch
from asserts import outputs_of
from repair.copies import copied, cut, residual, with_statistics
from torch import nn
from zoo import CASES
from zoo.case import SPECTROGRAM, WAVEFORM, Net, conv, pooled

from lightning_cosprune import apply_plan, merge_removed, plan_pruning
from lightning_cosprune.repair.between import Between, steps_between

PAIRS = ((0, 4), (1, 5), (2, 6), (3, 7))
REMOVED = [4, 5, 6, 7]


def grouped():
    return Net(
        lambda net, x: net.head(pooled(net.reader(net.norm(net.first(net.stem(x)).relu())))),
        stem=conv(1, 4),
        first=conv(4, 8, groups=2),
        norm=nn.Identity(),
        reader=conv(8, 6, groups=2),
        head=nn.Linear(6, 5),
    )


def chain(first, *rest):
    names = {f"step{number}": layer for number, layer in enumerate(rest)}

    def run(net, x):
        x = net.first(x)
        for name in names:
            x = getattr(net, name)(x)
        return x

    return Net(run, first=first, **names)


# Name -> network, its input, layers that hold the copies with the norm behind them, layers that are to be changed.
COPIES = {
    "relu": (lambda: chain(conv(1, 8), nn.ReLU(), conv(8, 6)), SPECTROGRAM, {"first": None}, ["step1"]),
    "batch norm": (
        lambda: chain(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6, bias=False), nn.BatchNorm2d(6)),
        SPECTROGRAM,
        {"first": "step0"},
        ["step2"],
    ),
    "flatten": (
        lambda: chain(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(32, 5)),
        SPECTROGRAM,
        {"first": "step0"},
        ["step4"],
    ),
    "batch norm after the activation": (
        lambda: chain(conv(1, 8), nn.ReLU(), nn.BatchNorm2d(8), conv(8, 6)),
        SPECTROGRAM,
        {"first": "step1"},
        ["step2"],
    ),
    "residual sum": (residual, SPECTROGRAM, {"first": "norm1", "second": "norm2"}, ["head"]),
    "depthwise": (
        lambda: chain(conv(1, 8), nn.ReLU(), conv(8, 8, groups=8), nn.ReLU(), conv(8, 6)),
        SPECTROGRAM,
        {"first": None, "step1": None},
        ["step3"],
    ),
    "linear": (
        lambda: chain(nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 5)),
        torch.randn(3, 8, generator=torch.Generator().manual_seed(3)),
        {"first": None},
        ["step1"],
    ),
    "transposed": (
        lambda: chain(conv(1, 8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, stride=2)),
        SPECTROGRAM,
        {"first": None},
        ["step1"],
    ),
    "one axis, dilated": (
        lambda: chain(
            nn.Conv1d(1, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 3, dilation=2, padding_mode="zeros")
        ),
        WAVEFORM,
        {"first": "step0"},
        ["step2"],
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_multiples_of_kept_filters_lose_nothing(name):
    build, inputs, layers, readers = COPIES[name]
    model = with_statistics(build())
    for layer, norm in layers.items():
        copied(model.get_submodule(layer), model.get_submodule(norm) if norm else None, PAIRS)
    if name == "depthwise":  # its bias is a multiple too, of what comes through both layers
        with torch.no_grad():
            for (i, j), factor in zip(PAIRS, (0.5, 2.0, 1.5, 3.0), strict=True):
                model.step1.bias[j] = factor**2 * model.step1.bias[i]
    named = [layer for layer in layers if layer != "step1"]
    model, dense, report = cut(model, dict.fromkeys(named, REMOVED), inputs)
    state = copy.deepcopy(dense.state_dict())
    wanted, before = outputs_of(dense, inputs)[0], outputs_of(model, inputs)[0]
    repair = merge_removed(model, dense, report, example_inputs=inputs)
    assert repair.method == "merge"
    assert [layer.name for layer in repair.layers] == readers
    assert not repair.skipped
    assert repair.samples == 0
    assert (before - wanted).abs().max() > 1e-2
    torch.testing.assert_close(outputs_of(model, inputs)[0], wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(tensor, dense.state_dict()[key]) for key, tensor in state.items())


def test_of_a_multiple_all_is_known_whatever_the_statistics_say():
    """By those of the batch norm none of its filters ever gets through the ReLU."""
    model = with_statistics(chain(conv(1, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3)))
    copied(model.first, model.step0, PAIRS)
    with torch.no_grad():
        model.step0.running_mean -= 20 * (model.step0.running_var + model.step0.eps).sqrt()
        model.step0.bias -= 20 * model.step0.weight
    model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
    wanted, before = outputs_of(dense, SPECTROGRAM)[0], outputs_of(model, SPECTROGRAM)[0]
    assert (before - wanted).abs().max() > 1e-2
    merge_removed(model, dense, report, example_inputs=SPECTROGRAM)
    torch.testing.assert_close(outputs_of(model, SPECTROGRAM)[0], wanted, rtol=1e-5, atol=1e-4)


def test_a_partner_is_in_the_same_group():
    pairs = ((0, 2), (1, 3), (4, 6), (5, 7))
    model = with_statistics(grouped())
    copied(model.first, None, pairs)
    with torch.no_grad():  # a nearer copy across the groups cannot speak for it
        model.first.weight[4] = model.first.weight[2]
    copied(model.first, None, ((4, 6),))
    model, dense, report = cut(model, {"first": [2, 3, 6, 7]}, SPECTROGRAM)
    repair = merge_removed(model, dense, report, example_inputs=SPECTROGRAM)
    assert [layer.name for layer in repair.layers] == ["reader"]
    torch.testing.assert_close(outputs_of(model, SPECTROGRAM), outputs_of(dense, SPECTROGRAM), rtol=1e-5, atol=1e-5)


def test_opposite_filters_speak_for_each_other_only_where_all_is_linear():
    for between, is_exact in ((nn.AvgPool2d(2), True), (nn.ReLU(), False)):
        model = with_statistics(chain(conv(1, 8), between, nn.Conv2d(8, 6, 3)))
        copied(model.first, None, PAIRS, factors=(-0.5, -2.0, -1.0, -3.0))
        model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
        weight = model.step1.weight.detach().clone()
        merge_removed(model, dense, report, example_inputs=SPECTROGRAM)
        is_same = torch.allclose(outputs_of(model, SPECTROGRAM)[0], outputs_of(dense, SPECTROGRAM)[0], atol=1e-5)
        assert is_same == is_exact
        assert torch.equal(weight, model.step1.weight) != is_exact or not is_exact


def test_it_does_better_than_the_cut_where_filters_are_near():
    """Noisy copies with shifts of their own, statistics of the batch norm measured on the data."""
    torch.manual_seed(0)
    model = with_statistics(
        chain(conv(1, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 8, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    )
    pairs = [(i, i + 8) for i in range(8)]
    copied(model.first, None, pairs, factors=[1.0] * 8)
    with torch.no_grad():
        model.first.weight += 0.03 * torch.randn_like(model.first.weight)
        ratio = model.step0.weight[8:] / model.step0.weight[:8]
        model.step0.bias[8:] = ratio * model.step0.bias[:8] + 0.1 * torch.randn(8)
    inputs = torch.randn(32, 1, 16, 16)
    for module in model.modules():
        module.momentum = None
        if hasattr(module, "reset_running_stats"):
            module.reset_running_stats()
    model.train()(inputs)
    model.eval()
    model, dense, report = cut(model, {"first": list(range(8, 16))}, inputs[:1])
    wanted = outputs_of(dense, inputs)[0]
    before = (outputs_of(model, inputs)[0] - wanted).square().mean()
    merge_removed(model, dense, report, example_inputs=inputs[:1])
    after = (outputs_of(model, inputs)[0] - wanted).square().mean()
    assert after < 0.1 * before


def test_readers_that_cannot_be_changed_are_named():
    model = with_statistics(chain(conv(1, 8), nn.Sigmoid(), conv(8, 6)))
    model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
    before = copy.deepcopy(model.state_dict())
    repair = merge_removed(model, dense, report, example_inputs=SPECTROGRAM)
    assert not repair.layers
    assert "sigmoid lies before it" in repair.skipped["step1"]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())

    model = with_statistics(chain(conv(1, 8), nn.ReLU(), conv(8, 6)))
    model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
    model.step1.weight.requires_grad_(False)
    assert merge_removed(model, dense, report, example_inputs=SPECTROGRAM).skipped == {"step1": "frozen"}


def test_a_batch_norm_tells_where_on_a_sigmoid_values_lie():
    model = with_statistics(chain(conv(1, 8), nn.BatchNorm2d(8), nn.Sigmoid(), conv(8, 6)))
    copied(model.first, model.step0, PAIRS, factors=(1.0,) * 4)
    model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
    assert not merge_removed(model, dense, report, example_inputs=SPECTROGRAM).skipped
    torch.testing.assert_close(outputs_of(model, SPECTROGRAM), outputs_of(dense, SPECTROGRAM), rtol=1e-5, atol=1e-5)


def test_what_was_learned_since_the_cut_stays():
    model = with_statistics(chain(conv(1, 8), nn.ReLU(), conv(8, 6)))
    copied(model.first, None, PAIRS)
    model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    with pytest.raises(ValueError, match="pass `report=`"):
        merge_removed(model, dense, example_inputs=SPECTROGRAM)
    merge_removed(model, dense, report, example_inputs=SPECTROGRAM)
    merge_removed(fresh, dense, example_inputs=SPECTROGRAM)
    torch.testing.assert_close(model.step1.weight, fresh.step1.weight + 1)


def test_branches_that_meet_again_and_again_are_gone_through_once():
    """One way for each of them would be 2**40 ways."""

    def run(net, x):
        x = net.stem(x)
        for _ in range(40):
            x = x + x.sigmoid()
        return net.head(x)

    model = Net(run, stem=conv(1, 4), head=conv(4, 5))
    assert steps_between(model, SPECTROGRAM, {"head": model.head}) == {"head": Between(False, False, False, "sigmoid")}


def test_wrong_input_is_told():
    model = with_statistics(chain(conv(1, 8), nn.ReLU(), conv(8, 6)))
    model, dense, report = cut(model, {"first": REMOVED}, SPECTROGRAM)
    with pytest.raises(ValueError, match="Pass `example_inputs`; their values do not matter"):
        merge_removed(model, dense, report)
    with pytest.raises(ValueError, match="expected a layer that reads fewer channels"):
        merge_removed(dense, dense, example_inputs=SPECTROGRAM)
    with pytest.raises(ValueError, match="expected the network before the cut"):
        merge_removed(model, residual(), report, example_inputs=SPECTROGRAM)
    dense.example_input_array = SPECTROGRAM
    assert merge_removed(model, dense, report).layers


@pytest.mark.parametrize("case", [case for case in CASES if case.pruned], ids=lambda case: case.name)
def test_every_network_of_the_zoo_is_repaired_or_told_why_not(case):
    torch.manual_seed(0)
    model = case.build()
    torch.manual_seed(0)
    dense = case.build()  # old hooks of weight norm cannot be copied
    report = apply_plan(model, plan_pruning(model, case.inputs, pruning_ratio=0.5), case.inputs)
    repair = merge_removed(model, dense, report, example_inputs=case.inputs)
    assert repair.layers or repair.skipped
    assert all(output.isfinite().all() for output in outputs_of(model, case.inputs))
