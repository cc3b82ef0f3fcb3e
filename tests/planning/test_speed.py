"""Times at widths that were not measured, and limits of time; no test looks at how long anything really took."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from zoo import SPECTROGRAM, conv_bn, separable

from lightning_cosprune import PruningPlan, apply_plan, plan_pruning
from lightning_cosprune.network.channels import channel_groups
from lightning_cosprune.network.rollback import Snapshot
from lightning_cosprune.planning import speed
from lightning_cosprune.planning.costs import CostModel
from lightning_cosprune.planning.speed import Stopwatch, TimeAim, TimeModel, TimeTable, table_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def network():
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 16), conv_bn(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))


class Counted(TimeTable):
    """A machine whose time for a layer is what it multiplies, in whole blocks of eight, as one of AVX2."""

    def seconds(self, layer, inputs, given, made):
        def whole(width):
            return -(-width // 8) * 8 if width > 8 else width

        return whole(given) * whole(made) * 1e-6

    def save(self):
        pass


def test_times_are_measured_once_and_kept_by_machine(monkeypatch):
    calls = []
    monkeypatch.setattr(
        speed, "time_interleaved", lambda contenders, **_: calls.append(contenders) or np.array([[2e-3, 1e-3]])
    )
    layer = nn.Conv2d(16, 32, 3, padding=1)
    table = TimeTable(table_file(), "eager")
    assert table.seconds(layer, SPECTROGRAM, 8, 24) == table.seconds(layer, SPECTROGRAM, 8, 24) == 1e-3
    table.save()
    assert TimeTable(table_file(), "eager").seconds(layer, SPECTROGRAM, 8, 24) == 1e-3
    assert len(calls) == 1
    (machine,) = json.loads(table_file().read_text())
    assert speed.machine_name() in machine
    assert torch.__version__ in machine
    TimeTable(table_file(), "channels_last").seconds(layer, SPECTROGRAM, 8, 24)
    nn.Conv2d(16, 32, 5)
    TimeTable(table_file(), "eager").seconds(nn.Conv2d(16, 32, 5), SPECTROGRAM, 8, 24)
    assert len(calls) == 3
    assert not list(table_file().parent.glob("*.part"))


def test_a_damaged_table_is_measured_anew(monkeypatch):
    monkeypatch.setattr(speed, "time_interleaved", lambda contenders, **_: np.array([[1e-3]]))
    table_file().parent.mkdir(parents=True)
    table_file().write_text("{")
    table = TimeTable(table_file(), "eager")
    assert table.seconds(nn.Linear(4, 4), torch.zeros(1, 4), 4, 4) == 1e-3
    table.save()
    assert json.loads(table_file().read_text())


def test_a_table_that_cannot_be_kept_is_a_warning(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(speed, "time_interleaved", lambda contenders, **_: np.array([[1e-3]]))
    table = TimeTable(table_file(), "eager")
    assert table.seconds(nn.Linear(4, 4), torch.zeros(1, 4), 4, 4) == 1e-3
    with pytest.warns(UserWarning, match=r"Times of layers: expected to be able to write .*file.*, found '"):
        table.save()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_layer_is_timed_at_the_width_and_shape_that_is_asked(monkeypatch):
    seen = []

    def timed(contenders, **_):
        contenders[0].prepare()
        seen.append(tuple(contenders[0].run().shape))
        return np.array([[1.0]])

    monkeypatch.setattr(speed, "time_interleaved", timed)
    table = TimeTable(table_file(), "channels_last")
    table.seconds(nn.Conv2d(16, 32, 3, stride=2, padding=1), torch.zeros(2, 16, 8, 6), 8, 24)
    table.seconds(nn.Conv2d(16, 16, 3, groups=16), torch.zeros(2, 16, 8, 6), 8, 8)
    table.seconds(nn.Linear(16, 32), torch.zeros(2, 3, 16), 8, 24)
    assert seen == [(2, 24, 4, 3), (2, 8, 6, 4), (2, 3, 24)]


@pytest.mark.parametrize("make", [network, separable])
def test_the_model_agrees_with_a_machine_that_is_linear_in_blocks(make):
    model = make()
    groups = [group for group in channel_groups(model, SPECTROGRAM) if group.refusal is None]
    costs = CostModel(model, SPECTROGRAM, groups)
    table = Counted(table_file(), "eager")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}

    def true(network):
        total = 0.0
        for name in layers:
            layer = network.get_submodule(name)
            reads, makes = layer.weight.shape[1], layer.weight.shape[0]
            reads = makes if getattr(layer, "groups", 1) > 1 else reads
            total += table.seconds(layer, SPECTROGRAM, reads, makes)
        return total

    times = TimeModel(model, SPECTROGRAM, costs, table, true(model))
    assert times(costs.filters[None])[0] == pytest.approx(1)
    halves = np.array([[group.filters // 2 for group in groups]])
    pruned = copy.deepcopy(model)
    plan = {name: list(range(group.filters // 2)) for group in groups for name in group.layers}
    apply_plan(pruned, PruningPlan(plan, {name: 2 * len(idxs) for name, idxs in plan.items()}), SPECTROGRAM)
    assert times(halves)[0] == pytest.approx(true(pruned) / true(model), rel=0.35)
    rising = np.stack([np.arange(1, 9)] * len(groups), axis=1)
    found = times(np.minimum(rising, costs.filters))
    assert (np.diff(found) >= 0).all()


def test_within_a_block_nothing_is_gained():
    model = network()
    groups = [group for group in channel_groups(model, SPECTROGRAM) if group.refusal is None]
    costs = CostModel(model, SPECTROGRAM, groups)
    times = TimeModel(model, SPECTROGRAM, costs, Counted(table_file(), "eager"), 1e-9)
    nine, twelve, sixteen = times(np.array([[16, 17], [16, 20], [16, 24]]))
    assert nine == pytest.approx(twelve) == pytest.approx(sixteen)
    assert times(np.array([[16, 16]]))[0] < nine


def test_at_widths_that_were_timed_the_model_has_their_times():
    """Of a layer that makes one channel and of a depthwise one, too."""
    asked = {}

    class Uneven(Counted):
        def seconds(self, layer, inputs, given, made):
            return asked.setdefault((layer.groups > 1, given, made), 1.0 + 7 * given * made % 5)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 1, 1))
    (group,) = [group for group in channel_groups(model, SPECTROGRAM) if group.layers == ("0",)]
    costs = CostModel(model, SPECTROGRAM, [group])
    times = TimeModel(model, SPECTROGRAM, costs, Uneven(table_file(), "eager"), 0.0)
    timed = sorted(made for depthwise, given, made in asked if given == 1 and not depthwise)
    assert len(timed) == 5  # whole blocks, evenly spread
    assert timed[0] == 8
    assert timed[-1] == 64
    assert all(width % 8 == 0 for width in timed)
    expected = np.array(
        [asked[False, 1, width] + asked[True, width, width] + asked[False, width, 1] for width in timed]
    )
    np.testing.assert_allclose(times(np.array(timed)[:, None]), expected / expected[-1])


def test_what_is_measured_in_the_end_decides(monkeypatch):
    """The layers promise more than the network keeps: the aim is lowered until it does, or all is given up."""
    monkeypatch.setattr(speed, "TimeTable", Counted)
    monkeypatch.setattr(Stopwatch, "_timed", lambda self, contenders, seconds: np.full((2, 5), 1e-9))
    model = network()
    found = []

    def ratio(self):
        self._cut.prepare()
        found.append(sum(parameter.numel() for parameter in self._model.parameters()))
        before.restore()
        return {1: 0.9, 2: 0.7}.get(len(found), 0.55)

    before = Snapshot(model)
    monkeypatch.setattr(Stopwatch, "ratio", ratio)
    plan = plan_pruning(model, SPECTROGRAM, max_latency=0.6)
    assert len(found) == 3
    assert found == sorted(found, reverse=True)
    assert all(len(kept) % 8 == 0 for kept in plan.kept.values())
    assert set(plan.notes) == set(plan.pruned)
    assert "a multiple of 8, chosen by time measured on this machine" in next(iter(plan.notes.values()))
    report = apply_plan(model, plan, SPECTROGRAM)
    assert "chosen by time" in str(report)
    monkeypatch.setattr(Stopwatch, "ratio", lambda self: 0.9)
    with pytest.raises(ValueError, match=r"max_latency=0\.6\)`.* found 0\.90 at best, in \d attempts"):
        plan_pruning(network(), SPECTROGRAM, max_latency=0.6)


def test_a_network_that_is_faster_than_it_must_be_gets_filters_back(monkeypatch):
    """Its layers say too much: it takes half of the time that they promise, and is asked again until that is used."""
    monkeypatch.setattr(speed, "TimeTable", Counted)
    monkeypatch.setattr(Stopwatch, "_timed", lambda self, contenders, seconds: np.full((2, 5), 1e-9))
    model = network()
    before = Snapshot(model)
    dense = sum(parameter.numel() for parameter in model.parameters())
    found = []

    def ratio(self):
        self._cut.prepare()
        part = sum(parameter.numel() for parameter in self._model.parameters()) / dense
        before.restore()
        found.append(part / 2 if part < 0.8 else part)
        return found[-1]

    monkeypatch.setattr(Stopwatch, "ratio", ratio)
    plan = plan_pruning(model, SPECTROGRAM, max_latency=0.3)
    assert plan.pruned
    assert found[0] < 0.9 * 0.3
    assert max(time for time in found if time <= 0.3) > found[0]
    apply_plan(model, plan, SPECTROGRAM)
    taken = sum(parameter.numel() for parameter in model.parameters()) / dense / 2
    assert taken == pytest.approx(max(time for time in found if time <= 0.3))


@pytest.mark.parametrize("speed_up", [0.3, 0.8, 1.0, 1.3, 3.0])
def test_the_aim_settles_where_the_network_takes_what_it_may(speed_up):
    aim = TimeAim(0.6)
    values = [aim.value]
    while not aim.reached(min(1.0, values[-1] * speed_up)):
        values.append(aim.value)
    assert 0.54 <= values[-1] * speed_up <= 0.6
    assert len(values) <= 4


def test_a_limit_of_time_that_is_measured():
    """On the machine that runs the tests; the network is left as it was."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    plan = plan_pruning(model, torch.zeros(1, 1, 40, 60), max_latency="95 %", latency_on="channels_last")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert plan.pruned
    assert table_file().is_file()


def test_widths_off_the_block_are_told_in_the_report():
    model = network()
    report = apply_plan(model, PruningPlan({"0.0": [0, 1, 2]}, {"0.0": 16}), SPECTROGRAM)
    assert report.notes["0.0"].startswith("13 filters are no multiple of 8")
    assert "as long as 16" in str(report)
