"""Latency: what is timed and how; never how long it took."""

import copy
import re
import sys
import time

import numpy as np
import pytest
import torch
from asserts import assert_same_network, outputs_of
from torch import nn
from zoo import SPECTROGRAM, conv_bn

from lightning_cosprune import measure_latency
from lightning_cosprune.network import latency
from lightning_cosprune.network.latency import Contender, summarised, time_interleaved


def network(filters: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, filters), nn.Flatten(), nn.Linear(64 * filters, 5))


@pytest.mark.parametrize("backend", ["eager", "channels_last"])
def test_both_networks_are_left_as_they_were(backend):
    model, other = network().train(), network(16).train()
    before, outputs = copy.deepcopy(model.state_dict()), outputs_of(model, SPECTROGRAM)
    parameters = list(model.parameters())
    found = measure_latency(model, SPECTROGRAM, beside=other, backend=backend, seconds=0.01)
    assert_same_network(model, before, SPECTROGRAM, outputs)
    assert all(one is same for one, same in zip(model.parameters(), parameters, strict=True))
    assert all(module.training for one in (model, other) for module in one.modules())
    assert found.rounds >= 5
    assert 0 < found.min <= found.median
    assert found.ratio is not None
    assert found.backend == backend
    assert found.input_shape == (tuple(SPECTROGRAM.shape),)
    assert re.match(r"[\d.]+ ms a pass at 2x1x8x8 \(min .* of the network beside it; ", str(found))


def test_a_network_is_timed_in_its_own_format_threads_mode_and_without_gradients():
    seen = []  # the first call only finds out whether it runs

    class Spy(nn.Conv2d):
        def forward(self, x):
            seen.append(
                (
                    x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous(),
                    self.weight.is_contiguous(memory_format=torch.channels_last) and not self.weight.is_contiguous(),
                    torch.get_num_threads(),
                    self.training,
                    torch.is_grad_enabled(),
                )
            )
            return super().forward(x)

    inputs = torch.randn(1, 3, 8, 8)
    threads = torch.get_num_threads()
    measure_latency(Spy(3, 4, 3), inputs, backend="channels_last", seconds=0.01)
    assert set(seen[1:]) == {(True, True, 1, False, False)}
    seen.clear()
    measure_latency(Spy(3, 4, 3), inputs, threads=2, seconds=0.01)
    assert set(seen[1:]) == {(False, False, 2, False, False)}
    assert torch.get_num_threads() == threads


def test_contenders_take_turns():
    calls = []
    one, two = (
        Contender(lambda n=n: calls.append(n) or time.sleep(0.02), lambda n=n: calls.append(-n)) for n in (1, 2)
    )
    times = time_interleaved([one, two], threads=2, seconds=0.01)
    assert times.shape == (2, 5)
    turns = [call for call in calls if call < 0]
    assert turns == [-1, -2] * 6
    assert (times > 0.015).all()


def test_the_ratio_is_that_of_turns_and_the_spread_that_of_quartiles():
    times = np.array([[1.0, 2, 3, 4, 5], [2.0, 4, 6, 8, 10]])
    found = summarised(times, SPECTROGRAM, "eager", 1)
    assert (found.min, found.median, found.spread, found.ratio) == (1, 3, pytest.approx(2 / 3), 0.5)
    assert found.machine == latency.machine_name() != ""


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"needs onnx, .*pip install 'lightning-cosprune\[onnx\]' onnxruntime"
    ):
        measure_latency(network(), SPECTROGRAM, backend="onnxruntime")


def test_onnx_runtime_runs_the_network():
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    found = measure_latency(network(4), SPECTROGRAM, beside=network(16), backend="onnxruntime", seconds=0.05)
    assert found.backend == "onnxruntime"
    assert found.ratio is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tflite"}, r"backend='tflite'\)`: expected 'eager' or 'channels_last' or 'onnxruntime'"),
        ({"threads": 0}, r"threads=0\)`: expected a whole number"),
        ({"seconds": 0}, "expected a positive number of seconds"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        measure_latency(network(), SPECTROGRAM, **options)
