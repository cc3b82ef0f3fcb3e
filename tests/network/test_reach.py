"""Following the filters of a layer through a network."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from zoo import SPECTROGRAM, Net, conv, conv_bn
from zoo.case import pooled

from lightning_cosprune import apply_plan, plan_pruning
from lightning_cosprune.network import channels
from lightning_cosprune.network.channels import ChannelGraph, channel_groups


def windows(x: torch.Tensor) -> torch.Tensor:
    """Swin's: channels last, in windows of two by two, and back again."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
    x = x.softmax(dim=1)
    x = x.view(batch, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height, width, channels)


def windowed(blocks: int) -> nn.Module:
    def run(net: Net, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x).permute(0, 2, 3, 1)
        for layer in net.layers:
            x = x + layer(windows(x))
        return net.head(net.last(x.permute(0, 3, 1, 2)).mean((2, 3)))

    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))
    return Net(run, stem=conv(1, 8), layers=layers, last=conv(8, 6), head=nn.Linear(6, 5))


def test_windows_of_a_transformer_do_not_keep_planning_from_its_end() -> None:
    model = windowed(4)
    groups = {group.layers[0]: group for group in channel_groups(model, SPECTROGRAM)}
    assert groups["last"].refusal is None
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert "last" in {layer.name for layer in report.layers}


def test_what_cannot_be_followed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_cosprune.network.reach._MOST", 100)
    monkeypatch.setattr(channels, "find_origins", lambda *_: None)
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 8), nn.Flatten(), nn.Linear(512, 5))
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    assert list(plan.pruned) == ["0.0"]
    assert (
        plan.skipped["1.0"] == "its channels are reshaped in ways that cannot be followed, as into windows or patches"
    )


def test_only_what_may_be_pruned_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[str] = []
    own = ChannelGraph._followed
    monkeypatch.setattr(ChannelGraph, "_followed", lambda graph, name: followed.append(name) or own(graph, name))
    model = nn.Sequential(
        conv_bn(1, 8), conv_bn(8, 8, groups=8), conv_bn(8, 6), conv_bn(6, 4), nn.Flatten(), nn.Linear(256, 5)
    )
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5, layers=["2.0", "3.0"], ignored_layers=["3.0"])
    assert set(followed) == {"2.0"}
    assert dict(plan.skipped) == {
        "0.0": "neither `layers` nor `pruning_ratio` names it",
        "1.0": "depthwise: it follows 0.0, which keeps its filters",
        "3.0": "ignored",
        "5": "a linear layer, pruned only where `layers` or `pruning_ratio` names it",
    }


def test_each_group_is_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    own = channels.follow
    monkeypatch.setattr(channels, "follow", lambda *args: calls.append(1) or own(*args))
    model = Net(
        lambda net, x: net.head(pooled(net.mix(torch.cat([branch(x) for branch in net.branches], 1)).relu())),
        branches=nn.ModuleList(conv_bn(1, 4) for _ in range(3)),
        mix=conv(12, 8),
        head=nn.Linear(8, 5),
    )
    other = copy.deepcopy(model)
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    assert len(calls) == 4
    apply_plan(other, plan, SPECTROGRAM)  # another network, be it a copy
    assert len(calls) == 8
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    assert len(calls) == 12
    apply_plan(model, plan, SPECTROGRAM)
    assert len(calls) == 12


@pytest.mark.parametrize("what", ["parameter", "module", "inputs", "norms", "strict", "plan"])
def test_a_graph_is_found_again_only_for_what_it_was_made_for(what: str) -> None:
    model = nn.Sequential(conv_bn(1, 4), nn.GroupNorm(1, 4), conv(4, 3), nn.Flatten(), nn.Linear(3 * 96, 5))
    inputs = torch.randn(1, 1, 12, 8)
    graph = channels.channel_graph(model, inputs)
    assert channels.channel_graph(model, inputs.clone()) is graph
    norms, strict = {}, False
    if what == "parameter":
        model[2].bias = nn.Parameter(model[2].bias.detach().clone())
    elif what == "module":
        model[1] = nn.GroupNorm(2, 4)
    elif what == "inputs":
        inputs = inputs + 1
    elif what == "norms":
        norms = {"0.1": model[0][1]}
    elif what == "strict":
        strict = True
    else:
        del graph
        gc.collect()
        assert id(model) not in channels._KNOWN
        return
    assert channels.channel_graph(model, inputs, norms, strict) is not graph


def test_a_plan_lets_go_of_the_graph_once_it_is_carried_out_or_another_is_made() -> None:
    model = nn.Sequential(conv_bn(1, 4), conv(4, 3), nn.Flatten(), nn.Linear(3 * 96, 5))
    inputs = torch.randn(1, 1, 12, 8)
    other = copy.deepcopy(model)
    plan_of_other, known = plan_pruning(other, inputs, pruning_ratio=0.5), weakref.ref(other)
    del other
    gc.collect()
    assert known() is not None
    plan = plan_pruning(model, inputs, pruning_ratio=0.5)
    graph = weakref.ref(channels.channel_graph(model, inputs))
    assert pickle.loads(pickle.dumps(plan)) == plan
    gc.collect()
    assert known() is None
    assert plan_of_other.pruned == plan.pruned
    assert graph() is not None
    apply_plan(model, plan, inputs)
    gc.collect()
    assert graph() is None


def test_the_order_of_filters_is_kept_through_concatenation_and_flattening() -> None:
    model = Net(
        lambda net, x: net.head(net.mix(torch.cat([net.one(x), net.two(x)], 1)).flatten(1)),
        one=nn.Conv2d(1, 2, 7),
        two=nn.Conv2d(1, 3, 7),
        mix=nn.Conv2d(5, 3, 1),
        head=nn.Linear(12, 5),
    )
    graph = ChannelGraph(model, SPECTROGRAM)
    ((two,), (mix,)) = graph.groups_of("two"), graph.groups_of("mix")
    assert graph.readers(two)["mix"].tolist() == [[2], [3], [4]]
    assert graph.removal(two, [0, 2]).inputs == {"mix": [2, 4]}
    assert graph.removal(two, [0, 2]).reached == {"mix": [2, 3, 4]}
    assert graph.readers(mix)["head"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert graph.removal(mix, [1]).inputs == {"head": [4, 5, 6, 7]}


def test_the_layers_that_a_layer_reads() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv_bn(8, 6), nn.Flatten(), nn.Linear(384, 5))
    graph = ChannelGraph(model, SPECTROGRAM)
    assert graph.feeders("3") == ["1.0"]
    assert graph.feeders("0.0") == []


def test_what_a_backward_pass_would_need_is_not_kept() -> None:
    """The graph of a network takes no more memory than the network's forward pass."""
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    class Noting(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                alive.extend(one() is not None for one in made)
                made.append(weakref.ref(x))
            return x.tanh()

    model = nn.Sequential(conv(1, 4), Noting(), conv(4, 4), Noting(), conv(4, 3), Noting(), nn.Flatten())
    assert channel_groups(model, SPECTROGRAM)
    assert len(made) == 3
    assert not any(alive[:2])


def test_a_forward_pass_may_compute_gradients() -> None:
    def run(net: Net, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(x.pow(3).sum(), x)
        return net.head(pooled(net.second(net.first(x + slope).relu()).relu()))

    model = Net(run, first=conv(1, 8), second=conv(8, 8), head=nn.Linear(8, 5))
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["first", "second"]
