"""Where a cut fails, the layers tell which group is at fault, and how many trials that takes."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from zoo import SPECTROGRAM, Net, conv, conv_bn
from zoo.case import pooled

from lightning_cosprune import PruningPlan, apply_plan, plan_pruning
from lightning_cosprune.network import channels
from lightning_cosprune.surgery import apply
from lightning_cosprune.surgery.blame import at_failure
from lightning_cosprune.surgery.trial import Trial


class Normalised(nn.Module):
    """A layer, each filter of which is divided by what all filters are together."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.conv, self.norm = conv(channels, filters), nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x / (x.square().mean(dim=1, keepdim=True) + 0.1).sqrt()


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each trial."""
    made: list[int] = []
    own = Trial.check
    monkeypatch.setattr(Trial, "check", lambda *args: made.append(1) or own(*args))
    return made


@pytest.mark.parametrize("wrong", [(), (2,), (0, 3, 5), tuple(range(6))])
def test_a_failed_trial_names_all_that_are_at_fault(wrong: tuple[int, ...], trials: list[int]) -> None:
    torch.manual_seed(0)
    blocks = [Normalised(8, 8) if number in wrong else conv_bn(8, 8) for number in range(6)]
    model = nn.Sequential(conv_bn(1, 8), *blocks, conv(8, 6), nn.Flatten(), nn.Linear(384, 5))
    plan = plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5)
    report = apply_plan(model, plan, SPECTROGRAM)
    refused = [f"{number + 1}.conv" for number in wrong]
    assert {name for name in report.skipped if name != "9"} == set(refused)
    for name in refused:
        assert "changes what the other channels compute" in report.skipped[name]
        assert "the input of" in report.skipped[name]
    assert len(trials) <= (3 if wrong else 1)  # small differences are looked at once the large ones are gone


@pytest.mark.parametrize("limits", [{"pruning_ratio": 0.25}, {"max_params": 0.8}])
def test_refusals_are_remembered_from_prune_to_prune(limits: dict[str, float], trials: list[int]) -> None:
    torch.manual_seed(0)
    blocks = [Normalised(16, 16) if number in (0, 3) else conv_bn(16, 16) for number in range(6)]
    model = nn.Sequential(conv_bn(1, 16), *blocks, conv(16, 6), nn.Flatten(), nn.Linear(384, 5))
    first = apply_plan(model, plan_pruning(model, SPECTROGRAM, **limits), SPECTROGRAM)
    assert set(first.refused) == {"1.conv", "4.conv"}
    assert all(first.skipped[name] == reason for name, reason in first.refused.items())
    trials.clear()
    plan = plan_pruning(model, SPECTROGRAM, **limits, refused=first.refused)
    assert PruningPlan.from_json(plan.to_json()) == plan
    assert set(plan.refused) == set(first.refused)
    second = apply_plan(model, plan, SPECTROGRAM)
    assert second.refused == first.refused
    assert second.layers
    assert len(trials) == (1 if "pruning_ratio" in limits else 3)  # two of them rehearsals


def test_names_that_were_never_refused() -> None:
    model = nn.Sequential(conv_bn(1, 8), conv(8, 6), nn.Flatten(), nn.Linear(384, 5))
    with pytest.raises(ValueError, match="expected names of layers of the model, found one that is none"):
        plan_pruning(model, SPECTROGRAM, refused={"9": "as it was"})
    with pytest.raises(TypeError, match=r"report\.refused"):
        plan_pruning(model, SPECTROGRAM, refused=["0.conv"])  # type: ignore[arg-type]


def test_a_layer_that_is_given_channels_of_another_place_is_told_from_those_before_it(
    trials: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the channels to each branch: with one less the first branch is given one that was the second's."""
    monkeypatch.setattr(channels, "find_origins", lambda *_: None)
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(pooled(torch.cat([net.a((y := net.stem(x).chunk(2, 1))[0]), net.b(y[1])], 1))),
        stem=conv_bn(1, 8),
        a=conv(4, 4),
        b=conv(4, 6),
        head=nn.Linear(10, 5),
    )
    plan = PruningPlan({"stem.0": [0], "a": [0], "b": [0]}, {"stem.0": 8, "a": 4, "b": 6})
    report = apply_plan(model, plan, SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["a", "b"]
    assert "the input of a" in report.skipped["stem.0"]
    assert len(trials) == 2


def test_heads_of_training_mode_name_the_layers_they_read(trials: list[int]) -> None:
    torch.manual_seed(0)

    def run(net: Net, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = torch.cat([net.one(x), net.two(x)], 1)
        spare = net.spare(x.relu()) if net.training else None
        out = net.head(pooled(net.last(net.mid(x).relu()).relu()))
        return out if spare is None else (out, spare)

    model = Net(
        run,
        one=conv_bn(1, 4),
        two=conv_bn(1, 4),
        mid=conv(8, 8),
        last=conv(8, 8),
        spare=conv(8, 5),
        head=nn.Linear(8, 5),
    )
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["mid", "last"]
    assert "in training mode" in report.skipped["one.0"]
    assert "in training mode" in report.skipped["two.0"]
    assert len(trials) == 2


def test_noise_that_evaluation_draws_is_no_wrong_cut() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.head(pooled(net.last((y := net.body(x)) + 0.1 * torch.randn_like(y)).relu())),
        body=conv_bn(1, 8),
        last=conv(8, 6),
        head=nn.Linear(6, 5),
    )
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert [layer.name for layer in report.layers] == ["body.0", "last"]


@pytest.mark.parametrize("blocks", [60, 120])
def test_depth_costs_no_accuracy(blocks: int, trials: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in networks too large for float64."""
    monkeypatch.setattr(apply, "_CHEAP", 0)
    torch.manual_seed(0)
    body = nn.ModuleList(nn.Sequential(conv_bn(4, 4), conv(4, 4)) for _ in range(blocks))

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        for block in net.body:
            x = x + block(x)
        return net.head(pooled(x))

    model = Net(run, stem=conv(1, 4), body=body, head=nn.Linear(4, 5))
    report = apply_plan(model, plan_pruning(model, SPECTROGRAM, pruning_ratio=0.5), SPECTROGRAM)
    assert len(report.layers) == 2 * blocks + 1
    assert len(trials) == 1


def test_the_compiler_is_not_loaded_for_a_network_that_is_not_compiled() -> None:
    code = """
import sys, torch
from lightning_cosprune import apply_plan, plan_pruning
model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
x = torch.randn(2, 1, 8, 8)
assert apply_plan(model, plan_pruning(model, x, pruning_ratio=0.5), x).layers
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_module_that_fails_is_at_fault_before_the_layer_that_would_have_come_next() -> None:
    model = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4))
    removals = [SimpleNamespace(outputs={"0": [1]}, inputs={"1": [1]}), SimpleNamespace(outputs={}, inputs={"2": [1]})]
    with pytest.raises(RuntimeError) as failed:
        model[2](torch.zeros(1, 3, 8, 8))
    assert at_failure(removals, model, failed.value, ["0", "1", "2"], {"0"}) == {1}
    assert at_failure(removals, model, ValueError("of a function"), ["0", "1", "2"], {"0"}) == {0}
    assert at_failure(removals, model, ValueError("of the last step"), ["0", "1", "2"], {"0", "1", "2"}) == {1}
