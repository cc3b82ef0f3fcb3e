from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import SPECTROGRAM, Net, conv, conv_bn

from lightning_cosprune.calibration.batches import as_batches, num_samples
from lightning_cosprune.calibration.observe import observe, observed_inputs


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(conv_bn(1, 4), nn.Dropout(0.5), conv_bn(4, 3), nn.Flatten(), nn.Linear(192, 2))


def test_every_call_is_told_with_input_and_output() -> None:
    model = Net(
        lambda net, x: net.last(net.loop(net.loop(net.first(input=x)).relu())),
        first=conv(1, 4),
        loop=conv(4, 4),
        last=conv(4, 2),
    )
    told: list[tuple[str, Tensor, Tensor]] = []
    outputs = observe(model, SPECTROGRAM, ["loop", "first"], lambda *call: told.append(call))
    assert [name for name, _, _ in told] == ["first", "loop", "loop"]
    with torch.no_grad():
        for name, inputs, output in told:
            assert not output.requires_grad
            assert torch.equal(model.get_submodule(name)(inputs), output)
        assert torch.equal(outputs, model(SPECTROGRAM))
    assert torch.equal(told[0][1], SPECTROGRAM)
    assert torch.equal(told[2][1], told[1][2].relu())


def test_inputs_are_those_of_the_first_calls_and_the_rest_is_not_run() -> None:
    ran: list[str] = []
    model = network()
    for name in ("0.0", "2.0", "4"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    (inputs,) = observed_inputs(model, SPECTROGRAM, "2.0", 1)
    assert ran == ["0.0"]
    with torch.no_grad():
        assert torch.equal(inputs, model.eval()[:2](SPECTROGRAM))


def test_inputs_stay_what_they_were_when_they_are_changed_in_place_later() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        y = net.first(x)
        for _ in range(3):
            y += net.loop(y)
        return y

    model = Net(run, first=conv(1, 4), loop=conv(4, 4))
    first, second, third = observed_inputs(model, SPECTROGRAM, "loop", 3)
    with torch.no_grad():
        assert torch.equal(first, model.first(SPECTROGRAM))
        assert torch.equal(second, first + model.loop(first))
        assert torch.equal(third, second + model.loop(second))


def test_fewer_calls_than_were_asked_for_are_all_there_are() -> None:
    assert len(observed_inputs(network(), SPECTROGRAM, "2.0", 2)) == 1


@pytest.mark.parametrize("watch", ["observe", "inputs", "inputs, and it fails"])
def test_the_network_and_the_random_streams_are_left_as_they_were(watch: str) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.past: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.past = x
            if watch == "inputs, and it fails":
                raise RuntimeError("no more")
            return x + 0 * torch.rand(())

    model = network().insert(1, Counting()).train()
    model[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    if watch == "observe":
        observe(model, SPECTROGRAM, ["0.0", "5"], lambda *_: None)
    elif watch == "inputs":
        observed_inputs(model, SPECTROGRAM, "3.0", 1)
    else:
        with pytest.raises(RuntimeError, match="no more"):
            observed_inputs(model, SPECTROGRAM, "3.0", 1)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert model[2].training
    assert not model[0].training
    assert not model[0][0].training
    assert model[1].past is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_what_a_network_draws_is_the_same_each_time() -> None:
    model = Net(lambda net, x: net.last(net.first(x) * torch.rand(4, 1, 1)), first=conv(1, 4), last=conv(4, 2))
    one, other = (observed_inputs(model, SPECTROGRAM, "last", 1)[0] for _ in range(2))
    told: list[Tensor] = []
    observe(model, SPECTROGRAM, ["last"], lambda _, inputs, __: told.append(inputs))
    assert torch.equal(one, other)
    assert torch.equal(one, told[0])


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(3, 1, 8, 8), 3),
        ((torch.zeros(4, 2), torch.zeros(1)), 4),
        ({"left": torch.zeros(5, 2)}, 5),
        (OrderedDict(scale=torch.zeros(()), left=torch.zeros(5, 2)), 5),
        ((torch.tensor(2.0),), 1),
        ((3, "x"), 1),
    ],
)
def test_samples_are_counted_along_the_first_axis(batch: Any, samples: int) -> None:
    assert num_samples(batch) == samples


def test_batches_may_come_from_anywhere_and_are_read_once() -> None:
    batches = [SPECTROGRAM, (SPECTROGRAM,), {"x": SPECTROGRAM}]
    assert as_batches(batches, "f") == batches
    assert as_batches((one for one in batches), "f") == batches
    loader = torch.utils.data.DataLoader(SPECTROGRAM, batch_size=1)
    assert [batch.shape for batch in as_batches(loader, "f")] == [(1, 1, 8, 8)] * 2


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (SPECTROGRAM, r"`f\(calibration=...\)`: expected an iterable.*found a Tensor. Write `\[inputs\]`"),
        ({"x": SPECTROGRAM}, r"found a dict. Write `\[inputs\]`"),
        ("clips", "found a str"),
        ([], r"`f\(calibration=...\)`: expected at least one input, found none"),
        (iter(()), "expected at least one input, found none"),
    ],
)
def test_what_are_no_batches_is_refused(calibration: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_batches(calibration, "f")
